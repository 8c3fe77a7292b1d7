package policy

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an Enforcer counts.
type metrics struct {
	registerer prometheus.Registerer
	writes     prometheus.Histogram
	failures   prometheus.Counter
	repairs    prometheus.Counter
	registered []prometheus.Collector
}

// counts are how many there are at present.
type counts struct{ policies, isolated, undecided int }

const metricsPrefix = "keelson_policy_"

func newMetrics(r prometheus.Registerer, count func() counts) (*metrics, error) {
	gauge := func(name, help string, of func(c counts) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: metricsPrefix + name, Help: help}, func() float64 { return float64(of(count())) })
	}
	m := &metrics{
		registerer: r,
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{Name: metricsPrefix + "write_duration_seconds",
			Help: "How long it took to make the table of network policies and write what changed.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "write_failures_total", Help: "Writes of the table of network policies that failed."}),
		repairs:  prometheus.NewCounter(prometheus.CounterOpts{Name: metricsPrefix + "repairs_total", Help: "How often the table was written anew because somebody had changed it."}),
	}
	all := []prometheus.Collector{
		m.writes, m.failures, m.repairs,
		gauge("policies", "Network policies in the cluster.", func(c counts) int { return c.policies }),
		gauge("isolated_pods", "Pods of this node that a network policy selects.", func(c counts) int { return c.isolated }),
		gauge("undecided_pods", "Pods of this node that reach nothing because their objects are not known yet.", func(c counts) int { return c.undecided }),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return m, fmt.Errorf("policy: %w", err)
		}
		m.registered = append(m.registered, c)
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m == nil {
		return
	}
	for _, c := range m.registered {
		m.registerer.Unregister(c)
	}
}

// count counts policies and pods.
func (e *Enforcer) count() (c counts) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, in := range e.state.policies {
		c.policies += len(in)
	}
	for _, x := range e.state.subjects {
		switch {
		case e.state.undecided(x):
			c.undecided++
		case len(e.state.selecting(x, ingress)) > 0 || len(e.state.selecting(x, egress)) > 0:
			c.isolated++
		}
	}
	return c
}
