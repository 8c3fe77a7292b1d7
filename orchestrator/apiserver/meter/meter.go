// Package meter counts and times the requests of an API server, under kube-apiserver's names, and keeps the server alive when one
// of them panics.
//
// Labels come from what a request asks for. What is not served has empty labels, so that clients cannot make new series.
//
// # Concurrency
//
// A Meter is used by many requests at once. Series are looked up under a read lock, without allocation once they exist.
package meter

import (
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

// Config is what a Meter is made of.
type Config struct {
	// Served says whether there is what a request for a resource asks for.
	Served func(*request.Info) bool
	// LongRunning says which requests are apart from the others.
	LongRunning func(*request.Info) bool
	Clock       clock.Clock
	Registerer  prometheus.Registerer // nil: none
	Logger      *zap.Logger
}

// Meter measures requests.
type Meter struct {
	cfg      Config
	metrics  *metrics
	inflight [2]atomic.Int64 // read-only, mutating

	mu     sync.RWMutex
	series map[class]*series
	codes  map[coded]prometheus.Counter
}

// key is the labels of a request.
type key struct{ verb, dryRun, group, version, resource, subresource, scope string }

// series are the meters of one key.
type series struct {
	key      key
	duration prometheus.Observer
	size     prometheus.Observer // nil: not measured
	running  prometheus.Gauge    // nil unless they are long-running
}

// class is a key and whether its requests are long-running.
type class struct {
	key  key
	long bool
}

type coded struct {
	of   *series
	code int
}

// New makes a Meter.
func New(cfg Config) (*Meter, error) {
	m := &Meter{cfg: cfg, series: map[class]*series{}, codes: map[coded]prometheus.Counter{}}
	m.metrics = newMetrics(func(n int) float64 { return float64(m.inflight[n].Load()) })
	return m, m.metrics.register(cfg.Registerer)
}

// Handler measures requests whose Info is in their context. It is the outermost handler after that which puts it there.
func (m *Meter) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		info, begun := request.InfoFrom(r.Context()), m.cfg.Clock.Now()
		long := m.cfg.LongRunning(info)
		of := m.of(m.key(r, info), long)
		kind := 0
		if !readOnly(info.Verb) {
			kind = 1
		}
		if long {
			of.running.Inc()
		} else {
			m.inflight[kind].Add(1)
		}
		out := &writer{ResponseWriter: w}
		defer func() {
			if long {
				of.running.Dec()
			} else {
				m.inflight[kind].Add(-1)
			}
			abort := m.recover(recover(), out, r, of)
			m.answered(of, out.status()).Inc()
			of.duration.Observe(m.cfg.Clock.Now().Sub(begun).Seconds())
			if of.size != nil {
				of.size.Observe(float64(out.bytes))
			}
			if abort {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(out, r)
	})
}

func readOnly(verb string) bool {
	switch verb {
	case "get", "list", "watch", "head", "options":
		return true
	}
	return false
}

// recover takes a panic, which becomes an answer. It returns whether the connection is to be broken: half an answer was sent.
func (m *Meter) recover(p any, w *writer, r *http.Request, of *series) (abort bool) {
	switch {
	case p == nil:
		return false
	case p == http.ErrAbortHandler: //nolint:errorlint // it is compared as net/http does
		m.metrics.aborts.WithLabelValues(of.key.verb, of.key.group, of.key.version, of.key.resource, of.key.subresource, of.key.scope).Inc()
		return true
	}
	m.metrics.panics.Inc()
	m.cfg.Logger.Error("a request made the server panic", zap.String("path", r.URL.Path), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
	if w.code != 0 {
		return true
	}
	http.Error(w, "This request caused apiserver to panic. Look in the logs for details.", http.StatusInternalServerError)
	return false
}

// connects are subresources that become connections, or go on like one.
var connects = []string{"log", "exec", "portforward", "attach", "proxy"}

// key finds the labels of a request.
func (m *Meter) key(r *http.Request, i *request.Info) key {
	k := key{verb: r.Method, dryRun: dryRun(r)}
	served := i.IsResource && m.cfg.Served(i)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		k.verb = http.MethodGet
		if i.Verb == "list" || i.Verb == "watch" {
			k.verb = strings.ToUpper(i.Verb)
		}
	case http.MethodPatch:
		if r.Header.Get("Content-Type") == "application/apply-patch+yaml" {
			k.verb = "APPLY"
		}
	case http.MethodPost, http.MethodPut, http.MethodDelete:
	default:
		k.verb = "other"
	}
	switch {
	case served:
		k.group, k.version, k.resource, k.subresource = i.Group, i.Version, i.Resource, i.Subresource
		if slices.Contains(connects, i.Subresource) {
			k.verb = "CONNECT"
		}
		k.scope = scope(i)
	case !i.IsResource:
		k.subresource = check(i.Path)
	}
	return k
}

// scope is how much a request for a resource is about.
func scope(i *request.Info) string {
	switch {
	case i.Name != "" || i.Verb == "create":
		return "resource"
	case i.Namespace != "":
		return "namespace"
	}
	return "cluster"
}

// check returns the path of health that a path is, "" if it is none.
func check(path string) string {
	switch path {
	case "/healthz", "/livez", "/readyz":
		return path
	}
	return ""
}

func dryRun(r *http.Request) string {
	if !strings.Contains(r.URL.RawQuery, "dryRun") {
		return ""
	}
	for _, v := range r.URL.Query()["dryRun"] {
		if v != "All" {
			return "invalid"
		}
	}
	return "All"
}

// of returns the series of a key.
func (m *Meter) of(k key, long bool) *series {
	at := class{k, long}
	m.mu.RLock()
	s := m.series[at]
	m.mu.RUnlock()
	if s != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.series[at]; s != nil {
		return s
	}
	s = &series{
		key:      k,
		duration: m.metrics.duration.WithLabelValues(k.verb, k.dryRun, k.group, k.version, k.resource, k.subresource, k.scope, component),
	}
	if long {
		s.running = m.metrics.running.WithLabelValues(k.verb, k.group, k.version, k.resource, k.subresource, k.scope, component)
	}
	if k.verb == http.MethodGet || k.verb == "LIST" {
		s.size = m.metrics.sizes.WithLabelValues(k.verb, k.group, k.version, k.resource, k.subresource, k.scope, component)
	}
	m.series[at] = s
	return s
}

// Watched returns what counts the events of a watch, by their size in bytes.
func (m *Meter) Watched(i *request.Info) func(size int) {
	total := m.metrics.events.WithLabelValues(i.Group, i.Version, i.Resource)
	sizes := m.metrics.eventSizes.WithLabelValues(i.Group, i.Version, i.Resource)
	return func(size int) {
		total.Inc()
		sizes.Observe(float64(size))
	}
}

// answered returns the counter of a series' answers with a code.
func (m *Meter) answered(s *series, code int) prometheus.Counter {
	at := coded{s, code}
	m.mu.RLock()
	c := m.codes[at]
	m.mu.RUnlock()
	if c != nil {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	k := s.key
	c = m.metrics.requests.WithLabelValues(k.verb, k.dryRun, k.group, k.version, k.resource, k.subresource, k.scope, component, strconv.Itoa(code))
	m.codes[at] = c
	return c
}
