package backend

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carry etcd's names.
type metrics struct {
	collectors               []prometheus.Collector
	size, inUse, openReads   atomic.Int64
	commit, defrag, snapshot prometheus.Histogram
	defragInflight           prometheus.Gauge
}

func newMetrics(b *Backend, r prometheus.Registerer) *metrics {
	m := &metrics{}
	histogram := func(name, help string, first float64, n int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "etcd", Subsystem: "disk", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, n),
		})
	}
	gauge := func(name, help string, value func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "etcd", Subsystem: "mvcc", Name: name, Help: help},
			func() float64 { return float64(value()) })
	}
	m.commit = histogram("backend_commit_duration_seconds", "The latency distributions of commits to the database file.", 0.001, 14)
	m.defrag = histogram("backend_defrag_duration_seconds", "The latency distribution of defragmentations.", 0.1, 13)
	m.snapshot = histogram("backend_snapshot_duration_seconds", "The latency distribution of snapshots of the database.", 0.01, 17)
	m.defragInflight = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "disk", Name: "defrag_inflight", Help: "Whether a defragmentation is under way: 1 yes, 0 no.",
	})
	m.collectors = []prometheus.Collector{
		m.commit, m.defrag, m.snapshot, m.defragInflight,
		gauge("db_total_size_in_bytes", "Size of the database file in bytes.", b.Size),
		gauge("db_total_size_in_use_in_bytes", "Size of the database without its free pages, in bytes.", b.SizeInUse),
		gauge("db_open_read_transactions", "Number of open read transactions of the database.", m.openReads.Load),
	}
	if r == nil {
		return m
	}
	for _, c := range m.collectors {
		r.Unregister(c) // those of a backend that this one replaces: a collector is known by its name
		r.MustRegister(c)
	}
	return m
}
