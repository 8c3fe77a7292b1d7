package watch

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/grpcproxy/relay"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// Pauses between attempts to open a stream, and between requests for progress that were not answered.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second

	firstAsk = 100 * time.Millisecond
	lastAsk  = 2 * time.Second
)

// link is what the clients of one identity share.
type link struct {
	hub    *Hub
	caller upstream.Caller
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // something is to be sent, or a feed wants a stream

	mu      sync.Mutex
	streams map[*stream]struct{}
	groups  map[span][]*feed
	nextID  int64
	sending []*pb.WatchRequest
	running bool

	// Of the present stream to the members.
	open  bool
	byID  map[int64]*feed
	asked []int64   // requests for progress that may be answered yet: the highest feed id whose creation was known then
	due   time.Time // of the next request, if there is a reason for one
	pause time.Duration
}

// span is a range of keys, without the prefix.
type span struct{ key, end string }

func newLink(h *Hub, c upstream.Caller) *link {
	l := &link{hub: h, caller: c, wake: make(chan struct{}, 1), streams: map[*stream]struct{}{}, groups: map[span][]*feed{}}
	l.ctx, l.cancel = context.WithCancel(h.ctx)
	return l
}

func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run opens streams to the members, one after the other, from the first feed on.
func (l *link) run() {
	pause := firstRetry
	for l.ctx.Err() == nil {
		began := l.hub.cfg.Clock.Now()
		err := l.session()
		if l.ctx.Err() != nil {
			return
		}
		if l.final(err) {
			l.hub.drop(l, err)
			return
		}
		if l.hub.cfg.Clock.Now().Sub(began) > lastRetry {
			pause = firstRetry
		}
		l.hub.cfg.Logger.Info("the stream of watches to a member broke; the watches go on with another one", zap.Error(err))
		t := l.hub.cfg.Clock.NewTimer(pause)
		select {
		case <-l.ctx.Done():
		case <-t.C():
		}
		t.Stop()
		pause = min(2*pause, lastRetry)
	}
}

// errStale ends the streams of clients whose identity is out of date: one that comes again gets to know it, and logs in.
var errStale = status.Error(codes.Unavailable, "etcdserver: the token of the stream is out of date")

// final says whether an error is to end the streams of the clients, because it is about who they are.
func (l *link) final(err error) bool {
	if errors.Is(err, errStale) {
		return true
	}
	switch status.Code(err) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.Unimplemented:
		return true
	}
	return l.caller.NeedsLeader && status.Convert(err).Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader)
}

// session is the life of one stream.
func (l *link) session() error {
	ctx, cancel := context.WithCancel(l.caller.Context(l.ctx))
	defer cancel()
	s, err := l.hub.client.Watch(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	l.begin()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		l.send(ctx, s)
	}()
	defer func() {
		l.mu.Lock()
		l.open = false
		l.mu.Unlock()
		cancel()
		<-sent
	}()
	for {
		frame := new(relay.Frame)
		if err := s.RecvMsg(frame); err != nil {
			return err
		}
		msg := frame.Materialize()
		frame.Free()
		r, err := parse(msg, l.hub.cfg.Prefix)
		if err != nil {
			return err
		}
		if err := l.receive(&r); err != nil {
			return err
		}
	}
}

// begin lets all feeds go on with a new stream.
func (l *link) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open, l.byID, l.sending, l.asked, l.pause = true, map[int64]*feed{}, nil, nil, firstAsk
	l.due = time.Time{}
	for _, fs := range l.groups {
		for _, f := range fs {
			if f.created {
				l.hub.cfg.Metrics.resumed.Inc()
			}
			l.create(f)
		}
	}
	for s := range l.streams {
		if s.wantsProgress {
			l.wantProgress()
		}
	}
}

// send sends what is to be sent, in order, until ctx ends.
func (l *link) send(ctx context.Context, s pb.Watch_WatchClient) {
	for {
		reqs, wait := l.outgoing()
		for _, r := range reqs {
			if s.Send(r) != nil {
				return // the receiver says why
			}
		}
		if wait == 0 {
			wait = time.Hour
		}
		t := l.hub.cfg.Clock.NewTimer(wait)
		select {
		case <-l.wake:
		case <-t.C():
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// outgoing returns what is to be sent now, and how long to wait for the next request for progress, 0: for nothing.
func (l *link) outgoing() ([]*pb.WatchRequest, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reqs := l.sending
	l.sending = nil
	if l.due.IsZero() {
		return reqs, 0
	}
	now := l.hub.cfg.Clock.Now()
	if !now.Before(l.due) {
		reqs = append(reqs, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
		known := int64(0)
		for id, f := range l.byID {
			if f.created {
				known = max(known, id)
			}
		}
		l.asked = append(l.asked, known)
		l.due = now.Add(l.pause)
		l.pause = min(2*l.pause, lastAsk)
	}
	return reqs, l.due.Sub(now)
}

// wantProgress sees to it that a request for progress is sent.
func (l *link) wantProgress() {
	l.pause = firstAsk
	l.due = l.hub.cfg.Clock.Now()
	l.poke()
}

// receive takes a response of the members.
func (l *link) receive(r *response) error {
	if r.rev > l.hub.newest().Revision {
		l.hub.Note(parseHeader(r.header))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.id == -1 && !r.created && !r.canceled {
		l.progress(r)
		return nil
	}
	f := l.byID[r.id]
	switch {
	case f == nil: // was cancelled
	case r.created && stale(r.reason):
		return errStale
	case r.canceled:
		l.refused(f, r)
	case r.created:
		f.created, f.createdRev = true, r.rev
		f.mark()
		if !f.head {
			l.wantProgress()
		}
	default:
		l.deliver(f, r)
	}
	return nil
}

// stale says whether a watch was refused because its token is not valid any more.
func stale(reason string) bool {
	return reason == rpctypes.ErrGRPCInvalidAuthToken.Error() || reason == rpctypes.ErrGRPCAuthOldRevision.Error()
}

// refused gives the end of a feed to its watchers.
func (l *link) refused(f *feed, r *response) {
	delete(l.byID, f.id)
	for w := range f.watchers {
		w.stream.push(item{frame: encodeControl(&pb.WatchResponse{
			Header: parseHeader(r.header), WatchId: w.id, Canceled: true, CompactRevision: r.compact, CancelReason: r.reason,
		})})
		delete(w.stream.watchers, w.id)
		l.detach(w)
	}
}

// progress is the members' word that all feeds they knew of when they were asked have everything up to a revision.
func (l *link) progress(r *response) {
	if len(l.asked) == 0 {
		return
	}
	known := l.asked[0] // or a later one: what is not answered cannot be told from what is answered late
	l.asked = l.asked[1:]
	all := true
	for _, f := range l.byID {
		if f.created && (f.id <= known || r.rev > f.createdRev) && len(f.held) == 0 {
			f.next, f.head = max(f.next, r.rev+1), true
			for w := range f.watchers {
				w.next = max(w.next, r.rev+1)
			}
		} else {
			all = false
		}
	}
	for s, fs := range l.groups {
		if len(fs) > 1 {
			l.merge(s)
		}
	}
	pending := !all
	for s := range l.streams {
		if s.wantsProgress && !l.answer(s, r) {
			pending = true
		}
	}
	if !pending {
		l.due = time.Time{}
	}
}

// answer tells a client of the progress of all its watchers, if they all have it.
func (l *link) answer(s *stream, r *response) bool {
	if r.rev < s.progressed {
		return false // a member that is behind the one that was asked before
	}
	for _, w := range s.watchers {
		if w.feed == nil || w.next <= r.rev && !(w.feed.head && w.feed.next > r.rev) {
			return false
		}
	}
	s.wantsProgress, s.progressed = false, r.rev
	s.push(item{frame: encodeControl(&pb.WatchResponse{Header: parseHeader(r.header), WatchId: -1})})
	return true
}

// join adds a client's stream.
func (l *link) join() *stream {
	s := newStream(l)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streams[s] = struct{}{}
	return s
}

// leave takes a client's stream out, and says whether there is another one.
func (l *link) leave(s *stream) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range s.watchers {
		l.detach(w)
	}
	clear(s.watchers)
	delete(l.streams, s)
	s.left = true
	return len(l.streams) > 0
}

// fail ends the streams of all clients.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.streams {
		s.end(err)
	}
}

// start begins to talk to the members, once there is a reason.
func (l *link) start() {
	if !l.running {
		l.running = true
		l.hub.wg.Go(l.run)
	}
}

// create makes a feed's watch at the members, or sees to it that there will be one.
func (l *link) create(f *feed) {
	l.nextID++
	f.id, f.created, f.held, f.head = l.nextID, false, nil, false
	if !l.open {
		return
	}
	l.byID[f.id] = f
	key, end := l.hub.cfg.Prefix.Interval([]byte(f.span.key), []byte(f.span.end))
	l.sending = append(l.sending, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: key, RangeEnd: end, StartRevision: f.next, PrevKv: f.prev, ProgressNotify: true, Fragment: true, WatchId: f.id,
	}}})
	l.poke()
}

// stop ends a feed that has no watchers.
func (l *link) stop(f *feed) {
	rest := slices.DeleteFunc(l.groups[f.span], func(have *feed) bool { return have == f })
	if l.groups[f.span] = rest; len(rest) == 0 {
		delete(l.groups, f.span)
	}
	l.hub.cfg.Metrics.feeds.Dec()
	if l.open && l.byID[f.id] == f {
		delete(l.byID, f.id)
		l.sending = append(l.sending, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: f.id}}})
		l.poke()
	}
}
