package objectstore

import (
	"context"
	"sync"
)

// gate shares one question among all who want an answer that is no older than their asking: those who come while it is
// being asked wait for the next round.
type gate struct {
	ask func() (int64, error)

	mu      sync.Mutex
	running bool
	next    *round
}

type round struct {
	done  chan struct{}
	value int64
	err   error
}

func (g *gate) get(ctx context.Context) (int64, error) {
	g.mu.Lock()
	if g.next == nil {
		g.next = &round{done: make(chan struct{})}
	}
	r := g.next
	if !g.running {
		g.running = true
		go g.run()
	}
	g.mu.Unlock()
	select {
	case <-r.done:
		return r.value, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// run asks until nobody waits any more.
func (g *gate) run() {
	for {
		g.mu.Lock()
		r := g.next
		g.next = nil
		if r == nil {
			g.running = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		r.value, r.err = g.ask()
		close(r.done)
	}
}
