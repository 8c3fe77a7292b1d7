package dns

import (
	"errors"
	"fmt"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the server counts. Those of every question are looked up beforehand.
type metrics struct {
	requests         *prometheus.CounterVec
	responses        *prometheus.CounterVec
	duration         prometheus.Histogram
	cacheHits        prometheus.Counter
	cacheMisses      prometheus.Counter
	searched         prometheus.Counter
	refused          prometheus.Counter
	upstreamFailures *prometheus.CounterVec
	others           []prometheus.Collector

	byType  [2]map[uint16]prometheus.Counter // of UDP, of TCP
	other   [2]prometheus.Counter
	byRcode [16]prometheus.Counter
}

const namespace = "keelson_dns"

func newMetrics(c *cache) *metrics {
	m := &metrics{
		requests:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + "_requests_total", Help: "Questions."}, []string{"proto", "type"}),
		responses:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + "_responses_total", Help: "Answers."}, []string{"rcode"}),
		duration:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: namespace + "_request_duration_seconds", Help: "How long questions waited for their answers.", Buckets: prometheus.ExponentialBuckets(0.000004, 4, 11)}),
		cacheHits:   prometheus.NewCounter(prometheus.CounterOpts{Name: namespace + "_cache_hits_total", Help: "Answers from the cache."}),
		cacheMisses: prometheus.NewCounter(prometheus.CounterOpts{Name: namespace + "_cache_misses_total", Help: "Questions for names of others that were not in the cache."}),
		searched:    prometheus.NewCounter(prometheus.CounterOpts{Name: namespace + "_searched_total", Help: "Questions for which the client's search path was walked."}),
		refused:     prometheus.NewCounter(prometheus.CounterOpts{Name: namespace + "_overload_total", Help: "Questions that failed because too many were waiting."}),
		upstreamFailures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + "_upstream_failures_total",
			Help: "Questions that a server upstream did not answer."}, []string{"server"}),
	}
	m.others = []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: namespace + "_cache_entries", Help: "Answers in the cache."}, func() float64 { n, _ := c.size(); return float64(n) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: namespace + "_cache_bytes", Help: "What the answers in the cache take."}, func() float64 { _, n := c.size(); return float64(n) }),
	}
	for i, proto := range []string{"udp", "tcp"} {
		m.byType[i] = map[uint16]prometheus.Counter{}
		m.other[i] = m.requests.WithLabelValues(proto, "other")
		for _, t := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypePTR, dns.TypeTXT, dns.TypeCNAME, dns.TypeMX, dns.TypeNS, dns.TypeSOA, dns.TypeHTTPS} {
			m.byType[i][t] = m.requests.WithLabelValues(proto, dns.TypeToString[t])
		}
	}
	for i := range m.byRcode {
		m.byRcode[i] = m.responses.WithLabelValues(rcodeName(i))
	}
	return m
}

func rcodeName(rcode int) string {
	if s, ok := dns.RcodeToString[rcode]; ok {
		return s
	}
	return fmt.Sprint(rcode)
}

// register registers all of them, or none.
func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	all := append([]prometheus.Collector{m.requests, m.responses, m.duration, m.cacheHits, m.cacheMisses, m.searched, m.refused, m.upstreamFailures}, m.others...)
	for i, c := range all {
		if err := r.Register(c); err != nil {
			for _, c := range all[:i] {
				r.Unregister(c)
			}
			return fmt.Errorf("dns: %w", errors.Join(err))
		}
	}
	return nil
}

// note counts a question and its answer.
func (m *metrics) note(proto int, qtype uint16, reply []byte, took time.Duration) {
	if c, ok := m.byType[proto][qtype]; ok {
		c.Inc()
	} else {
		m.other[proto].Inc()
	}
	m.byRcode[reply[3]&0xF].Inc()
	m.duration.Observe(took.Seconds())
}
