package ctl

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/client/internal/fakestore"
)

// smallCheck runs a check with a load that takes a second.
func smallCheck(t *testing.T, c *fakestore.Cluster, f checkFlags) (string, error) {
	var out, errs bytes.Buffer
	app := &ctl{in: strings.NewReader(""), out: &out, errs: &errs}
	root := app.root()
	require.NoError(t, root.PersistentFlags().Set("endpoints", c.Endpoints()[0]))
	root.SetContext(t.Context())
	l := checkLoad{clients: 3, rate: 20, duration: time.Second, keyBytes: 32, valBytes: 16}
	err := app.checking(root, &f, l, func(ctx context.Context, k *checker) error { return k.perf(ctx) })
	require.Empty(t, errs.String())
	return out.String(), err
}

func TestCheckPerf(t *testing.T) {
	c := fakestore.Start(t, 1)
	out, err := smallCheck(t, c, checkFlags{prefix: "p/", compact: true, defrag: true})
	require.NoError(t, err, out)
	require.Regexp(t, `(?s)^Compacting with revision \d+\nCompacted with .*Defragmented "unix.*PASS: Throughput is \d+ writes/s\n`+
		`PASS: Slowest request took 0\.\d+s\nPASS: Stddev is 0\.\d+s\nPASS\n$`, out)

	c.Store.Put("p/x", "in the way")
	_, err = smallCheck(t, c, checkFlags{prefix: "p/"})
	require.ErrorContains(t, err, "has keys")
	require.Equal(t, ExitInvalidInput, err.(*exitError).ExitCode())

	c.Members[0].SetFault(pb.KV_Put_FullMethodName, &fakestore.Fault{Before: grpcstatus.Error(codes.ResourceExhausted, "full")})
	out, err = smallCheck(t, c, checkFlags{prefix: "q/"})
	require.Equal(t, ExitError, err.(*exitError).ExitCode())
	require.Regexp(t, `(?s)^FAIL: too many errors\nFAIL: ERROR\(.*full\) -> \d+\nFAIL: Throughput too low: 1 writes/s\n.*\nFAIL\n$`, out)
}

func TestDatascale(t *testing.T) {
	c := fakestore.Start(t, 1)
	metrics := 5.0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		metrics += 1 << 20
		_, _ = w.Write([]byte("# HELP x\nprocess_resident_memory_bytes_x 1\nprocess_resident_memory_bytes 1.5e+06\n"))
	}))
	defer srv.Close()
	b, err := residentBytes(t.Context(), srv.URL, nil)
	require.NoError(t, err)
	require.Equal(t, 1.5e6, b)
	_, err = parseMetric(strings.NewReader("a 1\n"), "b")
	require.ErrorContains(t, err, "could not find: b")

	var out, errs bytes.Buffer
	app := &ctl{in: strings.NewReader(""), out: &out, errs: &errs}
	root := app.root()
	require.NoError(t, root.PersistentFlags().Set("endpoints", c.Endpoints()[0]))
	root.SetContext(t.Context())
	l := checkLoad{clients: 3, puts: 100, keyBytes: 32, valBytes: 16}
	err = app.checking(root, &checkFlags{prefix: "p/"}, l, func(ctx context.Context, k *checker) error {
		k.cfg.Endpoints = []string{srv.URL} // of the metrics
		return k.datascale(ctx)
	})
	require.NoError(t, err)
	require.Equal(t, "Start data scale check for work load [100 key-value pairs, 48 bytes per key-value, 3 concurrent clients].\n"+
		"PASS: Approximate system memory used : 0.00 MB.\n", out.String())
	require.Equal(t, 100, c.Calls(pb.KV_Put_FullMethodName))
}

func TestLatencies(t *testing.T) {
	l := newLatencies()
	for _, d := range []time.Duration{2, 4, 4, 4, 5, 5, 7, 9} {
		l.add(d*time.Second, nil)
	}
	l.add(time.Hour, errors.New("no"))
	l.total = 4 * time.Second
	require.Equal(t, 2.0, l.rate())
	require.Equal(t, 9.0, l.slowest())
	require.Equal(t, 2.0, l.stddev())
	require.Equal(t, map[string]int{"no": 1}, l.errs)
}

func TestPace(t *testing.T) {
	p := pace{every: 5 * time.Millisecond}
	start := time.Now()
	for range 20 {
		require.NoError(t, p.wait(t.Context()))
	}
	took := time.Since(start)
	require.Greater(t, took, 80*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, p.wait(ctx))
}

func TestBar(t *testing.T) {
	var out bytes.Buffer
	b := bar{out: &out}
	b.start(10)
	require.Empty(t, out.String(), "no terminal")
	b.shown = true
	b.add(5)
	b.finish(true)
	require.Contains(t, out.String(), "5 / 10 [")
	require.Contains(t, out.String(), "10 / 10 [")
	require.Contains(t, out.String(), "100.00%")
}

func TestSplitLine(t *testing.T) {
	for line, want := range map[string][]string{
		`a b`:            {"a", "b"},
		` a  "b c" `:     {"a", "b c"},
		`a 'b "c"' d`:    {"a", `b "c"`, "d"},
		`a "b\tc\"d"`:    {"a", "b\tc\"d"},
		`a "" ''`:        {"a", "", ""},
		`a --x="y" -- z`: {"a", `--x="y"`, "--", "z"},
	} {
		got, err := splitLine(line)
		require.NoError(t, err, line)
		require.Equal(t, want, got, line)
	}
	_, err := splitLine(`"\q"`)
	require.Error(t, err)
}

func FuzzParseCompare(f *testing.F) {
	f.Add(`mod("a") > "0"`)
	f.Add(`val("a") = "\""`)
	f.Fuzz(func(t *testing.T, line string) { _, _ = parseCompare(line) })
}
