package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// user makes calls with a new token each.
type user struct {
	name, password string
	plain          services
}

// GetRequestMetadata is credentials.PerRPCCredentials.
func (u *user) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	r, err := u.plain.Authenticate(ctx, &pb.AuthenticateRequest{Name: u.name, Password: u.password})
	if status.Convert(err).Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthNotEnabled) {
		return nil, nil
	}
	return map[string]string{rpctypes.TokenFieldNameGRPC: r.GetToken()}, err
}

// RequireTransportSecurity is credentials.PerRPCCredentials.
func (u *user) RequireTransportSecurity() bool { return false }

// as are the clients of a user at a member.
func as(t testing.TB, m *member, name string) services {
	return dialAddr(t, m.Client, grpc.WithPerRPCCredentials(&user{name, password(name), dialAddr(t, m.Client)}))
}

func password(name string) string { return "secret-of-" + name }

// withToken makes the calls of ctx those of the user who has a token.
func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// enableAuth makes the users root, and alice who may write u/ and read v/, and enables authentication.
func enableAuth(t testing.TB, s services) {
	t.Helper()
	ctx := within(t, patience)
	must := func(err error) { require.NoError(t, err) }
	for _, name := range []string{"root", "alice"} {
		_, err := s.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: password(name)})
		must(err)
		_, err = s.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name})
		must(err)
		_, err = s.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name})
		must(err)
	}
	grant(ctx, t, s, authpb.Permission_READWRITE, "u/", "u0")
	grant(ctx, t, s, authpb.Permission_READ, "v/", "v0")
	_, err := s.AuthEnable(ctx, &pb.AuthEnableRequest{})
	must(err)
}

func grant(ctx context.Context, t testing.TB, s services, kind authpb.Permission_Type, key, end string) {
	t.Helper()
	_, err := s.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{
		Name: "alice", Perm: &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)},
	})
	require.NoError(t, err)
}

// enforced says that a member keeps to the rights that enableAuth gave.
func enforced(t testing.TB, m *member) {
	t.Helper()
	ctx := within(t, patience)
	alice, root, nobody := as(t, m, "alice"), as(t, m, "root"), dialAddr(t, m.Client)
	put := func(s services, key string) error {
		_, err := s.Put(ctx, &pb.PutRequest{Key: []byte(key)})
		return err
	}
	require.NoError(t, put(alice, "u/a"))
	require.NoError(t, put(root, "v/a"))
	require.Equal(t, codes.PermissionDenied, status.Code(put(alice, "v/a")), m.Name)
	require.Equal(t, codes.InvalidArgument, status.Code(put(nobody, "u/a")), m.Name)
	require.Equal(t, codes.Unauthenticated, status.Code(func() error {
		_, err := nobody.Range(withToken(ctx, "made-up.1"), &pb.RangeRequest{Key: []byte("u/a")})
		return err
	}()), m.Name)
	for _, serializable := range []bool{false, true} {
		_, err := alice.Range(ctx, &pb.RangeRequest{Key: []byte("v/"), RangeEnd: []byte("v0"), Serializable: serializable})
		require.NoError(t, err)
		_, err = alice.Range(ctx, &pb.RangeRequest{Key: []byte("a/"), RangeEnd: []byte("v0"), Serializable: serializable})
		require.Equal(t, codes.PermissionDenied, status.Code(err), m.Name)
		_, err = nobody.Range(ctx, &pb.RangeRequest{Key: []byte("a/1"), Serializable: serializable})
		require.Equal(t, codes.InvalidArgument, status.Code(err), m.Name)
	}
}

// TestAuthentication hands a data directory with users from one kind to the other and back.
func TestAuthentication(t *testing.T) {
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, first := range []kind{etcd, keelson} {
				c := startCluster(t, []kind{first}, "--bcrypt-cost=4")
				m := c.Members[0]
				enableAuth(t, c.on[m])
				enforced(t, m)
				for range 2 {
					end(c, m)
					c.kind[m] = c.kind[m].other()
					c.run(m)
					enforced(t, m)
				}
				c.Stop(m)
				noPasswords(t, m)
			}
		})
	}
}

// noPasswords looks for passwords in everything that a member wrote.
func noPasswords(t testing.TB, m *member) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(m.Dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var data []byte
			if data, err = os.ReadFile(path); err == nil && bytes.Contains(data, []byte("secret-of")) {
				err = fmt.Errorf("%s has a password in it", path)
			}
		}
		return err
	}))
	log, err := os.ReadFile(m.Dir + ".log")
	require.NoError(t, err)
	require.NotContains(t, string(log), "secret-of")
}

// TestMixedAuthentication: members of both kinds agree on users, rights and tokens, also after one has come back by a
// snapshot.
func TestMixedAuthentication(t *testing.T) {
	for name, kinds := range mixtures {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, kinds, "--snapshot-count=100", "--snapshot-catchup-entries=20", "--bcrypt-cost=4")
			enableAuth(t, c.on[c.Members[0]])
			for _, m := range c.Members {
				c.on[m] = as(t, m, "root")
			}
			for _, lead := range c.Members {
				c.moveLeader(lead)
				tokensEverywhere(t, c)
				expires(t, c)
				promoteThroughAny(t, c)
			}
			for _, m := range c.Members {
				enforced(t, m)
			}
			for _, lead := range c.Members[1:] {
				changedWhileDown(t, c, lead)
			}
			sameRows(t, c)
		})
	}
}

// tokensEverywhere: a token that one member gave is good at all; at once, but where the real etcd looks before the entry is
// applied that holds it.
func tokensEverywhere(t *testing.T, c *cluster) {
	t.Helper()
	ctx := within(t, patience)
	for _, m := range c.Members {
		r, err := dialAddr(t, m.Client).Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: password("alice")})
		require.NoError(t, err)
		for _, other := range c.Members {
			s := dialAddr(t, other.Client)
			put := func(ctx context.Context) error {
				_, err := s.Put(withToken(ctx, r.Token), &pb.PutRequest{Key: []byte("u/b")})
				return err
			}
			if c.kind[other] == keelson {
				require.NoError(t, put(ctx), "token of %s (%s) at %s", m.Name, c.kind[m], other.Name)
			} else {
				eventually(t, put, "token of %s (%s) at %s (etcd)", m.Name, c.kind[m], other.Name)
			}
			_, err := s.Put(withToken(ctx, r.Token), &pb.PutRequest{Key: []byte("v/b")})
			require.Equal(t, codes.PermissionDenied, status.Code(err))
		}
	}
}

// expires: the leader revokes leases that end, though nobody asks it to.
func expires(t *testing.T, c *cluster) {
	t.Helper()
	m := c.Members[0]
	lease, err := c.on[m].LeaseGrant(within(t, patience), &pb.LeaseGrantRequest{TTL: 1})
	require.NoError(t, err)
	_, err = c.on[m].Put(within(t, patience), &pb.PutRequest{Key: []byte("w/lease"), Lease: lease.ID})
	require.NoError(t, err)
	eventually(t, func(ctx context.Context) error {
		r, err := c.on[m].Range(ctx, &pb.RangeRequest{Key: []byte("w/lease")})
		if err == nil && r.Count > 0 {
			return fmt.Errorf("the key of a lease of a second is still there")
		}
		return err
	}, "expiry")
}

// promoteThroughAny: the leader is asked with the client's token.
func promoteThroughAny(t *testing.T, c *cluster) {
	t.Helper()
	for _, m := range c.Members {
		_, err := c.on[m].MemberPromote(within(t, patience), &pb.MemberPromoteRequest{ID: 42})
		require.Equal(t, codes.NotFound, status.Code(err), "by %s (%s): %v", m.Name, c.kind[m], err)
		_, err = as(t, m, "alice").MemberPromote(within(t, patience), &pb.MemberPromoteRequest{ID: 42})
		require.Equal(t, codes.PermissionDenied, status.Code(err), "by %s (%s)", m.Name, c.kind[m])
	}
}

// changedWhileDown changes rights while a member of the other kind than the leader's is down, until it needs a snapshot.
func changedWhileDown(t *testing.T, c *cluster, lead *member) {
	t.Helper()
	c.moveLeader(lead)
	down := c.Members[0]
	for _, m := range c.Members {
		if c.kind[m] != c.kind[lead] {
			down = m
		}
	}
	before := metric(t, lead, "etcd_debugging_auth_revision")
	c.Kill(down)
	ctx := within(t, 2*patience)
	s, key := c.on[lead], fmt.Sprintf("x/%s/", lead.Name)
	grant(ctx, t, s, authpb.Permission_READWRITE, key, key[:len(key)-1]+"0")
	_, err := s.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "alice", Key: []byte("v/"), RangeEnd: []byte("v0")})
	require.NoError(t, err)
	for range 150 { // two entries each
		_, err := s.Put(ctx, &pb.PutRequest{Key: []byte("u/c")})
		require.NoError(t, err)
	}
	c.run(down)
	at := as(t, down, "alice")
	eventually(t, func(ctx context.Context) error {
		if n := metric(t, down, "etcd_network_snapshot_receive_success"); n < 1 {
			return fmt.Errorf("%s (%s) received %v snapshots", down.Name, c.kind[down], n)
		}
		_, err := at.Put(ctx, &pb.PutRequest{Key: []byte(key + "a")})
		return err
	}, "catch up")
	_, err = at.Range(ctx, &pb.RangeRequest{Key: []byte("v/a"), Serializable: true})
	require.Equal(t, codes.PermissionDenied, status.Code(err), "%s (%s) gives a right that was taken while it was away", down.Name, c.kind[down])
	grant(ctx, t, s, authpb.Permission_READ, "v/", "v0")
	c.agree()
	for _, m := range c.Members {
		require.Equal(t, before+3, metric(t, m, "etcd_debugging_auth_revision"), "%s (%s)", m.Name, c.kind[m])
	}
}

// sameRows stops the cluster and compares the buckets of authentication byte by byte.
func sameRows(t *testing.T, c *cluster) {
	t.Helper()
	c.agree()
	var first map[string]string
	for _, m := range c.Members {
		c.Stop(m)
		rows := authRows(t, m)
		require.Contains(t, rows, "authUsers/alice")
		if first == nil {
			first = rows
		}
		require.Equal(t, first, rows, "%s (%s)", m.Name, c.kind[m])
		noPasswords(t, m)
	}
}

// authRows reads these buckets from the file of a member that is down.
func authRows(t *testing.T, m *member) map[string]string {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(m.Dir, "member", "snap", "db"), 0o600, &bbolt.Options{ReadOnly: true, Timeout: 10 * time.Second})
	require.NoError(t, err)
	defer db.Close()
	rows := map[string]string{}
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		for _, name := range []string{"auth", "authUsers", "authRoles"} {
			b := tx.Bucket([]byte(name))
			if b == nil {
				return fmt.Errorf("no bucket %s", name)
			}
			if err := b.ForEach(func(k, v []byte) error { rows[name+"/"+string(k)] = string(v); return nil }); err != nil {
				return err
			}
		}
		return nil
	}))
	return rows
}
