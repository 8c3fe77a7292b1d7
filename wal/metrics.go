package wal

import (
	"errors"
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
	return &metrics{
		sync:   register(r, histogram("wal_fsync_duration_seconds", "The latency distributions of fsync called by WAL.")),
		writes: register(r, histogram("wal_write_duration_seconds", "The latency distributions of write called by WAL.")),
		bytes: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "disk", Name: "wal_write_bytes_total", Help: "Total number of bytes written in WAL.",
		})),
	}
}

// register registers a collector, or returns the one that an earlier log of this process has registered.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	err := r.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if there, ok := already.ExistingCollector.(C); ok {
			return there
		}
	}
	if err != nil {
		panic(err) // two different metrics of one name: a mistake in the program
	}
	return c
}

func (m *metrics) wrote(n int, took time.Duration) {
	m.bytes.Add(float64(n))
	m.writes.Observe(took.Seconds())
}

// SyncDurations are those of the syncs so far: a histogram in seconds.
func (l *Log) SyncDurations() prometheus.Histogram { return l.metrics.sync }
