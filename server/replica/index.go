package replica

import (
	"context"
	"sync"
	"sync/atomic"
)

// Index is a rising log index that can be waited for.
type Index struct {
	value   atomic.Uint64
	mu      sync.Mutex
	waiters []indexWaiter
}

type indexWaiter struct {
	index uint64
	ready chan struct{}
}

// Get is the present value.
func (x *Index) Get() uint64 { return x.value.Load() }

// Set raises the value and wakes those it satisfies.
func (x *Index) Set(v uint64) {
	x.value.Store(v)
	x.mu.Lock()
	defer x.mu.Unlock()
	kept := x.waiters[:0]
	for _, w := range x.waiters {
		if w.index <= v {
			close(w.ready)
		} else {
			kept = append(kept, w)
		}
	}
	clear(x.waiters[len(kept):])
	x.waiters = kept
}

// Wait returns when the value is at least index, or with the error of ctx.
func (x *Index) Wait(ctx context.Context, index uint64) error {
	if x.value.Load() >= index {
		return nil
	}
	x.mu.Lock()
	if x.value.Load() >= index {
		x.mu.Unlock()
		return nil
	}
	w := indexWaiter{index, make(chan struct{})}
	x.waiters = append(x.waiters, w)
	x.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		x.forget(w.ready)
		return ctx.Err()
	}
}

func (x *Index) forget(ready chan struct{}) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i, w := range x.waiters {
		if w.ready == ready {
			last := len(x.waiters) - 1
			x.waiters[i] = x.waiters[last]
			x.waiters[last] = indexWaiter{}
			x.waiters = x.waiters[:last]
			return
		}
	}
}
