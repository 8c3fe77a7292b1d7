package watch

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

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

// Load is how much there is to do.
type Load struct {
	Streams, Watchers int64
	Behind            int64 // watchers that read history
	Pending           int64 // events that are to be sent
}

// Load is as of now.
func (h *Hub) Load() Load {
	m := h.metrics
	return Load{Streams: value(m.streams), Watchers: value(m.watchers), Behind: value(m.behind), Pending: value(m.pending)}
}

func value(g prometheus.Gauge) int64 {
	var m dto.Metric
	if g.Write(&m) != nil {
		return 0
	}
	return int64(m.GetGauge().GetValue())
}
