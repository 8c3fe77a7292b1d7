package keepalive

import (
	"context"
	"errors"
	"io"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// maxAnswers bounds what waits to be sent to one client: one that does not read is not listened to either.
const maxAnswers = 1024

// answers is one stream of a client.
type answers struct {
	mu     sync.Mutex
	queue  []*pb.LeaseKeepAliveResponse
	asked  int // renewals that are not sent yet
	ended  bool
	err    error
	change *sync.Cond
}

// Serve is Lease.LeaseKeepAlive.
func (h *Hub) Serve(in pb.Lease_LeaseKeepAliveServer) error {
	if h.ctx.Err() != nil {
		return errClosing
	}
	ctx := in.Context()
	l := h.join(upstream.CallerOf(ctx))
	defer h.leave(l)
	a := &answers{}
	a.change = sync.NewCond(&a.mu)
	go a.receive(in, l) // Recv may block until this method has returned
	stop := context.AfterFunc(ctx, func() { a.end(ctx.Err()) })
	defer stop()
	stopped := context.AfterFunc(h.ctx, func() { a.end(errClosing) })
	defer stopped()
	defer a.end(io.EOF)
	for {
		resp, err := a.next()
		if resp == nil || err != nil {
			return err
		}
		if err := in.Send(resp); err != nil {
			return err
		}
	}
}

// receive takes requests until there are no more; what was asked is still answered.
func (a *answers) receive(in pb.Lease_LeaseKeepAliveServer, l *link) {
	for {
		req, err := in.Recv()
		if errors.Is(err, io.EOF) {
			a.mu.Lock()
			a.ended = true
			a.change.Broadcast()
			a.mu.Unlock()
			return
		}
		if err != nil {
			a.end(err)
			return
		}
		a.mu.Lock()
		for a.asked >= maxAnswers && a.err == nil {
			a.change.Wait()
		}
		a.asked++
		over := a.err != nil
		a.mu.Unlock()
		if over {
			return
		}
		l.renew(req.ID, a.add)
	}
}

func (a *answers) add(resp *pb.LeaseKeepAliveResponse, err error) {
	if err != nil {
		a.end(err)
		return
	}
	a.mu.Lock()
	a.queue = append(a.queue, resp)
	a.change.Broadcast()
	a.mu.Unlock()
}

func (a *answers) end(err error) {
	a.mu.Lock()
	if a.err == nil {
		a.err = err
	}
	a.change.Broadcast()
	a.mu.Unlock()
}

// next waits for an answer. nil: there will be none.
func (a *answers) next() (*pb.LeaseKeepAliveResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.queue) == 0 && a.err == nil && !(a.ended && a.asked == 0) {
		a.change.Wait()
	}
	if len(a.queue) == 0 {
		return nil, a.err
	}
	resp := a.queue[0]
	a.queue = a.queue[1:]
	a.asked--
	a.change.Broadcast()
	return resp, nil
}
