package server

import (
	"math"
	"os"
	"runtime"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/membership"
)

// registerMetrics registers what no part of the member owns. Names are etcd's.
func registerMetrics(reg prometheus.Registerer, cfg *config.Config, m *member) {
	showGates(reg, cfg.Features.Gates)
	registerZeros(reg)
	for _, why := range cfg.Idle() {
		m.env.Logger.Info("a setting makes no difference", zap.String("setting", why))
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "etcd", Subsystem: "server", Name: name, Help: help}, value)
	}
	fixed := func(name, help, label, value string) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "etcd", Subsystem: "server", Name: name, Help: help, ConstLabels: prometheus.Labels{label: value},
		}, func() float64 { return 1 })
	}
	reg.MustRegister(
		alarms{m.state.Alarms.Get},
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "os", Subsystem: "fd", Name: "used", Help: "The number of used file descriptors.",
		}, usedFiles),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "os", Subsystem: "fd", Name: "limit", Help: "The file descriptor limit.",
		}, fileLimit),
		gauge("proposals_pending", "The current number of pending proposals to commit.", func() float64 { return float64(m.proposer.Pending()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: "etcd", Subsystem: "server", Name: "proposals_failed_total", Help: "The total number of failed proposals seen.",
		}, func() float64 { return float64(m.proposer.Failed()) }),
		gauge("quota_backend_bytes", "Current backend storage quota size in bytes.", func() float64 { return float64(m.quota.Limit()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "etcd_debugging", Subsystem: "auth", Name: "revision", Help: "The current revision of auth store.",
		}, func() float64 { return float64(m.state.Auth.Load().Revision()) }),
		fixed("id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.", "server_id", membership.FormatID(m.boot.MemberID)),
		fixed("version", "Which version is running. 1 for 'server_version' label with current version.", "server_version", version.Version),
		fixed("go_version", "Which Go version server is running with. 1 for 'server_go_version' label with current version.", "server_go_version", runtime.Version()),
	)
}

// registerZeros registers what a member of etcd shows of parts that do nothing in it: the store of version 2, and the proxy, which is
// another process. Dashboards and tests of etcd expect them.
func registerZeros(reg prometheus.Registerer) {
	for _, z := range []struct {
		namespace, subsystem, name, help string
		kind                             prometheus.ValueType
	}{
		{"etcd_debugging", "store", "expires_total", "Total number of expired keys.", prometheus.CounterValue},
		{"etcd_debugging", "store", "watch_requests_total", "Total number of incoming watch requests (new or reestablished).", prometheus.CounterValue},
		{"etcd_debugging", "store", "watchers", "Count of currently active watchers.", prometheus.GaugeValue},
		{"etcd", "grpc_proxy", "watchers_coalescing_total", "Total number of current watchers coalescing", prometheus.GaugeValue},
		{"etcd", "grpc_proxy", "events_coalescing_total", "Total number of events coalescing", prometheus.CounterValue},
		{"etcd", "grpc_proxy", "cache_keys_total", "Total number of keys/ranges cached", prometheus.GaugeValue},
		{"etcd", "grpc_proxy", "cache_hits_total", "Total number of cache hits", prometheus.GaugeValue},
		{"etcd", "grpc_proxy", "cache_misses_total", "Total number of cache misses", prometheus.GaugeValue},
	} {
		desc := prometheus.NewDesc(prometheus.BuildFQName(z.namespace, z.subsystem, z.name), z.help, nil, nil)
		reg.MustRegister(zero{prometheus.MustNewConstMetric(desc, z.kind, 0)})
	}
}

// zero is a metric that stays what it is.
type zero struct{ prometheus.Metric }

func (z zero) Describe(ch chan<- *prometheus.Desc) { ch <- z.Desc() }
func (z zero) Collect(ch chan<- prometheus.Metric) { ch <- z.Metric }

// usedFiles is how many files the process has open; NaN if that cannot be found out.
func usedFiles() float64 {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return math.NaN()
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return math.NaN()
	}
	return float64(len(names) - 1) // without the directory itself
}

func fileLimit() float64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return math.NaN()
	}
	return float64(l.Cur)
}

// alarms shows the alarms of the cluster that are active.
type alarms struct {
	get func(pb.AlarmType) []*pb.AlarmMember
}

func (alarms) desc() *prometheus.Desc {
	return prometheus.NewDesc("etcd_debugging_server_alarms",
		"Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm",
		[]string{"server_id", "alarm_type"}, nil)
}

// Describe implements prometheus.Collector.
func (a alarms) Describe(ch chan<- *prometheus.Desc) { ch <- a.desc() }

// Collect implements prometheus.Collector.
func (a alarms) Collect(ch chan<- prometheus.Metric) {
	for _, m := range a.get(pb.AlarmType_NONE) {
		ch <- prometheus.MustNewConstMetric(a.desc(), prometheus.GaugeValue, 1, membership.FormatID(m.MemberID), m.Alarm.String())
	}
}

// showGates tells which feature gates are on.
func showGates(reg prometheus.Registerer, gates config.Gates) {
	enabled := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "server", Name: "feature_enabled", Help: "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
	}, []string{"name", "stage"})
	reg.MustRegister(enabled)
	for _, k := range gates.All() {
		on := 0.0
		if k.Enabled {
			on = 1
		}
		enabled.WithLabelValues(k.Name, k.Stage).Set(on)
	}
}

// clientRequests counts requests by their kind and the client's API version.
func clientRequests(reg prometheus.Registerer) func(kind, version string) {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "etcd", Subsystem: "server", Name: "client_requests_total", Help: "The total number of client requests per client version.",
	}, []string{"type", "client_api_version"})
	reg.MustRegister(c)
	return func(kind, version string) { c.WithLabelValues(kind, version).Inc() }
}
