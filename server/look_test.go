package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestLook compares what a look tells with what was done.
func TestLook(t *testing.T) {
	c := servertest.Start(t, 3)
	ctx, m := deadline(t), leader(t, c)
	conn := c.Dial(m)
	kv, watches, insight := pb.NewKVClient(conn), pb.NewWatchClient(conn), insightpb.NewInsightClient(conn)
	leased, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 600})
	require.NoError(t, err)
	for i := range 60 {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "/registry/pods/ns%d/p%d", i%2, i), Value: make([]byte, 1000), Lease: leased.ID})
		require.NoError(t, err)
	}
	for range 30 {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("/registry/configmaps/"), RangeEnd: []byte("/registry/configmaps0")})
		require.NoError(t, err)
	}
	for range 30 {
		_, err = kv.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte("none"), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 7}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("never/x")}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{
				{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("lock"), Value: []byte("x")}}}}}}}},
		})
		require.NoError(t, err)
	}
	for range 30 {
		stream, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("streamed/"), RangeEnd: []byte("streamed0")})
		require.NoError(t, err)
		_, err = stream.Recv()
		require.NoError(t, err)
	}
	_, err = kv.Range(ctx, &pb.RangeRequest{Key: []byte("k"), Revision: 1 << 40})
	require.Error(t, err)
	w, err := watches.Watch(ctx)
	require.NoError(t, err)
	require.NoError(t, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("x")}}}))
	_, err = w.Recv()
	require.NoError(t, err)

	var look *insightpb.LookResponse
	require.Eventually(t, func() bool { // what is told of followers is as of the last tick
		look, err = insight.Look(ctx, &insightpb.LookRequest{})
		return err != nil || !slices.ContainsFunc(look.Raft.Followers, func(f *insightpb.Follower) bool { return f.State != "replicate" })
	}, 10*time.Second, 20*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, m.Name, look.Member.Name)
	require.Equal(t, look.Header.MemberId, look.Raft.Leader)
	require.InDelta(t, time.Now().UnixNano(), look.Time, float64(time.Minute))
	require.Less(t, look.Started, look.Time)
	require.EqualValues(t, 61, look.Store.Keys)
	require.Greater(t, look.Store.KeyBytes, int64(60_000))
	require.Equal(t, look.Header.Revision, look.Store.Revision)
	require.EqualValues(t, 1, look.Leases)
	require.EqualValues(t, 1, look.Watches.Watchers)
	require.EqualValues(t, 1, look.Watches.Streams)
	require.GreaterOrEqual(t, look.Process.Connections, int64(1))
	require.Greater(t, look.Process.FileLimit, look.Process.OpenFiles)
	require.Greater(t, look.Process.MemoryBytes, look.Process.HeapBytes)
	require.Len(t, look.Peers, 2)
	require.Len(t, look.Raft.Followers, 2)
	for i, f := range look.Raft.Followers {
		require.Equal(t, look.Peers[i].Id, f.Id)
		require.NotZero(t, look.Peers[i].ActiveSince)
	}
	require.GreaterOrEqual(t, look.Raft.LeaderChanges, int64(1))
	require.NotZero(t, look.WalFsync.Count)
	require.Len(t, look.WalFsync.Counts, len(look.WalFsync.Bounds))
	require.Empty(t, look.Errors)

	methods := map[string]*insightpb.Method{}
	for _, one := range look.Methods {
		methods[one.Name] = one
	}
	require.EqualValues(t, 60, methods["/etcdserverpb.KV/Put"].Handled["OK"])
	require.EqualValues(t, 60, methods["/etcdserverpb.KV/Put"].Durations.Count)
	require.EqualValues(t, 30, methods["/etcdserverpb.KV/Range"].Handled["OK"])
	require.EqualValues(t, 1, methods["/etcdserverpb.KV/Range"].Handled["OutOfRange"])
	require.EqualValues(t, 1, methods["/etcdserverpb.Watch/Watch"].Started)
	require.Empty(t, methods["/etcdserverpb.Watch/Watch"].Handled)

	hot := map[string]*insightpb.HotPrefix{}
	for _, h := range look.Prefixes.Hottest {
		hot[string(h.Prefix)] = h
	}
	require.Positive(t, hot["/registry/pods/"].GetWrites())
	require.Zero(t, hot["/registry/pods/"].GetReads())
	require.Positive(t, hot["/registry/configmaps/"].GetReads())
	require.Positive(t, hot["lock"].GetWrites())
	require.Positive(t, hot["streamed/"].GetReads())
	require.NotContains(t, hot, "never/")
	require.Equal(t, "/registry/pods/", string(look.Prefixes.Biggest[0].Prefix))
	require.EqualValues(t, 60, look.Prefixes.Biggest[0].Keys)
	require.Equal(t, "/registry/pods/ns0/", string(look.Prefixes.Biggest[1].Prefix))
	require.EqualValues(t, 30, look.Prefixes.Biggest[1].Keys)
	require.LessOrEqual(t, len(look.Prefixes.Biggest), 20)

	none, err := insight.Look(ctx, &insightpb.LookRequest{Prefixes: -1})
	require.NoError(t, err)
	require.Nil(t, none.Prefixes)
}

// TestLookOverJSON asks by the gateway.
func TestLookOverJSON(t *testing.T) {
	c := servertest.Start(t, 1)
	resp, err := http.Post("http://"+c.Members[0].Client+"/keelson/v1/look", "application/json", strings.NewReader(`{"prefixes": 3}`))
	require.NoError(t, err)
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(body))
	var look struct {
		Header struct {
			MemberID string `json:"member_id"`
		}
		Member struct {
			Name string
		}
		Raft struct {
			Leader string
		}
	}
	require.NoError(t, json.Unmarshal(body, &look))
	require.Equal(t, c.Members[0].Name, look.Member.Name)
	require.Equal(t, look.Header.MemberID, look.Raft.Leader)
}

// TestLookWithAuth: who is known may look; prefixes are for root.
func TestLookWithAuth(t *testing.T) {
	ca := certs.New(t)
	pair, root := ca.Issue("server", "server", "127.0.0.1", "localhost"), ca.Issue("root", "root")
	c := servertest.NewSecure(t, 1, ca.TLS(root), append(secureFlags(ca, pair), "--bcrypt-cost=4")...)
	m, ctx := c.Members[0], deadline(t)
	c.Run(m)
	c.WaitReady(m)
	conn := c.Dial(m)
	users, insight := pb.NewAuthClient(conn), insightpb.NewInsightClient(conn)
	for _, name := range []string{"root", "alice"} {
		_, err := users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: "pw"})
		require.NoError(t, err)
	}
	_, err := users.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	require.NoError(t, err)
	_, err = users.AuthEnable(ctx, &pb.AuthEnableRequest{})
	require.NoError(t, err)
	for name, hidden := range map[string]bool{"root": false, "alice": true} {
		login, err := users.Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: "pw"})
		require.NoError(t, err)
		look, err := insight.Look(metadata.AppendToOutgoingContext(ctx, "token", login.Token), &insightpb.LookRequest{})
		require.NoError(t, err)
		require.Equal(t, hidden, look.Prefixes.Hidden, name)
		require.True(t, look.Member.AuthEnabled)
		sides := map[string]int{}
		for _, c := range look.Certificates {
			require.Greater(t, c.NotAfter, look.Time)
			sides[c.Side+" "+c.What]++
		}
		require.Equal(t, map[string]int{"client own": 1, "client authority": 1, "peer own": 1, "peer authority": 1}, sides)
	}
	_, err = insight.Look(metadata.AppendToOutgoingContext(ctx, "token", "nonsense"), &insightpb.LookRequest{})
	require.Equal(t, codes.Unauthenticated, status.Code(err))
}
