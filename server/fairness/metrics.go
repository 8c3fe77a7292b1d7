package fairness

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics show the lanes of a family, by the label lane.
type Metrics struct {
	name, unit string
	registerer prometheus.Registerer
	wait       *prometheus.HistogramVec
	refusals   *prometheus.CounterVec
}

// NewMetrics makes and registers the metrics keelson_<name>_...; unit is that of the capacity.
func NewMetrics(r prometheus.Registerer, name, unit string) *Metrics {
	m := &Metrics{
		name: name, unit: unit, registerer: r,
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "keelson", Subsystem: name, Name: "wait_seconds",
			Help:    "How long requests waited for their turn; those that did not wait are not counted.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"lane"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "keelson", Subsystem: name, Name: "refused_total",
			Help: "Requests that were refused since too many of the same identity waited (queue) or they waited too long (wait).",
		}, []string{"lane", "reason"}),
	}
	r.MustRegister(m.wait, m.refusals)
	return m
}

// laneMetrics are those of one lane; the zero value counts nothing.
type laneMetrics struct {
	wait     prometheus.Observer
	refusals *prometheus.CounterVec
}

func (m *Metrics) lane(l *Lane) laneMetrics {
	if m == nil {
		return laneMetrics{}
	}
	labels := prometheus.Labels{"lane": l.cfg.Name}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "keelson", Subsystem: m.name, Name: name, Help: help, ConstLabels: labels,
		}, value)
	}
	m.registerer.MustRegister(
		gauge("used", "How much of the capacity is in use, in "+m.unit+".", func() float64 { return float64(l.Used()) }),
		gauge("capacity", "The capacity, in "+m.unit+".", func() float64 { return float64(l.Capacity()) }),
		gauge("waiting", "How many requests wait for their turn.", func() float64 { return float64(l.Waiting()) }),
		gauge("identities", "How many clients (users, certificates or addresses) have requests that wait.",
			func() float64 { return float64(l.Identities()) }),
	)
	for _, reason := range []string{"queue", "wait"} {
		m.refusals.WithLabelValues(l.cfg.Name, reason)
	}
	refusals, _ := m.refusals.CurryWith(labels)
	return laneMetrics{m.wait.WithLabelValues(l.cfg.Name), refusals}
}

func (m laneMetrics) waited(d time.Duration) {
	if m.wait != nil {
		m.wait.Observe(d.Seconds())
	}
}

func (m laneMetrics) refused(reason string) {
	if m.refusals != nil {
		m.refusals.WithLabelValues(reason).Inc()
	}
}
