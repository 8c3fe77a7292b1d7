package server_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/server/servertest"
)

// metric reads a metric without labels other than those given, "" if there is none.
func metric(t *testing.T, m *servertest.Member, name string) string {
	t.Helper()
	resp, err := http.Get("http://" + m.Client + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	if found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (.*)$`).FindSubmatch(body); found != nil {
		return string(found[1])
	}
	return ""
}

// TestSharesOfUsers has two users read and write from one address while one call of each kind may be in: they wait as two
// identities, and both are served.
func TestSharesOfUsers(t *testing.T) {
	c := servertest.Start(t, 1, append(servertest.Quick(), "--fair-inflight=reads=1,writes=1,logins=1", "--fair-weights=bob=3", "--response-bytes-budget=1MiB", "--bcrypt-cost=4")...)
	m, ctx := c.Members[0], deadline(t)
	conn := c.Dial(m)
	kv, users := pb.NewKVClient(conn), pb.NewAuthClient(conn)
	for _, name := range []string{"root", "alice", "bob"} {
		_, err := users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: name})
		require.NoError(t, err)
		_, err = users.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name})
		require.NoError(t, err)
		_, err = users.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: name, Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("k"), RangeEnd: []byte("l")}})
		require.NoError(t, err)
		_, err = users.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name})
		require.NoError(t, err)
	}
	for i := range 100 {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Append(nil, "k", i), Value: make([]byte, 1000)})
		require.NoError(t, err)
	}
	_, err := users.AuthEnable(ctx, &pb.AuthEnableRequest{})
	require.NoError(t, err)

	busy, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for _, name := range []string{"alice", "bob"} {
		r, err := users.Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: name})
		require.NoError(t, err)
		as := metadata.AppendToOutgoingContext(busy, "token", r.Token)
		for i := range 40 {
			wg.Go(func() {
				for busy.Err() == nil {
					var err error
					if i%2 == 0 {
						_, err = kv.Range(as, &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Serializable: true})
					} else {
						_, err = kv.Put(as, &pb.PutRequest{Key: fmt.Append(nil, "k", name, i)})
					}
					if err != nil && busy.Err() == nil {
						t.Errorf("%s: %v", name, err)
						return
					}
				}
			})
		}
	}
	for _, lane := range []string{"reads", "writes"} {
		require.Eventually(t, func() bool { return metric(t, m, `keelson_fair_identities{lane="`+lane+`"}`) == "2" }, time.Minute, time.Millisecond, lane)
	}
	stop()
	wg.Wait()
	for _, name := range []string{`keelson_fair_used{lane="reads"}`, `keelson_fair_waiting{lane="writes"}`, `keelson_fair_refused_total{lane="reads",reason="queue"}`} {
		require.Eventually(t, func() bool { return metric(t, m, name) == "0" }, time.Minute, time.Millisecond, name)
	}
	require.Equal(t, "1.048576e+06", metric(t, m, `keelson_response_bytes_capacity{lane="all"}`))
}
