package webhook

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
)

// metrics have the names that dashboards know from kube-apiserver.
type metrics struct {
	seconds    *prometheus.HistogramVec // name, type, operation, rejected
	requests   *prometheus.CounterVec   // name, type, operation, code, rejected
	rejections *prometheus.CounterVec   // name, type, operation, error_type, rejection_code
	failOpen   *prometheus.CounterVec   // name, type
	excluded   *prometheus.CounterVec   // name, kind, type, operation
}

// maxCode bounds what a webhook can do to the number of time series.
const maxCode = 600

func newMetrics(r prometheus.Registerer) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "apiserver", Subsystem: "admission", Name: name, Help: help,
		}, labels))
	}
	return &metrics{
		seconds: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "apiserver", Subsystem: "admission", Name: "webhook_admission_duration_seconds",
			Help: "Time that calls of admission webhooks took.", Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 25},
		}, []string{"name", "type", "operation", "rejected"})),
		requests:   counter("webhook_request_total", "Calls of admission webhooks.", "name", "type", "operation", "code", "rejected"),
		rejections: counter("webhook_rejection_count", "Requests that admission webhooks, or failures to call them, rejected.", "name", "type", "operation", "error_type", "rejection_code"),
		failOpen:   counter("webhook_fail_open_count", "Failed calls of admission webhooks that were passed over.", "name", "type"),
		excluded:   counter("match_condition_exclusions_total", "Requests that match conditions excluded.", "name", "kind", "type", "operation"),
	}
}

// called counts a call. Operation is in Kubernetes' words.
func (m *metrics) called(h *hook, stage string, op admission.Operation, took time.Duration, err error) {
	code, why, refused := int32(http.StatusOK), "", err != nil
	var failed *callError
	var no *rejection
	switch {
	case err == nil:
	case errors.As(err, &failed):
		code = failed.code
		if refused = !h.ignore; refused && !errors.Is(err, context.Canceled) {
			why = "calling_webhook_error"
		}
	case errors.As(err, &no):
		code, why = no.status.ErrStatus.Code, "no_error"
	default:
		code, why = 0, "apiserver_internal_error"
	}
	number := strconv.Itoa(int(min(code, maxCode)))
	if why != "" {
		m.rejections.WithLabelValues(h.name, stage, string(op), why, number).Inc()
	}
	m.requests.WithLabelValues(h.name, stage, string(op), number, strconv.FormatBool(refused)).Inc()
	m.seconds.WithLabelValues(h.name, stage, string(op), strconv.FormatBool(refused)).Observe(took.Seconds())
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
