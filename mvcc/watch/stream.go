package watch

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/keelson-io/keelson/mvcc/eventlog"
)

// InvalidID is the ID in responses that concern no watcher, or all of a stream.
const InvalidID = -1

const (
	maxPending      = 1024    // events that wait in a watcher's list
	maxPendingBytes = 1 << 20 // or their bytes
	pieceBytes      = 1 << 20 // about what a watcher that is behind reads at once
	maxControl      = 64      // control responses that wait; then requests wait
)

// Request asks for a watcher.
type Request struct {
	ID       int64  // 0: the stream chooses one
	Key, End []byte // a nil end means one key, an end of one zero byte everything from the key on
	StartRev int64  // 0: from now on
	NoPut    bool
	NoDelete bool
	PrevKV   bool // kept for the reader of responses
	Fragment bool // likewise
	Progress bool // send progress when nothing happens, see Tick
}

// Response is something to tell the client.
type Response struct {
	ID         int64
	Rev        int64 // the store's revision: everything that the response tells is at or before it; 0 with CompactRev, as in etcd
	Created    bool
	Canceled   bool
	Reason     string
	CompactRev int64 // of a watcher that was cancelled because its revision is compacted
	Events     []*eventlog.Event
	PrevKV     bool
	Fragment   bool
}

// watcher is one watch of a stream.
type watcher struct {
	span
	req    Request
	stream *Stream

	// Under the hub's lock, while it is current:
	place int               // in its group
	since int64             // events before this revision are not wanted
	batch []*eventlog.Event // of the present round of dispatching

	// Under the stream's lock:
	next    int64 // the revision to go on from: nothing before it is wanted
	pending []*eventlog.Event
	bytes   int
	queued  bool // in the stream's list of watchers that have something to do
	behind  bool
	gone    bool
	quiet   bool // nothing was sent since the last tick
}

func (w *watcher) wants(ev *eventlog.Event) bool {
	return !(ev.Delete && w.req.NoDelete || !ev.Delete && w.req.NoPut)
}

// Stream is the watchers of one client connection.
type Stream struct {
	hub *Hub

	mu       sync.Mutex
	watchers map[int64]*watcher
	nextID   int64
	control  []Response
	ready    []*watcher // in the order in which they got something to do
	progress bool       // asked for, on behalf of all watchers
	closed   bool
	wake     chan struct{} // something to do
	space    chan struct{} // control got shorter
}

// NewStream makes a stream.
func (h *Hub) NewStream() *Stream {
	h.metrics.streams.Inc()
	return &Stream{hub: h, watchers: map[int64]*watcher{}, wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

// Close ends the stream and its watchers.
func (s *Stream) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	for _, w := range s.watchers {
		s.drop(w)
	}
	s.hub.metrics.streams.Dec()
}

// Watch adds a watcher; the response that says so, or why not, is the next for its ID.
func (s *Stream) Watch(ctx context.Context, r Request) error {
	if err := s.waitForSpace(ctx); err != nil {
		return err
	}
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	rev := h.log.Rev()
	w, err := s.newWatcher(r, rev)
	if err != nil {
		s.tell(Response{ID: InvalidID, Rev: rev, Created: true, Canceled: true, Reason: err.Error()})
		return nil
	}
	s.watchers[w.req.ID] = w
	h.metrics.watchers.Inc()
	s.tell(Response{ID: w.req.ID, Rev: rev, Created: true})
	if w.next > h.rev && w.next >= h.history.CompactRev() { // the dispatcher may be a little behind the store
		w.since = w.next
		h.current.add(w)
	} else {
		w.behind = true
		h.metrics.behind.Inc()
		s.queue(w)
	}
	return nil
}

func (s *Stream) newWatcher(r Request, rev int64) (*watcher, error) {
	sp, err := newSpan(r.Key, r.End)
	if err != nil {
		return nil, err
	}
	if r.ID == 0 {
		for s.watchers[s.nextID] != nil {
			s.nextID++
		}
		r.ID = s.nextID
		s.nextID++
	} else if s.watchers[r.ID] != nil {
		return nil, ErrDuplicateID
	}
	next := r.StartRev
	if next == 0 {
		next = rev + 1
	}
	return &watcher{span: sp, req: r, stream: s, next: next, quiet: true}, nil
}

// Cancel removes a watcher. ErrNotFound.
func (s *Stream) Cancel(ctx context.Context, id int64) error {
	if err := s.waitForSpace(ctx); err != nil {
		return err
	}
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watchers[id]
	if w == nil {
		return ErrNotFound
	}
	s.drop(w)
	s.tell(Response{ID: id, Rev: s.hub.log.Rev(), Canceled: true})
	return nil
}

// Reject tells the client that a watcher was refused.
func (s *Stream) Reject(ctx context.Context, reason string) error {
	if err := s.waitForSpace(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(Response{ID: InvalidID, Rev: s.hub.log.Rev(), Created: true, Canceled: true, Reason: reason})
	return nil
}

// RequestProgress asks for a response that says up to which revision all watchers of the stream have been told everything.
// It comes once they have. A stream without watchers, or with one that starts in the future, gets none.
func (s *Stream) RequestProgress() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.progress = true
	signal(s.wake)
}

// Tick lets every watcher that asked for it tell its progress, if nothing was sent to it since the last Tick.
func (s *Stream) Tick() {
	s.hub.dispatch(s.hub.log.Window())
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watchers {
		if w.req.Progress && w.quiet && s.told(w) && w.next <= s.hub.rev+1 && len(s.control) < maxControl {
			s.tell(Response{ID: w.req.ID, Rev: s.hub.rev})
		}
		w.quiet = true
	}
}

// told says whether a watcher was told everything that has been dispatched.
func (s *Stream) told(w *watcher) bool { return !w.behind && len(w.pending) == 0 }

// waitForSpace waits while too many control responses wait.
func (s *Stream) waitForSpace(ctx context.Context) error {
	for {
		s.mu.Lock()
		n, closed := len(s.control), s.closed
		s.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case n < maxControl:
			return nil
		}
		select {
		case <-s.space:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// tell queues a control response; the caller holds the stream's lock.
func (s *Stream) tell(r Response) {
	s.control = append(s.control, r)
	signal(s.wake)
}

// queue puts a watcher into the list of those that have something to do; the caller holds the stream's lock.
func (s *Stream) queue(w *watcher) {
	if !w.queued {
		w.queued = true
		s.ready = append(s.ready, w)
		signal(s.wake)
	}
}

// drop removes a watcher; the caller holds both locks.
func (s *Stream) drop(w *watcher) {
	delete(s.watchers, w.req.ID)
	if w.behind {
		s.hub.metrics.behind.Dec()
	} else {
		s.hub.current.remove(w)
	}
	s.hub.metrics.watchers.Dec()
	s.hub.metrics.pending.Sub(float64(len(w.pending)))
	w.gone, w.pending = true, nil
}

// offer gives an event to a current watcher; the caller holds the hub's lock. It says whether it is the watcher's first in
// this round.
func (w *watcher) offer(ev *eventlog.Event) (first bool) {
	if ev.Main < w.since || !w.wants(ev) {
		return false
	}
	w.batch = append(w.batch, ev)
	return len(w.batch) == 1
}

// flush moves what the watcher was offered, whole revisions, into its list; the caller holds the hub's lock. A watcher
// whose list is full falls behind, and flush returns false.
func (w *watcher) flush() bool {
	s := w.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := w.batch
	w.batch = nil
	if n := len(w.pending); n > 0 && (n+len(batch) > maxPending || w.bytes > maxPendingBytes) {
		w.next, w.behind = batch[0].Main, true
		s.hub.metrics.behind.Inc()
		return false
	}
	s.hub.metrics.pending.Add(float64(len(batch)))
	for _, ev := range batch {
		w.bytes += len(ev.KV)
	}
	if w.pending == nil {
		w.pending = batch
	} else {
		w.pending = append(w.pending, batch...)
	}
	s.queue(w)
	return true
}

// fallBehind makes a current watcher read by itself from a revision on, or from its start if that is later; the caller holds
// the hub's lock.
func (w *watcher) fallBehind(next int64) {
	s := w.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	w.next, w.behind = max(w.next, next), true
	s.hub.metrics.behind.Inc()
	s.queue(w)
}

// Next returns what to tell the client next. Errors: that of ctx, ErrClosed.
func (s *Stream) Next(ctx context.Context) (Response, error) {
	for {
		r, ok, err := s.poll()
		if ok || err != nil {
			return r, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Response{}, ctx.Err()
		}
	}
}

// poll returns what there is to tell now.
func (s *Stream) poll() (Response, bool, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return Response{}, false, ErrClosed
		}
		if len(s.control) > 0 {
			r := s.control[0]
			s.control = slices.Delete(s.control, 0, 1)
			signal(s.space)
			s.mu.Unlock()
			return r, true, nil
		}
		if len(s.ready) == 0 {
			asked := s.progress
			s.mu.Unlock()
			if !asked {
				return Response{}, false, nil
			}
			r, ok := s.report()
			return r, ok, nil
		}
		w := s.ready[0]
		s.ready = slices.Delete(s.ready, 0, 1)
		w.queued = false
		switch {
		case w.gone:
			s.mu.Unlock()
		case len(w.pending) > 0:
			r := s.take(w)
			s.mu.Unlock()
			return r, true, nil
		default:
			next := w.next
			s.mu.Unlock()
			if r, ok := s.catchUp(w, next); ok {
				return r, true, nil
			}
		}
	}
}

// take empties a watcher's list; the caller holds the stream's lock.
func (s *Stream) take(w *watcher) Response {
	r := Response{ID: w.req.ID, Rev: s.hub.log.Rev(), Events: w.pending, PrevKV: w.req.PrevKV, Fragment: w.req.Fragment}
	if !w.behind {
		w.next = w.pending[len(w.pending)-1].Main + 1
	}
	s.hub.metrics.pending.Sub(float64(len(w.pending)))
	s.hub.metrics.events.Add(float64(len(w.pending)))
	w.pending, w.bytes, w.quiet = nil, 0, false
	if w.behind {
		s.queue(w)
	}
	return r
}

// report answers a request for progress, if all watchers have been told everything.
func (s *Stream) report() (Response, bool) {
	s.hub.dispatch(s.hub.log.Window()) // what was published before the request counts
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.progress || len(s.ready) > 0 || len(s.control) > 0 || s.closed {
		signal(s.wake)
		return Response{}, false
	}
	for _, w := range s.watchers {
		if !s.told(w) {
			return Response{}, false // and later, when it has caught up
		}
		if w.next > s.hub.rev+1 {
			s.progress = false
			return Response{}, false
		}
	}
	s.progress = false
	if len(s.watchers) == 0 {
		return Response{}, false
	}
	return Response{ID: InvalidID, Rev: s.hub.rev}, true
}

// catchUp reads a piece of history for a watcher that is behind. It returns false if there is nothing to tell.
func (s *Stream) catchUp(w *watcher, next int64) (Response, bool) {
	evs, upTo, err := s.hub.read(w, next)
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.gone || s.closed || !w.behind {
		return Response{}, false
	}
	if errors.Is(err, eventlog.ErrCompacted) {
		s.drop(w)
		return Response{ID: w.req.ID, Canceled: true, CompactRev: s.hub.history.CompactRev()}, true
	}
	if err != nil {
		s.drop(w)
		return Response{ID: w.req.ID, Rev: s.hub.log.Rev(), Canceled: true, Reason: err.Error()}, true
	}
	w.next = max(w.next, upTo)
	if w.next > s.hub.rev {
		w.behind = false
		s.hub.metrics.behind.Dec()
		w.since = w.next
		s.hub.current.add(w)
	} else {
		s.queue(w)
	}
	if len(evs) == 0 {
		return Response{}, false
	}
	w.quiet = false
	s.hub.metrics.events.Add(float64(len(evs)))
	return Response{ID: w.req.ID, Rev: s.hub.log.Rev(), Events: evs, PrevKV: w.req.PrevKV, Fragment: w.req.Fragment}, true
}

// read returns a piece of what a watcher wants from a revision on, and the revision to go on with.
func (h *Hub) read(w *watcher, from int64) (evs []*eventlog.Event, next int64, err error) {
	win := h.log.Window()
	switch {
	case from > win.Rev:
		return nil, from, nil
	case from < h.history.CompactRev():
		return nil, 0, eventlog.ErrCompacted
	case from >= win.First:
		evs, next = w.pick(&win, from)
		return evs, next, nil
	}
	key, end := w.bounds()
	found, next, err := h.history.Events(key, end, from, win.Rev, pieceBytes)
	for i := range found {
		if ev := &found[i]; w.wants(ev) {
			evs = append(evs, ev)
		}
	}
	return evs, next, err
}

// pick reads a piece of the log.
func (w *watcher) pick(win *eventlog.Window, from int64) (evs []*eventlog.Event, next int64) {
	size := 0
	for i := win.Search(from); i < win.Len(); i++ {
		ev := win.At(i)
		if size >= pieceBytes && ev.Main != evs[len(evs)-1].Main {
			return evs, ev.Main
		}
		if w.contains(str(ev.Key)) && w.wants(ev) {
			evs = append(evs, ev)
			size += len(ev.KV)
		}
	}
	return evs, win.Rev + 1
}

// bounds is the span as a request has it.
func (w *watcher) bounds() (key, end []byte) {
	switch {
	case w.single:
		return []byte(w.from), nil
	case w.open:
		return []byte(w.from), []byte{0}
	}
	return []byte(w.from), []byte(w.to)
}
