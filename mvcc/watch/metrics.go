package watch

import "github.com/prometheus/client_golang/prometheus"

// metrics carry etcd's names.
type metrics struct {
	streams, watchers, behind, pending prometheus.Gauge
	events                             prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "etcd_debugging", Subsystem: "mvcc", Name: name, Help: help})
	}
	m := &metrics{
		streams:  gauge("watch_stream_total", "Total number of watch streams."),
		watchers: gauge("watcher_total", "Total number of watchers."),
		behind:   gauge("slow_watcher_total", "Total number of unsynced slow watchers."),
		pending:  gauge("pending_events_total", "Total number of pending events to be sent."),
		events: prometheus.NewCounter(prometheus.CounterOpts{
			Namespace: "etcd_debugging", Subsystem: "mvcc", Name: "events_total", Help: "Total number of events sent by this member.",
		}),
	}
	if r != nil {
		r.MustRegister(m.streams, m.watchers, m.behind, m.pending, m.events)
	}
	return m
}
