package integrity

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	revision, compared, quarantined, diverged prometheus.Gauge
	mismatches, refetches                     prometheus.Counter
}

func newMetrics(r prometheus.Registerer, sinceComparison func() float64) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "keelson", Subsystem: "integrity", Name: name, Help: help}
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(opts(name, help)))
	}
	m := &metrics{
		revision:    gauge("revision", "The revision at which this member was last compared with others."),
		compared:    gauge("members_compared", "How many members took part in the last comparison, this one too."),
		quarantined: gauge("quarantined", "Whether this member serves no data because they differ from those of the majority. 1 is yes."),
		diverged:    gauge("diverged_members", "How many members had other data than the majority, or than any other, in the last comparison."),
		mismatches:  counter("mismatches_total", "The total number of comparisons in which members had different data."),
		refetches:   counter("refetches_total", "The total number of times this member replaced its data by those of another one."),
	}
	if r != nil {
		r.MustRegister(m.revision, m.compared, m.quarantined, m.diverged, m.mismatches, m.refetches,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts(opts("seconds_since_comparison",
				"Seconds since this member was last compared with another one, or since it started.")), sinceComparison))
	}
	return m
}
