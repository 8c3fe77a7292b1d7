package conformance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/server/servertest"
)

// rights are what the users of the matrix may do, by role; every user has the roles whose names are in its own.
var rights = map[string][]*authpb.Permission{
	"point": {perm(authpb.Permission_READWRITE, "c", "")},
	"split": {perm(authpb.Permission_READWRITE, "b", "d"), perm(authpb.Permission_READWRITE, "d", "f"), perm(authpb.Permission_READWRITE, "h", "k")},
	"read":  {perm(authpb.Permission_READ, "a", "f"), perm(authpb.Permission_READ, "e", "g"), perm(authpb.Permission_READ, "j", "")},
	"write": {perm(authpb.Permission_WRITE, "d", "i")},
	"tail":  {perm(authpb.Permission_READWRITE, "h", "\x00")},
	"many": {
		perm(authpb.Permission_READ, "m", "n"), perm(authpb.Permission_READ, "a", "b"), perm(authpb.Permission_READ, "g", "h"),
		perm(authpb.Permission_READ, "c", "d"), perm(authpb.Permission_READ, "k", "l"), perm(authpb.Permission_READ, "e", "f"),
		perm(authpb.Permission_READ, "i", "j"), perm(authpb.Permission_READ, "l", "p"), perm(authpb.Permission_WRITE, "c", "d"),
	},
}

// identities are the users of the matrix with their roles.
var identities = map[string][]string{
	"point": {"point"}, "split": {"split"}, "reader": {"read"}, "writer": {"write"}, "both": {"read", "write"}, "tail": {"tail"},
	"many": {"many", "read"}, "none": nil, "root": {"root"},
}

func perm(kind authpb.Permission_Type, key, end string) *authpb.Permission {
	return &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)}
}

// ranges are of all shapes: keys, intervals, open ones, empty ones, and such as end before they begin.
func ranges() (out [][2]string) {
	for _, key := range []string{"a", "c", "e", "h", "j", "m", "z"} {
		for _, end := range []string{"", "\x00", "a", "b", "d", "f", "g", "k", "zz"} {
			out = append(out, [2]string{key, end})
		}
	}
	return out
}

// operations are calls on a range that change nothing but the keys in it.
var operations = map[string]func(ctx context.Context, c clients, key, end []byte) error{
	"range": func(ctx context.Context, c clients, key, end []byte) error {
		_, err := c.Range(ctx, &pb.RangeRequest{Key: key, RangeEnd: end})
		return err
	},
	"serializable": func(ctx context.Context, c clients, key, end []byte) error {
		_, err := c.Range(ctx, &pb.RangeRequest{Key: key, RangeEnd: end, Serializable: true})
		return err
	},
	"delete": func(ctx context.Context, c clients, key, end []byte) error {
		_, err := c.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, RangeEnd: end})
		return err
	},
	"delete prev": func(ctx context.Context, c clients, key, end []byte) error {
		_, err := c.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: true})
		return err
	},
	"put": func(ctx context.Context, c clients, key, _ []byte) error {
		_, err := c.Put(ctx, &pb.PutRequest{Key: key})
		return err
	},
	"put prev": func(ctx context.Context, c clients, key, _ []byte) error {
		_, err := c.Put(ctx, &pb.PutRequest{Key: key, PrevKv: true})
		return err
	},
	"compare": func(ctx context.Context, c clients, key, end []byte) error {
		_, err := c.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: key, RangeEnd: end, Result: pb.Compare_GREATER, Target: pb.Compare_VERSION}},
		})
		return err
	},
	"nested": func(ctx context.Context, c clients, key, end []byte) error {
		inner := &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: key, RangeEnd: end}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key, RangeEnd: end}}}},
		}
		_, err := c.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: inner}}}})
		return err
	},
	"watch": func(ctx context.Context, c clients, key, end []byte) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w, err := c.Watch(ctx)
		if err != nil {
			return err
		}
		create := &pb.WatchCreateRequest{Key: key, RangeEnd: end}
		if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return err
		}
		r, err := w.Recv()
		if err == nil && r.Canceled {
			err = fmt.Errorf("canceled: %s", r.CancelReason)
		}
		return err
	},
}

type clients struct {
	pb.KVClient
	pb.AuthClient
	pb.WatchClient
}

// matrix does every operation on every range as every identity, and says what came out.
func matrix(t *testing.T, addr string) []string {
	t.Helper()
	conn := dial(t, addr)
	c := clients{pb.NewKVClient(conn), pb.NewAuthClient(conn), pb.NewWatchClient(conn)}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out []string
	tokens := setUp(ctx, t, c)
	for _, who := range slices.Sorted(maps.Keys(tokens)) {
		ctx := ctx
		if who != "" {
			ctx = WithToken(ctx, tokens[who])
		}
		for _, op := range slices.Sorted(maps.Keys(operations)) {
			for _, rg := range ranges() {
				err := operations[op](ctx, c, []byte(rg[0]), []byte(rg[1]))
				result := "ok"
				if err != nil {
					result = describe(err)
				}
				out = append(out, fmt.Sprintf("%q: %s [%q, %q): %s", who, op, rg[0], rg[1], result))
			}
		}
	}
	return out
}

// setUp makes users, enables authentication and returns the tokens of all users; "" is nobody, "wrong" has a token that is
// none.
func setUp(ctx context.Context, t *testing.T, c clients) map[string]string {
	t.Helper()
	for _, role := range slices.Sorted(maps.Keys(rights)) {
		_, err := c.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: role})
		require.NoError(t, err)
		for _, p := range rights[role] {
			_, err := c.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: p})
			require.NoError(t, err)
		}
	}
	for _, user := range slices.Sorted(maps.Keys(identities)) {
		_, err := c.UserAdd(ctx, &pb.AuthUserAddRequest{Name: user, Password: user})
		require.NoError(t, err)
		for _, role := range identities[user] {
			_, err := c.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: user, Role: role})
			require.NoError(t, err)
		}
	}
	_, err := c.AuthEnable(ctx, &pb.AuthEnableRequest{})
	require.NoError(t, err)
	tokens := map[string]string{"": "", "wrong": "wrong.1"}
	for user := range identities {
		r, err := c.Authenticate(ctx, &pb.AuthenticateRequest{Name: user, Password: user})
		require.NoError(t, err)
		tokens[user] = r.Token
	}
	return tokens
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, insecureOption)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestMatrix: who may do what is the same as with the real etcd.
func TestMatrix(t *testing.T) {
	oracle := servertest.New(t, 1, "--bcrypt-cost=4")
	oracle.RunProgram(oracle.Members[0], servertest.Oracle(t, "etcd"))
	oracle.WaitReady(oracle.Members[0])
	want := matrix(t, oracle.Members[0].Client)
	got := matrix(t, servertest.Start(t, 1, "--bcrypt-cost=4").Members[0].Client)
	require.Len(t, got, len(want))
	for i := range want {
		require.Equal(t, want[i], got[i])
	}
	denied := 0
	for _, line := range got {
		if line[len(line)-2:] != "ok" {
			denied++
		}
	}
	t.Logf("%d calls, %d refused", len(got), denied)
}
