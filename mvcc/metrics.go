package mvcc

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carry etcd's names.
type metrics struct {
	ranges, puts, deletes, txns, compactedRevs prometheus.Counter
	putBytes                                   prometheus.Counter
	pause                                      prometheus.Histogram
}

func newMetrics(s *Store, r prometheus.Registerer) *metrics {
	var all []prometheus.Collector
	counter := func(namespace, name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Subsystem: "mvcc", Name: name, Help: help})
		all = append(all, c)
		return c
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
		ranges:        counter("etcd", "range_total", "Total number of ranges seen by this member."),
		puts:          counter("etcd", "put_total", "Total number of puts seen by this member."),
		deletes:       counter("etcd", "delete_total", "Total number of deletes seen by this member."),
		txns:          counter("etcd", "txn_total", "Total number of transactions with changes seen by this member."),
		compactedRevs: counter("etcd_debugging", "db_compaction_keys_total", "Total number of revisions removed by compactions."),
		putBytes:      counter("etcd_debugging", "total_put_size_in_bytes", "The total size of the key-values put."),
		pause: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "db_compaction_pause_duration_milliseconds",
			Help: "Bucketed histogram of the steps of compactions, in which writes wait.", Buckets: prometheus.ExponentialBuckets(1, 2, 13),
		}),
	}
	all = append(all, m.pause)
	gauge("keys_total", "Total number of keys.", func(p *published) int64 { return p.root.Live() })
	gauge("current_revision", "The current revision.", func(p *published) int64 { return p.rev })
	gauge("compact_revision", "The revision of the last compaction.", func(p *published) int64 { return p.compactRev })
	if r != nil {
		r.MustRegister(all...)
	}
	return m
}

func (m *metrics) put(bytes int) {
	m.puts.Inc()
	m.putBytes.Add(float64(bytes))
}

func (m *metrics) compacted(revisions int, took time.Duration) {
	m.compactedRevs.Add(float64(revisions))
	m.pause.Observe(float64(took) / float64(time.Millisecond))
}
