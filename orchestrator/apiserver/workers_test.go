package apiserver

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestWorkers(t *testing.T) {
	core, logged := observer.New(zap.ErrorLevel)
	w := newWorkers(zap.New(core))
	failure := errors.New("no")
	fail := func() error { return failure }
	require.Equal(t, failure, w.do(fail), "without workers the caller calls")

	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() { w.run(ctx) })
	defer ended.Wait()
	defer cancel()
	var all sync.WaitGroup
	for i := range 200 { // more than there are workers
		all.Go(func() {
			want := errors.New("no")
			if i%2 == 0 {
				want = nil
			}
			if err := w.do(func() error { return want }); err != want { //nolint:errorlint // the very error
				t.Errorf("%v, not %v", err, want)
			}
		})
	}
	all.Wait()

	onWorker := func(call func() error) error { // waits until a worker is idle
		j := &job{call: call, done: make(chan struct{}, 1)}
		w.jobs <- j
		<-j.done
		if j.panicked != nil {
			panic(j.panicked)
		}
		return j.err
	}
	require.Equal(t, failure, onWorker(fail))
	require.PanicsWithValue(t, "oh", func() { _ = onWorker(func() error { panic("oh") }) })
	require.Equal(t, 1, logged.Len())
	require.Contains(t, string(logged.All()[0].ContextMap()["stack"].(string)), "TestWorkers")
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { _ = onWorker(func() error { panic(http.ErrAbortHandler) }) })
	require.Equal(t, 1, logged.Len(), "an abort is none")
	require.Equal(t, failure, onWorker(fail), "workers outlive panics")
}
