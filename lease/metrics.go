package lease

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	granted, revoked, renewed, expired prometheus.Counter
	ttl                                prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(subsystem, name, help string) prometheus.Counter {
		return register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "etcd_debugging", Subsystem: subsystem, Name: name, Help: help}))
	}
	return &metrics{
		granted: counter("lease", "granted_total", "The total number of granted leases."),
		revoked: counter("lease", "revoked_total", "The total number of revoked leases."),
		renewed: counter("lease", "renewed_total", "The number of renewed leases seen by the leader."),
		expired: counter("server", "lease_expired_total", "The total number of expired leases."),
		ttl: register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "etcd_debugging", Subsystem: "lease", Name: "ttl_total", Help: "Bucketed histogram of lease TTLs.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 24), // 1 second to 3 months
		})),
	}
}

// register returns c, or the equal collector that is registered already.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	var already prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}
