package survey

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/api/insightpb"
)

func TestQuantile(t *testing.T) {
	d := &insightpb.Durations{Bounds: []float64{0.001, 0.002, 0.004}, Counts: []uint64{50, 100, 100}, Count: 110}
	for _, c := range []struct {
		of   *insightpb.Durations
		q    float64
		want time.Duration
		ok   bool
	}{
		{nil, 0.5, 0, false},
		{&insightpb.Durations{}, 0.5, 0, false},
		{&insightpb.Durations{Bounds: []float64{1}, Count: 3}, 0.5, 0, false}, // does not fit together
		{d, 0.25, 550 * time.Microsecond, true},
		{d, 50.0 / 110, time.Millisecond, true},
		{d, 75.0 / 110, 1500 * time.Microsecond, true},
		{d, 0.99, 4 * time.Millisecond, true}, // above the last bound
		{d, 0, 0, true},
	} {
		got, ok := Quantile(c.of, c.q)
		require.Equal(t, c.ok, ok)
		require.InDelta(t, c.want, got, 1000)
	}
}

func TestSinceAndSum(t *testing.T) {
	d := func(a, b uint64) *insightpb.Durations {
		return &insightpb.Durations{Bounds: []float64{1, 2}, Counts: []uint64{a, a + b}, Count: a + b + 1, Sum: float64(a)}
	}
	since := Since(d(10, 20), d(4, 5))
	require.Equal(t, []uint64{6, 21}, since.Counts)
	require.EqualValues(t, 21, since.Count)
	require.EqualValues(t, 6, since.Sum)
	for _, other := range []*insightpb.Durations{nil, d(40, 50), {Bounds: []float64{1}, Counts: []uint64{1}}, {Bounds: []float64{1, 2}, Counts: []uint64{20, 20}, Count: 3}} {
		require.Equal(t, d(10, 20), Since(d(10, 20), other)) // began anew, or was something else
	}
	require.Nil(t, Since(nil, d(1, 1)))
	sum := Sum(nil, d(1, 2), &insightpb.Durations{Bounds: []float64{1}, Counts: []uint64{1}, Count: 1}, d(3, 4))
	require.Equal(t, []uint64{4, 10}, sum.Counts)
	require.EqualValues(t, 12, sum.Count)
	require.Nil(t, Sum(nil, nil))
}

func TestMetricsURL(t *testing.T) {
	s := New(Config{})
	for ep, want := range map[string]string{
		"a:2379": "http://a:2379/metrics", "https://a:2379": "https://a:2379/metrics", "http://a:2379/": "http://a:2379/metrics", "unix:///s": "",
	} {
		got, err := s.metricsURL(ep)
		require.Equal(t, want, got)
		require.Equal(t, want == "", err != nil)
	}
}

// FuzzMetrics: whatever a member serves to Prometheus makes a look, or an error.
func FuzzMetrics(f *testing.F) {
	f.Add("# TYPE etcd_disk_wal_fsync_duration_seconds histogram\netcd_disk_wal_fsync_duration_seconds_bucket{le=\"0.001\"} 3\n" +
		"etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"} 4\netcd_disk_wal_fsync_duration_seconds_sum 1\netcd_disk_wal_fsync_duration_seconds_count 4\n" +
		"grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 7\n" +
		"grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 8\nprocess_open_fds NaN\n")
	f.Add("etcd_network_peer_round_trip_time_seconds 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		families, err := parseMetrics(strings.NewReader(text))
		if err != nil {
			return
		}
		look := &insightpb.LookResponse{Member: &insightpb.Member{}, Raft: &insightpb.Raft{}, Store: &insightpb.Store{}, Peers: []*insightpb.Peer{{Id: 1}}}
		(&found{families: families}).addTo(look)
		for _, d := range []*insightpb.Durations{look.WalFsync, look.BackendCommit} {
			if d != nil {
				require.Len(t, d.Counts, len(d.Bounds))
			}
		}
	})
}
