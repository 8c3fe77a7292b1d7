package meter

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

const component = "apiserver"

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	sizes    *prometheus.HistogramVec
	running  *prometheus.GaugeVec
	aborts   *prometheus.CounterVec
	panics   prometheus.Counter
	inflight []prometheus.Collector

	events     *prometheus.CounterVec // of watches: group, version, resource
	eventSizes *prometheus.HistogramVec
}

func newMetrics(inflight func(kind int) float64) *metrics {
	asked := []string{"verb", "group", "version", "resource", "subresource", "scope"}
	dry := []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total", Help: "Requests by the code of their answer."},
			append(dry[:8:8], "code")),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Time that requests took.",
			Buckets: []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, dry),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_response_sizes", Help: "Size of answers to reads, in bytes.", Buckets: prometheus.ExponentialBuckets(1000, 10, 7),
		}, append(asked[:6:6], "component")),
		running: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests", Help: "Watches and connections that are open."},
			append(asked[:6:6], "component")),
		aborts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_aborts_total", Help: "Requests whose answer was broken off."}, asked),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "keelson_apiserver_panics_total", Help: "Requests that made the server panic."}),
	}
	m.events = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_watch_events_total", Help: "Events that were sent to watches."}, asked[1:4])
	m.eventSizes = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "apiserver_watch_events_sizes", Help: "Size of events that were sent to watches, in bytes.", Buckets: prometheus.ExponentialBuckets(1024, 2, 8),
	}, asked[1:4])
	for n, kind := range []string{"readOnly", "mutating"} {
		m.inflight = append(m.inflight, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "apiserver_current_inflight_requests", Help: "Requests that are being served or queued, without long-running ones.",
			ConstLabels: prometheus.Labels{"request_kind": kind},
		}, func() float64 { return inflight(n) }))
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range append(m.inflight, m.requests, m.duration, m.sizes, m.running, m.aborts, m.panics, m.events, m.eventSizes) {
		if err := r.Register(c); err != nil {
			return fmt.Errorf("meter: %w", err)
		}
	}
	return nil
}
