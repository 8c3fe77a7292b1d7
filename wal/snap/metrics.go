package snap

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics carry etcd's names.
type metrics struct {
	marshal, save, sync prometheus.Histogram // of .snap files
	dbSave, dbSync      prometheus.Histogram // of .snap.db files
}

func newMetrics(r prometheus.Registerer) *metrics {
	histogram := func(name, help string, first float64, n int) prometheus.Histogram {
		return register(r, prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, n),
		}))
	}
	return &metrics{
		marshal: histogram("etcd_debugging_snap_save_marshalling_duration_seconds",
			"The marshalling cost distributions of save called by snapshot.", 0.001, 14),
		save: histogram("etcd_debugging_snap_save_total_duration_seconds",
			"The total latency distributions of save called by snapshot.", 0.001, 14),
		sync:   histogram("etcd_snap_fsync_duration_seconds", "The latency distributions of fsync called by snap.", 0.001, 14),
		dbSave: histogram("etcd_snap_db_save_total_duration_seconds", "The total latency distributions of v3 snapshot save", 0.1, 10),
		dbSync: histogram("etcd_snap_db_fsync_duration_seconds", "The latency distributions of fsyncing .snap.db file", 0.001, 14),
	}
}

// register registers a collector, or returns the one that an earlier directory of this process has registered.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	err := r.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if there, ok := already.ExistingCollector.(C); ok {
			return there
		}
	}
	if err != nil {
		panic(err) // two different metrics of one name: a mistake in the program
	}
	return c
}
