package conformance

import (
	"bytes"
	"context"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/server/servertest"
)

// otherMetrics are those of etcd's that a member does not have, by the beginnings of their names, and why.
var otherMetrics = map[string]string{
	"go_": "of the Go runtime: the two programs may be built with different ones",
}

// family is what dashboards and alerts depend on.
type family struct {
	Type    string
	Help    string
	Labels  []string  // names
	Buckets []float64 // upper bounds, of a histogram
}

// families reads the metrics of a member.
func families(t *testing.T, addr string) map[string]family {
	t.Helper()
	client := http.Client{Timeout: Timeout}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + addr + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	require.NoError(t, err)
	out := map[string]family{}
	for name, f := range all {
		out[name] = familyOf(f)
	}
	return out
}

func familyOf(f *dto.MetricFamily) family {
	labels := map[string]bool{}
	d := family{Type: f.GetType().String(), Help: f.GetHelp()}
	for _, m := range f.Metric {
		for _, l := range m.Label {
			labels[l.GetName()] = true
		}
		d.Buckets = nil
		for _, b := range m.GetHistogram().GetBucket() {
			if !math.IsInf(b.GetUpperBound(), 1) {
				d.Buckets = append(d.Buckets, b.GetUpperBound())
			}
		}
	}
	d.Labels = slices.Sorted(maps.Keys(labels))
	return d
}

// exercise makes a few calls, so that metrics with labels have series.
func exercise(t *testing.T, addr string) {
	t.Helper()
	conn := dial(t, addr)
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	defer cancel()
	kv := pb.NewKVClient(conn)
	get := &pb.RangeRequest{Key: []byte("a")}
	_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	require.NoError(t, err)
	_, err = kv.Range(ctx, get)
	require.NoError(t, err)
	_, err = kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: get}}}})
	require.NoError(t, err)
	_, err = kv.Compact(ctx, &pb.CompactionRequest{Revision: 2, Physical: true})
	require.NoError(t, err)
	watch(t, ctx, conn)
	_, err = pb.NewClusterClient(conn).MemberPromote(ctx, &pb.MemberPromoteRequest{ID: 1})
	require.Error(t, err)
	maintenance := pb.NewMaintenanceClient(conn)
	_, err = maintenance.Hash(ctx, &pb.HashRequest{})
	require.NoError(t, err)
	_, err = maintenance.HashKV(ctx, &pb.HashKVRequest{})
	require.NoError(t, err)
	_, err = maintenance.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_CORRUPT})
	require.NoError(t, err)
	families(t, addr) // what counts scrapes shows from the second one on
}

// watch receives an event of a watch.
func watch(t *testing.T, ctx context.Context, conn *grpc.ClientConn) {
	t.Helper()
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	require.NoError(t, err)
	require.NoError(t, stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{
		CreateRequest: &pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2},
	}}))
	for events := 0; events == 0; {
		r, err := stream.Recv()
		require.NoError(t, err)
		events = len(r.Events)
	}
	require.NoError(t, stream.CloseSend())
}

// TestMetrics finds every metric of etcd's in a member, with the same type, labels, buckets and help.
func TestMetrics(t *testing.T) {
	oracle := servertest.New(t, 1)
	oracle.RunProgram(oracle.Members[0], servertest.Oracle(t, "etcd"))
	oracle.WaitReady(oracle.Members[0])
	etcd, own := oracle.Members[0].Client, servertest.Start(t, 1).Members[0].Client
	exercise(t, etcd)
	exercise(t, own)
	want, got := families(t, etcd), families(t, own)
	require.Contains(t, want, "etcd_debugging_server_alarms")
	used := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if why := otherMetric(name); why != "" {
			used[why] = true
			continue
		}
		if f, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if w := want[name]; strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "grpc_") {
			require.Equal(t, [2]any{w.Type, w.Labels}, [2]any{f.Type, f.Labels}, name) // helps are of the libraries
		} else {
			require.Equal(t, w, f, name)
		}
	}
	require.Len(t, used, len(otherMetrics), "an exception that is none")
	requireMeasured(t, own)
}

func otherMetric(name string) string {
	for prefix := range otherMetrics {
		if strings.HasPrefix(name, prefix) {
			return prefix
		}
	}
	return ""
}

// requireMeasured looks whether what the calls did is counted.
func requireMeasured(t *testing.T, addr string) {
	t.Helper()
	client := http.Client{Timeout: Timeout}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://" + addr + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, line := range []string{
		`etcd_server_apply_duration_seconds_count{op="Put",success="true",version="v3"} [1-9]`,
		`etcd_server_range_duration_seconds_count{success="true"} [1-9]`,
		`etcd_server_request_duration_seconds_count{success="true",type="Put"} [1-9]`,
		`etcd_server_request_duration_seconds_count{success="true",type="Range"} [1-9]`,
		`etcd_server_request_duration_seconds_count{success="true",type="ReadonlyTxn"} 1`,
		`etcd_server_learner_promote_failures{Reason="membership: ID not found"} 1`,
		`etcd_debugging_server_alarms{alarm_type="CORRUPT",server_id="1"} 1`,
		`etcd_debugging_mvcc_db_compaction_last [1-9]`,
		`etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count 1`,
		`etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_count 1`,
		`etcd_debugging_mvcc_total_put_size_in_bytes [1-9]`,
		`etcd_mvcc_hash_duration_seconds_count 1`,
		`etcd_mvcc_hash_rev_duration_seconds_count 1`,
		`etcd_debugging_disk_backend_commit_write_duration_seconds_sum [0-9.e-]*[1-9]`,
		`etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds_count 1`,
		`etcd_debugging_server_watch_send_loop_control_stream_duration_seconds_count [1-9]`,
		`etcd_network_client_grpc_sent_bytes_total [1-9]`,
		`etcd_network_client_grpc_received_bytes_total [1-9]`,
		`os_fd_used [1-9]`,
		`os_fd_limit [1-9]`,
	} {
		require.Regexp(t, "(?m)^"+strings.NewReplacer("{", `\{`, "}", `\}`).Replace(line), string(text))
	}
}
