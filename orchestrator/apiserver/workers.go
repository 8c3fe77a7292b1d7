package apiserver

import (
	"context"
	"net/http"
	"runtime/debug"
	"sync"

	"go.uber.org/zap"
)

// workers are goroutines that stay. A request is served deep in the calls of codecs and of the field manager, and one that has a
// goroutine of its own, as net/http gives to each, spends a good part of its time on growing the stack, step by step. Whoever
// finds no worker idle goes on by himself.
type workers struct {
	jobs   chan *job
	pool   sync.Pool // *job
	logger *zap.Logger
}

// workerCount is how many workers there are.
const workerCount = 64

// job is a call that a worker makes for somebody who waits for it.
type job struct {
	call     func() error
	err      error
	panicked any // what the call panicked with, if it did
	done     chan struct{}
}

func newWorkers(lg *zap.Logger) *workers { return &workers{jobs: make(chan *job), logger: lg} }

// run has workers work until ctx ends.
func (w *workers) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range workerCount {
		wg.Go(func() {
			for {
				select {
				case j := <-w.jobs:
					w.work(j)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Wait()
}

// do calls something, and returns or panics as it does.
func (w *workers) do(call func() error) error {
	j, ok := w.pool.Get().(*job)
	if !ok {
		j = &job{done: make(chan struct{}, 1)}
	}
	j.call = call
	select {
	case w.jobs <- j:
	default:
		j.call = nil
		w.pool.Put(j)
		return call()
	}
	<-j.done
	err, panicked := j.err, j.panicked
	j.call, j.err, j.panicked = nil, nil, nil
	w.pool.Put(j)
	if panicked != nil {
		panic(panicked)
	}
	return err
}

// work makes a call. Of a panic, whoever waits sees the value only: its stack is logged here.
func (w *workers) work(j *job) {
	defer func() {
		if j.panicked = recover(); j.panicked != nil && j.panicked != http.ErrAbortHandler { //nolint:errorlint // it is compared as net/http does
			w.logger.Error("a request panicked", zap.Any("panic", j.panicked), zap.ByteString("stack", debug.Stack()))
		}
		j.done <- struct{}{}
	}()
	j.err = j.call()
}
