package prefixquota

import "github.com/prometheus/client_golang/prometheus"

// collector shows a Book.
type collector struct {
	book                                 *Book
	bytes, keys, maxBytes, maxKeys, fail *prometheus.Desc
}

// Collector shows what the prefixes have and may have. The Book is not nil.
func (b *Book) Collector() prometheus.Collector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("keelson_prefix_"+name, help, []string{"prefix"}, nil)
	}
	return &collector{
		book:     b,
		bytes:    desc("bytes", "Bytes that are stored for the keys under a prefix with a quota."),
		keys:     desc("keys", "Keys under a prefix with a quota."),
		maxBytes: desc("quota_bytes", "The quota of a prefix in bytes; 0 if there is none."),
		maxKeys:  desc("quota_keys", "The quota of a prefix in keys; 0 if there is none."),
		fail:     desc("refused_total", "Writes of this member's clients that did not fit the quota of a prefix."),
	}
}

// Describe is prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.bytes, c.keys, c.maxBytes, c.maxKeys, c.fail} {
		ch <- d
	}
}

// Collect is prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	c.book.mu.Lock()
	defer c.book.mu.Unlock()
	txn := c.book.store.Read()
	defer txn.Close()
	for i := range c.book.accounts {
		a := &c.book.accounts[i]
		show := func(d *prometheus.Desc, kind prometheus.ValueType, n int64) {
			ch <- prometheus.MustNewConstMetric(d, kind, float64(n), a.prefix)
		}
		used := a.used(txn)
		show(c.bytes, prometheus.GaugeValue, used.bytes)
		show(c.keys, prometheus.GaugeValue, used.keys)
		show(c.maxBytes, prometheus.GaugeValue, a.limit.bytes)
		show(c.maxKeys, prometheus.GaugeValue, a.limit.keys)
		show(c.fail, prometheus.CounterValue, a.refused)
	}
}
