package tcpproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/testkit/certs"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestLikeEtcd runs Keelson's gateway and etcd's in front of the same targets.
func TestLikeEtcd(t *testing.T) {
	etcd := servertest.Oracle(t, "etcd")
	a, b, c := newBackend(t, "a", "127.0.0.1:0"), newBackend(t, "b", "127.0.0.1:0"), newBackend(t, "c", "127.0.0.1:0")
	endpoints := []string{a.Addr().String(), "http://" + b.Addr().String(), c.Addr().String()}

	theirs := servertest.FreeAddr(t)
	cmd := exec.Command(etcd, "gateway", "start", "--listen-addr="+theirs, "--endpoints="+strings.Join(endpoints, ","), "--retry-delay=1h")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var conn net.Conn
	require.Eventually(t, func() (up bool) {
		var err error
		conn, err = net.Dial("tcp", theirs)
		return err == nil
	}, time.Minute, 20*time.Millisecond)
	first := make([]byte, 1) // who only connects takes a turn at a time of its own
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err := io.ReadFull(conn, first)
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.Equal(t, "a", string(first))

	l, p, err := Open(t.Context(), Options{Listen: "127.0.0.1:0", Endpoints: endpoints, RetryDelay: time.Hour}, zap.NewNop())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); p.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	ours := l.Addr().String()
	require.Equal(t, "a", greeting(t, ours))

	same := func(want ...string) {
		t.Helper()
		for _, w := range want {
			require.Equal(t, w, greeting(t, theirs), "etcd")
			require.Equal(t, w, greeting(t, ours), "Keelson")
		}
	}
	same("b", "c", "a", "b", "c")
	require.NoError(t, b.Close())
	same("a", "c", "a", "c")
	require.NoError(t, a.Close())
	same("c", "c")
	require.NoError(t, c.Close())
	same("", "")
}

// TestRefusals compares what Keelson and etcd refuse to start with.
func TestRefusals(t *testing.T) {
	etcd := servertest.Oracle(t, "etcd")
	for _, c := range []struct {
		listen, endpoint, want string
	}{
		{"127.0.0.1", "127.0.0.1:1", "failed to validate listen address: 127.0.0.1"},
		{"127.0.0.1:1234", "127.0.0.1", `error parsing endpoint "127.0.0.1"`},
		{"127.0.0.1:1234", "http://127.0.0.1:1234", "SRV or endpoint (127.0.0.1:1234->127.0.0.1:1234) should not resolve to the gateway listen addr (127.0.0.1:1234)"},
		{"127.0.0.1:1234", "", "no endpoints found"},
		{":1234", "127.0.0.1:1", "failed to resolve listen host: "},
	} {
		out, err := exec.Command(etcd, "gateway", "start", "--listen-addr="+c.listen, "--endpoints="+c.endpoint).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), c.want)
		var endpoints []string
		if c.endpoint != "" {
			endpoints = append(endpoints, c.endpoint)
		}
		_, _, err = Open(t.Context(), Options{Listen: c.listen, Endpoints: endpoints}, zap.NewNop())
		require.EqualError(t, err, c.want)
	}
}

// TestDiscovered makes targets of SRV records; without Insecure only of endpoints with a certificate for the domain.
func TestDiscovered(t *testing.T) {
	ca, other := certs.New(t), certs.New(t)
	good := listenTLS(t, ca.TLS(ca.Issue("good", "x", "example")))
	strict := ca.TLS(ca.Issue("strict", "x", "example"))
	strict.ClientAuth, strict.ClientCAs, strict.MaxVersion = tls.RequireAndVerifyClientCert, ca.Pool(), tls.VersionTLS12
	records := map[string][]*net.SRV{
		"_etcd-client-ssl._tcp.example": {
			good, listenTLS(t, strict),
			listenTLS(t, ca.TLS(ca.Issue("elsewhere", "x", "elsewhere"))), listenTLS(t, other.TLS(other.Issue("forged", "x", "example"))),
		},
		"_etcd-client._tcp.example":      {{Target: "127.0.0.1.", Port: 7, Priority: 3, Weight: 5}},
		"_etcd-client-blue._tcp.example": {{Target: "127.0.0.1.", Port: 8}},
	}
	lookup := func(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
		if r, ok := records["_"+service+"._"+proto+"."+name]; ok {
			return "", r, nil
		}
		return "", nil, errors.New("no such host")
	}
	ports := func(o Options) (out []uint16) {
		t.Helper()
		o.Lookup, o.Endpoints = lookup, []string{"127.0.0.1:9"}
		found, err := o.targets(t.Context(), zap.NewNop())
		require.NoError(t, err)
		for _, r := range found {
			require.Equal(t, "127.0.0.1", r.Target)
			out = append(out, r.Port)
		}
		return out
	}
	all := records["_etcd-client-ssl._tcp.example"]
	require.Equal(t, []uint16{all[0].Port, all[1].Port}, ports(Options{Domain: "example", CAFile: ca.CA}))
	require.Equal(t, []uint16{all[0].Port, all[1].Port, all[2].Port, all[3].Port, 7}, ports(Options{Domain: "example", Insecure: true}))
	require.Equal(t, []uint16{8}, ports(Options{Domain: "example", Suffix: "blue", Insecure: true}))
	require.Equal(t, []uint16{9}, ports(Options{Domain: "example", Suffix: "blue"}), "nothing can be trusted: the given endpoints")
	require.Equal(t, []uint16{9}, ports(Options{}))

	_, err := (&Options{Domain: "other", Lookup: lookup}).targets(t.Context(), zap.NewNop())
	require.ErrorContains(t, err, "dns lookup errors")
	_, err = (&Options{Domain: "example", Lookup: lookup, CAFile: "/does/not/exist"}).targets(t.Context(), zap.NewNop())
	require.ErrorContains(t, err, "--trusted-ca-file")
}

// listenTLS accepts connections and shakes hands.
func listenTLS(t *testing.T, cfg *tls.Config) *net.SRV {
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.(*tls.Conn).Handshake()
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	r := (&backend{Listener: l}).record(t)
	r.Target += "."
	return r
}
