package survey

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/keelson-io/keelson/api/insightpb"
)

// maxMetrics bounds what is read of a member's metrics, in bytes.
const maxMetrics = 16 << 20

var errNoMetrics = errors.New("there is no way to ask for metrics over a socket")

// found is what a member serves to Prometheus.
type found struct {
	families map[string]*dto.MetricFamily
	date     time.Time         // of the answer, in whole seconds; zero: it said none
	shown    *x509.Certificate // by the member; nil: it is not asked over TLS
}

// scrape asks for the metrics of a member at its client address.
func (s *Survey) scrape(ctx context.Context, ep string) (*found, error) {
	url, err := s.metricsURL(ep)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	f := &found{}
	f.date, _ = http.ParseTime(resp.Header.Get("Date")) // the zero time without one
	if resp.TLS != nil && len(resp.TLS.PeerCertificates) > 0 {
		f.shown = resp.TLS.PeerCertificates[0]
	}
	f.families, err = parseMetrics(io.LimitReader(resp.Body, maxMetrics))
	return f, err
}

func (s *Survey) metricsURL(ep string) (string, error) {
	switch scheme, _, ok := strings.Cut(ep, ":"); {
	case ok && (scheme == "unix" || scheme == "unixs"):
		return "", errNoMetrics
	case strings.Contains(ep, "://"):
		return strings.TrimSuffix(ep, "/") + "/metrics", nil
	case s.cfg.Client.TLS != nil:
		return "https://" + ep + "/metrics", nil
	}
	return "http://" + ep + "/metrics", nil
}

func parseMetrics(r io.Reader) (map[string]*dto.MetricFamily, error) {
	p := expfmt.NewTextParser(model.LegacyValidation)
	return p.TextToMetricFamilies(r)
}

// value is that of a metric without labels.
func (f *found) value(name string) (float64, bool) {
	ms := f.families[name].GetMetric()
	if len(ms) != 1 {
		return 0, false
	}
	switch m := ms[0]; {
	case m.Gauge != nil:
		return m.Gauge.GetValue(), true
	case m.Counter != nil:
		return m.Counter.GetValue(), true
	case m.Untyped != nil:
		return m.Untyped.GetValue(), true
	}
	return 0, false
}

// number is the value of a metric, or of another one that says the same; -1 if there is none.
func (f *found) number(names ...string) int64 {
	for _, name := range names {
		if v, ok := f.value(name); ok && v >= 0 && v < 1<<62 {
			return int64(v)
		}
	}
	return -1
}

// histogram is one without labels, nil if there is none.
func (f *found) histogram(name string) *insightpb.Durations {
	if ms := f.families[name].GetMetric(); len(ms) == 1 {
		return durations(ms[0].GetHistogram())
	}
	return nil
}

func durations(h *dto.Histogram) *insightpb.Durations {
	if h == nil {
		return nil
	}
	d := &insightpb.Durations{Count: h.GetSampleCount(), Sum: h.GetSampleSum()}
	for _, b := range h.GetBucket() {
		if bound := b.GetUpperBound(); bound < 1e9 { // not the last one, which is infinite
			d.Bounds = append(d.Bounds, bound)
			d.Counts = append(d.Counts, b.GetCumulativeCount())
		}
	}
	return d
}

func labels(m *dto.Metric) map[string]string {
	out := map[string]string{}
	for _, l := range m.GetLabel() {
		out[l.GetName()] = l.GetValue()
	}
	return out
}

// addTo adds what the metrics say to a look that has the status already.
func (f *found) addTo(look *insightpb.LookResponse) {
	if !f.date.IsZero() {
		look.Time = f.date.Add(time.Second / 2).UnixNano()
	}
	if v, ok := f.value("process_start_time_seconds"); ok {
		look.Started = int64(v * 1e9)
	}
	for _, m := range f.families["etcd_server_go_version"].GetMetric() {
		look.Member.GoVersion = labels(m)["server_go_version"]
	}
	look.Process = &insightpb.Process{
		HeapBytes: uint64(max(0, f.number("go_memstats_heap_alloc_bytes"))), MemoryBytes: uint64(max(0, f.number("process_resident_memory_bytes"))),
		Goroutines: f.number("go_goroutines"), OpenFiles: f.number("os_fd_used", "process_open_fds"), FileLimit: f.number("os_fd_limit", "process_max_fds"),
		Connections: -1, ConnectionLimit: -1,
	}
	r := look.Raft
	r.LeaderChanges = f.number("etcd_server_leader_changes_seen_total")
	r.PendingProposals, r.FailedProposals = f.number("etcd_server_proposals_pending"), f.number("etcd_server_proposals_failed_total")
	st := look.Store
	st.Keys, st.CompactRevision = f.number("etcd_debugging_mvcc_keys_total"), f.number("etcd_debugging_mvcc_compact_revision")
	if st.DbSizeQuota == 0 {
		st.DbSizeQuota = max(0, f.number("etcd_server_quota_backend_bytes"))
	}
	look.Watches = &insightpb.Watches{
		Streams: f.number("etcd_debugging_mvcc_watch_stream_total"), Watchers: f.number("etcd_debugging_mvcc_watcher_total"),
		SlowWatchers: f.number("etcd_debugging_mvcc_slow_watcher_total"), PendingEvents: f.number("etcd_debugging_mvcc_pending_events_total"),
	}
	look.WalFsync = f.histogram("etcd_disk_wal_fsync_duration_seconds")
	look.BackendCommit = f.histogram("etcd_disk_backend_commit_duration_seconds")
	look.Methods = f.methods()
	f.addPeers(look)
	if c := f.shown; c != nil {
		look.Certificates = append(look.Certificates, &insightpb.Certificate{
			Side: "client", What: "own", Subject: c.Subject.String(), NotBefore: c.NotBefore.UnixNano(), NotAfter: c.NotAfter.UnixNano(),
		})
	}
}

// addPeers adds the round trips to the others.
func (f *found) addPeers(look *insightpb.LookResponse) {
	trips := map[uint64]*insightpb.Durations{}
	for _, m := range f.families["etcd_network_peer_round_trip_time_seconds"].GetMetric() {
		if id, err := strconv.ParseUint(labels(m)["To"], 16, 64); err == nil {
			trips[id] = durations(m.GetHistogram())
		}
	}
	for _, p := range look.Peers {
		p.RoundTrips = trips[p.Id]
	}
}

// methods are the calls that were counted.
func (f *found) methods() []*insightpb.Method {
	all := map[string]*insightpb.Method{}
	each := func(family string, do func(*insightpb.Method, *dto.Metric, map[string]string)) {
		for _, m := range f.families[family].GetMetric() {
			l := labels(m)
			name := "/" + l["grpc_service"] + "/" + l["grpc_method"]
			if all[name] == nil {
				all[name] = &insightpb.Method{Name: name, Stream: l["grpc_type"] != "unary", Handled: map[string]uint64{}}
			}
			do(all[name], m, l)
		}
	}
	each("grpc_server_started_total", func(to *insightpb.Method, m *dto.Metric, _ map[string]string) {
		to.Started = uint64(m.GetCounter().GetValue())
	})
	each("grpc_server_handled_total", func(to *insightpb.Method, m *dto.Metric, l map[string]string) {
		if n := uint64(m.GetCounter().GetValue()); n > 0 {
			to.Handled[l["grpc_code"]] = n
		}
	})
	each("grpc_server_handling_seconds", func(to *insightpb.Method, m *dto.Metric, _ map[string]string) {
		if !to.Stream {
			to.Durations = durations(m.GetHistogram())
		}
	})
	called := slices.DeleteFunc(slices.Collect(maps.Values(all)), func(m *insightpb.Method) bool { return m.Started == 0 })
	slices.SortFunc(called, func(a, b *insightpb.Method) int { return cmp.Compare(a.Name, b.Name) })
	return called
}
