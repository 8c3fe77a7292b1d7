package objectstore

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are for all collections of a Store. The label resource is "pods" or "deployments.apps".
type metrics struct {
	requests *prometheus.HistogramVec // of the store: operation, resource
	reads    *prometheus.CounterVec   // resource, source: "cache", "snapshot", "store"
	fills    *prometheus.CounterVec   // resource, result: "ok", "error"
	events   *prometheus.CounterVec   // resource
	expired  *prometheus.CounterVec   // streams that fell behind: resource
	broken   *prometheus.CounterVec   // values that could not be read: resource
	objects  *prometheus.GaugeVec     // resource
	revision *prometheus.GaugeVec     // resource
	streams  *prometheus.GaugeVec     // resource
}

func newMetrics(r prometheus.Registerer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "keelson", Subsystem: "objectstore", Name: name, Help: help}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(r, prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), append(labels, "resource")))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts(opts(name, help)), []string{"resource"}))
	}
	return &metrics{
		requests: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "keelson", Subsystem: "objectstore", Name: "store_request_seconds",
			Help: "Time that requests to the store took.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}, []string{"operation", "resource"})),
		reads:    counter("reads_total", "Gets and lists by where the answer came from.", "source"),
		fills:    counter("cache_fills_total", "Times that a watch cache was filled.", "result"),
		events:   counter("events_total", "Changes that watch caches received."),
		expired:  counter("watch_expired_total", "Watches that ended because they fell behind."),
		broken:   counter("unreadable_total", "Stored values that could not be decrypted or decoded."),
		objects:  gauge("objects", "Objects in a watch cache."),
		revision: gauge("cache_revision", "Revision that a watch cache has reached."),
		streams:  gauge("watches", "Open watches."),
	}
}

// register returns what r has under the name already, for a second Store in one process.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var there prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &there) {
		if have, ok := there.ExistingCollector.(C); ok {
			return have
		}
	}
	return c
}

func (m *metrics) took(operation, resource string, since time.Time, now time.Time) {
	m.requests.WithLabelValues(operation, resource).Observe(now.Sub(since).Seconds())
}

func (m *metrics) forget(resource string) {
	for _, g := range []*prometheus.GaugeVec{m.objects, m.revision, m.streams} {
		g.DeleteLabelValues(resource)
	}
}
