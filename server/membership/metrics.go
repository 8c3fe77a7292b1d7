package membership

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	version *prometheus.GaugeVec
	known   *prometheus.GaugeVec
	learner prometheus.Gauge
}

// newMetrics makes the gauges. A second Cluster on the same registry goes on with those of the first.
func newMetrics(reg prometheus.Registerer) metrics {
	return metrics{
		version: register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "cluster", Name: "version",
			Help: "Which version is running. 1 for 'cluster_version' label with current cluster version",
		}, []string{"cluster_version"})),
		known: register(reg, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "network", Name: "known_peers",
			Help: "The current number of known peers.",
		}, []string{"Local", "Remote"})),
		learner: register(reg, prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "server", Name: "is_learner",
			Help: "Whether or not this member is a learner. 1 if is, 0 otherwise.",
		})),
	}
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	var dup prometheus.AlreadyRegisteredError
	if errors.As(reg.Register(c), &dup) {
		if old, ok := dup.ExistingCollector.(C); ok {
			return old
		}
	}
	return c
}

// show brings the gauges up to date after any change. The caller holds the mutex.
func (c *Cluster) show() {
	c.metrics.version.Reset()
	if c.version != nil {
		c.metrics.version.WithLabelValues(minorOf(c.version)).Set(1)
	}
	if c.self == 0 {
		return
	}
	self := FormatID(c.self)
	for id := range c.members {
		c.metrics.known.WithLabelValues(self, FormatID(id)).Set(1)
	}
	for id := range c.removed {
		c.metrics.known.WithLabelValues(self, FormatID(id)).Set(0)
	}
	learner := 0.0
	if m := c.members[c.self]; m != nil && m.IsLearner {
		learner = 1
	}
	c.metrics.learner.Set(learner)
}
