package proxy

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have the names that kube-proxy's have, where it has them.
type metrics struct {
	duration    prometheus.Histogram
	programming prometheus.Histogram
	last        prometheus.Gauge
	queued      prometheus.Gauge
	failures    prometheus.Counter
	services    prometheus.Counter
	slices      prometheus.Counter
	noLocal     *prometheus.GaugeVec
	repairs     prometheus.Counter
	counts      *prometheus.GaugeVec
}

func newMetrics() *metrics {
	const prefix = "kubeproxy_sync_proxy_rules_"
	return &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "duration_seconds", Help: "How long it took to write what changed.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 17)}),
		programming: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "kubeproxy_network_programming_duration_seconds",
			Help: "How long it took from a change of a pod or service until it was written.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 15)}),
		last:     prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "last_timestamp_seconds", Help: "When the last change was written."}),
		queued:   prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + "last_queued_timestamp_seconds", Help: "When the last change was seen."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "nftables_sync_failures_total", Help: "Changes that could not be written."}),
		services: prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "service_changes_total", Help: "Changes of services."}),
		slices:   prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "endpoint_changes_total", Help: "Changes of endpoint slices."}),
		noLocal: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + "no_local_endpoints_total",
			Help: "Ports of services with a policy Local that have endpoints, but none on this node."}, []string{"traffic_policy"}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{Name: "keelson_proxy_repairs_total", Help: "Times that the table was not as it had been written, and was written anew."}),
		counts:  prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "keelson_proxy_objects", Help: "Services that are served, and the endpoints of their ports."}, []string{"kind"}),
	}
}

// register registers all of them, or none.
func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	all := []prometheus.Collector{m.duration, m.programming, m.last, m.queued, m.failures, m.services, m.slices, m.noLocal, m.repairs, m.counts}
	for i, c := range all {
		if err := r.Register(c); err != nil {
			for _, c := range all[:i] {
				r.Unregister(c)
			}
			return fmt.Errorf("proxy: %w", errors.Join(err))
		}
	}
	return nil
}

// wrote notes a change that was written.
func (m *metrics) wrote(begun, now time.Time, c counts, triggers []time.Time) {
	m.duration.Observe(now.Sub(begun).Seconds())
	m.last.Set(seconds(now))
	for _, t := range triggers {
		m.programming.Observe(now.Sub(t).Seconds())
	}
	m.services.Add(float64(c.serviceChanges))
	m.slices.Add(float64(c.sliceChanges))
	m.noLocal.WithLabelValues("external").Set(float64(c.noLocal))
	m.noLocal.WithLabelValues("internal").Set(float64(c.noInside))
	m.counts.WithLabelValues("service").Set(float64(c.services))
	m.counts.WithLabelValues("endpoint").Set(float64(c.endpoints))
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
