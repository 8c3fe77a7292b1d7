package server_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestCommonName: without a token, the name in the client's certificate is the user, but not if a gateway shows it.
func TestCommonName(t *testing.T) {
	ca := certs.New(t)
	pair, alice, root := ca.Issue("server", "server", "127.0.0.1", "localhost"), ca.Issue("alice", "alice"), ca.Issue("root", "root")
	c := servertest.NewSecure(t, 1, ca.TLS(root), append(secureFlags(ca, pair), "--bcrypt-cost=4")...)
	m := c.Members[0]
	c.Run(m)
	c.WaitReady(m)
	by := func(p certs.Pair) (pb.KVClient, pb.AuthClient) {
		conn, err := grpc.NewClient(m.Client, grpc.WithTransportCredentials(credentials.NewTLS(ca.TLS(p))))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		return pb.NewKVClient(conn), pb.NewAuthClient(conn)
	}
	ctx := deadline(t)
	_, users := by(root)
	for _, name := range []string{"root", "alice"} {
		_, err := users.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: "pw", Options: &authpb.UserAddOptions{NoPassword: name == "alice"}})
		require.NoError(t, err)
		_, err = users.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name})
		require.NoError(t, err)
		_, err = users.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name})
		require.NoError(t, err)
	}
	_, err := users.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "alice", Perm: &authpb.Permission{Key: []byte("a")}})
	require.NoError(t, err)
	_, err = users.AuthEnable(ctx, &pb.AuthEnableRequest{})
	require.NoError(t, err)

	kv, _ := by(alice)
	get := func(ctx context.Context, key string) error {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		return rpctypes.Error(err)
	}
	require.NoError(t, get(ctx, "a"))
	require.Equal(t, rpctypes.ErrPermissionDenied, get(ctx, "b"))
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("a")})
	require.Equal(t, rpctypes.ErrPermissionDenied, rpctypes.Error(err))
	gateway := metadata.AppendToOutgoingContext(ctx, "grpcgateway-accept", "*/*")
	require.Equal(t, rpctypes.ErrUserEmpty, get(gateway, "a"))
	r, err := users.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "pw"})
	require.NoError(t, err)
	for _, header := range []string{"Bearer " + r.Token, r.Token} {
		require.NoError(t, get(metadata.AppendToOutgoingContext(gateway, rpctypes.TokenFieldNameSwagger, header), "b"), "a token counts before the certificate")
	}
	_, err = users.UserList(ctx, &pb.AuthUserListRequest{})
	require.NoError(t, err, "the certificate of root")

	nameless := ca.Issue("nameless", "")
	for name, c := range map[string]struct {
		pair  certs.Pair
		token string
		want  int
	}{"name": {alice, r.Token, http.StatusBadRequest}, "nobody": {nameless, "", http.StatusBadRequest}, "token": {nameless, r.Token, http.StatusOK}} {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+m.Client+"/v3/kv/range", strings.NewReader(`{"key":"YQ=="}`))
		require.NoError(t, err)
		if c.token != "" {
			req.Header.Set("Authorization", c.token)
		}
		tr := &http.Transport{TLSClientConfig: ca.TLS(c.pair)}
		resp, err := tr.RoundTrip(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		_ = resp.Body.Close()
		tr.CloseIdleConnections()
		require.Equal(t, c.want, resp.StatusCode, "%s: %s", name, body)
		require.Equal(t, name == "name", strings.Contains(string(body), "CommonName"), "%s: %s", name, body)
	}
}
