package grpcproxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server/conformance"
	"github.com/keelson-io/keelson/server/servertest"
)

// openWatch opens a stream of watches with one watch.
func openWatch(t testing.TB, ctx context.Context, conn *grpc.ClientConn, r *pb.WatchCreateRequest) (pb.Watch_WatchClient, *pb.WatchResponse) {
	ctx, cancel := context.WithCancel(ctx)
	t.Cleanup(cancel)
	s, err := pb.NewWatchClient(conn).Watch(ctx)
	require.NoError(t, err)
	require.NoError(t, s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}))
	resp, err := s.Recv()
	require.NoError(t, err)
	require.True(t, resp.Created)
	return s, resp
}

// TestMemberDies kills, of three members, the one that the proxy watches. The client sees every write once, in order.
func TestMemberDies(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 3, servertest.Quick()...)
	p := start(t, c.Addrs())
	conn := connect(t, p.Addr().String())
	s, resp := openWatch(t, t.Context(), conn, &pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true})
	next := resp.Header.Revision + 1

	put := func(i int) int64 {
		var rev int64
		require.Eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			resp, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte(fmt.Sprint(i))})
			rev = resp.GetHeader().GetRevision()
			return err == nil
		}, time.Minute, time.Millisecond)
		return rev
	}
	var serving uint64
	read := func(until int64) {
		for next <= until {
			resp, err := s.Recv()
			require.NoError(t, err)
			serving = resp.Header.MemberId
			for _, ev := range resp.Events {
				require.Equal(t, next, ev.Kv.ModRevision)
				if ev.PrevKv != nil {
					require.Equal(t, next-1, ev.PrevKv.ModRevision)
				}
				next++
			}
		}
	}
	read(put(0))
	for _, m := range c.Members {
		st, err := pb.NewMaintenanceClient(c.Dial(m)).Status(t.Context(), &pb.StatusRequest{})
		require.NoError(t, err)
		if st.Header.MemberId == serving {
			c.Kill(m)
			break
		}
	}
	killed := serving
	for i := range 50 {
		read(put(i + 1))
	}
	require.NotEqual(t, killed, serving)
	require.GreaterOrEqual(t, p.metric(t, "keelson_grpc_proxy_watch_resumes_total"), 1.0)
}

// TestNoLeaks makes two users, of whom one may read: what she has read and watches does not come to the other one, nor to nobody.
func TestNoLeaks(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1, "--bcrypt-cost=4")
	p := start(t, c.Addrs())
	conn := connect(t, p.Addr().String())
	kv, auth := pb.NewKVClient(conn), pb.NewAuthClient(conn)
	must := func(err error) { t.Helper(); require.NoError(t, err) }
	_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: []byte("secret")})
	must(err)
	read := &pb.RangeRequest{Key: []byte("a"), Serializable: true}
	_, err = kv.Range(t.Context(), read) // everybody may, until there are users
	must(err)
	for _, name := range []string{"root", "alice", "bob"} {
		_, err = auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: name, Password: "p"})
		must(err)
		_, err = auth.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: name})
		must(err)
		_, err = auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: name, Role: name})
		must(err)
	}
	_, err = auth.RoleGrantPermission(t.Context(), &pb.AuthRoleGrantPermissionRequest{
		Name: "alice", Perm: &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte("a")},
	})
	must(err)
	_, err = auth.AuthEnable(t.Context(), &pb.AuthEnableRequest{})
	must(err)
	as := func(name string) context.Context {
		resp, err := auth.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: name, Password: "p"})
		require.NoError(t, err)
		return metadata.AppendToOutgoingContext(t.Context(), rpctypes.TokenFieldNameGRPC, resp.Token)
	}
	_, err = kv.Range(t.Context(), read)
	require.Equal(t, codes.InvalidArgument, status.Code(err), "what was read before there were users")

	root, alice, bob := as("root"), as("alice"), as("bob")
	hits := p.metric(t, "etcd_grpc_proxy_cache_hits_total")
	for range 2 {
		resp, err := kv.Range(alice, read)
		must(err)
		require.Equal(t, "secret", string(resp.Kvs[0].Value))
	}
	require.Equal(t, hits+1, p.metric(t, "etcd_grpc_proxy_cache_hits_total"))
	_, err = kv.Range(bob, read)
	require.Equal(t, codes.PermissionDenied, status.Code(err))
	_, err = kv.Range(t.Context(), read)
	require.Equal(t, codes.InvalidArgument, status.Code(err))

	watch := &pb.WatchCreateRequest{Key: []byte("a")}
	s, created := openWatch(t, alice, conn, watch)
	require.False(t, created.Canceled)
	_, denied := openWatch(t, bob, conn, watch)
	require.True(t, denied.Canceled)
	require.Equal(t, rpctypes.ErrGRPCPermissionDenied.Error(), denied.CancelReason)
	_, denied = openWatch(t, t.Context(), conn, watch)
	require.True(t, denied.Canceled)
	_, err = kv.Put(root, &pb.PutRequest{Key: []byte("a"), Value: []byte("new")})
	must(err)
	got, err := s.Recv()
	must(err)
	require.Equal(t, "new", string(got.Events[0].Kv.Value))

	_, err = kv.Range(alice, read)
	must(err)
	_, err = auth.UserRevokeRole(root, &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "alice"})
	must(err)
	_, err = kv.Range(alice, read)
	require.Error(t, err, "her answer is still in the cache")
}

// TestNamespace sees the store through a prefix: scripts of server/conformance find nothing strange, and all keys are below it.
func TestNamespace(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	p := start(t, c.Addrs(), "--namespace=ns/", "--advertise-client-url=")
	conn := connect(t, p.Addr().String())
	member := pb.NewKVClient(c.Dial(c.Members[0]))
	for _, script := range []struct {
		name string
		rev  int64 // that it begins at
	}{{"01_kv", 1}, {"02_range", 0}, {"04_lease", 59}, {"05_watch", 67}} {
		for rev := int64(0); rev < script.rev; { // writes elsewhere
			resp, err := member.Range(t.Context(), &pb.RangeRequest{Key: []byte("nt")})
			require.NoError(t, err)
			if rev = resp.Header.Revision; rev < script.rev {
				_, err = member.Put(t.Context(), &pb.PutRequest{Key: []byte("nt"), Value: []byte("outside")})
				require.NoError(t, err)
			}
		}
		t.Run(script.name, func(t *testing.T) {
			conformance.NewRunner(conn, p.Addr().String()).RunFile(t, "../conformance/testdata/"+script.name+".txt")
		})
	}
	all := &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	inside, err := pb.NewKVClient(conn).Range(t.Context(), all)
	require.NoError(t, err)
	whole, err := member.Range(t.Context(), all)
	require.NoError(t, err)
	require.Greater(t, len(inside.Kvs), 5)
	require.Len(t, whole.Kvs, len(inside.Kvs)+1)
	for i, kv := range inside.Kvs {
		require.Equal(t, "ns/"+string(kv.Key), string(whole.Kvs[i].Key))
	}
}

// TestTLS connects with TLS on both sides, and with a certificate that the proxy makes.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca := certs.New(t)
	server, client, other := ca.Issue("server", "server", "127.0.0.1"), ca.Issue("client", "someone", "127.0.0.1"), certs.New(t)
	shown := ca.Issue("shown", "", "127.0.0.1")
	c := servertest.NewSecure(t, 1, ca.TLS(shown), "--cert-file="+server.Cert, "--key-file="+server.Key, "--trusted-ca-file="+ca.CA, "--client-cert-auth", "--peer-auto-tls")
	c.Run(c.Members[0])
	c.WaitReady(c.Members[0])
	member := []string{"--cacert=" + ca.CA, "--cert=" + shown.Cert, "--key=" + shown.Key}
	secure := func(cfg *tls.Config) grpc.DialOption { return grpc.WithTransportCredentials(credentials.NewTLS(cfg)) }
	put := func(addr string, opts ...grpc.DialOption) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := pb.NewKVClient(connect(t, addr, opts...)).Put(ctx, &pb.PutRequest{Key: []byte("a")})
		return err
	}
	for _, endpoint := range []string{"https://" + c.Members[0].Client, c.Members[0].Client} {
		p := start(t, []string{endpoint}, append(member, "--cert-file="+server.Cert, "--key-file="+server.Key, "--trusted-ca-file="+ca.CA, "--metrics-addr=http://127.0.0.1:0")...)
		addr := p.Addr().String()
		require.NoError(t, put(addr, secure(ca.TLS(client))))
		require.Error(t, put(addr, secure(ca.TLS())), "no certificate of the client")
		require.Error(t, put(addr, secure(other.TLS())))
		require.Error(t, put(addr))
		for page, want := range map[string]string{"/health": `"true"`, "/proxy/health": `"true"`, "/metrics": "etcd_server_id", "/proxy/metrics": "etcd_grpc_proxy_cache_keys_total"} {
			body, code := get(t, "http://"+p.MetricsAddr().String()+page)
			require.Equal(t, 200, code, page)
			require.Contains(t, body, want)
		}
	}
	dir := t.TempDir()
	p := start(t, c.Addrs(), append(member, "--auto-tls", "--data-dir="+dir, "--tls-min-version=TLS1.3")...)
	require.NoError(t, put(p.Addr().String(), secure(&tls.Config{InsecureSkipVerify: true})))
	require.Error(t, put(p.Addr().String(), secure(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})))
	require.FileExists(t, filepath.Join(dir, "fixtures/proxy/cert.pem"))

	p = start(t, c.Addrs(), "--cacert="+other.CA)
	require.Equal(t, codes.Unavailable, status.Code(put(p.Addr().String())), "members with certificates of others")
	body, code := get(t, "http://"+p.Addr().String()+"/health")
	require.Equal(t, 503, code)
	require.Contains(t, body, "GET ERROR:")
	p = start(t, c.Addrs(), "--insecure-skip-tls-verify")
	require.Error(t, put(p.Addr().String()), "the member wants a certificate")
}

// TestCache answers serializable reads by itself until a write passes by.
func TestCache(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	p := start(t, c.Addrs())
	kv := pb.NewKVClient(connect(t, p.Addr().String()))
	r := &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), Serializable: true}
	count := func() int64 {
		resp, err := kv.Range(t.Context(), r)
		require.NoError(t, err)
		return resp.Count
	}
	writes := []func() error{
		func() error { _, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("b")}); return err },
		func() error {
			put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a")}}}
			inner := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{put}}}}
			_, err := kv.Txn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{inner}})
			return err
		},
		func() error {
			_, err := kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("b"), RangeEnd: []byte{0}})
			return err
		},
		func() error {
			_, err := kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a")})
			return err
		},
	}
	require.Zero(t, count())
	for i, want := range []int64{1, 2, 1, 0} {
		require.NoError(t, writes[i]())
		require.Equal(t, want, count())
		require.Equal(t, want, count())
	}
	require.Equal(t, 4.0, p.metric(t, "etcd_grpc_proxy_cache_hits_total"))
	require.Equal(t, 5.0, p.metric(t, "etcd_grpc_proxy_cache_misses_total"))
	require.Equal(t, 1.0, p.metric(t, "etcd_grpc_proxy_cache_keys_total"))
	lease, err := pb.NewLeaseClient(connect(t, p.Addr().String())).LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 100})
	require.NoError(t, err)
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("b"), Lease: lease.ID})
	require.NoError(t, err)
	require.Equal(t, int64(1), count())
	_, err = pb.NewLeaseClient(connect(t, p.Addr().String())).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: lease.ID})
	require.NoError(t, err)
	require.Zero(t, count())
}

// TestSync follows the endpoints that the members advertise.
func TestSync(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 2, servertest.Quick()...)
	p := start(t, c.Addrs()[:1], "--endpoints-auto-sync-interval=20ms")
	require.Eventually(t, func() bool { return len(p.conn.Endpoints()) == 2 }, time.Minute, 5*time.Millisecond)
	require.ElementsMatch(t, []string{"http://" + c.Members[0].Client, "http://" + c.Members[1].Client}, p.conn.Endpoints())
	_, err := pb.NewKVClient(connect(t, p.Addr().String())).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
	require.NoError(t, err)
}

// TestOrdered never shows an older revision than before.
func TestOrdered(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	p := start(t, c.Addrs(), "--experimental-serializable-ordering")
	kv := pb.NewKVClient(connect(t, p.Addr().String()))
	_, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a"), Serializable: true})
	require.NoError(t, err)
	revs := []int64{5, 7, 6, 6, 8, 3, 3, 3}
	ord := orderedKV{KV: scripted(func() int64 { r := revs[0]; revs = revs[1:]; return r }), seen: new(atomic.Int64), attempts: func() int { return 3 }}
	for _, want := range []int64{5, 7, 8} {
		resp, err := ord.Range(t.Context(), nil)
		require.NoError(t, err)
		require.Equal(t, want, resp.Header.Revision)
	}
	_, err = ord.Txn(t.Context(), nil)
	require.ErrorIs(t, err, errBehind)
}

// scripted is a KV of members that are at given revisions.
type scripted func() int64

// Range answers with the next revision.
func (s scripted) Range(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error) {
	return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: s()}}, nil
}

// Txn answers with the next revision.
func (s scripted) Txn(context.Context, *pb.TxnRequest) (*pb.TxnResponse, error) {
	return &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: s()}}, nil
}

func (s scripted) Put(context.Context, *pb.PutRequest) (*pb.PutResponse, error) { return nil, nil }

func (s scripted) DeleteRange(context.Context, *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return nil, nil
}

func (s scripted) Compact(context.Context, *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return nil, nil
}
