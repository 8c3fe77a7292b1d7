package probe

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics() *metrics {
	return &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total", Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds", Help: "Duration in seconds for a probe response.", Buckets: prometheus.DefBuckets,
		}, []string{"probe_type", "container", "pod", "namespace"}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.total, m.duration}
}

func (m *metrics) count(a attempt, out outcome, took time.Duration) {
	result := "unknown"
	switch {
	case out.ok():
		result = "successful"
	case out.known():
		result = "failed"
	}
	m.total.WithLabelValues(a.kind.String(), result, a.container.Name, a.pod.Name, a.pod.Namespace, string(a.pod.UID)).Inc()
	m.duration.WithLabelValues(a.kind.String(), a.container.Name, a.pod.Name, a.pod.Namespace).Observe(took.Seconds())
}

// forget removes the series of a check that is over.
func (m *metrics) forget(c *check) {
	pod := c.target.pod
	m.total.DeletePartialMatch(prometheus.Labels{"probe_type": c.kind.String(), "container": c.target.name, "pod_uid": string(pod.UID)})
	m.duration.DeleteLabelValues(c.kind.String(), c.target.name, pod.Name, pod.Namespace)
}
