package bench

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// grace is how long operations that are under way at the end of a run may take.
	grace = time.Minute
	// hopeless is how many times in a row a worker fails before it gives up.
	hopeless = 100
)

// Run runs a workload once. When ctx ends early, what was measured so far is returned.
func Run(ctx context.Context, e *Env, w Workload) (_ *Result, err error) {
	var (
		mu        sync.Mutex
		recorders []*Recorder
		seen      live
	)
	record := func() *Recorder {
		r := newRecorder(&seen)
		mu.Lock()
		defer mu.Unlock()
		recorders = append(recorders, r)
		return r
	}
	// A context without a deadline: the servers are not to see one, and then end operations a moment before we do.
	opCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	s := &Session{Op: w.Op}
	if w.Start != nil {
		if s, err = w.Start(opCtx, e, record); err != nil {
			return nil, fmt.Errorf("%s: %w", w.Name, err)
		}
	}
	if s.Close != nil {
		defer func() {
			if cerr := s.Close(opCtx); cerr != nil && ctx.Err() == nil {
				err = errors.Join(err, fmt.Errorf("%s: cleaning up: %w", w.Name, cerr))
			}
		}()
	}
	meter := startMeter(e.Options.Pids)
	watch := startSeries(&seen, &e.Options, w.Name)
	l := newLoop(&e.Options)
	if !l.byCount() {
		defer time.AfterFunc(e.Options.Duration+grace, cancel).Stop()
	}
	l.run(opCtx, e, s, record)
	if s.Drain != nil {
		s.Drain(opCtx)
	}
	took := time.Since(l.start)
	res := &Result{Workload: w.Name, Clients: e.Options.Clients, TargetRate: e.Options.Rate, Seconds: took.Seconds(), NotBegun: l.notBegun()}
	res.Series, res.SeriesSeconds = watch.end()
	res.BenchCPUSeconds, res.Servers = meter.end(opCtx)
	total := merge(recorders)
	res.fill(total)
	res.Interrupted = ctx.Err() != nil
	if res.Ops == 0 && res.Errors > 0 && !res.Interrupted {
		return nil, fmt.Errorf("%s: every operation failed: %w", w.Name, total.last)
	}
	return res, nil
}

// loop is a closed or an open loop, in which workers draw operations.
type loop struct {
	total    int64
	rate     float64
	clients  int
	duration time.Duration
	start    time.Time
	next     atomic.Int64 // the operation to be drawn next
	begun    atomic.Int64
}

func newLoop(o *Options) *loop {
	return &loop{total: o.Total, rate: o.Rate, clients: o.Clients, duration: o.Duration, start: time.Now()}
}

func (l *loop) byCount() bool { return l.total > 0 }

// over says whether no operation is to be begun any more.
func (l *loop) over(now time.Time) bool { return !l.byCount() && now.Sub(l.start) >= l.duration }

// run returns when the last operation has ended.
func (l *loop) run(ctx context.Context, e *Env, s *Session, record func() *Recorder) {
	var wg sync.WaitGroup
	for i := range l.clients {
		w, r := newWorker(i), record()
		wg.Go(func() { l.work(ctx, e, s, w, r) })
	}
	wg.Wait()
}

func (l *loop) work(ctx context.Context, e *Env, s *Session, w *Worker, r *Recorder) {
	for r.inRow < hopeless {
		n := l.next.Add(1) - 1
		if l.byCount() && n >= l.total {
			return
		}
		if !l.await(ctx, w, n) {
			return
		}
		l.begun.Add(1)
		err := s.Op(ctx, e, w)
		switch {
		case err == nil && !s.Own:
			r.Record(time.Since(w.Begin))
		case err == nil:
			r.inRow = 0
		case ctx.Err() != nil:
			return // cancelled, not failed
		default:
			r.Fail(err)
		}
	}
}

// await waits until operation n is due, if it is to wait for anything. It returns false if the run is over.
func (l *loop) await(ctx context.Context, w *Worker, n int64) bool {
	now := time.Now()
	w.Begin, w.N = now, n
	if l.rate > 0 {
		w.Begin = l.start.Add(Due(n, l.rate))
	}
	if ctx.Err() != nil || l.over(now) || l.over(w.Begin) {
		return false
	}
	wait := w.Begin.Sub(now)
	if wait <= 0 {
		return true
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// notBegun is how many operations of an open loop were due, but found no worker in time. Their latency is not known,
// only that it would have been bad.
func (l *loop) notBegun() int64 {
	if l.rate == 0 || l.byCount() {
		return 0
	}
	due := int64(min(time.Since(l.start), l.duration).Seconds() * l.rate)
	return max(0, due-l.begun.Load())
}

// Due is when the n-th operation of an open loop begins, after its start.
func Due(n int64, rate float64) time.Duration {
	return time.Duration(float64(n) / rate * float64(time.Second))
}
