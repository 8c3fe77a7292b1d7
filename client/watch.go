package client

import (
	"context"
	"iter"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Event is one change of one key.
type Event = mvccpb.Event

// The two kinds of Event.
const (
	EventPut    = mvccpb.Event_PUT
	EventDelete = mvccpb.Event_DELETE
)

// WatchResponse is what Next returns: the events of one or more whole revisions, in order, or a notification.
type WatchResponse struct {
	Header *ResponseHeader
	Events []*Event
	// Created is set in the first response of a watch WithCreatedNotify.
	Created bool
}

// IsProgress says that the response has no events, and promises that all up to Header.Revision were delivered.
func (r *WatchResponse) IsProgress() bool { return len(r.Events) == 0 && !r.Created }

// Watcher delivers the changes of a key or range, each once, in order, across reconnections. Next, All and Chan are
// for one goroutine at a time; Close and RequestProgress for any.
type Watcher struct {
	req     pb.WatchCreateRequest // as the caller wants it, through the view
	created bool
	view    Rewriter
	stream  *watchStream
	limit   int

	// Guarded by stream.mu.
	reg registration

	// Guarded by mu.
	mu       sync.Mutex
	queue    []*WatchResponse
	buffered int  // events in queue
	parked   bool // off the stream because the consumer is behind
	err      error
	stop     func() bool // forgets the context's callback

	signal chan struct{} // something is in queue or err; buffered, one
	ready  chan struct{} // closed once the watch is established or over
	gone   chan struct{} // closed once the consumer wants no more

	readyOnce, goneOnce, errOnce sync.Once
}

// registration is a watch's state on its stream.
type registration struct {
	id       int64 // on the current grpc stream; 0 if it is not registered there
	next     int64 // the revision to resume from; 0 before "now" is known
	last     int64 // the newest revision delivered
	start    int64 // where the registration id began
	since    int64 // the member's revision when it answered the registration
	unsure   int   // progress answers to come that may be older than the registration
	progress bool  // the consumer asked for a progress response
	closed   bool
	partial  []*Event // fragments of a response that is not complete yet
}

// Watch watches key, or the range that an option makes of it. It returns once a member has accepted the watch, so
// that every write that begins later is seen; or when it could not be established, and Next says why. The watch ends
// with ctx or Close, or when its history was compacted away: then Next returns a *CompactedError. Nothing else ends
// it: it moves from member to member and resumes where it was.
//
// With a context from RequireLeader the watch ends with rpctypes.ErrNoLeader when its member loses the leader.
func (c *Client) Watch(ctx context.Context, key string, opts ...WatchOption) *Watcher {
	w := &Watcher{
		view:   c.view,
		limit:  c.cfg.WatchBuffer,
		signal: make(chan struct{}, 1),
		ready:  make(chan struct{}),
		gone:   make(chan struct{}),
	}
	w.req.Key = bytesOf(key)
	for _, o := range opts {
		o.applyWatch(w)
	}
	if len(w.req.Key) == 0 {
		w.req.Key = []byte{0} // the least key there can be
	}
	if w.view != nil {
		q := w.view.Request(&w.req).(*pb.WatchCreateRequest)
		w.req.Key, w.req.RangeEnd = q.Key, q.RangeEnd
	}
	w.reg.next = w.req.StartRevision
	if err := c.watches.add(ctx, w); err != nil {
		w.finish(err)
		return w
	}
	w.bind(ctx)
	select {
	case <-w.ready:
	case <-ctx.Done():
	}
	return w
}

// bind makes the end of ctx the end of the watch.
func (w *Watcher) bind(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { w.end(ctx.Err()) })
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop = stop; w.err != nil {
		stop()
	}
}

// Next waits for the next response. An error is final for the watch, unless it is ctx's.
func (w *Watcher) Next(ctx context.Context) (*WatchResponse, error) {
	for {
		w.mu.Lock()
		if len(w.queue) > 0 {
			r := w.queue[0]
			w.queue[0] = nil
			w.queue = w.queue[1:]
			w.buffered -= len(r.Events)
			resume := w.parked && len(w.queue) == 0
			if resume {
				w.parked = false
				w.queue = nil
			}
			w.mu.Unlock()
			if resume {
				w.stream.resume(w)
			}
			return r, nil
		}
		err := w.err
		w.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-w.signal:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// All is Next as a loop, until the first error, which is the loop's last value.
func (w *Watcher) All(ctx context.Context) iter.Seq2[*WatchResponse, error] {
	return func(yield func(*WatchResponse, error) bool) {
		for {
			r, err := w.Next(ctx)
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// Chan is Next as a channel, for select statements. It costs a goroutine, which ends when the channel is closed (Err
// says why) or when the watch's context or Close ends the watch. Call it once.
func (w *Watcher) Chan() <-chan *WatchResponse {
	ch := make(chan *WatchResponse)
	go func() {
		defer close(ch)
		for {
			r, err := w.Next(context.Background())
			if err != nil {
				return
			}
			select {
			case ch <- r:
			case <-w.gone:
				return
			}
		}
	}()
	return ch
}

// Err returns why the watch is over, or nil while it is not.
func (w *Watcher) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close ends the watch. Next returns ErrClosed from then on.
func (w *Watcher) Close() { w.end(ErrClosed) }

// RequestProgress asks for a progress response. It comes once all the watches that share the stream are caught up;
// if they are not, the server may ignore the request.
func (w *Watcher) RequestProgress() {
	if w.stream != nil {
		w.stream.requestProgress(func(x *Watcher) bool { return x == w })
	}
}

// RequestProgress asks for a progress response in all watches that were made with ctx's metadata.
func (c *Client) RequestProgress(ctx context.Context) {
	for _, s := range c.watches.streamsOf(ctx) {
		s.requestProgress(func(*Watcher) bool { return true })
	}
}

// end stops the watch from the consumer's side.
func (w *Watcher) end(err error) {
	if w.stream != nil {
		w.stream.remove(w)
	}
	w.mu.Lock()
	w.queue, w.buffered = nil, 0
	w.mu.Unlock()
	w.finish(err)
	w.goneOnce.Do(func() { close(w.gone) })
}

// finish makes err what Next returns once the queue is empty. Only the first call counts.
func (w *Watcher) finish(err error) {
	w.errOnce.Do(func() {
		w.mu.Lock()
		w.err = err
		if w.stop != nil {
			w.stop()
		}
		w.mu.Unlock()
		w.established()
		w.wake()
	})
}

func (w *Watcher) established() { w.readyOnce.Do(func() { close(w.ready) }) }

func (w *Watcher) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// push queues r for the consumer. False means that there is no room: r is not queued and the watch is parked.
func (w *Watcher) push(r *WatchResponse) bool {
	w.mu.Lock()
	if w.buffered+len(r.Events) > w.limit && len(w.queue) > 0 {
		w.parked = true
		w.mu.Unlock()
		return false
	}
	w.queue = append(w.queue, r)
	w.buffered += len(r.Events)
	w.mu.Unlock()
	w.wake()
	return true
}

func (w *Watcher) isParked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.parked
}
