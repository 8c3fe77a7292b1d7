package workers

import (
	"context"
	"errors"
	"sync"

	"go.uber.org/zap"
)

// RemoveDead removes the dead containers that pods keep for their logs, and the sandboxes of pods that have ended. Who runs stays.
// It returns when that is done, or ctx has ended. A node that is short of disk has nothing cheaper to give.
func (ws *Workers) RemoveDead(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, w := range ws.all() {
		done := make(chan struct{})
		w.mu.Lock()
		w.memory.thinning = append(w.memory.thinning, done)
		w.mu.Unlock()
		w.kick()
		wg.Go(func() {
			select {
			case <-done:
			case <-w.done:
			case <-ctx.Done():
			}
		})
	}
	wg.Wait()
	return ctx.Err()
}

// wanting are those who wait for dead containers to be removed; the next sync does that.
func (w *worker) wanting() []chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := w.memory.thinning
	w.memory.thinning, w.lean = nil, len(told) > 0
	return told
}

// thin removes what an ended pod keeps in the runtime. Its status has been written and says how its containers ended.
func (w *worker) thin(ctx context.Context, g glance) {
	if !w.lean {
		return
	}
	var errs []error
	g.seen.each(func(c *container) { errs = append(errs, w.ws.dropContainer(ctx, g.pod, c)) })
	for _, b := range g.seen.sandboxes {
		errs = append(errs, w.ws.rt.removeSandbox(ctx, b.id))
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		w.ws.log.Warn("dead containers cannot be removed", append(podFields(g.pod, nil), zap.Error(err))...)
	}
}
