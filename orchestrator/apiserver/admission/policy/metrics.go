package policy

import (
	"errors"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have the names that dashboards know from kube-apiserver.
type metrics struct {
	checks  *prometheus.CounterVec   // policy, policy_binding, error_type, enforcement_action
	seconds *prometheus.HistogramVec // policy, policy_binding
}

func newMetrics(r prometheus.Registerer, stage string) *metrics {
	subsystem := stage + "_admission_policy"
	return &metrics{
		checks: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "apiserver", Subsystem: subsystem, Name: "check_total", Help: "Expressions of admission policies that were evaluated.",
		}, []string{"policy", "policy_binding", "error_type", "enforcement_action"})),
		seconds: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "apiserver", Subsystem: subsystem, Name: "check_duration_seconds", Help: "Time that the evaluation of admission policies took.",
			Buckets: []float64{0.0000005, 0.001, 0.01, 0.1, 1},
		}, []string{"policy", "policy_binding"})),
	}
}

func (m *metrics) took(r *rule, b *binding, d time.Duration) {
	m.seconds.WithLabelValues(r.name, b.name).Observe(d.Seconds())
}

// counted counts what was done about a text, "" for an object that passed.
func (m *metrics) counted(r *rule, b *binding, text, action string) {
	kind := "invalid_error"
	switch {
	case text == "":
		kind = "no_error"
	case strings.HasPrefix(text, "compilation"):
		kind = "compile_error"
	case strings.HasPrefix(text, "validation failed due to running out of cost budget"):
		kind = "out_of_budget"
	}
	m.checks.WithLabelValues(r.name, b.name, kind, action).Inc()
}

// register returns what r has under the name already, for a second server in one process.
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
