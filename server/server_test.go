package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// services are the gRPC clients of one member.
type services struct {
	pb.KVClient
	pb.LeaseClient
	pb.ClusterClient
	pb.MaintenanceClient
}

func dial(c *servertest.Cluster, m *servertest.Member) services {
	conn := c.Dial(m)
	return services{pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewClusterClient(conn), pb.NewMaintenanceClient(conn)}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func get(t *testing.T, c *servertest.Cluster, m *servertest.Member, path string) (int, string) {
	t.Helper()
	resp, err := http.Get("http://" + m.Client + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// status asks all members until one says that it leads.
func leader(t *testing.T, c *servertest.Cluster) *servertest.Member {
	t.Helper()
	var lead *servertest.Member
	require.Eventually(t, func() bool {
		for _, m := range c.Members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			st, err := dial(c, m).Status(ctx, &pb.StatusRequest{})
			cancel()
			if err == nil && st.Leader == st.Header.MemberId {
				lead = m
				return true
			}
		}
		return false
	}, time.Minute, 20*time.Millisecond, "no leader")
	return lead
}

func TestDataDirectoryInUse(t *testing.T) {
	c := servertest.Start(t, 1)
	m := c.Members[0]
	other := *m
	other.Client, other.PeerURL = servertest.FreeAddr(t), "http://"+servertest.FreeAddr(t)
	args := c.Args(&other)
	for i, a := range args {
		args[i] = strings.Replace(a, m.PeerURL, other.PeerURL, 1)
	}
	cfg, err := config.Parse(args, nil)
	require.NoError(t, err)
	_, err = server.Start(context.Background(), cfg, zap.NewNop())
	require.ErrorIs(t, err, backend.ErrInUse)
	require.ErrorContains(t, err, m.Dir)

	cfg, err = config.Parse(c.Args(m), nil)
	require.NoError(t, err)
	_, err = server.Start(context.Background(), cfg, zap.NewNop())
	require.ErrorContains(t, err, "address already in use", "ports are taken before anything is opened")
}

func TestRestart(t *testing.T) {
	c := servertest.Start(t, 1)
	m, ctx := c.Members[0], deadline(t)
	s := dial(c, m)
	grant, err := s.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 600})
	require.NoError(t, err)
	for i := range 50 {
		_, err := s.Put(ctx, &pb.PutRequest{Key: fmt.Append(nil, "k", i%10), Value: fmt.Append(nil, i), Lease: grant.ID})
		require.NoError(t, err)
	}
	_, err = s.Compact(ctx, &pb.CompactionRequest{Revision: 20})
	require.NoError(t, err)
	before, err := s.HashKV(ctx, &pb.HashKVRequest{})
	require.NoError(t, err)
	c.Stop(m)
	c.Run(m)
	c.WaitReady(m)
	s = dial(c, m)
	after, err := s.HashKV(ctx, &pb.HashKVRequest{})
	require.NoError(t, err)
	require.Equal(t, before.Hash, after.Hash)
	require.Equal(t, before.Header.Revision, after.Header.Revision)
	ttl, err := s.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: grant.ID, Keys: true})
	require.NoError(t, err)
	require.Len(t, ttl.Keys, 10)
	_, err = s.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Revision: 19})
	require.ErrorContains(t, err, rpctypes.ErrCompacted.Error())
}

func TestHTTP(t *testing.T) {
	c := servertest.Start(t, 1)
	m := c.Members[0]
	for path, want := range map[string]string{
		"/health":                   `{"health":"true","reason":""}`,
		"/health?serializable=true": `{"health":"true","reason":""}`,
		"/livez":                    "ok\n",
		"/readyz":                   "ok\n",
		"/version":                  `"etcdserver":"3.7.3"`,
	} {
		code, body := get(t, c, m, path)
		require.Equal(t, http.StatusOK, code, path)
		require.Contains(t, body, want, path)
	}
	var code int
	var body string
	require.Eventually(t, func() bool { // the version is decided a moment after the start
		code, body = get(t, c, m, "/metrics")
		return code == http.StatusOK && strings.Contains(body, "etcd_cluster_version")
	}, time.Minute, 20*time.Millisecond)
	for _, name := range []string{
		"etcd_server_has_leader 1", "etcd_server_is_leader 1", "etcd_server_leader_changes_seen_total", "etcd_server_proposals_committed_total",
		"etcd_server_proposals_applied_total", "etcd_server_proposals_pending", "etcd_server_proposals_failed_total", "etcd_server_quota_backend_bytes",
		"etcd_server_version", "etcd_server_id", "etcd_server_go_version", "etcd_server_is_learner 0", "etcd_server_slow_read_indexes_total",
		"etcd_server_read_indexes_failed_total", "etcd_server_heartbeat_send_failures_total", "etcd_server_snapshot_apply_in_progress_total",
		"etcd_disk_wal_fsync_duration_seconds", "etcd_disk_wal_write_duration_seconds", "etcd_disk_wal_write_bytes_total",
		"etcd_disk_backend_commit_duration_seconds", "etcd_disk_backend_defrag_duration_seconds", "etcd_disk_backend_snapshot_duration_seconds",
		"etcd_disk_defrag_inflight", "etcd_mvcc_range_total", "etcd_mvcc_put_total", "etcd_mvcc_delete_total", "etcd_mvcc_txn_total",
		"etcd_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes", "etcd_mvcc_db_open_read_transactions",
		"etcd_debugging_mvcc_keys_total", "etcd_debugging_mvcc_watcher_total", "etcd_debugging_mvcc_watch_stream_total",
		"etcd_debugging_mvcc_slow_watcher_total", "etcd_debugging_mvcc_events_total", "etcd_debugging_mvcc_pending_events_total",
		"etcd_debugging_mvcc_current_revision", "etcd_debugging_mvcc_compact_revision", "etcd_cluster_version", "grpc_server_handled_total",
		`etcd_server_feature_enabled{name="FastLeaseKeepAlive",stage="BETA"} 1`, `etcd_server_feature_enabled{name="CompactHashCheck",stage="ALPHA"} 0`,
		"process_resident_memory_bytes", "go_goroutines",
	} {
		require.True(t, strings.Contains(body, name), name)
	}
}

// TestNoSpace fills the quota, sees the alarm, makes room, and sees the alarm go by itself.
func TestNoSpace(t *testing.T) {
	c := servertest.Start(t, 1, "--quota-backend-bytes=1000000")
	m, ctx := c.Members[0], deadline(t)
	s := dial(c, m)
	var err error
	for i := 0; err == nil && i < 1000; i++ {
		_, err = s.Put(ctx, &pb.PutRequest{Key: fmt.Append(nil, "k", i), Value: make([]byte, 10_000)})
	}
	require.ErrorContains(t, err, rpctypes.ErrNoSpace.Error())
	alarms := func() int {
		r, err := s.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
		require.NoError(t, err)
		return len(r.Alarms)
	}
	require.Eventually(t, func() bool { return alarms() == 1 }, 5*time.Second, 10*time.Millisecond)
	code, body := get(t, c, m, "/health")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Contains(t, body, "NOSPACE")
	_, err = s.Put(ctx, &pb.PutRequest{Key: []byte("small")})
	require.ErrorContains(t, err, rpctypes.ErrNoSpace.Error(), "while the alarm lasts nothing grows")

	del, err := s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	require.NoError(t, err)
	_, err = s.Compact(ctx, &pb.CompactionRequest{Revision: del.Header.Revision, Physical: true})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return alarms() == 0 }, time.Minute, 20*time.Millisecond)
	_, err = s.Put(ctx, &pb.PutRequest{Key: []byte("small")})
	require.NoError(t, err)
}

// TestLearner grows a cluster by a learner, promotes it and removes it again.
func TestLearner(t *testing.T) {
	c := servertest.Start(t, 1, servertest.Quick()...)
	first, ctx := c.Members[0], deadline(t)
	s := dial(c, first)
	_, err := s.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	require.NoError(t, err)
	second := c.Add(servertest.Quick()...)
	added, err := s.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{second.PeerURL}, IsLearner: true})
	require.NoError(t, err)
	_, err = s.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{second.PeerURL}, IsLearner: true})
	require.ErrorContains(t, err, "exist")
	_, err = s.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: added.Member.ID})
	require.ErrorContains(t, err, rpctypes.ErrMemberLearnerNotReady.Error())
	c.Run(second)
	c.WaitReady(second)
	l := dial(c, second)
	_, err = l.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
	require.ErrorContains(t, err, rpctypes.ErrGRPCNotSupportedForLearner.Error())
	r, err := l.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	require.NoError(t, err)
	require.EqualValues(t, 1, r.Count)
	require.Eventually(t, func() bool {
		_, err = s.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: added.Member.ID})
		return err == nil
	}, time.Minute, 50*time.Millisecond)
	require.Eventually(t, func() bool { // it learns of its promotion a moment later
		_, err = l.Put(ctx, &pb.PutRequest{Key: []byte("b"), Value: []byte("2")})
		return err == nil
	}, time.Minute, 10*time.Millisecond)
	require.Eventually(t, func() bool { // strict checks want connections that have lasted
		_, err = s.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: added.Member.ID})
		return err == nil
	}, time.Minute, 100*time.Millisecond)
	select {
	case <-second.Done():
	case <-time.After(time.Minute):
		t.Fatal("a removed member goes on")
	}
	_, err = s.Put(ctx, &pb.PutRequest{Key: []byte("c"), Value: []byte("3")})
	require.NoError(t, err)
}

// TestLeaseSurvivesLeader lets a lease run over a change of the leader, through a follower.
func TestLeaseSurvivesLeader(t *testing.T) {
	c := servertest.Start(t, 3, servertest.Quick()...)
	ctx := deadline(t)
	old := leader(t, c)
	s := dial(c, old)
	grant, err := s.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 3})
	require.NoError(t, err)
	_, err = s.Put(ctx, &pb.PutRequest{Key: []byte("a"), Lease: grant.ID})
	require.NoError(t, err)
	granted := time.Now()
	c.Stop(old)
	c.Members = without(c.Members, old)
	now := leader(t, c)
	var follower *servertest.Member
	for _, m := range c.Members {
		if m != now {
			follower = m
		}
	}
	f := dial(c, follower)
	alive, err := f.LeaseKeepAlive(ctx)
	require.NoError(t, err)
	require.NoError(t, alive.Send(&pb.LeaseKeepAliveRequest{ID: grant.ID}))
	kept, err := alive.Recv()
	require.NoError(t, err)
	require.EqualValues(t, 3, kept.TTL)
	renewed := time.Now()
	require.Eventually(t, func() bool {
		r, err := f.Range(ctx, &pb.RangeRequest{Key: []byte("a")})
		require.NoError(t, err)
		return r.Count == 0
	}, 20*time.Second, 50*time.Millisecond)
	require.Greater(t, time.Since(renewed), 2900*time.Millisecond, "never early, %s after the grant", time.Since(granted))
}

func without(ms []*servertest.Member, m *servertest.Member) (out []*servertest.Member) {
	for _, o := range ms {
		if o != m {
			out = append(out, o)
		}
	}
	return out
}

// TestSnapshotToFollower lets a follower fall so far behind that it gets the whole state, while writes go on.
func TestSnapshotToFollower(t *testing.T) {
	c := servertest.Start(t, 3, append(servertest.Quick(), "--snapshot-count=50", "--snapshot-catchup-entries=10")...)
	ctx := deadline(t)
	lead := leader(t, c)
	var down *servertest.Member
	for _, m := range c.Members {
		if m != lead {
			down = m
		}
	}
	c.Stop(down)
	s := dial(c, lead)
	write := func(n int) {
		for i := range n {
			_, err := s.Put(ctx, &pb.PutRequest{Key: fmt.Append(nil, "k", i%100), Value: make([]byte, 1000)})
			require.NoError(t, err)
		}
	}
	write(500)
	c.Run(down)
	write(300)
	c.WaitReady(down)
	want, err := s.HashKV(ctx, &pb.HashKVRequest{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		got, err := dial(c, down).HashKV(ctx, &pb.HashKVRequest{Revision: want.Header.Revision})
		return err == nil && got.Hash == want.Hash
	}, time.Minute, 50*time.Millisecond)
}
