package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/api/v3electionpb"
	"github.com/keelson-io/keelson/api/v3lockpb"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestAccessLog makes calls of all kinds and looks at their lines. What is secret in them is called secret.
func TestAccessLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	c := servertest.Start(t, 1, append(servertest.Quick(), "--access-log="+file, "--bcrypt-cost=4")...)
	m, ctx := c.Members[0], deadline(t)
	conn := c.Dial(m)
	kv, leases, watches, users := pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewWatchClient(conn), pb.NewAuthClient(conn)
	do := func(_ any, err error) {
		t.Helper()
		require.NoError(t, err)
	}
	put := &pb.PutRequest{Key: []byte("/a"), Value: []byte("secret-value")}
	get := &pb.RangeRequest{Key: []byte("/"), RangeEnd: []byte("0")}
	do(kv.Put(ctx, put))
	resp, err := http.Post("http://"+m.Client+"/v3/kv/range", "application/json", strings.NewReader(`{"key":"L2E="}`))
	require.NoError(t, err)
	_ = resp.Body.Close()
	do(kv.Put(ctx, &pb.PutRequest{Key: []byte("\xff"), Value: []byte("secret-value")}))
	do(kv.Range(ctx, get))
	do(kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{{Key: []byte("/a"), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte("secret-value")}}},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}}}}},
		Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: get}}},
	}))
	do(kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("/a"), PrevKv: true}))
	_, err = kv.Range(ctx, &pb.RangeRequest{})
	require.Error(t, err)
	do(leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 600, ID: 7}))
	do(v3lockpb.NewLockClient(conn).Lock(ctx, &v3lockpb.LockRequest{Name: []byte("lock"), Lease: 7}))
	do(v3electionpb.NewElectionClient(conn).Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("vote"), Lease: 7, Value: []byte("secret-value")}))

	w, err := watches.Watch(ctx)
	require.NoError(t, err)
	for _, key := range []string{"/w1", "/w2"} {
		require.NoError(t, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte("/x")}}}))
		do(w.Recv())
	}
	do(kv.Put(ctx, &pb.PutRequest{Key: []byte("/w2"), Value: []byte("secret-value")}))
	do(w.Recv())
	do(w.Recv())
	require.NoError(t, w.CloseSend())
	keep, err := leases.LeaseKeepAlive(ctx)
	require.NoError(t, err)
	require.NoError(t, keep.Send(&pb.LeaseKeepAliveRequest{ID: 7}))
	do(keep.Recv())
	require.NoError(t, keep.CloseSend())
	parts, err := kv.RangeStream(ctx, get)
	require.NoError(t, err)
	for err == nil {
		_, err = parts.Recv()
	}
	require.ErrorIs(t, err, io.EOF)

	do(users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "secret-password"}))
	do(users.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"}))
	do(users.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "root", Perm: &authpb.Permission{Key: []byte("/p"), RangeEnd: []byte("/q")}}))
	do(users.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}))
	do(users.AuthEnable(ctx, &pb.AuthEnableRequest{}))
	_, err = users.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "secret-wrong"})
	require.Error(t, err)
	login, err := users.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "secret-password"})
	require.NoError(t, err)
	asRoot := metadata.AppendToOutgoingContext(ctx, "token", login.Token)
	do(kv.Put(asRoot, put))
	do(users.UserChangePassword(asRoot, &pb.AuthUserChangePasswordRequest{Name: "root", Password: "secret-password2"}))
	_ = conn.Close()
	c.Stop(m)

	data, err := os.ReadFile(file)
	require.NoError(t, err)
	for _, secret := range []string{"secret", login.Token, strings.Split(login.Token, ".")[0]} {
		require.NotContains(t, string(data), secret)
	}
	requireLines(t, string(data), []string{
		`KV/Put call 127.0.0.1 key=/a revision=2 code=OK`,
		`KV/Range call 127.0.0.1 key=/a revision=2 keys=1 code=OK`, // over the gateway
		`KV/Put call 127.0.0.1 key=hex:ff revision=3 code=OK`,
		`KV/Range call 127.0.0.1 key=/ range_end=0 revision=3 keys=1 code=OK`,
		`KV/Txn call 127.0.0.1 key=/a ops=2 revision=4 code=OK`,
		`KV/DeleteRange call 127.0.0.1 key=/a revision=5 keys=1 code=OK`,
		`KV/Range call 127.0.0.1 code=InvalidArgument`,
		`Lease/LeaseGrant call 127.0.0.1 lease=7 revision=5 code=OK`,
		`Lock/Lock call 127.0.0.1 name=lock lease=7 revision=6 code=OK`,
		`Election/Campaign call 127.0.0.1 name=vote lease=7 revision=7 code=OK`,
		`Watch/Watch open 127.0.0.1 key=/w1 range_end=/x`,
		`Watch/Watch watch 127.0.0.1 key=/w2 range_end=/x`,
		`Watch/Watch end 127.0.0.1 revision=8 keys=2 code=Canceled`,
		`KV/Put call 127.0.0.1 key=/w2 revision=8 code=OK`,
		`Lease/LeaseKeepAlive open 127.0.0.1 lease=7`,
		`Lease/LeaseKeepAlive end 127.0.0.1 revision=8 code=OK`,
		`KV/RangeStream open 127.0.0.1 key=/ range_end=0`,
		`KV/RangeStream end 127.0.0.1 revision=8 keys=1 code=OK`,
		`Auth/UserAdd call 127.0.0.1 name=root revision=8 code=OK`,
		`Auth/RoleAdd call 127.0.0.1 name=root revision=8 code=OK`,
		`Auth/RoleGrantPermission call 127.0.0.1 name=root key=/p range_end=/q revision=8 code=OK`,
		`Auth/UserGrantRole call 127.0.0.1 name=root revision=8 code=OK`,
		`Auth/AuthEnable call 127.0.0.1 revision=8 code=OK`,
		`Auth/Authenticate call 127.0.0.1 name=root code=InvalidArgument`,
		`Auth/Authenticate call 127.0.0.1 name=root revision=8 code=OK`,
		`KV/Put call root key=/a revision=9 code=OK`,
		`Auth/UserChangePassword call root name=root revision=9 code=OK`,
	})
}

// requireLines compares the lines of an access log, in any order, without times and numbers of bytes.
func requireLines(t *testing.T, log string, want []string) {
	t.Helper()
	var got []string
	for _, line := range strings.Split(strings.TrimSpace(log), "\n") {
		var f map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &f), line)
		require.NotEmpty(t, f["time"])
		require.NotEmpty(t, f["remote"])
		if f["event"] != "open" && f["event"] != "watch" {
			require.NotZero(t, f["seconds"])
		}
		method := f["method"].(string)
		short := fmt.Sprintf("%s %s %s", method[strings.LastIndexByte(method, '.')+1:], f["event"], f["identity"])
		for _, name := range []string{"name", "key", "range_end", "lease", "ops", "revision", "keys", "code"} {
			if v, ok := f[name]; ok {
				short += fmt.Sprintf(" %s=%v", name, v)
			}
		}
		got = append(got, short)
	}
	slices.Sort(got)
	slices.Sort(want)
	require.Equal(t, want, got)
}

func TestNoAccessLog(t *testing.T) {
	c := servertest.New(t, 1, "--access-log="+filepath.Join(t.TempDir(), "no", "such", "folder"))
	cfg, err := config.Parse(c.Args(c.Members[0]), nil)
	require.NoError(t, err)
	_, err = server.Start(t.Context(), cfg, zap.NewNop())
	require.ErrorContains(t, err, "--access-log: open")
}
