package mvcc

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carry etcd's names.
type metrics struct {
	ranges, puts, deletes, txns, compactedRevs prometheus.Counter
	putBytes, lastCompaction                   prometheus.Gauge
	pause, indexPause, compaction              prometheus.Histogram
	hash, hashRev                              prometheus.Histogram
}

func newMetrics(s *Store, r prometheus.Registerer) *metrics {
	var all []prometheus.Collector
	counter := func(namespace, name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: "mvcc", Name: name, Help: help})
		all = append(all, c)
		return c
	}
	set := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "etcd_debugging", Subsystem: "mvcc", Name: name, Help: help})
		all = append(all, g)
		return g
	}
	histogram := func(namespace, name, help string, first float64, n int) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: "mvcc", Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, n),
		})
		all = append(all, h)
		return h
	}
	gauge := func(name, help string, value func(*published) int64) {
		all = append(all, prometheus.NewGaugeFunc(
			prometheus.GaugeOpts{Namespace: "etcd_debugging", Subsystem: "mvcc", Name: name, Help: help},
			func() float64 {
				t := s.Read()
				defer t.Close()
				return float64(value(t.at))
			}))
	}
	m := &metrics{
		ranges:         counter("etcd", "range_total", "Total number of ranges seen by this member."),
		puts:           counter("etcd", "put_total", "Total number of puts seen by this member."),
		deletes:        counter("etcd", "delete_total", "Total number of deletes seen by this member."),
		txns:           counter("etcd", "txn_total", "Total number of txns seen by this member."),
		compactedRevs:  counter("etcd_debugging", "db_compaction_keys_total", "Total number of db keys compacted."),
		putBytes:       set("total_put_size_in_bytes", "The total size of put kv pairs seen by this member."),
		lastCompaction: set("db_compaction_last", "The unix time of the last db compaction. Resets to 0 on start."),
		pause: histogram("etcd_debugging", "db_compaction_pause_duration_milliseconds",
			"Bucketed histogram of db compaction pause duration.", 1, 13),
		indexPause: histogram("etcd_debugging", "index_compaction_pause_duration_milliseconds",
			"Bucketed histogram of index compaction pause duration.", 0.5, 14),
		compaction: histogram("etcd_debugging", "db_compaction_total_duration_milliseconds",
			"Bucketed histogram of db compaction total duration.", 100, 14),
		hash:    histogram("etcd", "hash_duration_seconds", "The latency distribution of storage hash operation.", 0.01, 15),
		hashRev: histogram("etcd", "hash_rev_duration_seconds", "The latency distribution of storage hash by revision operation.", 0.01, 15),
	}
	gauge("keys_total", "Total number of keys.", func(p *published) int64 { return p.root.Live() })
	gauge("current_revision", "The current revision of store.", func(p *published) int64 { return p.rev })
	gauge("compact_revision", "The revision of the last compaction in store.", func(p *published) int64 { return p.compactRev })
	if r != nil {
		r.MustRegister(all...)
	}
	return m
}

func (m *metrics) put(bytes int) {
	m.puts.Inc()
	m.putBytes.Add(float64(bytes))
}

// step notes a step of a compaction: how long writes waited for it, of that for the index.
func (m *metrics) step(revisions int, index, whole time.Duration) {
	m.compactedRevs.Add(float64(revisions))
	m.indexPause.Observe(milliseconds(index))
	m.pause.Observe(milliseconds(whole))
}

// compacted notes the end of a compaction.
func (m *metrics) compacted(now time.Time, took time.Duration) {
	m.lastCompaction.Set(float64(now.Unix()))
	m.compaction.Observe(milliseconds(took))
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
