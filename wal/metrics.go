package wal

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carry etcd's names.
type metrics struct {
	sync, writes prometheus.Histogram
	bytes        prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "etcd", Subsystem: "disk", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		})
	}
	m := &metrics{
		sync:   histogram("wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL."),
		writes: histogram("wal_write_duration_seconds", "The latency distributions of writes to the WAL."),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "disk", Name: "wal_write_bytes_total", Help: "Total number of bytes written in WAL.",
		}),
	}
	if r != nil {
		r.MustRegister(m.sync, m.writes, m.bytes)
	}
	return m
}

func (m *metrics) wrote(n int, took time.Duration) {
	m.bytes.Add(float64(n))
	m.writes.Observe(took.Seconds())
}
