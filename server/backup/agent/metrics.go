package agent

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keelson-io/keelson/api/backuppb"
	"github.com/keelson-io/keelson/server/backup/archive"
)

// metrics are the agent's.
type metrics struct {
	connected, applied, archivedIndex, revision prometheus.Gauge
	success                                     *prometheus.GaugeVec   // by object
	bytes                                       *prometheus.CounterVec // by object
	failures                                    *prometheus.CounterVec // by step
	chains, pruned                              prometheus.Counter
	since                                       atomic.Int64 // when the oldest entry that is not archived came, Unix nanoseconds; 0: there is none
}

func newMetrics(r prometheus.Registerer) *metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "keelson_backup_" + name, Help: help})
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "keelson_backup_" + name, Help: help})
	}
	m := &metrics{
		connected:     gauge("connected", "1 while the agent follows a member's log."),
		applied:       gauge("applied_index", "Log entry up to which the member that is followed has applied the log."),
		archivedIndex: gauge("archived_index", "Log entry up to which the archive has the log."),
		revision:      gauge("archived_revision", "Revision up to which the archive can be restored, as far as it is known."),
		success: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "keelson_backup_last_success_timestamp_seconds", Help: "When a segment or a base was last archived.",
		}, []string{"object"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keelson_backup_written_bytes_total", Help: "Bytes of segments and bases that were archived.",
		}, []string{"object"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keelson_backup_failures_total", Help: "Failed steps: stream, segment, base, prune. They are tried again.",
		}, []string{"step"}),
		chains: counter("chains_total", "Chains that were begun. Between two chains there is a gap."),
		pruned: counter("pruned_objects_total", "Objects that were deleted by the policy."),
	}
	lag := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "keelson_backup_unarchived_seconds", Help: "Age of the oldest entry that was received and is not archived yet.",
	}, func() float64 {
		if at := m.since.Load(); at != 0 {
			return time.Since(time.Unix(0, at)).Seconds()
		}
		return 0
	})
	r.MustRegister(m.connected, m.applied, m.archivedIndex, m.revision, m.success, m.bytes, m.failures, m.chains, m.pruned, lag)
	for _, step := range []string{"stream", "segment", "base", "prune"} {
		m.failures.WithLabelValues(step)
	}
	return m
}

// waiting notes that there is something to be archived.
func (m *metrics) waiting(since time.Time) { m.since.Store(since.UnixNano()) }

func (m *metrics) received(r *backuppb.LogResponse, t archive.Tail) {
	m.applied.Set(float64(max(r.AppliedIndex, t.Index)))
}

func (m *metrics) archived(s *archive.Segment) {
	m.since.Store(0)
	m.archivedIndex.Set(float64(s.Last))
	if s.After > 0 {
		m.revision.Set(float64(s.After))
	}
	m.wrote("segment", s.Size)
}

func (m *metrics) wrote(object string, bytes int64) {
	m.success.WithLabelValues(object).SetToCurrentTime()
	m.bytes.WithLabelValues(object).Add(float64(bytes))
}
