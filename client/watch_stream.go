package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// broadcastID is the watch id of a progress response that is for all watches of its stream.
const broadcastID = -1

// watchHub holds the client's watch streams. There is one for each set of metadata that callers use (nearly
// always: one), times Config.Connections.
type watchHub struct {
	e *engine

	mu      sync.Mutex
	streams map[streamKey]*watchStream
	turn    int
	closed  bool
}

type streamKey struct {
	md    string
	shard int
}

func (h *watchHub) init(e *engine) {
	h.e = e
	h.streams = map[streamKey]*watchStream{}
}

// add gives w to the stream for ctx's metadata.
func (h *watchHub) add(ctx context.Context, w *Watcher) error {
	md, _ := metadata.FromOutgoingContext(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return ErrClosed
	}
	h.turn++
	key := streamKey{md: mdKey(md), shard: h.turn % max(1, h.e.cfg.Connections)}
	s := h.streams[key]
	if s == nil {
		s = newWatchStream(h, key, md, requiresLeader(ctx))
		h.streams[key] = s
		h.e.wg.Go(s.run)
	}
	w.stream = s
	s.add(w)
	return nil
}

func mdKey(md metadata.MD) string {
	if len(md) == 0 {
		return ""
	}
	return fmt.Sprint(map[string][]string(md)) // in the order of the keys
}

func (h *watchHub) streamsOf(ctx context.Context) []*watchStream {
	md, _ := metadata.FromOutgoingContext(ctx)
	key := mdKey(md)
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*watchStream
	for k, s := range h.streams {
		if k.md == key {
			out = append(out, s)
		}
	}
	return out
}

// close ends all watches. The engine's context has ended already.
func (h *watchHub) close() {
	h.mu.Lock()
	h.closed = true
	streams := slices.Collect(maps.Values(h.streams))
	h.mu.Unlock()
	for _, s := range streams {
		s.finishAll(ErrClosed)
	}
}

// retire forgets s if it has no watches.
func (h *watchHub) retire(s *watchStream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.watchers) > 0 {
		return false
	}
	if h.streams[s.key] == s {
		delete(h.streams, s.key)
	}
	return true
}

// watchStream carries many watches over one grpc stream, and over the next one when that breaks.
type watchStream struct {
	hub    *watchHub
	key    streamKey
	ctx    context.Context // metadata for the grpc streams; ends with the client
	strict bool            // no leader ends the watches

	mu       sync.Mutex
	watchers map[*Watcher]struct{} // all that are not over
	ids      map[int64]*Watcher    // those that the current grpc stream has confirmed
	pending  []pendingCreate       // creations not answered yet, in the order in which they were sent
	lastID   int64
	live     bool               // a grpc stream is open
	out      []*pb.WatchRequest // for the sender
	asked    int                // progress requests not answered yet
	outReady chan struct{}
}

type pendingCreate struct {
	w  *Watcher
	id int64
}

func newWatchStream(h *watchHub, key streamKey, md metadata.MD, strict bool) *watchStream {
	md = md.Copy()
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	return &watchStream{
		hub: h, key: key, strict: strict,
		ctx:      metadata.NewOutgoingContext(h.e.ctx, md),
		watchers: map[*Watcher]struct{}{},
		ids:      map[int64]*Watcher{},
		outReady: make(chan struct{}, 1),
	}
}

func (s *watchStream) add(w *Watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = struct{}{}
	s.createLocked(w)
}

// resume registers a parked watch again: its consumer has caught up.
func (s *watchStream) resume(w *Watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.reg.id == 0 && !w.reg.closed {
		s.createLocked(w)
	}
}

// createLocked asks the server for w from where it is, under an id that this client never used before. Without a
// stream there is nothing to do: attach registers everything.
func (s *watchStream) createLocked(w *Watcher) {
	if !s.live {
		return
	}
	s.lastID++
	r := &w.reg
	r.id, r.start, r.unsure, r.partial = s.lastID, r.next, s.asked, nil
	s.pending = append(s.pending, pendingCreate{w, r.id})
	s.sendLocked(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: w.req.Key, RangeEnd: w.req.RangeEnd, StartRevision: r.next, WatchId: r.id,
		ProgressNotify: w.req.ProgressNotify, Filters: w.req.Filters, PrevKv: w.req.PrevKv, Fragment: w.req.Fragment,
	}}})
}

func (s *watchStream) sendLocked(r *pb.WatchRequest) {
	s.out = append(s.out, r)
	select {
	case s.outReady <- struct{}{}:
	default:
	}
}

// dropLocked takes w's registration off the grpc stream, and off the server.
func (s *watchStream) dropLocked(w *Watcher) {
	id := w.reg.id
	if id == 0 {
		return
	}
	w.reg.id, w.reg.partial = 0, nil
	delete(s.ids, id)
	if s.live {
		s.sendLocked(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{
			CancelRequest: &pb.WatchCancelRequest{WatchId: id},
		}})
	}
}

func (s *watchStream) remove(w *Watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forgetLocked(w)
}

func (s *watchStream) forgetLocked(w *Watcher) {
	w.reg.closed = true
	s.dropLocked(w)
	delete(s.watchers, w)
}

func (s *watchStream) finishAll(err error) {
	s.mu.Lock()
	ws := slices.Collect(maps.Keys(s.watchers))
	for _, w := range ws {
		w.reg.closed, w.reg.id = true, 0
	}
	clear(s.watchers)
	clear(s.ids)
	s.mu.Unlock()
	for _, w := range ws {
		w.finish(err)
	}
}

func (s *watchStream) requestProgress(of func(*Watcher) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		if of(w) {
			w.reg.progress = true
		}
	}
	if s.live {
		s.askLocked()
	}
}

func (s *watchStream) askLocked() {
	s.asked++
	s.sendLocked(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// run keeps a grpc stream open on some member while there are watches.
func (s *watchStream) run() {
	e := s.hub.e
	var avoid *link
	for attempt := 0; ; attempt++ {
		l, err := e.pool.pick(s.ctx, avoid)
		if err != nil {
			s.finishAll(ErrClosed)
			return
		}
		received, err := s.serve(l)
		if e.ctx.Err() != nil {
			s.finishAll(ErrClosed)
			return
		}
		if s.hub.retire(s) {
			return
		}
		if received {
			attempt = 0
			l.succeeded()
		}
		if s.fatal(l, err) {
			s.finishAll(translate(s.ctx, err))
			// Watches may have been added since; the next round serves them.
		}
		e.log.Debug("watch stream broke, resuming", zap.String("endpoint", l.endpoint), zap.Error(err))
		avoid = l
		if e.pause(s.ctx, attempt) != nil {
			s.finishAll(ErrClosed)
			return
		}
	}
}

// fatal says that err will not go away on another member or by trying again. It takes note of what it learns.
func (s *watchStream) fatal(l *link, err error) bool {
	e := s.hub.e
	switch {
	case isStaleToken(err) && e.cfg.Username != "":
		ctx, cancel := context.WithTimeout(e.ctx, e.cfg.DialTimeout)
		defer cancel()
		aerr := e.authenticate(ctx)
		return aerr != nil && status.Code(aerr) == codes.InvalidArgument // wrong password
	case refusedByLearner(err):
		l.failed()
		return e.pool.size() <= 1
	case rpctypes.ErrorDesc(err) == rpctypes.ErrNoLeader.Error():
		l.failed()
		return s.strict
	}
	switch status.Code(err) {
	case codes.Unavailable:
		l.failed()
		return false
	case codes.OK, codes.Internal, codes.Canceled, codes.Unknown, codes.Aborted, codes.DeadlineExceeded:
		return false
	default:
		return true
	}
}

// serve runs one grpc stream until it breaks. received says that the member answered at all.
func (s *watchStream) serve(l *link) (received bool, err error) {
	e := s.hub.e
	ctx, cancel := context.WithCancel(s.ctx)
	var sender sync.WaitGroup
	defer func() {
		cancel()
		sender.Wait()
	}()
	gs, err := pb.NewWatchClient(l.conn).Watch(e.outgoing(ctx))
	if err != nil {
		return false, err
	}
	s.attach()
	defer s.detach()
	sender.Go(func() { s.send(ctx, gs) })
	for {
		resp, err := gs.Recv()
		if err != nil {
			return received, err
		}
		received = true
		if err := s.dispatch(resp); err != nil {
			return received, err
		}
	}
}

// attach registers every watch on a fresh grpc stream, all at once: creations are answered in order.
func (s *watchStream) attach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.ids)
	s.pending, s.out, s.asked, s.live = nil, nil, 0, true
	ask := false
	for w := range s.watchers {
		w.reg.id = 0
		if !w.isParked() {
			s.createLocked(w)
		}
		ask = ask || w.reg.progress
	}
	if ask {
		s.askLocked()
	}
}

func (s *watchStream) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = false
	s.out = nil
}

// send writes what is queued. When a write fails, the receiver learns why.
func (s *watchStream) send(ctx context.Context, gs pb.Watch_WatchClient) {
	for {
		s.mu.Lock()
		out := s.out
		s.out = nil
		s.mu.Unlock()
		for _, r := range out {
			if gs.Send(r) != nil {
				return
			}
		}
		if len(out) > 0 {
			continue
		}
		select {
		case <-s.outReady:
		case <-ctx.Done():
			return
		}
	}
}

// dispatch hands one response to its watch. An error means that the stream is of no use any more.
func (s *watchStream) dispatch(resp *pb.WatchResponse) error {
	if resp.Header == nil {
		resp.Header = &ResponseHeader{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case resp.Created:
		return s.createdLocked(resp)
	case resp.Canceled:
		if w := s.ids[resp.WatchId]; w != nil {
			if resp.CompactRevision != 0 {
				// Until it is cancelled, etcd counts it among the watches that are behind, and answers no
				// progress request.
				s.dropLocked(w)
			}
			w.reg.id = 0
			delete(s.ids, resp.WatchId)
			return s.canceledLocked(w, resp)
		}
	case resp.WatchId == broadcastID:
		s.asked = max(0, s.asked-1)
		for _, w := range s.ids {
			s.progressLocked(w, resp)
		}
	default:
		if w := s.ids[resp.WatchId]; w != nil {
			s.eventsLocked(w, resp)
		}
	}
	return nil
}

// createdLocked handles the answer to the oldest creation.
func (s *watchStream) createdLocked(resp *pb.WatchResponse) error {
	if len(s.pending) == 0 {
		return status.Error(codes.Internal, "client: the server confirmed a watch that was not asked for")
	}
	p := s.pending[0]
	s.pending = s.pending[1:]
	if resp.Canceled {
		if p.w.reg.id != p.id {
			return nil // given up meanwhile
		}
		p.w.reg.id = 0
		return s.canceledLocked(p.w, resp)
	}
	if resp.WatchId != p.id {
		return status.Errorf(codes.Internal, "client: the server confirmed watch %d instead of %d", resp.WatchId, p.id)
	}
	if p.w.reg.id != p.id {
		return nil // given up meanwhile; the cancellation is on its way
	}
	s.ids[p.id] = p.w
	r := &p.w.reg
	r.since = resp.Header.Revision
	if r.next == 0 {
		// "Now" is a point between the request and this answer. Nothing was delivered yet, so that it may be
		// taken to be this answer's.
		r.next = r.since + 1
	}
	if p.w.created {
		p.w.created = false
		p.w.push(&WatchResponse{Header: resp.Header, Created: true})
	}
	p.w.established()
	return nil
}

// canceledLocked handles a watch that the server refuses or gives up.
func (s *watchStream) canceledLocked(w *Watcher, resp *pb.WatchResponse) error {
	reason := errors.New(bareReason(resp.CancelReason))
	if isStaleToken(reason) && s.hub.e.cfg.Username != "" {
		return status.Error(codes.Unauthenticated, reason.Error()) // a new stream, with a new token
	}
	err := rpctypes.Error(reason)
	switch {
	case resp.CompactRevision != 0:
		err = &CompactedError{CompactRevision: resp.CompactRevision, Header: resp.Header}
	case resp.CancelReason == "":
		err = status.Error(codes.Canceled, "client: the server ended the watch without a reason")
	}
	s.forgetLocked(w)
	w.finish(err)
	return nil
}

// bareReason strips what a server puts in front when the reason is the text of a grpc status.
func bareReason(reason string) string {
	if _, desc, ok := strings.Cut(reason, " desc = "); ok && strings.HasPrefix(reason, "rpc error: ") {
		return desc
	}
	return reason
}

// eventsLocked handles events, or a progress response for one watch.
func (s *watchStream) eventsLocked(w *Watcher, resp *pb.WatchResponse) {
	r := &w.reg
	if len(resp.Events) == 0 && !resp.Fragment && len(r.partial) == 0 {
		s.deliverProgressLocked(w, resp, true)
		return
	}
	if resp.Fragment || len(r.partial) > 0 {
		// Fragments may cut a revision in two. Only whole responses move the resume point.
		r.partial = append(r.partial, resp.Events...)
		if resp.Fragment {
			return
		}
		resp.Events, r.partial = r.partial, nil
	}
	evs := resp.Events
	for len(evs) > 0 && evs[0].Kv.ModRevision <= r.last {
		evs = evs[1:]
	}
	if len(evs) == 0 {
		return
	}
	newest := evs[len(evs)-1].Kv.ModRevision
	resp.Events = evs
	if w.view != nil {
		w.view.Response(resp)
	}
	if !w.push(&WatchResponse{Header: resp.Header, Events: resp.Events}) {
		s.dropLocked(w) // resumes from next, which still points at these events
		return
	}
	r.last = newest
	r.next = max(r.next, newest+1)
}

// progressLocked handles a progress response that is for all watches of the stream. The member sent it when all
// watches that it knew were caught up. One that was registered later, to read history, may not have been among them;
// the answer then carries a revision that is not above the one at which that watch was confirmed.
func (s *watchStream) progressLocked(w *Watcher, resp *pb.WatchResponse) {
	r := &w.reg
	unsure := r.unsure > 0
	if unsure {
		r.unsure--
	}
	if unsure && r.start != 0 && r.start <= r.since && resp.Header.Revision <= r.since {
		return
	}
	wanted := r.progress
	if s.deliverProgressLocked(w, resp, wanted) {
		r.progress = false
	}
}

// deliverProgressLocked moves w's resume point behind the revision of resp, and tells the consumer if asked to. A
// revision that the watch is beyond already (or does not want yet) is not passed on.
func (s *watchStream) deliverProgressLocked(w *Watcher, resp *pb.WatchResponse, tell bool) bool {
	r := &w.reg
	if resp.Header.Revision+1 < r.next {
		return false
	}
	if tell && !w.push(&WatchResponse{Header: resp.Header}) {
		s.dropLocked(w)
		return false
	}
	r.next = resp.Header.Revision + 1
	return true
}
