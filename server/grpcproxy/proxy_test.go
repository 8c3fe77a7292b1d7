package grpcproxy

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keelson-io/keelson/server/conformance"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parseFlags makes options of arguments.
func parseFlags(t testing.TB, args ...string) Options {
	var o Options
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.Flags(fs)
	require.NoError(t, fs.Parse(args))
	return o
}

// start runs a proxy in front of endpoints until the test ends.
func start(t testing.TB, endpoints []string, args ...string) *Proxy {
	p, _ := startStop(t, endpoints, args...)
	return p
}

func startStop(t testing.TB, endpoints []string, args ...string) (*Proxy, func()) {
	lg := zap.NewNop()
	if testing.Verbose() {
		lg = zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel))
	}
	args = append([]string{"--listen-addr=127.0.0.1:0", "--data-dir=" + t.TempDir(), "--endpoints=" + strings.Join(endpoints, ",")}, args...)
	p, err := Open(t.Context(), parseFlags(t, args...), lg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx) }()
	stopped := false
	stop := func() {
		if cancel(); !stopped {
			require.NoError(t, <-done)
			stopped = true
		}
	}
	t.Cleanup(stop)
	return p, stop
}

// connect connects to an address.
func connect(t testing.TB, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	conn, err := grpc.NewClient(addr, append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// metric is the value of a metric of the proxy that has no labels.
func (p *Proxy) metric(t testing.TB, name string) float64 {
	t.Helper()
	families, err := p.reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == name {
			m := f.Metric[0]
			if m.Counter != nil {
				return m.Counter.GetValue()
			}
			return m.Gauge.GetValue()
		}
	}
	require.FailNow(t, "no metric "+name)
	return 0
}

// TestConformance runs the scripts of server/conformance through a proxy. Without an address of its own it shows clients the members.
func TestConformance(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	p := start(t, c.Addrs(), "--advertise-client-url=")
	conn := connect(t, p.Addr().String())
	files, err := filepath.Glob("../conformance/testdata/0*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		if strings.Contains(f, "gateway") {
			continue // there is none
		}
		t.Run(filepath.Base(f), func(t *testing.T) { conformance.NewRunner(conn, p.Addr().String()).RunFile(t, f) })
	}
}

// TestUsers runs the script about users and permissions.
func TestUsers(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1, "--bcrypt-cost=4")
	p := start(t, c.Addrs(), "--advertise-client-url=")
	conformance.NewRunner(connect(t, p.Addr().String()), p.Addr().String()).RunFile(t, "../conformance/testdata/users/users.txt")
}

// TestLint keeps to Prometheus' rules, but for the names that are etcd's.
func TestLint(t *testing.T) {
	p := start(t, []string{"127.0.0.1:1"})
	problems, err := testutil.GatherAndLint(p.reg)
	require.NoError(t, err)
	for _, pr := range problems {
		require.Contains(t, pr.Metric, "etcd_", pr.Text)
	}
}

// get is the body and status of a page.
func get(t testing.TB, url string) (string, int) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	require.NoError(t, err)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body), resp.StatusCode
}
