package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/server/servertest"
)

// webTokenFlags are for members that sign JSON Web Tokens.
func webTokenFlags(t *testing.T) []string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "key")
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return []string{"--bcrypt-cost=4", "--auth-token=jwt,sign-method=EdDSA,ttl=1h,priv-key=" + path}
}

// TestMixedWebTokens: a token that a member of one kind signed is good at the others, until rights change.
func TestMixedWebTokens(t *testing.T) {
	t.Parallel()
	c := startCluster(t, []kind{keelson, etcd, keelson}, webTokenFlags(t)...)
	enableAuth(t, c.on[c.Members[0]])
	ctx := within(t, patience)
	put := func(m *member, token string) error {
		_, err := dialAddr(t, m.Client).Put(withToken(ctx, token), &pb.PutRequest{Key: []byte("u/a")})
		return rpctypes.Error(err)
	}
	var tokens []string
	for _, m := range c.Members {
		r, err := dialAddr(t, m.Client).Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: password("alice")})
		require.NoError(t, err)
		tokens = append(tokens, r.Token)
		for _, other := range c.Members {
			require.NoError(t, put(other, r.Token), "token of %s (%s) at %s (%s)", m.Name, c.kind[m], other.Name, c.kind[other])
		}
	}
	_, err := as(t, c.Members[0], "root").UserAdd(ctx, &pb.AuthUserAddRequest{Name: "bob"})
	require.NoError(t, err)
	for _, m := range c.Members {
		for _, token := range tokens {
			require.Equal(t, rpctypes.ErrAuthOldRevision, put(m, token), "%s (%s)", m.Name, c.kind[m])
		}
		enforced(t, m)
	}
}

// TestUsersOfClients: our client gets a new token by itself when a member has forgotten it, and etcd's etcdctl manages users.
func TestUsersOfClients(t *testing.T) {
	t.Parallel()
	etcdctl := servertest.Oracle(t, "etcdctl")
	c := startCluster(t, []kind{keelson}, "--bcrypt-cost=4")
	m := c.Members[0]
	run := func(args ...string) string {
		out, err := exec.Command(etcdctl, append([]string{"--endpoints=" + m.Client}, args...)...).Output()
		require.NoError(t, err, "%v: %s", args, out)
		return string(out)
	}
	run("user", "add", "root:"+password("root"))
	require.Equal(t, "Authentication Enabled\n", run("auth", "enable"))
	root := "--user=root:" + password("root")
	run("user", "add", "alice", "--new-user-password="+password("alice"), root)
	run("role", "add", "app", root)
	run("role", "grant-permission", "app", "--prefix", "readwrite", "u/", root)
	run("user", "grant-role", "alice", "app", root)
	require.Equal(t, "Role app\nKV Read:\n\t[u/, u0) (prefix u/)\nKV Write:\n\t[u/, u0) (prefix u/)\n", run("role", "get", "app", root))
	require.Equal(t, "OK\n", run("put", "u/a", "1", "--user=alice", "--password="+password("alice")))

	cl, err := client.New(client.Config{Endpoints: []string{m.Client}, Username: "alice", Password: password("alice")})
	require.NoError(t, err)
	defer cl.Close()
	ctx := within(t, 2*patience)
	w := cl.Watch(ctx, "u/", client.WithPrefix())
	defer w.Close()
	c.Kill(m)
	c.run(m)
	require.Eventually(t, func() bool {
		_, err := cl.Put(ctx, "u/b", "2")
		return err == nil
	}, patience, patience/100, "the token is forgotten, a new one is asked for")
	_, err = cl.Put(ctx, "v/b", "2")
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	_, err = w.Next(ctx)
	require.NoError(t, err)
	_, err = cl.UserList(ctx)
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	got, err := cl.UserGet(ctx, "alice")
	require.NoError(t, err)
	require.Equal(t, []string{"app"}, got.Roles)
	_, err = client.New(client.Config{Endpoints: []string{m.Client}, Username: "alice", Password: "wrong"})
	require.True(t, errors.Is(err, rpctypes.ErrAuthFailed), "%v", err)
	require.NoError(t, context.Cause(ctx))
}
