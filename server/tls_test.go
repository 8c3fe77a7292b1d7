package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/servertest"
)

// httpsGet asks as curl does: by HTTP/2 if the server speaks it.
func httpsGet(cfg *tls.Config, url string) (proto string, status int, err error) {
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	if path, ok := strings.CutPrefix(url, "unixs:"); ok {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
		url = "https://localhost/health"
	}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Get(url)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.Proto, resp.StatusCode, err
}

// secureFlags are those of a member whose clients and peers must show certificates of an authority.
func secureFlags(ca *certs.Authority, p certs.Pair) []string {
	return []string{
		"--cert-file=" + p.Cert, "--key-file=" + p.Key, "--trusted-ca-file=" + ca.CA, "--client-cert-auth",
		"--peer-cert-file=" + p.Cert, "--peer-key-file=" + p.Key, "--peer-trusted-ca-file=" + ca.CA, "--peer-client-cert-auth",
	}
}

func TestTLS(t *testing.T) {
	ca := certs.New(t)
	pair, alice := ca.Issue("server", "server", "127.0.0.1", "localhost"), ca.Issue("alice", "alice")
	fromElsewhere := ca.Issue("elsewhere", "alice", "10.1.2.3")
	metrics, socket := servertest.FreeAddr(t), filepath.Join(t.TempDir(), "s")
	c := servertest.NewSecure(t, 3, ca.TLS(alice), append(servertest.Quick(), secureFlags(ca, pair)...)...)
	m := c.Members[0]
	m.Flags = append(m.Flags, "--host-whitelist=localhost", "--listen-metrics-urls=https://"+metrics,
		"--listen-client-urls=https://"+m.Client+",http://"+m.Client+",unixs://"+socket)
	for _, m := range c.Members {
		c.Run(m)
	}
	c.WaitReady(c.Members...)

	// Members work together: a lease is kept by a follower, which asks the leader; members list versions of others.
	for i, m := range c.Members {
		s := dial(c, m)
		put(t, s, "k", m.Name)
		lease, err := s.LeaseGrant(deadline(t), &pb.LeaseGrantRequest{TTL: 60, ID: int64(i + 1)})
		require.NoError(t, err)
		ttl, err := s.LeaseTimeToLive(deadline(t), &pb.LeaseTimeToLiveRequest{ID: lease.ID})
		require.NoError(t, err)
		require.Positive(t, ttl.TTL)
	}

	for _, url := range []string{"https://" + m.Client + "/health", "https://" + metrics + "/health", "unixs:" + socket} {
		proto, status, err := httpsGet(ca.TLS(alice), url)
		require.NoError(t, err, url)
		require.Equal(t, http.StatusOK, status)
		require.Equal(t, "HTTP/2.0", proto)
		_, _, err = httpsGet(ca.TLS(), url)
		require.Error(t, err, "no certificate: %s", url)
	}
	// Certificates must fit addresses at the metrics and peer ports, not at the client port.
	for url, ok := range map[string]bool{"https://" + m.Client + "/health": true, "https://" + metrics + "/health": false, m.PeerURL + "/version": false} {
		_, _, err := httpsGet(ca.TLS(fromElsewhere), url)
		require.Equal(t, ok, err == nil, "%s: %v", url, err)
	}
	_, _, err := httpsGet(ca.TLS(alice), m.PeerURL+"/version")
	require.NoError(t, err)

	// Load balancers speak HTTP/2 alone. What they ask is not for a plain host.
	alone := &http.Transport{TLSClientConfig: ca.TLS(alice), Protocols: new(http.Protocols)}
	alone.Protocols.SetHTTP2(true)
	defer alone.CloseIdleConnections()
	resp, err := (&http.Client{Transport: alone, Timeout: time.Minute}).Get("https://" + m.Client + "/health")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "200 HTTP/2.0", fmt.Sprint(resp.StatusCode, " ", resp.Proto))

	// The same port has plain connections.
	status, _ := get(t, c, m, "/health")
	require.Equal(t, http.StatusMisdirectedRequest, status, "for another host than is allowed")

	// A member comes back with another certificate, of an authority that the others have learnt meanwhile.
	next := certs.New(t)
	certs.Write(t, ca.CA, append(ca.PEM(), next.PEM()...))
	c.Stop(c.Members[2])
	other := next.Issue("server", "server", "127.0.0.1", "localhost")
	c.Members[2].Flags = append(servertest.Quick(), secureFlags(ca, other)...)
	c.Run(c.Members[2])
	c.WaitReady(c.Members[2])
}

// TestGRPCOverTheHTTPServer has a gRPC client that offers HTTP/1, too.
func TestGRPCOverTheHTTPServer(t *testing.T) {
	ca := certs.New(t)
	pair := ca.Issue("server", "server", "127.0.0.1")
	c := servertest.NewSecure(t, 1, ca.TLS(pair), append(servertest.Quick(), secureFlags(ca, pair)...)...)
	m := c.Members[0]
	c.Run(m)
	c.WaitReady(m)
	both := ca.TLS(pair)
	both.NextProtos = []string{"h2", "http/1.1"}
	conn, err := grpc.NewClient(m.Client, grpc.WithTransportCredentials(credentials.NewTLS(both)))
	require.NoError(t, err)
	defer conn.Close()
	_, err = pb.NewKVClient(conn).Put(deadline(t), &pb.PutRequest{Key: []byte("a"), Value: []byte("b")}, grpc.WaitForReady(true))
	require.NoError(t, err)
	w, err := pb.NewWatchClient(conn).Watch(deadline(t))
	require.NoError(t, err)
	require.NoError(t, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}))
	_, err = w.Recv()
	require.NoError(t, err)
	c.Stop(m) // it does not wait for the watch, nor fall over it
	_, err = w.Recv()
	require.Error(t, err)
}

func TestAutoTLS(t *testing.T) {
	c := servertest.NewSecure(t, 2, &tls.Config{InsecureSkipVerify: true}, append(servertest.Quick(), "--auto-tls", "--peer-auto-tls")...)
	for _, m := range c.Members {
		c.Run(m)
	}
	c.WaitReady(c.Members...)
	put(t, dial(c, c.Members[0]), "a", "b")
	cert := filepath.Join(c.Members[0].Dir, "fixtures", "client", "cert.pem")
	data, err := os.ReadFile(cert)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(data))
	_, _, err = httpsGet(&tls.Config{RootCAs: pool}, "https://"+c.Members[0].Client+"/health")
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(c.Members[1].Dir, "fixtures", "peer", "key.pem"))
}

// TestTLSFilesAreChecked has files that cannot be used: the member does not start, and leaves nothing behind.
func TestTLSFilesAreChecked(t *testing.T) {
	ca := certs.New(t)
	pair := ca.Issue("server", "server", "127.0.0.1")
	for want, flags := range map[string][]string{
		"no such file":                          {"--cert-file=/does/not/exist", "--key-file=" + pair.Key},
		"KeyFile and CertFile must both":        {"--key-file=" + pair.Key},
		"private key":                           {"--cert-file=" + pair.Cert, "--key-file=" + pair.Cert},
		"/none":                                 {"--cert-file=" + pair.Cert, "--key-file=" + pair.Key, "--trusted-ca-file=/none"},
		"mutually exclusive":                    {"--auto-tls", "--peer-cert-file=" + pair.Cert, "--peer-key-file=" + pair.Key, "--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"},
		"ClientKeyFile and ClientCertFile must": {"--auto-tls", "--peer-cert-file=" + pair.Cert, "--peer-key-file=" + pair.Key, "--peer-client-cert-file=" + pair.Cert},
	} {
		addr, dir := servertest.FreeAddr(t), filepath.Join(t.TempDir(), "data")
		cfg, err := config.Parse(append([]string{
			"--data-dir=" + dir, "--listen-client-urls=https://" + addr, "--advertise-client-urls=https://" + addr,
			"--listen-peer-urls=http://127.0.0.1:0",
		}, flags...), nil)
		require.NoError(t, err)
		_, err = server.Start(t.Context(), cfg, zap.NewNop())
		require.ErrorContains(t, err, want)
		require.NoDirExists(t, filepath.Join(dir, "member"))
		_, err = net.Dial("tcp", addr)
		require.Error(t, err, "the port is free again")
		_, err = os.Stat(filepath.Join(dir, "fixtures"))
		require.True(t, errors.Is(err, os.ErrNotExist))
	}
}

func put(t *testing.T, s services, key, value string) {
	t.Helper()
	_, err := s.Put(deadline(t), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	require.NoError(t, err)
}
