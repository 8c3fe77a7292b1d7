package bench

import (
	"context"
	"fmt"
	"time"
)

// Measure runs an operation that is not one on a store in the loops of Run, and notes the processor time of this program only.
// When ctx ends early, what was measured so far is returned.
func Measure(ctx context.Context, name string, o Options, op func(ctx context.Context, w *Worker) error) (*Result, error) {
	var seen live
	var recorders []*Recorder
	opCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	own := ownCPU()
	watch := startSeries(&seen, &o, name)
	l := newLoop(&o)
	if !l.byCount() {
		defer time.AfterFunc(o.Duration+grace, cancel).Stop()
	}
	session := &Session{Op: func(ctx context.Context, _ *Env, w *Worker) error { return op(ctx, w) }}
	l.run(opCtx, nil, session, func() *Recorder {
		r := newRecorder(&seen)
		recorders = append(recorders, r)
		return r
	})
	res := Sum(name, time.Since(l.start), recorders...)
	res.Clients, res.TargetRate, res.NotBegun = o.Clients, o.Rate, l.notBegun()
	res.Series, res.SeriesSeconds = watch.end()
	res.BenchCPUSeconds = ownCPU() - own
	res.Interrupted = ctx.Err() != nil
	if res.Ops == 0 && res.Errors > 0 && !res.Interrupted {
		return nil, fmt.Errorf("%s: every operation failed, the last with: %s", name, res.LastError)
	}
	return res, nil
}

// NewRecorder returns a recorder for what Measure cannot time: something that operations set off. Sum makes a result of it.
func NewRecorder() *Recorder { return newRecorder(&live{}) }

// Sum is what recorders noted in a time.
func Sum(name string, took time.Duration, recorders ...*Recorder) *Result {
	res := &Result{Workload: name, Seconds: took.Seconds()}
	res.fill(merge(recorders))
	return res
}
