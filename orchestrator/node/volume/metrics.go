package volume

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	setups   *prometheus.HistogramVec
	renewals *prometheus.CounterVec
	written  *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		setups: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keelson_volume_setup_duration_seconds", Help: "Time it took to make the volumes of a pod.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}, []string{"result"}),
		renewals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keelson_volume_renewals_total", Help: "Pods whose files were brought up to date."}, []string{"result"}),
		written:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keelson_volume_versions_total", Help: "Versions of volumes of files that were written."}, []string{"kind"}),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.setups, m.renewals, m.written}
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "success"
}

func (m *metrics) setup(err error, took time.Duration) {
	m.setups.WithLabelValues(result(err)).Observe(took.Seconds())
}

func (m *metrics) renewed(err error) { m.renewals.WithLabelValues(result(err)).Inc() }
