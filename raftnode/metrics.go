package raftnode

import "github.com/prometheus/client_golang/prometheus"

// metrics are etcd's, plus those under keelson_raft_.
type metrics struct {
	hasLeader, isLeader         prometheus.Gauge
	leaderChanges               prometheus.Counter
	heartbeatFailures           prometheus.Counter
	committed, applied          prometheus.Gauge
	slowReads, failedReads      prometheus.Counter
	snapshotApplying            prometheus.Gauge
	refused, dropped, stepDowns prometheus.Counter
	cacheBytes                  prometheus.Gauge
	fetches                     prometheus.Counter
	appendBatch, applyBatch     prometheus.Histogram
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	batch := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(1, 2, 13)})
	}
	m := &metrics{
		hasLeader:         gauge("etcd_server_has_leader", "Whether or not a leader exists. 1 is existence, 0 is not."),
		isLeader:          gauge("etcd_server_is_leader", "Whether or not this member is a leader. 1 if is, 0 otherwise."),
		leaderChanges:     counter("etcd_server_leader_changes_seen_total", "The number of leader changes seen."),
		heartbeatFailures: counter("etcd_server_heartbeat_send_failures_total", "The total number of leader heartbeat send failures (likely overloaded from slow disk)."),
		committed:         gauge("etcd_server_proposals_committed_total", "The total number of consensus proposals committed."),
		applied:           gauge("etcd_server_proposals_applied_total", "The total number of consensus proposals applied."),
		slowReads:         counter("etcd_server_slow_read_indexes_total", "The total number of pending read indexes not in sync with leader's or timed out read index requests."),
		failedReads:       counter("etcd_server_read_indexes_failed_total", "The total number of failed read indexes seen."),
		snapshotApplying:  gauge("etcd_server_snapshot_apply_in_progress_total", "1 if the server is applying the incoming snapshot. 0 if none."),
		refused:           counter("keelson_raft_messages_refused_total", "Messages from peers that made no sense."),
		dropped:           counter("keelson_raft_proposals_dropped_total", "Proposals that found no leader in time."),
		stepDowns:         counter("keelson_raft_stall_step_downs_total", "Leaderships given up because the log could not be written in time."),
		cacheBytes:        gauge("keelson_raft_log_cache_bytes", "Bytes of log entries in memory."),
		fetches:           counter("keelson_raft_log_fetches_total", "Reads of log entries that had left memory."),
		appendBatch:       batch("keelson_raft_append_batch_entries", "Entries of one log write."),
		applyBatch:        batch("keelson_raft_apply_batch_entries", "Entries of one apply batch."),
	}
	if r != nil {
		r.MustRegister(m.hasLeader, m.isLeader, m.leaderChanges, m.heartbeatFailures, m.committed, m.applied, m.slowReads,
			m.failedReads, m.snapshotApplying, m.refused, m.dropped, m.stepDowns, m.cacheBytes, m.fetches, m.appendBatch, m.applyBatch)
	}
	return m
}

func setBool(g prometheus.Gauge, v bool) {
	if v {
		g.Set(1)
	} else {
		g.Set(0)
	}
}
