package leasing

import (
	"context"
	"sync"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/server/errdefs"
)

// gatherer makes one request at a time of all renewals that wait: the more they are, the fewer requests for each.
type gatherer struct {
	post func(ids []lease.ID) ([]int64, error)

	mu      sync.Mutex
	posting bool
	waiting []*batch
}

// batch is renewals that are sent together.
type batch struct {
	ids  []lease.ID
	done chan struct{} // closed when ttls or err is set
	ttls []int64
	err  error
}

// maxBatch bounds a batch; see maxRequest.
const maxBatch = 4096

// renew returns the times to live of leases; at most maxBatch.
func (g *gatherer) renew(ctx context.Context, ids []lease.ID) ([]int64, error) {
	b, from := g.join(ids)
	select {
	case <-b.done:
	case <-ctx.Done():
		return nil, errdefs.ErrCanceled
	}
	if b.err != nil {
		return nil, b.err
	}
	return b.ttls[from : from+len(ids)], nil
}

// join puts leases into a batch that was not yet sent, and says at which place.
func (g *gatherer) join(ids []lease.ID) (b *batch, from int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.waiting); n > 0 && len(g.waiting[n-1].ids)+len(ids) <= maxBatch {
		b = g.waiting[n-1]
	} else {
		b = &batch{done: make(chan struct{})}
		g.waiting = append(g.waiting, b)
	}
	from = len(b.ids)
	b.ids = append(b.ids, ids...)
	if !g.posting {
		g.posting = true
		go g.run()
	}
	return b, from
}

// run sends batches until none waits.
func (g *gatherer) run() {
	for {
		g.mu.Lock()
		if len(g.waiting) == 0 {
			g.posting = false
			g.mu.Unlock()
			return
		}
		b := g.waiting[0]
		g.waiting = g.waiting[1:]
		g.mu.Unlock()
		b.ttls, b.err = g.post(b.ids)
		close(b.done)
	}
}
