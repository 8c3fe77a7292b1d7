package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestMerge checks that workers' histograms together say what one would have said.
func TestMerge(t *testing.T) {
	var l live
	rng := rand.New(rand.NewPCG(1, 1))
	one, parts := newRecorder(&l), []*Recorder{newRecorder(&l), newRecorder(&l), newRecorder(&l)}
	for i := range 3000 {
		d := time.Duration(rng.ExpFloat64() * float64(time.Millisecond))
		one.Record(d)
		parts[i%3].Record(d)
	}
	failure := errors.New("no")
	parts[1].Fail(failure)
	m, want := merge(parts), merge([]*Recorder{one})
	require.Equal(t, int64(1), m.errors)
	require.Equal(t, failure, m.last)
	var a, b Result
	a.Seconds, b.Seconds = 2, 2
	a.fill(m)
	b.fill(want)
	require.Equal(t, b.Latency, a.Latency)
	require.Equal(t, 1500.0, a.Rate)
	require.Equal(t, int64(6001), l.ops.Load()+l.errors.Load())
	require.InDelta(t, 1.0, a.Latency.Mean, 0.1, "the mean of the distribution")
	require.InDelta(t, 0.69, a.Latency.P50, 0.07, "its median")
	require.Equal(t, quantiles()[len(quantiles())-1], a.Latency.Spectrum[len(a.Latency.Spectrum)-1].Percent)
	require.Equal(t, a.Latency.Max, a.Latency.Spectrum[len(a.Latency.Spectrum)-1].Ms)
}

// TestRecordBounds puts what is out of a histogram's range at its ends.
func TestRecordBounds(t *testing.T) {
	var l live
	r := newRecorder(&l)
	for _, d := range []time.Duration{-time.Second, 0, time.Nanosecond, time.Hour} {
		r.Record(d)
	}
	require.Equal(t, int64(4), r.h.TotalCount())
	require.InEpsilon(t, float64(maxLatency), float64(r.h.Max()), 0.001)
}

func runLoop(t *testing.T, o Options, op Op) (*loop, merged) {
	t.Helper()
	var l live
	var recorders []*Recorder
	lp := newLoop(&o)
	lp.run(context.Background(), &Env{Options: o}, &Session{Op: op}, func() *Recorder {
		recorders = append(recorders, newRecorder(&l))
		return recorders[len(recorders)-1]
	})
	return lp, merge(recorders)
}

// TestStallIsChargedToAll has one operation of an open loop stall: those that were due meanwhile are late too.
func TestStallIsChargedToAll(t *testing.T) {
	const stall = 200 * time.Millisecond
	var n atomic.Int64
	_, m := runLoop(t, Options{Clients: 1, Rate: 1000, Total: 400}, func(context.Context, *Env, *Worker) error {
		if n.Add(1) == 101 {
			time.Sleep(stall)
		}
		return nil
	})
	require.Equal(t, int64(400), m.h.TotalCount())
	require.GreaterOrEqual(t, time.Duration(m.h.Max()), stall*99/100)
	// 200 operations were due during the stall, at even distances: half of the 400 are late, half of these by more than
	// half of the stall. A closed loop would have seen one.
	require.GreaterOrEqual(t, time.Duration(m.h.ValueAtQuantile(76)), stall/2-20*time.Millisecond)
}

// TestEndIsGentle lets operations end that were begun in time.
func TestEndIsGentle(t *testing.T) {
	start := time.Now()
	_, m := runLoop(t, Options{Clients: 3, Duration: 20 * time.Millisecond}, func(ctx context.Context, _ *Env, _ *Worker) error {
		time.Sleep(60 * time.Millisecond)
		return ctx.Err()
	})
	require.Equal(t, int64(3), m.h.TotalCount())
	require.Zero(t, m.errors)
	require.GreaterOrEqual(t, time.Since(start), 60*time.Millisecond)
}

func TestNotBegun(t *testing.T) {
	l, m := runLoop(t, Options{Clients: 1, Duration: 100 * time.Millisecond, Rate: 1000}, func(context.Context, *Env, *Worker) error {
		time.Sleep(10 * time.Millisecond)
		return nil
	})
	require.Equal(t, int64(100), l.notBegun()+m.h.TotalCount())
	require.Greater(t, l.notBegun(), int64(50))
}

// TestHopeless ends a run of which every operation fails.
func TestHopeless(t *testing.T) {
	no := errors.New("no")
	_, m := runLoop(t, Options{Clients: 2, Duration: time.Hour}, func(context.Context, *Env, *Worker) error { return no })
	require.Equal(t, int64(2*hopeless), m.errors)
	require.Equal(t, no, m.last)
}

func TestDue(t *testing.T) {
	require.Equal(t, time.Duration(0), Due(0, 100))
	require.Equal(t, 250*time.Millisecond, Due(25, 100))
	require.Equal(t, 24*time.Hour, Due(24*3600*1e6, 1e6))
}

func TestRatio(t *testing.T) {
	v := Versus{Of: ofRate}
	for _, r := range [][2]float64{{100, 50}, {300, 100}, {100, 100}, {100, 25}} {
		v.A, v.B = append(v.A, &Result{Ops: 1, Rate: r[0]}), append(v.B, &Result{Ops: 1, Rate: r[1]})
	}
	v.compute()
	require.Equal(t, &Spread{Median: 2.5, Lowest: 1, Highest: 4}, v.Ratio)
	v.A = v.A[:3]
	v.compute()
	require.Equal(t, &Spread{Median: 2, Lowest: 1, Highest: 3}, v.Ratio)

	v.A[0].Ops, v.B[1].Interrupted = 0, true
	v.compute()
	require.Equal(t, &Spread{Median: 1, Lowest: 1, Highest: 1}, v.Ratio, "rounds without operations or not whole do not count")
	v.A = nil
	v.compute()
	require.Nil(t, v.Ratio)
	require.Equal(t, "-", v.ratio())

	l := Versus{Of: ofLatency, A: []*Result{{Ops: 1, Latency: Latency{Mean: 2}}}, B: []*Result{{Ops: 1, Latency: Latency{Mean: 5}}}}
	l.compute()
	require.Equal(t, 2.5, l.Ratio.Median, "less latency is better")
	require.Equal(t, &Result{}, typical(nil))
}

func TestSpaces(t *testing.T) {
	for name, s := range map[string]*Space{"plain": plainSpace(1234), "kubernetes": kubeSpace(1234), "small": kubeSpace(1)} {
		last := ""
		for i := range s.Len {
			key := s.Key(i)
			require.True(t, strings.HasPrefix(key, s.Prefix) && strings.HasPrefix(key, "bench/"), name)
			require.Greater(t, key, last, name)
			last = key
		}
	}
	s := kubeSpace(kubeKeys)
	in := 0
	for i := range s.Len {
		if strings.HasPrefix(s.Key(i), namespacePrefix(3, 7)) {
			in++
		}
	}
	require.Equal(t, kubeKeys/kinds/namespaces, in)
	require.Len(t, value(300), 300)
}

func TestWorkloadTable(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range Workloads() {
		require.False(t, seen[w.Name], w.Name)
		seen[w.Name] = true
		require.NotEmpty(t, w.Doc, w.Name)
		require.NotEqual(t, w.Op == nil, w.Start == nil, "%s: one of Op and Start", w.Name)
	}
	all, err := Find([]string{"all"})
	require.NoError(t, err)
	require.Len(t, all, len(seen))
}
