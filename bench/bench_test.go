package bench_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/bench"
	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(c *servertest.Cluster) bench.Options {
	return bench.Options{
		Endpoints: c.Addrs(), Clients: 4, Connections: 2, Duration: 200 * time.Millisecond, Keys: 1000, ValueBytes: 16,
	}
}

func find(t *testing.T, name string) bench.Workload {
	t.Helper()
	ws, err := bench.Find([]string{name})
	require.NoError(t, err)
	return ws[0]
}

// run runs a workload, and interrupts it after a while if that is not 0.
func run(t *testing.T, w bench.Workload, o bench.Options, interrupt time.Duration) *bench.Result {
	t.Helper()
	e, err := bench.Open(context.Background(), w, o)
	require.NoError(t, err, w.Name)
	defer func() { require.NoError(t, e.Close()) }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if interrupt > 0 {
		time.AfterFunc(interrupt, cancel)
	}
	r, err := bench.Run(ctx, e, w)
	require.NoError(t, err, w.Name)
	return r
}

// TestWorkloads runs every workload for a moment, and looks at what is left behind.
func TestWorkloads(t *testing.T) {
	c := servertest.Start(t, 1)
	ctx := context.Background()
	var results []*bench.Result
	for _, w := range bench.Workloads() {
		o := options(c)
		if w.Name == "put" {
			o.Pids = []int{os.Getpid()}
		}
		r := run(t, w, o, 0)
		require.Positive(t, r.Ops, w.Name)
		require.Zero(t, r.Errors, "%s: %s", w.Name, r.LastError)
		require.LessOrEqual(t, r.Latency.P50, r.Latency.P99, w.Name)
		require.Positive(t, r.Latency.Mean, w.Name)
		if r.Servers != nil {
			require.Positive(t, r.Servers.PeakBytes)
			require.Positive(t, r.BenchCPUSeconds)
		}
		require.Equal(t, w.Rate, r.TargetRate)
		require.False(t, r.Interrupted)
		results = append(results, r)
	}
	var page bytes.Buffer
	require.NoError(t, bench.HTML(&page, "all", results))
	require.Equal(t, 2*len(results), strings.Count(page.String(), "<polyline"))

	cl, err := client.New(client.Config{Endpoints: c.Addrs()})
	require.NoError(t, err)
	defer cl.Close()
	leases, err := cl.Leases(ctx)
	require.NoError(t, err)
	require.Empty(t, leases.Leases, "runs revoke what they granted")
	all, err := cl.Get(ctx, "", client.WithPrefix(), client.WithCountOnly())
	require.NoError(t, err)
	ours, err := cl.Get(ctx, "bench/", client.WithPrefix(), client.WithCountOnly())
	require.NoError(t, err)
	require.Equal(t, all.Count, ours.Count, "workloads write below bench/ only")
}

// TestTotal ends runs by count, in both loops.
func TestTotal(t *testing.T) {
	c := servertest.Start(t, 1)
	for _, rate := range []float64{0, 2000} {
		o := options(c)
		o.Total, o.Rate, o.Duration = 137, rate, 0
		require.Equal(t, int64(137), run(t, find(t, "put"), o, 0).Ops)
	}
}

// TestOpenLoop asks for fewer operations than the member could do, and for more.
func TestOpenLoop(t *testing.T) {
	c := servertest.Start(t, 1)
	o := options(c)
	o.Rate, o.Duration = 100, time.Second
	r := run(t, find(t, "range-serializable"), o, 0)
	require.LessOrEqual(t, r.Ops, int64(101))
	require.Greater(t, r.Ops, int64(50))
	o.Rate = 1e7
	r = run(t, find(t, "range-serializable"), o, 0)
	require.Greater(t, r.Latency.P50, 100.0, "what is late is late from when it should have begun")
	require.InDelta(t, 1e7, r.Ops+r.NotBegun, 1e5, "all that was due is told of")
}

// TestInterrupt ends runs early, of a loop and of one with watchers.
func TestInterrupt(t *testing.T) {
	c := servertest.Start(t, 1)
	for _, name := range []string{"put", "watch", "lease-expiry", "kubernetes"} {
		o := options(c)
		o.Duration = time.Hour
		start := time.Now()
		r := run(t, find(t, name), o, 500*time.Millisecond)
		require.Less(t, time.Since(start), 5*time.Second)
		require.True(t, r.Interrupted, name)
		require.Zero(t, r.Errors, "%s: %s", name, r.LastError)
		if name != "lease-expiry" {
			require.Positive(t, r.Ops, name)
		}
	}
}

func TestCompare(t *testing.T) {
	c := servertest.Start(t, 1)
	v, err := bench.Compare(context.Background(), find(t, "range"), options(c), options(c), 2)
	require.NoError(t, err)
	require.Len(t, v.A, 2)
	require.Len(t, v.B, 2)
	require.LessOrEqual(t, v.Ratio.Lowest, v.Ratio.Median)
	require.LessOrEqual(t, v.Ratio.Median, v.Ratio.Highest)
	var b bytes.Buffer
	require.NoError(t, bench.JSON(&b, v))
	require.True(t, json.Valid(b.Bytes()))

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = bench.Compare(ctx, find(t, "range"), options(c), options(c), 2)
	require.ErrorIs(t, err, context.Canceled)
	_, err = bench.Compare(context.Background(), find(t, "range"), options(c), options(c), 0)
	require.ErrorContains(t, err, "0 rounds")
}

func TestBadInput(t *testing.T) {
	ctx := context.Background()
	_, err := bench.Find([]string{"put", "nonsense"})
	require.ErrorContains(t, err, `"nonsense"`)
	_, err = bench.Find(nil)
	require.Error(t, err)
	good := bench.Options{Endpoints: []string{"127.0.0.1:1"}, Clients: 1, Duration: time.Second}
	for name, change := range map[string]func(*bench.Options){
		"clients":     func(o *bench.Options) { o.Clients = 0 },
		"duration":    func(o *bench.Options) { o.Duration = 0 },
		"endpoints":   func(o *bench.Options) { o.Endpoints = nil },
		"rate":        func(o *bench.Options) { o.Rate = -1 },
		"total":       func(o *bench.Options) { o.Total = -1 },
		"keys":        func(o *bench.Options) { o.Keys = -1 },
		"values":      func(o *bench.Options) { o.ValueBytes = -1 },
		"connections": func(o *bench.Options) { o.Connections = -1 },
		"process":     func(o *bench.Options) { o.Pids = []int{1 << 30} },
	} {
		o := good
		change(&o)
		_, err := bench.Open(ctx, find(t, "put"), o)
		require.ErrorContains(t, err, name)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, err = bench.Open(short, find(t, "put"), good)
	require.ErrorContains(t, err, "127.0.0.1:1")
}

// TestLaunchFails tells of a program that ends at once, and of one that is not there.
func TestLaunchFails(t *testing.T) {
	dir := t.TempDir()
	start := time.Now()
	_, err := bench.Launch(context.Background(), bench.Spec{Dir: dir, Size: 2, Program: []string{"/bin/sh", "-c", "echo no luck; exit 3"}})
	require.ErrorContains(t, err, "exit status 3")
	require.ErrorContains(t, err, "m0.log")
	require.Less(t, time.Since(start), 10*time.Second)
	log, err := os.ReadFile(filepath.Join(dir, "m0.log"))
	require.NoError(t, err)
	require.Equal(t, "no luck\n", string(log))
	_, err = bench.Launch(context.Background(), bench.Spec{Dir: dir, Size: 1, Program: []string{"/no/such/program"}})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = bench.Launch(context.Background(), bench.Spec{Dir: dir, Program: []string{"/bin/sh"}})
	require.ErrorContains(t, err, "0 members")
}

// TestLaunchSecure starts clusters that want TLS and a user.
func TestLaunchSecure(t *testing.T) {
	for name, program := range map[string][]string{
		"keelson": {servertest.Keelson(t), "server", "--bcrypt-cost=4"}, "etcd": {servertest.Oracle(t, "etcd"), "--bcrypt-cost=4"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := bench.Launch(t.Context(), bench.Spec{Dir: t.TempDir(), Size: 1, Program: program, Secure: true})
			require.NoError(t, err)
			defer func() { require.NoError(t, c.Stop()) }()
			var o bench.Options
			c.Connect(&o)
			for _, user := range []string{o.User, ""} {
				cl, err := client.New(client.Config{Endpoints: o.Endpoints, TLS: o.TLS, Username: user, Password: o.Password})
				require.NoError(t, err)
				_, err = cl.Put(t.Context(), "k", "v")
				require.Equal(t, user == "", err != nil, "user %q: %v", user, err)
				require.NoError(t, cl.Close())
			}
		})
	}
}

// TestTLS runs workloads, one with further clients, on a member that asks for certificates.
func TestTLS(t *testing.T) {
	ca := certs.New(t)
	pair := ca.Issue("server", "server", "127.0.0.1")
	c := servertest.NewSecure(t, 1, ca.TLS(pair), append(servertest.Quick(), "--cert-file="+pair.Cert, "--key-file="+pair.Key, "--trusted-ca-file="+ca.CA, "--peer-auto-tls")...)
	c.Run(c.Members[0])
	c.WaitReady(c.Members...)
	var err error
	o := options(c)
	o.TLS, err = client.TLSFiles{CACert: ca.CA, Cert: pair.Cert, Key: pair.Key}.Config()
	require.NoError(t, err)
	for _, name := range []string{"put", "lease-keepalive"} {
		r := run(t, find(t, name), o, 0)
		require.Positive(t, r.Ops)
		require.Zero(t, r.Errors, r.LastError)
	}
}
