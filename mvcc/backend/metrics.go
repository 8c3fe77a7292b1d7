package backend

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
)

// metrics carry etcd's names.
type metrics struct {
	collectors               []prometheus.Collector
	size, inUse, openReads   atomic.Int64
	free, page, freeList     atomic.Int64 // of free pages; see FreeList
	commit, defrag, snapshot prometheus.Histogram
	rebalance, spill, write  prometheus.Histogram // parts of commit
	defragInflight           prometheus.Gauge
}

func newMetrics(b *Backend, r prometheus.Registerer) *metrics {
	m := &metrics{}
	histogram := func(namespace, name, help string, first float64, n int) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: "disk", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, n),
		})
	}
	gauge := func(name, help string, value func() int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "etcd", Subsystem: "mvcc", Name: name, Help: help},
			func() float64 { return float64(value()) })
	}
	m.commit = histogram("etcd", "backend_commit_duration_seconds", "The latency distributions of commit called by backend.", 0.001, 14)
	m.defrag = histogram("etcd", "backend_defrag_duration_seconds", "The latency distribution of backend defragmentation.", 0.1, 13)
	m.snapshot = histogram("etcd", "backend_snapshot_duration_seconds", "The latency distribution of backend snapshots.", 0.01, 17)
	part := func(name string) prometheus.Histogram {
		return histogram("etcd_debugging", "backend_commit_"+name+"_duration_seconds",
			"The latency distributions of commit."+name+" called by bboltdb backend.", 0.001, 14)
	}
	m.rebalance, m.spill, m.write = part("rebalance"), part("spill"), part("write")
	m.defragInflight = prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "disk", Name: "defrag_inflight", Help: "Whether or not defrag is active on the member. 1 means active, 0 means not.",
	})
	m.collectors = []prometheus.Collector{
		m.commit, m.rebalance, m.spill, m.write, m.defrag, m.snapshot, m.defragInflight,
		gauge("db_total_size_in_bytes", "Total size of the underlying database physically allocated in bytes.", b.Size),
		gauge("db_total_size_in_use_in_bytes", "Total size of the underlying database logically in use in bytes.", b.SizeInUse),
		gauge("db_open_read_transactions", "The number of currently open read transactions", m.openReads.Load),
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

// committed notes a commit and where its time went.
func (m *metrics) committed(took time.Duration, stats bbolt.TxStats) {
	m.rebalance.Observe(stats.RebalanceTime.Seconds())
	m.spill.Observe(stats.SpillTime.Seconds())
	m.write.Observe(stats.WriteTime.Seconds())
	m.commit.Observe(took.Seconds())
}

// CommitDurations are those of the commits so far: a histogram in seconds.
func (b *Backend) CommitDurations() prometheus.Histogram { return b.metrics.commit }

// FreeList is what the file has of free pages.
type FreeList struct {
	Pages    int64 // those that are free once no view needs them any more, too
	PageSize int64
	Bytes    int64 // of memory for the list
}

// FreeList is as of the last commit.
func (b *Backend) FreeList() FreeList {
	return FreeList{Pages: b.metrics.free.Load(), PageSize: b.metrics.page.Load(), Bytes: b.metrics.freeList.Load()}
}
