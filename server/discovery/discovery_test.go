package discovery_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/discovery"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const prefix = "/_etcd/registry/"

// service is a discovery service: one member of Keelson or of etcd.
func service(t *testing.T, etcd bool) (endpoint string, conn *grpc.ClientConn) {
	c := servertest.New(t, 1, servertest.Quick()...)
	m := c.Members[0]
	if etcd {
		c.RunProgram(m, servertest.Oracle(t, "etcd"))
	} else {
		c.Run(m)
	}
	c.WaitReady(m)
	return m.Client, c.Dial(m)
}

func put(t *testing.T, conn *grpc.ClientConn, key, value string) {
	_, err := pb.NewKVClient(conn).Put(t.Context(), &pb.PutRequest{Key: []byte(prefix + key), Value: []byte(value)})
	require.NoError(t, err)
}

// TestFounding founds clusters of three through a discovery service.
func TestFounding(t *testing.T) {
	for name, c := range map[string]struct{ serviceIsEtcd, mixed bool }{
		"by Keelson":        {},
		"by etcd":           {serviceIsEtcd: true},
		"mixed, by etcd":    {serviceIsEtcd: true, mixed: true},
		"mixed, by Keelson": {mixed: true},
	} {
		t.Run(name, func(t *testing.T) {
			endpoint, conn := service(t, c.serviceIsEtcd)
			put(t, conn, "tok/_config/size", "3")
			cl := servertest.New(t, 3, servertest.Quick()...)
			cl.Found = []string{"--discovery-token=tok", "--discovery-endpoints=http://" + endpoint}
			var starts sync.WaitGroup
			for i, m := range cl.Members {
				if i == 2 && c.mixed {
					cl.RunProgram(m, servertest.Oracle(t, "etcd"))
					continue
				}
				starts.Go(func() { cl.Run(m) })
			}
			starts.Wait()
			cl.WaitReady(cl.Members...)
			for _, m := range cl.Members {
				list, err := pb.NewClusterClient(cl.Dial(m)).MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true})
				require.NoError(t, err)
				urls := map[string]string{}
				for _, l := range list.Members {
					urls[l.Name] = l.PeerURLs[0]
				}
				require.Len(t, urls, 3)
				for _, m := range cl.Members {
					require.Equal(t, m.PeerURL, urls[m.Name])
				}
			}
			registered, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte(prefix + "tok/members/"), RangeEnd: []byte(prefix + "tok/members0")})
			require.NoError(t, err)
			require.Len(t, registered.Kvs, 3)

			late := servertest.New(t, 1).Members[0]
			cfg, err := config.Parse(append(cl.Found, "--name=late"), nil)
			require.NoError(t, err)
			_, err = discovery.Join(t.Context(), &cfg.Bootstrap.Discovery, 7, "late="+late.PeerURL, zap.NewNop())
			require.ErrorIs(t, err, discovery.ErrFull)
			require.EqualError(t, err, "failed to join discovery cluster (discovery: cluster is full)")

			again := cl.Members[0] // a member with a log asks nobody
			cl.Stop(again)
			cl.Found = []string{"--discovery-token=tok", "--discovery-endpoints=127.0.0.1:1"}
			cl.Run(again)
			cl.WaitReady(again)
		})
	}
}

func options(endpoints ...string) *config.Discovery {
	d := config.Default().Bootstrap.Discovery
	d.Token, d.Endpoints = "tok", endpoints
	return &d
}

func TestRefusals(t *testing.T) {
	endpoint, conn := service(t, false)
	for _, c := range []struct {
		size string
		want error
	}{{"", discovery.ErrSizeNotFound}, {"many", discovery.ErrBadSize}, {"0", discovery.ErrBadSize}, {"-1", discovery.ErrBadSize}} {
		if c.size != "" {
			put(t, conn, "tok/_config/size", c.size)
		}
		_, err := discovery.Join(t.Context(), options(endpoint), 1, "a=http://127.0.0.1:1", zap.NewNop())
		require.ErrorIs(t, err, c.want, c.size)
	}
}

// TestOrder joins as one of three among odd entries, and through the second endpoint, as the first one is not there.
func TestOrder(t *testing.T) {
	endpoint, conn := service(t, false)
	put(t, conn, "tok/_config/size", "2")
	put(t, conn, "tok/members/nonsense", "nonsense")
	put(t, conn, "tok2/members/2", "other=http://127.0.0.1:3")
	type result struct {
		cluster string
		err     error
	}
	joined := make(chan result, 1)
	go func() {
		cluster, err := discovery.Join(t.Context(), options(servertest.FreeAddr(t), endpoint), 0xab, "z=http://127.0.0.1:9", zap.NewNop())
		joined <- result{cluster, err}
	}()
	require.Eventually(t, func() bool {
		got, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte(prefix + "tok/members/ab")})
		return err == nil && len(got.Kvs) == 1 && string(got.Kvs[0].Value) == "z=http://127.0.0.1:9"
	}, time.Minute, 10*time.Millisecond)
	select {
	case r := <-joined:
		require.Fail(t, "joined a cluster that is not complete", r)
	case <-time.After(50 * time.Millisecond):
	}
	put(t, conn, "tok/members/0", "a=http://127.0.0.1:1")
	r := <-joined
	require.NoError(t, r.err)
	require.Equal(t, "z=http://127.0.0.1:9,a=http://127.0.0.1:1", r.cluster, "in the order in which they came")
}

// TestGivesUp ends when it is told to, while there is no service, or not all members.
func TestGivesUp(t *testing.T) {
	endpoint, conn := service(t, false)
	put(t, conn, "tok/_config/size", "2")
	for _, ep := range []string{endpoint, servertest.FreeAddr(t)} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		_, err := discovery.Join(ctx, options(ep), 1, "a=http://127.0.0.1:1", zap.NewNop())
		require.ErrorIs(t, err, context.DeadlineExceeded)
		cancel()
	}
}

// TestSecure connects with TLS as the flags say, and as a user.
func TestSecure(t *testing.T) {
	ca := certs.New(t)
	server, client := ca.Issue("server", "server", "127.0.0.1"), ca.Issue("client", "client")
	c := servertest.NewSecure(t, 1, ca.TLS(client), append(servertest.Quick(), "--cert-file="+server.Cert, "--key-file="+server.Key, "--trusted-ca-file="+ca.CA,
		"--peer-cert-file="+server.Cert, "--peer-key-file="+server.Key, "--peer-trusted-ca-file="+ca.CA)...)
	m := c.Members[0]
	c.Run(m)
	c.WaitReady(m)
	put(t, c.Dial(m), "tok/_config/size", "1")
	_, port, err := net.SplitHostPort(m.Client)
	require.NoError(t, err)
	for i, ep := range []string{m.Client, "https://" + m.Client, "https://127.0.0.1:" + port} {
		d := options(ep)
		d.CertFile, d.KeyFile, d.CAFile = client.Cert, client.Key, ca.CA
		got, err := discovery.Join(t.Context(), d, 1, "a=http://127.0.0.1:1", zap.NewNop())
		require.NoError(t, err, fmt.Sprint(i))
		require.Equal(t, "a=http://127.0.0.1:1", got)
	}
	d := options(m.Client)
	d.CertFile, d.KeyFile = client.Cert, client.Key // the system does not know the authority
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = discovery.Join(ctx, d, 1, "a=http://127.0.0.1:1", zap.NewNop())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	d.CAFile = "/does/not/exist"
	_, err = discovery.Join(t.Context(), d, 1, "a=http://127.0.0.1:1", zap.NewNop())
	require.ErrorContains(t, err, "--discovery-cacert")
}

// TestUser logs in at the service.
func TestUser(t *testing.T) {
	endpoint, conn := service(t, false)
	put(t, conn, "tok/_config/size", "1")
	auth := pb.NewAuthClient(conn)
	_, err := auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "secret"})
	require.NoError(t, err)
	_, err = auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	require.NoError(t, err)
	d := options(endpoint)
	d.User, d.Password = "root", "secret"
	_, err = discovery.Join(t.Context(), d, 1, "a=http://127.0.0.1:1", zap.NewNop())
	require.NoError(t, err, "there are users, but nobody needs to be one")
	_, err = auth.AuthEnable(t.Context(), &pb.AuthEnableRequest{})
	require.NoError(t, err)
	_, err = discovery.Join(t.Context(), d, 1, "a=http://127.0.0.1:1", zap.NewNop())
	require.NoError(t, err)
	d.User, d.Password = "root:secret", ""
	_, err = discovery.Join(t.Context(), d, 1, "a=http://127.0.0.1:1", zap.NewNop())
	require.NoError(t, err)
	d.User = "root:wrong"
	_, err = discovery.Join(t.Context(), d, 1, "a=http://127.0.0.1:1", zap.NewNop())
	require.ErrorContains(t, err, "authentication failed")
}
