package transport

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are etcd's by name, label and buckets.
type metrics struct {
	activePeers       *prometheus.GaugeVec
	disconnectedPeers *prometheus.CounterVec
	sentBytes         *prometheus.CounterVec
	receivedBytes     *prometheus.CounterVec
	sentFailures      *prometheus.CounterVec
	receivedFailures  *prometheus.CounterVec
	roundTrip         *prometheus.HistogramVec
	snapshotSend      transfer
	snapshotReceive   transfer
}

// transfer counts snapshots in one direction.
type transfer struct {
	successes, failures *prometheus.CounterVec
	inflight            *prometheus.GaugeVec
	seconds             *prometheus.HistogramVec
}

func newTransfer(verb, label string) transfer {
	name := func(s string) string { return prometheus.BuildFQName("etcd", "network", "snapshot_"+verb+"_"+s) }
	labels := []string{label}
	return transfer{
		successes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("success"),
			Help: "Total number of successful snapshot " + verb + "s"}, labels),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: name("failures"),
			Help: "Total number of snapshot " + verb + " failures"}, labels),
		inflight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name("inflights_total"),
			Help: "Total number of inflight snapshot " + verb + "s"}, labels),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name("total_duration_seconds"),
			Help:    "Total latency distributions of v3 snapshot " + verb + "s",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 10)}, labels),
	}
}

func (t *transfer) all() []prometheus.Collector {
	return []prometheus.Collector{t.successes, t.failures, t.inflight, t.seconds}
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "etcd", Subsystem: "network", Name: name, Help: help}, labels)
	}
	m := &metrics{
		activePeers: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: "etcd", Subsystem: "network", Name: "active_peers",
			Help: "The current number of active peer connections."}, []string{"Local", "Remote"}),
		disconnectedPeers: counter("disconnected_peers_total", "The total number of disconnected peers.", "Local", "Remote"),
		sentBytes:         counter("peer_sent_bytes_total", "The total number of bytes sent to peers.", "To"),
		receivedBytes:     counter("peer_received_bytes_total", "The total number of bytes received from peers.", "From"),
		sentFailures:      counter("peer_sent_failures_total", "The total number of send failures from peers.", "To"),
		receivedFailures:  counter("peer_received_failures_total", "The total number of receive failures from peers.", "From"),
		roundTrip: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "etcd", Subsystem: "network",
			Name: "peer_round_trip_time_seconds", Help: "Round-Trip-Time histogram between peers",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16)}, []string{"To"}),
		snapshotSend:    newTransfer("send", "To"),
		snapshotReceive: newTransfer("receive", "From"),
	}
	if r == nil {
		return m, nil
	}
	all := []prometheus.Collector{m.activePeers, m.disconnectedPeers, m.sentBytes, m.receivedBytes, m.sentFailures,
		m.receivedFailures, m.roundTrip}
	all = append(append(all, m.snapshotSend.all()...), m.snapshotReceive.all()...)
	for _, c := range all {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("transport: register metrics: %w", err)
		}
	}
	return m, nil
}
