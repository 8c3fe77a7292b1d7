package meter

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

func newMeter(t testing.TB) (*Meter, *prometheus.Registry) {
	t.Helper()
	r := prometheus.NewRegistry()
	m, err := New(Config{
		Served:      func(i *request.Info) bool { return i.Resource == "pods" },
		LongRunning: func(i *request.Info) bool { return i.Verb == "watch" || i.Subresource == "exec" },
		Clock:       clock.Real, Registerer: r, Logger: zap.NewNop(),
	})
	require.NoError(t, err)
	return m, r
}

func parsed(method, url string) *http.Request {
	r := httptest.NewRequest(method, url, nil)
	return r.WithContext(request.WithInfo(r.Context(), request.Parse(r)))
}

func TestLabels(t *testing.T) {
	m, reg := newMeter(t)
	code := 0
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if code > 0 {
			w.WriteHeader(code)
		}
		_, _ = w.Write([]byte(strings.Repeat("x", 2000)))
	}))
	for _, c := range []struct {
		method, url, contentType string
		code                     int
	}{
		{"GET", "/api/v1/namespaces/a/pods/p", "", 0},
		{"GET", "/api/v1/namespaces/a/pods", "", 200},
		{"GET", "/api/v1/pods", "", 410},
		{"GET", "/api/v1/pods?watch=1", "", 200},
		{"POST", "/api/v1/namespaces/a/pods?dryRun=All", "", 201},
		{"POST", "/api/v1/namespaces/a/pods?dryRun=x", "", 400},
		{"PATCH", "/api/v1/namespaces/a/pods/p/status", "application/apply-patch+yaml", 200},
		{"DELETE", "/api/v1/namespaces/a/pods", "", 200},
		{"POST", "/api/v1/namespaces/a/pods/p/exec", "", 101},
		{"GET", "/apis/made.up/v1/things/" + strings.Repeat("x", 10), "", 404},
		{"GET", "/livez", "", 200},
		{"GET", "/made/up", "", 404},
		{"BREW", "/made/up", "", 405},
	} {
		r := parsed(c.method, c.url)
		r.Header.Set("Content-Type", c.contentType)
		code = c.code
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	line := func(verb, dry, version, resource, sub, scope, code string) string {
		return `apiserver_request_total{code="` + code + `",component="apiserver",dry_run="` + dry + `",group="",resource="` + resource +
			`",scope="` + scope + `",subresource="` + sub + `",verb="` + verb + `",version="` + version + `"} `
	}
	want := "# HELP apiserver_request_total Requests by the code of their answer.\n# TYPE apiserver_request_total counter\n"
	for _, l := range []string{
		line("GET", "", "v1", "pods", "", "resource", "200") + "1", line("LIST", "", "v1", "pods", "", "namespace", "200") + "1",
		line("LIST", "", "v1", "pods", "", "cluster", "410") + "1", line("WATCH", "", "v1", "pods", "", "cluster", "200") + "1",
		line("POST", "All", "v1", "pods", "", "resource", "201") + "1", line("POST", "invalid", "v1", "pods", "", "resource", "400") + "1",
		line("APPLY", "", "v1", "pods", "status", "resource", "200") + "1", line("DELETE", "", "v1", "pods", "", "namespace", "200") + "1",
		line("CONNECT", "", "v1", "pods", "exec", "resource", "101") + "1", line("GET", "", "", "", "", "", "404") + "2",
		line("GET", "", "", "", "/livez", "", "200") + "1", line("other", "", "", "", "", "", "405") + "1",
	} {
		want += l + "\n"
	}
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(want), "apiserver_request_total"))
	n, err := testutil.GatherAndCount(reg, "apiserver_response_sizes")
	require.NoError(t, err)
	require.Equal(t, 5, n, "of reads, without watches")
}

func TestGaugesAndPanics(t *testing.T) {
	m, _ := newMeter(t)
	var then func(w http.ResponseWriter)
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { then(w) }))
	watches := m.metrics.running.WithLabelValues("WATCH", "", "v1", "pods", "", "cluster", component)
	then = func(http.ResponseWriter) {
		require.InDelta(t, 1, testutil.ToFloat64(watches), 0)
		require.Zero(t, m.inflight[0].Load())
	}
	h.ServeHTTP(httptest.NewRecorder(), parsed("GET", "/api/v1/pods?watch=1"))
	require.Zero(t, testutil.ToFloat64(watches))
	then = func(http.ResponseWriter) { require.EqualValues(t, 1, m.inflight[0].Load()) }
	h.ServeHTTP(httptest.NewRecorder(), parsed("GET", "/api/v1/pods"))
	then = func(http.ResponseWriter) {
		require.EqualValues(t, 1, m.inflight[1].Load())
		panic("on purpose")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, parsed("POST", "/api/v1/namespaces/a/pods"))
	require.Equal(t, 500, w.Code)
	require.Equal(t, "This request caused apiserver to panic. Look in the logs for details.\n", w.Body.String())
	require.InDelta(t, 1, testutil.ToFloat64(m.metrics.panics), 0)
	require.Zero(t, m.inflight[1].Load())

	// Half an answer cannot become another one.
	then = func(w http.ResponseWriter) {
		_, _ = w.Write([]byte("half"))
		panic("on purpose")
	}
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { h.ServeHTTP(httptest.NewRecorder(), parsed("GET", "/api/v1/pods")) })
	then = func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	require.PanicsWithValue(t, http.ErrAbortHandler, func() { h.ServeHTTP(httptest.NewRecorder(), parsed("GET", "/api/v1/pods")) })
	require.InDelta(t, 2, testutil.ToFloat64(m.metrics.panics), 0)
	require.InDelta(t, 1, testutil.ToFloat64(m.metrics.aborts.WithLabelValues("LIST", "", "v1", "pods", "", "cluster")), 0)
}

func BenchmarkHandler(b *testing.B) {
	m, _ := newMeter(b)
	h := m.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) }))
	r, w := parsed("GET", "/api/v1/namespaces/a/pods/p"), httptest.NewRecorder()
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
