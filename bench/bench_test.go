package bench_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/bench"
	"github.com/keelson-io/keelson/server/servertest"
)

func options(c *servertest.Cluster) bench.Options {
	return bench.Options{
		Endpoints: c.Addrs(), Clients: 4, Connections: 1, Duration: 300 * time.Millisecond, Keys: 2000, ValueBytes: 16, Pids: []int{os.Getpid()},
	}
}

// TestWorkloads runs every workload for a moment.
func TestWorkloads(t *testing.T) {
	c := servertest.Start(t, 1)
	ctx := context.Background()
	var results []*bench.Result
	for _, w := range bench.Workloads() {
		o := options(c)
		if w.Name == "lease-expiry" {
			o.Duration = 4 * time.Second // leases last two seconds
		}
		e, err := bench.Open(ctx, w, o)
		require.NoError(t, err, w.Name)
		r, err := bench.Run(ctx, e, w)
		require.NoError(t, err, w.Name)
		require.NoError(t, e.Close())
		require.Positive(t, r.Ops, w.Name)
		require.LessOrEqual(t, r.P50, r.P99)
		require.Positive(t, r.Servers.PeakBytes)
		results = append(results, r)
	}
	var text, page bytes.Buffer
	require.NoError(t, bench.Text(&text, results))
	require.Equal(t, len(results)+1, strings.Count(text.String(), "\n"))
	require.NoError(t, bench.HTML(&page, "Title & more", results))
	require.Contains(t, page.String(), "Title &amp; more")
	require.Equal(t, len(results), strings.Count(page.String(), "<polyline"))
}

// TestOpenLoop asks for fewer operations than the member could do, and for more.
func TestOpenLoop(t *testing.T) {
	c := servertest.Start(t, 1)
	ws, err := bench.Find([]string{"range-serializable"})
	require.NoError(t, err)
	o := options(c)
	o.Rate, o.Duration = 100, time.Second
	e, err := bench.Open(context.Background(), ws[0], o)
	require.NoError(t, err)
	defer e.Close()
	r, err := bench.Run(context.Background(), e, ws[0])
	require.NoError(t, err)
	require.LessOrEqual(t, r.Ops, int64(101))
	e.Options.Rate = 1e9
	r, err = bench.Run(context.Background(), e, ws[0])
	require.NoError(t, err)
	require.Greater(t, r.P50, 100.0, "what is late is late from when it should have begun")
}

func TestDue(t *testing.T) {
	require.Equal(t, time.Duration(0), bench.Due(0, 100))
	require.Equal(t, 250*time.Millisecond, bench.Due(25, 100))
}

func TestRatio(t *testing.T) {
	v := bench.Versus{Workload: "w", Members: 3}
	for _, r := range [][2]float64{{100, 50}, {300, 100}, {100, 100}} {
		v.A, v.B = append(v.A, &bench.Result{Rate: r[0], P99: 1}), append(v.B, &bench.Result{Rate: r[1]})
	}
	median, lowest, highest := v.Ratio()
	require.Equal(t, []float64{2, 1, 3}, []float64{median, lowest, highest})
	var b bytes.Buffer
	require.NoError(t, bench.Markdown(&b, []*bench.Versus{&v}, "A", "B"))
	require.Contains(t, b.String(), "| w | 3 | 100 | 100 | **2.00** (1.00 to 3.00) |")
	require.Equal(t, 2.5, bench.Median([]float64{1, 2, 3, 4}))
}

func TestBadInput(t *testing.T) {
	ctx := context.Background()
	_, err := bench.Find([]string{"put", "nonsense"})
	require.ErrorContains(t, err, `"nonsense"`)
	ws, err := bench.Find([]string{"put"})
	require.NoError(t, err)
	good := bench.Options{Endpoints: []string{"127.0.0.1:1"}, Clients: 1, Duration: time.Second}
	for _, change := range []func(*bench.Options){
		func(o *bench.Options) { o.Clients = 0 },
		func(o *bench.Options) { o.Duration = 0 },
		func(o *bench.Options) { o.Endpoints = nil },
		func(o *bench.Options) { o.Rate = -1 },
	} {
		o := good
		change(&o)
		_, err := bench.Open(ctx, ws[0], o)
		require.Error(t, err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = bench.Open(short, ws[0], good)
	require.ErrorContains(t, err, "127.0.0.1:1")
}
