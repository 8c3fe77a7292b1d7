package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
)

var update = flag.Bool("update", false, "write the golden files")

// ticking is a clock that goes on by a millisecond each time it is looked at.
type ticking struct {
	clock.Clock
	mu  sync.Mutex
	now time.Time
}

func (c *ticking) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

func newLog(t *testing.T, policy string, w io.Writer) *Log {
	t.Helper()
	p, err := LoadPolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\n" + policy))
	require.NoError(t, err)
	n := 0
	l, err := New(Config{
		Policy: p, Writer: w, Clock: &ticking{Clock: clock.Real, now: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)},
		NewID: func() string { n++; return fmt.Sprintf("id-%d", n) },
	})
	require.NoError(t, err)
	return l
}

// serve lets a request go by the handlers as a server has them; nil is a stranger.
func serve(l *Log, user *request.User, r *http.Request, h http.HandlerFunc) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	inner := l.Handler(h)
	l.Begin(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user == nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), user)))
	})).ServeHTTP(rec, r)
	return rec
}

func golden(t *testing.T, got string) {
	t.Helper()
	path := filepath.Join("testdata", strings.ReplaceAll(t.Name(), "/", "_")+".jsonl")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
	for line := range strings.Lines(got) {
		var e auditv1.Event
		require.NoError(t, json.Unmarshal([]byte(line), &e))
		require.Equal(t, "audit.k8s.io/v1", e.APIVersion)
	}
}

func ann() *request.User {
	return &request.User{Name: "ann", UID: "7", Groups: []string{"dev", "system:authenticated"}, Extra: map[string][]string{"a.io/k": {"v"}}}
}

func pod() *corev1.Pod {
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", ResourceVersion: "5",
			ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}},
	}
}

func TestEvents(t *testing.T) {
	for _, c := range []struct {
		name, policy string
		user         *request.User
		method, url  string
		handler      http.HandlerFunc
	}{
		{"metadata", "rules: [{level: Metadata}]", ann(), http.MethodPost, "/api/v1/namespaces/ns/pods?dryRun=All", func(w http.ResponseWriter, r *http.Request) {
			e := FromContext(r.Context())
			e.RequestObject(pod())
			e.Annotate("authorization.k8s.io/decision", "allow")
			e.Annotate("authorization.k8s.io/decision", "forbid")
			w.WriteHeader(http.StatusCreated)
			e.ResponseObject(pod())
		}},
		{"request", "rules: [{level: Request, omitStages: [RequestReceived]}]", ann(), http.MethodPost, "/api/v1/namespaces/ns/pods", func(w http.ResponseWriter, r *http.Request) {
			FromContext(r.Context()).RequestObject(pod())
			w.WriteHeader(http.StatusCreated)
			FromContext(r.Context()).ResponseObject(pod())
		}},
		{"response", "omitStages: [RequestReceived]\nomitManagedFields: true\nrules: [{level: RequestResponse}]", ann(), http.MethodPatch, "/api/v1/namespaces/ns/pods/p", func(w http.ResponseWriter, r *http.Request) {
			e := FromContext(r.Context())
			e.Impersonated(&request.User{Name: "eve", Groups: []string{"g"}}, "impersonate:user-info")
			e.RequestPatch([]byte(`{"metadata":{"labels":{"a":"b"}}}`))
			_, _ = w.Write([]byte("{}"))
			e.ResponseObject(&corev1.PodList{Items: []corev1.Pod{*pod()}})
		}},
		{"status", "rules: [{level: RequestResponse, omitStages: [RequestReceived]}]", ann(), http.MethodGet, "/api/v1/namespaces/ns/pods/q", func(w http.ResponseWriter, r *http.Request) {
			FromContext(r.Context()).ResponseObject(&metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: "Failure", Message: `pods "q" not found`, Reason: "NotFound", Code: 404})
			w.WriteHeader(http.StatusNotFound)
		}},
		{"watch", "rules: [{level: Metadata}]", ann(), http.MethodGet, "/apis/apps/v1/deployments?watch=true", func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			_, _ = w.Write([]byte("{}\n"))
		}},
		{"closed", "rules: [{level: Metadata}]", ann(), http.MethodGet, "/api/v1/pods?watch=1", func(http.ResponseWriter, *http.Request) {}},
		{"path", "rules: [{level: Metadata, nonResourceURLs: ['/healthz*']}]", ann(), http.MethodGet, "/healthz/etcd", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte("ok"))
		}},
		{"stranger", "rules: [{level: Metadata}]", nil, http.MethodGet, "/api/v1/nodes", nil},
		{"none", "rules: [{level: None, users: [ann]}, {level: Metadata}]", ann(), http.MethodGet, "/api/v1/nodes", func(w http.ResponseWriter, r *http.Request) {
			e := FromContext(r.Context())
			e.RequestObject(pod())
			e.ResponseObject(pod())
			e.Annotate("a", "b")
			_, _ = w.Write([]byte("ok"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			r := httptest.NewRequest(c.method, c.url, nil)
			r.Header.Set("User-Agent", "kubectl/v1.37")
			r.Header.Set("X-Forwarded-For", "10.1.2.3")
			rec := serve(newLog(t, c.policy, &out), c.user, r, c.handler)
			require.Equal(t, "id-1", rec.Header().Get("Audit-ID"))
			golden(t, out.String())
		})
	}
}

func TestPanic(t *testing.T) {
	var out bytes.Buffer
	l := newLog(t, "rules: [{level: Metadata, omitStages: [RequestReceived]}]", &out)
	require.PanicsWithValue(t, "oops", func() {
		serve(l, ann(), httptest.NewRequest(http.MethodGet, "/x", nil), func(http.ResponseWriter, *http.Request) { panic("oops") })
	})
	golden(t, out.String())
}

func TestIDOfTheClient(t *testing.T) {
	var out bytes.Buffer
	r := httptest.NewRequest(http.MethodGet, "/x", nil)
	r.Header.Set("Audit-ID", "mine")
	rec := serve(newLog(t, "rules: [{level: Metadata}]", &out), ann(), r, func(w http.ResponseWriter, r *http.Request) {
		require.Equal(t, "mine", string(FromContext(r.Context()).ID()))
	})
	require.Equal(t, "mine", rec.Header().Get("Audit-ID"))
	require.Contains(t, out.String(), `"auditID":"mine"`)
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestFailures(t *testing.T) {
	p, err := LoadPolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Metadata}]"))
	require.NoError(t, err)
	reg := prometheus.NewRegistry()
	l, err := New(Config{Policy: p, Writer: failing{}, Registry: reg})
	require.NoError(t, err)
	served := false
	serve(l, ann(), httptest.NewRequest(http.MethodGet, "/x", nil), func(http.ResponseWriter, *http.Request) { served = true })
	require.True(t, served)
	require.Equal(t, 2.0, testutil.ToFloat64(l.errors))
	require.Zero(t, testutil.ToFloat64(l.events))
	require.Equal(t, 1.0, testutil.ToFloat64(l.levels.WithLabelValues("Metadata")))
	_, err = New(Config{Registry: reg})
	require.Error(t, err)

	var e *Entry // nothing is on
	e.Annotate("a", "b")
	e.RequestObject(pod())
	e.RequestPatch(nil)
	e.ResponseObject(pod())
	e.Impersonated(ann(), "")
	require.Empty(t, e.ID())
	Annotate(context.Background(), "a", "b")
	off, err := New(Config{})
	require.NoError(t, err)
	require.NotEmpty(t, serve(off, ann(), httptest.NewRequest(http.MethodGet, "/x", nil), func(http.ResponseWriter, *http.Request) {}).Header().Get("Audit-ID"))
}

// TestLines is for the race detector, and lines must not mix.
func TestLines(t *testing.T) {
	var out bytes.Buffer
	l := newLog(t, "rules: [{level: RequestResponse}]", &out)
	l.cfg.NewID = func() string { return "x" }
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				serve(l, ann(), httptest.NewRequest(http.MethodGet, "/api/v1/pods?watch=1", nil), func(w http.ResponseWriter, r *http.Request) {
					e := FromContext(r.Context())
					var inner sync.WaitGroup
					inner.Go(func() { e.Annotate("a", "b"); e.ResponseObject(pod()) })
					e.Annotate("c", "d")
					w.(http.Flusher).Flush()
					inner.Wait()
				})
			}
		})
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 8*20*3)
	for _, line := range lines {
		require.True(t, json.Valid([]byte(line)))
	}
}

func TestRealConnection(t *testing.T) {
	var out bytes.Buffer
	l := newLog(t, "rules: [{level: Metadata, omitStages: [RequestReceived]}]", &out)
	done := make(chan struct{}) // nobody waits for a handler that has taken the connection
	chain := l.Begin(l.Handler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
		_ = rw.Flush()
		_ = conn.Close()
	})))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		chain.ServeHTTP(w, r)
	}))
	r, err := http.NewRequest(http.MethodGet, s.URL+"/api/v1/namespaces/ns/pods/p/exec", nil)
	require.NoError(t, err)
	resp, err := s.Client().Do(r)
	require.NoError(t, err)
	_ = resp.Body.Close()
	<-done
	s.Close()
	require.Contains(t, out.String(), `"stage":"ResponseStarted"`)
	require.Contains(t, out.String(), `"code":101`)
}

func TestPolicies(t *testing.T) {
	of := func(user, verb, group, resource, sub, ns, name string) *rights.Attributes {
		return &rights.Attributes{User: &request.User{Name: user, Groups: []string{"g-" + user}}, Verb: verb, IsResource: true, Group: group, Resource: resource, Subresource: sub, Namespace: ns, Name: name}
	}
	path := func(p string) *rights.Attributes {
		return &rights.Attributes{User: ann(), Verb: "get", Path: p}
	}
	for _, c := range []struct {
		rule string
		a    *rights.Attributes
		want bool
	}{
		{"{}", of("u", "get", "", "pods", "", "ns", "p"), true},
		{"{users: [u, v]}", of("u", "get", "", "pods", "", "ns", "p"), true},
		{"{users: [v]}", of("u", "get", "", "pods", "", "ns", "p"), false},
		{"{users: [v]}", &rights.Attributes{Path: "/"}, false},
		{"{userGroups: [g-u]}", of("u", "get", "", "pods", "", "ns", "p"), true},
		{"{userGroups: [g-v]}", of("u", "get", "", "pods", "", "ns", "p"), false},
		{"{userGroups: [g-v]}", &rights.Attributes{Path: "/"}, false},
		{"{verbs: [get, list]}", of("u", "list", "", "pods", "", "ns", "p"), true},
		{"{verbs: [get]}", of("u", "list", "", "pods", "", "ns", "p"), false},
		{"{namespaces: [ns]}", of("u", "list", "", "pods", "", "ns", "p"), true},
		{"{namespaces: ['']}", of("u", "list", "", "nodes", "", "", "n"), true},
		{"{namespaces: ['']}", of("u", "list", "", "pods", "", "ns", "p"), false},
		{"{namespaces: ['']}", path("/x"), false},
		{"{resources: [{group: ''}]}", of("u", "list", "", "pods", "log", "ns", "p"), true},
		{"{resources: [{group: apps}]}", of("u", "list", "", "pods", "", "ns", "p"), false},
		{"{resources: [{group: '*', resources: [pods]}]}", of("u", "list", "x", "pods", "", "ns", "p"), true},
		{"{resources: [{resources: [pods]}]}", of("u", "list", "", "pods", "log", "ns", "p"), false},
		{"{resources: [{resources: [pods/log]}]}", of("u", "list", "", "pods", "log", "ns", "p"), true},
		{"{resources: [{resources: [pods/*]}]}", of("u", "list", "", "pods", "log", "ns", "p"), true},
		{"{resources: [{resources: [pods/*]}]}", of("u", "list", "", "pods", "", "ns", "p"), true},
		{"{resources: [{resources: ['*/log']}]}", of("u", "list", "", "pods", "log", "ns", "p"), true},
		{"{resources: [{resources: ['*/log']}]}", of("u", "list", "", "pods", "", "ns", "p"), false},
		{"{resources: [{resources: ['*']}]}", of("u", "list", "", "pods", "log", "ns", "p"), true},
		{"{resources: [{resources: [pods], resourceNames: [p]}]}", of("u", "get", "", "pods", "", "ns", "p"), true},
		{"{resources: [{resources: [pods], resourceNames: [q]}]}", of("u", "get", "", "pods", "", "ns", "p"), false},
		{"{nonResourceURLs: ['/healthz*']}", path("/healthz/etcd"), true},
		{"{nonResourceURLs: ['/healthz']}", path("/healthz/etcd"), false},
		{"{nonResourceURLs: ['*']}", path("/healthz/etcd"), true},
		{"{nonResourceURLs: ['*']}", of("u", "get", "", "pods", "", "ns", "p"), false},
	} {
		rule := strings.Replace(c.rule, "{", "{level: Metadata, ", 1)
		p, err := LoadPolicy([]byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [" + rule + "]"))
		require.NoError(t, err, c.rule)
		require.Equal(t, c.want, p.Judge(c.a).Level == auditv1.LevelMetadata, "%s %+v", c.rule, c.a)
	}
}

func TestPolicyErrors(t *testing.T) {
	head := "apiVersion: audit.k8s.io/v1\nkind: Policy\n"
	for policy, want := range map[string]string{
		"apiVersion: audit.k8s.io/v1beta1\nkind: Policy": "want apiVersion audit.k8s.io/v1",
		head:                         "loaded illegal policy with 0 rules",
		head + "rulez: []":           "unknown field",
		head + "rules: [{}]":         "rules[0].level: Required value",
		head + "rules: [{level: x}]": `rules[0].level: Unsupported value: "x"`,
		head + "rules: [{level: None, nonResourceURLs: ['x']}]":                       "must begin with a '/'",
		head + "rules: [{level: None, nonResourceURLs: ['/a*b']}]":                    "must be the final character",
		head + "rules: [{level: None, nonResourceURLs: ['/a'], namespaces: [a]}]":     "cannot apply to both",
		head + "rules: [{level: None, resources: [{group: a/v1}]}]":                   "rules[0].resources.group",
		head + "rules: [{level: None, resources: [{resourceNames: [a]}]}]":            "requires at least one resource",
		head + "omitStages: [Never]\nrules: [{level: None, omitStages: [Sometimes]}]": `omitStages[0]: Invalid value: "Never"`,
		head + "rules: [{level: None, omitStages: [Sometimes]}]":                      "rules[0].omitStages[0]",
		"}": "audit: policy:",
	} {
		_, err := LoadPolicy([]byte(policy))
		require.ErrorContains(t, err, want, policy)
	}
}

func BenchmarkEvent(b *testing.B) {
	p, err := NewPolicy(&auditv1.Policy{Rules: []auditv1.PolicyRule{{Level: auditv1.LevelMetadata, OmitStages: []auditv1.Stage{auditv1.StageRequestReceived}}}})
	require.NoError(b, err)
	l, err := New(Config{Policy: p, Writer: io.Discard})
	require.NoError(b, err)
	r := httptest.NewRequest(http.MethodGet, "/api/v1/namespaces/ns/pods/p", nil)
	b.ReportAllocs()
	for b.Loop() {
		serve(l, ann(), r, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	}
}
