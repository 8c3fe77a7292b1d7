package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/client"
)

// Options say how a workload is run.
type Options struct {
	Endpoints   []string
	Clients     int           // workers
	Connections int           // to each endpoint
	Duration    time.Duration // of a run
	Rate        float64       // operations a second, open loop; 0: closed loop
	Keys        int           // size of the key space; 0: the workload's
	ValueBytes  int
	Pids        []int     // of the servers, to count their processor time and memory
	Progress    io.Writer // a line now and then; nil: none
}

// Check refuses what makes no sense.
func (o *Options) Check() error {
	switch {
	case len(o.Endpoints) == 0:
		return errors.New("no endpoints are given")
	case o.Clients <= 0:
		return fmt.Errorf("%d clients make no load", o.Clients)
	case o.Duration <= 0:
		return fmt.Errorf("a duration of %s measures nothing", o.Duration)
	case o.Rate < 0 || o.Keys < 0 || o.ValueBytes < 0:
		return errors.New("rate, keys and value size cannot be negative")
	}
	return nil
}

// Histograms cover a microsecond to ten minutes with three digits.
const (
	minLatency = int64(time.Microsecond)
	maxLatency = int64(10 * time.Minute)
)

// Recorder notes latencies.
type Recorder struct {
	h      *hdrhistogram.Histogram
	live   *atomic.Int64
	errors int64
	last   error
}

func newRecorder(live *atomic.Int64) *Recorder {
	return &Recorder{h: hdrhistogram.New(minLatency, maxLatency, 3), live: live}
}

// Record notes one operation.
func (r *Recorder) Record(d time.Duration) {
	_ = r.h.RecordValue(min(max(int64(d), minLatency), maxLatency))
	r.live.Add(1)
}

// Do makes one operation and notes how long it took since start, or that it failed. It returns false when the run is over.
func (r *Recorder) Do(ctx context.Context, start time.Time, op func() error) bool {
	err := op()
	switch {
	case err == nil:
		r.Record(time.Since(start))
	case until(ctx, err) != nil:
		r.errors, r.last = r.errors+1, err
	}
	return ctx.Err() == nil
}

func newWorker(id int) *Worker {
	return &Worker{ID: id, Rng: rand.New(rand.NewPCG(uint64(id), uint64(time.Now().UnixNano())))}
}

// Open connects to a cluster and prepares a workload on it.
func Open(ctx context.Context, w Workload, o Options) (*Env, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Keys == 0 {
		o.Keys = w.Keys
	}
	c, err := client.New(client.Config{Endpoints: o.Endpoints, Connections: o.Connections})
	if err != nil {
		return nil, err
	}
	e := &Env{Client: c, Options: o, value: string(make([]byte, o.ValueBytes))}
	first, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := c.Get(first, "bench"); err != nil {
		return nil, errors.Join(fmt.Errorf("%v: %w", o.Endpoints, err), c.Close())
	}
	if w.Load {
		if err := e.load(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return e, nil
}

// Close ends the connections.
func (e *Env) Close() error { return e.Client.Close() }

// loadBatch is how many keys a transaction of the load puts.
const loadBatch = 100

// load fills the key space, unless it is full.
func (e *Env) load(ctx context.Context) error {
	have, err := e.Client.Get(ctx, "bench/", client.WithPrefix(), client.WithCountOnly())
	if err != nil {
		return err
	}
	if have.Count >= int64(e.Options.Keys) {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for from := 0; from < e.Options.Keys; from += loadBatch {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			var ops []client.Op
			for n := from; n < min(from+loadBatch, e.Options.Keys); n++ {
				ops = append(ops, client.OpPut(e.Key(int64(n)), e.value))
			}
			_, err := e.Client.Txn(ctx).Then(ops...).Commit()
			return err
		})
	}
	return g.Wait()
}

// Run runs a workload once. When ctx ends early, what was measured so far is returned.
func Run(ctx context.Context, e *Env, w Workload) (*Result, error) {
	runCtx, cancel := context.WithTimeout(ctx, e.Options.Duration)
	defer cancel()
	var mu sync.Mutex
	var recorders []*Recorder
	var live atomic.Int64
	record := func() *Recorder {
		r := newRecorder(&live)
		mu.Lock()
		defer mu.Unlock()
		recorders = append(recorders, r)
		return r
	}
	procs := startProcs(e.Options.Pids)
	series := startSeries(&live, e.Options.Progress, w.Name)
	start := time.Now()
	var err error
	switch {
	case w.Run != nil:
		err = w.Run(runCtx, e, record)
	case e.Options.Rate > 0:
		err = openLoop(runCtx, e, w.Op, record)
	default:
		err = closedLoop(runCtx, e, w.Op, record)
	}
	took := time.Since(start)
	res := &Result{Workload: w.Name, Seconds: took.Seconds(), Series: series.end(), Servers: procs.end()}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.Name, err)
	}
	total := hdrhistogram.New(minLatency, maxLatency, 3)
	for _, r := range recorders {
		total.Merge(r.h)
		if res.Errors += r.errors; r.last != nil {
			err = r.last
		}
	}
	res.fill(total)
	if res.Ops == 0 && err != nil {
		return nil, fmt.Errorf("%s: every operation failed: %w", w.Name, err)
	}
	return res, nil
}

func closedLoop(ctx context.Context, e *Env, op Op, rec func() *Recorder) error {
	var g errgroup.Group
	for i := range e.Options.Clients {
		r, w := rec(), newWorker(i)
		g.Go(func() error {
			for r.Do(ctx, time.Now(), func() error { return op(ctx, e, w) }) {
				w.N++
			}
			return nil
		})
	}
	return g.Wait()
}

// openLoop begins operations at a fixed rate. Worker i makes every i-th of them; when it is late, it goes on without rest
// and its latencies count from when it should have begun.
func openLoop(ctx context.Context, e *Env, op Op, rec func() *Recorder) error {
	var g errgroup.Group
	start := time.Now()
	for i := range e.Options.Clients {
		r, w := rec(), newWorker(i)
		g.Go(func() error {
			for ; ctx.Err() == nil; w.N++ {
				due := start.Add(Due(w.N*int64(e.Options.Clients)+int64(i), e.Options.Rate))
				if wait := time.Until(due); wait > 0 {
					select {
					case <-time.After(wait):
					case <-ctx.Done():
						return nil
					}
				}
				r.Do(ctx, due, func() error { return op(ctx, e, w) })
			}
			return nil
		})
	}
	return g.Wait()
}

// Due is when the n-th operation of an open loop begins, after its start.
func Due(n int64, rate float64) time.Duration {
	return time.Duration(float64(n) / rate * float64(time.Second))
}
