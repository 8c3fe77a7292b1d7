// Package keepalive renews leases for many clients over one stream to the members.
//
// # Model
//
// The clients of one identity share a link, which has one stream of renewals to the members. A lease has at most one renewal
// under way. Who asks for it meanwhile waits, with all others, for the next one, which is sent when the answer to the
// first has come: an answer is never older than the question. When the stream breaks, what was not answered is asked again.
//
// When the members end the stream because of one of the leases, as they do if its keys may not be written, each lease that
// was not answered is asked for on a stream of its own, so that the error comes to those who asked for that lease.
//
// # Concurrency
//
// A Hub may be used from any number of goroutines. Locks are taken in the order hub, link, and nothing is sent or received
// under them.
package keepalive

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// Hub is described in the package comment.
type Hub struct {
	client pb.LeaseClient
	clk    clock.Clock

	mu     sync.Mutex
	links  map[upstream.Caller]*link
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // of links, and of renewals on streams of their own
}

// New makes a Hub.
func New(client pb.LeaseClient, clk clock.Clock) *Hub {
	h := &Hub{client: client, clk: clk, links: map[upstream.Caller]*link{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// Close ends all streams.
func (h *Hub) Close() {
	h.cancel()
	h.wg.Wait()
}

// errClosing ends the streams of clients. They go on elsewhere.
var errClosing = status.Error(codes.Unavailable, "the proxy is stopping")

// Pauses between attempts to open a stream.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 2 * time.Second
)

// link is what the clients of one identity share.
type link struct {
	hub    *Hub
	caller upstream.Caller
	ctx    context.Context
	cancel context.CancelFunc
	refs   int           // streams of clients; under the hub's lock
	wake   chan struct{} // something is to be sent

	mu      sync.Mutex
	leases  map[int64]*renewal
	sending []int64
}

// renewal is a lease that somebody asked for.
type renewal struct {
	waiting []func(*pb.LeaseKeepAliveResponse, error) // for the answer under way; none is under way if there are none
	next    []func(*pb.LeaseKeepAliveResponse, error) // for the one after it
}

func (h *Hub) join(c upstream.Caller) *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	l := h.links[c]
	if l == nil {
		l = &link{hub: h, caller: c, wake: make(chan struct{}, 1), leases: map[int64]*renewal{}}
		l.ctx, l.cancel = context.WithCancel(h.ctx)
		h.links[c] = l
		h.wg.Go(l.run)
	}
	l.refs++
	return l
}

func (h *Hub) leave(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.refs--; l.refs == 0 {
		l.cancel()
		delete(h.links, l.caller)
	}
}

// renew calls answer once, unless the link ends before, from another goroutine. It must not block.
func (l *link) renew(id int64, answer func(*pb.LeaseKeepAliveResponse, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.leases[id]
	if r == nil {
		l.leases[id] = &renewal{waiting: []func(*pb.LeaseKeepAliveResponse, error){answer}}
		l.ask(id)
		return
	}
	r.next = append(r.next, answer)
}

func (l *link) ask(id int64) {
	l.sending = append(l.sending, id)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// answered gives an answer to those who wait for it, and asks again for those who came later.
func (l *link) answered(id int64, resp *pb.LeaseKeepAliveResponse, err error) {
	l.mu.Lock()
	r := l.leases[id]
	if r == nil {
		l.mu.Unlock()
		return
	}
	done := r.waiting
	if r.waiting, r.next = r.next, nil; len(r.waiting) > 0 {
		l.ask(id)
	} else {
		delete(l.leases, id)
	}
	l.mu.Unlock()
	for _, answer := range done {
		answer(resp, err)
	}
}

// run opens streams to the members, one after the other.
func (l *link) run() {
	pause := firstRetry
	for l.ctx.Err() == nil {
		began := l.hub.clk.Now()
		err := l.session()
		if l.ctx.Err() != nil {
			return
		}
		if l.final(err) {
			l.separate()
			continue
		}
		if l.hub.clk.Now().Sub(began) > lastRetry {
			pause = firstRetry
		}
		t := l.hub.clk.NewTimer(pause)
		select {
		case <-l.ctx.Done():
		case <-t.C():
		}
		t.Stop()
		pause = min(2*pause, lastRetry)
	}
}

// final says whether an error is the members' answer, rather than that there is none.
func (l *link) final(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable:
		return l.caller.NeedsLeader && status.Convert(err).Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader)
	case codes.Canceled, codes.Internal, codes.Unknown, codes.DeadlineExceeded:
		return false
	}
	return true
}

// session is the life of one stream. It waits until there is something to send.
func (l *link) session() error {
	ctx, cancel := context.WithCancel(l.caller.Context(l.ctx))
	defer cancel()
	l.mu.Lock()
	idle := len(l.leases) == 0
	l.mu.Unlock()
	if idle {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s, err := l.hub.client.LeaseKeepAlive(ctx, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.sending = l.sending[:0]
	for id, r := range l.leases {
		if len(r.waiting) > 0 {
			l.sending = append(l.sending, id)
		}
	}
	l.mu.Unlock()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		l.send(ctx, s)
	}()
	defer func() {
		cancel()
		<-sent
	}()
	for {
		resp, err := s.Recv()
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.Unavailable, "the member ended the stream")
		}
		if err != nil {
			return err
		}
		l.answered(resp.ID, resp, nil)
	}
}

// send sends what is to be sent until ctx ends.
func (l *link) send(ctx context.Context, s pb.Lease_LeaseKeepAliveClient) {
	for {
		l.mu.Lock()
		ids := l.sending
		l.sending = nil
		l.mu.Unlock()
		for _, id := range ids {
			if s.Send(&pb.LeaseKeepAliveRequest{ID: id}) != nil {
				return // the receiver says why
			}
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
	}
}

// separate asks for each lease that is under way on a stream of its own.
func (l *link) separate() {
	l.mu.Lock()
	var ids []int64
	for id, r := range l.leases {
		if len(r.waiting) > 0 {
			ids = append(ids, id)
		}
	}
	l.mu.Unlock()
	for _, id := range ids {
		resp, err := l.alone(id)
		if l.ctx.Err() != nil {
			return
		}
		l.answered(id, resp, err)
	}
}

func (l *link) alone(id int64) (*pb.LeaseKeepAliveResponse, error) {
	ctx, cancel := context.WithCancel(l.caller.Context(l.ctx))
	defer cancel()
	s, err := l.hub.client.LeaseKeepAlive(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return s.Recv()
}
