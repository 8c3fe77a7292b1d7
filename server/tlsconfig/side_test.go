package tlsconfig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/testkit/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// leaping is a clock that every question moves on by more than files are let alone.
type leaping struct {
	clock.Clock
	asked atomic.Int64
}

func (l *leaping) Now() time.Time {
	return time.Now().Add(time.Duration(l.asked.Add(1)) * (checkInterval + settleTime))
}

func newSide(t *testing.T, s Settings) *Side {
	t.Helper()
	side, err := New(s, &leaping{Clock: clock.Real}, zap.NewNop())
	require.NoError(t, err)
	return side
}

// listenTLS answers every connection with one byte, after its handshake.
func listenTLS(t *testing.T, side *Side) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", side.Server("h2"))
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{1})
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String()
}

// dial says whether a listener takes a client: with TLS 1.3 a refusal comes after the client's handshake.
func dial(addr string, cfg *tls.Config) error {
	c, err := tls.Dial("tcp", addr, cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

func TestWhoMayConnect(t *testing.T) {
	ca, other := certs.New(t), certs.New(t)
	server := ca.Issue("server", "server", "127.0.0.1", "localhost")
	alice := ca.Issue("alice", "alice", "alice.example", "10.1.2.3")
	bob := ca.Issue("bob", "bob")
	late := ca.Make("late", "alice", nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	forServers := ca.Make("half", "alice", nil, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	stranger := other.Issue("stranger", "alice", "alice.example")
	crl := ca.Revoke("list", bob)
	var none certs.Pair

	with := func(s Settings) Settings {
		s.CertFile, s.KeyFile = server.Cert, server.Key
		return s
	}
	for _, c := range []struct {
		name     string
		s        Settings
		takes    []certs.Pair
		declines []certs.Pair
	}{
		{"no client certificates", Settings{}, []certs.Pair{none, alice, stranger}, nil},
		{"authorities", Settings{TrustedCAFile: ca.CA}, []certs.Pair{alice, bob}, []certs.Pair{none, stranger, late, forServers}},
		{"client certificates, the system's authorities", Settings{ClientCertAuth: true}, nil, []certs.Pair{none, alice}},
		{"common name", Settings{TrustedCAFile: ca.CA, AllowedCNs: []string{"carol", "alice"}}, []certs.Pair{alice}, []certs.Pair{none, bob, stranger}},
		{"host name", Settings{TrustedCAFile: ca.CA, AllowedHostnames: []string{"alice.example"}}, []certs.Pair{alice}, []certs.Pair{bob}},
		{"address", Settings{TrustedCAFile: ca.CA, AllowedHostnames: []string{"x", "10.1.2.3"}}, []certs.Pair{alice}, []certs.Pair{bob}},
		{"names that nobody asks for", Settings{AllowedCNs: []string{"alice"}}, []certs.Pair{none, bob}, nil},
		{"revoked", Settings{TrustedCAFile: ca.CA, CRLFile: crl}, []certs.Pair{alice}, []certs.Pair{bob}},
		{"only 1.3", Settings{TrustedCAFile: ca.CA, MinVersion: tls.VersionTLS13}, []certs.Pair{alice}, []certs.Pair{none}},
		{"only 1.2", Settings{TrustedCAFile: ca.CA, MaxVersion: tls.VersionTLS12}, []certs.Pair{alice}, []certs.Pair{none}},
	} {
		t.Run(c.name, func(t *testing.T) {
			addr := listenTLS(t, newSide(t, with(c.s)))
			try := func(p certs.Pair) error {
				cfg := ca.TLS()
				if p.Cert != "" {
					pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
					require.NoError(t, err)
					cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
				}
				return dial(addr, cfg)
			}
			for _, p := range c.takes {
				require.NoError(t, try(p), "%s", p.Cert)
			}
			for _, p := range c.declines {
				require.Error(t, try(p), "%s", p.Cert)
			}
		})
	}
}

func TestVersions(t *testing.T) {
	ca := certs.New(t)
	server := ca.Issue("server", "server", "127.0.0.1")
	s := Settings{CertFile: server.Cert, KeyFile: server.Key, MinVersion: tls.VersionTLS13}
	addr := listenTLS(t, newSide(t, s))
	old := ca.TLS()
	old.MaxVersion = tls.VersionTLS12
	require.Error(t, dial(addr, old))
	require.NoError(t, dial(addr, ca.TLS()))

	s.MinVersion, s.CipherSuites = 0, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}
	addr = listenTLS(t, newSide(t, s))
	old.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
	require.Error(t, dial(addr, old))
	old.CipherSuites = nil
	require.NoError(t, dial(addr, old))
}

// TestReload changes each file of a listener that serves.
func TestReload(t *testing.T) {
	ca, next := certs.New(t), certs.New(t)
	server := ca.Issue("server", "server", "127.0.0.1")
	alice, fromNext := ca.Issue("alice", "alice"), next.Issue("alice", "alice")
	s := Settings{CertFile: server.Cert, KeyFile: server.Key, TrustedCAFile: ca.CA, CRLFile: ca.Revoke("list")}
	addr := listenTLS(t, newSide(t, s))
	// A client that resumes sessions if it may.
	old := ca.TLS(alice)
	old.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	require.NoError(t, dial(addr, old))
	require.NoError(t, dial(addr, old))
	newcomer := ca.TLS(fromNext)
	require.Error(t, dial(addr, newcomer))

	certs.Write(t, ca.CA, next.PEM())
	require.Error(t, dial(addr, old), "its authority is gone")
	require.NoError(t, dial(addr, newcomer))
	certs.Write(t, ca.CA, append(next.PEM(), ca.PEM()...))
	require.NoError(t, dial(addr, old))
	require.NoError(t, dial(addr, newcomer))

	server.Copy(t, next.Issue("server", "server", "127.0.0.1"))
	require.Error(t, dial(addr, old), "it does not know the new certificate's authority")
	old.RootCAs = next.Pool()
	require.NoError(t, dial(addr, old))

	certs.Write(t, s.CRLFile, mustRead(t, ca.Revoke("newer", alice)))
	require.Error(t, dial(addr, old))
	newcomer.RootCAs = next.Pool()
	require.NoError(t, dial(addr, newcomer))
}

// TestBrokenFilesAreNotUsed replaces files by what cannot be used: the old ones stay, and the log says so once.
func TestBrokenFilesAreNotUsed(t *testing.T) {
	ca := certs.New(t)
	server, alice := ca.Issue("server", "server", "127.0.0.1"), ca.Issue("alice", "alice")
	another := ca.Issue("another", "server", "127.0.0.1")
	s := Settings{CertFile: server.Cert, KeyFile: server.Key, TrustedCAFile: ca.CA, CRLFile: ca.Revoke("list")}
	core, logs := observer.New(zap.ErrorLevel)
	side, err := New(s, &leaping{Clock: clock.Real}, zap.New(core))
	require.NoError(t, err)
	addr := listenTLS(t, side)
	cfg := ca.TLS(alice)
	for _, file := range []string{s.CertFile, s.KeyFile, s.TrustedCAFile, s.CRLFile} {
		good := mustRead(t, file)
		for _, bad := range [][]byte{nil, []byte("no certificate"), good[:len(good)/2], mustRead(t, another.Key)} {
			certs.Write(t, file, bad)
			logs.TakeAll()
			require.NoError(t, dial(addr, cfg))
			require.NoError(t, dial(addr, cfg))
			require.Len(t, logs.TakeAll(), 1, "%s as %q", file, bad)
			certs.Write(t, file, good)
			require.NoError(t, dial(addr, cfg))
		}
		require.NoError(t, os.Remove(file))
		require.NoError(t, dial(addr, cfg))
		require.Len(t, logs.TakeAll(), 1)
		certs.Write(t, file, good)
		require.NoError(t, dial(addr, cfg))
		require.Empty(t, logs.TakeAll())
	}
}

func TestFilesAreNotReadForEveryHandshake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	certs.Write(t, path, []byte("1"))
	require.NoError(t, os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)))
	now := &still{Clock: clock.Real, now: time.Now()}
	reads := 0
	r, err := newReloaded("f", now, zap.NewNop(), func() (int, error) { reads++; return reads, nil }, path)
	require.NoError(t, err)
	get := func() int { return r.get() }
	require.Equal(t, 1, get())
	now.now = now.now.Add(checkInterval)
	require.Equal(t, 1, get(), "it has not changed")
	certs.Write(t, path, []byte("2"))
	require.NoError(t, os.Chtimes(path, time.Time{}, now.now))
	require.Equal(t, 1, get(), "it is too early to look")
	now.now = now.now.Add(checkInterval)
	require.Equal(t, 2, get())
	now.now = now.now.Add(checkInterval)
	require.Equal(t, 3, get(), "the change was too recent to tell whether there was another one")
}

type still struct {
	clock.Clock
	now time.Time
}

func (s *still) Now() time.Time { return s.now }

// TestConnecting is the other end: authorities, the certificate that is shown, and the allowed names of servers.
func TestConnecting(t *testing.T) {
	ca, other := certs.New(t), certs.New(t)
	server, peer := ca.Issue("server", "server", "127.0.0.1"), ca.Issue("peer", "peer")
	serving := newSide(t, Settings{CertFile: server.Cert, KeyFile: server.Key, TrustedCAFile: ca.CA, AllowedCNs: []string{"peer"}})
	addr := listenTLS(t, serving)
	connect := func(s Settings) error {
		cfg := newSide(t, s).Client()
		cfg.ServerName = "127.0.0.1"
		return dial(addr, cfg)
	}
	own := Settings{CertFile: server.Cert, KeyFile: server.Key, TrustedCAFile: ca.CA}
	require.Error(t, connect(own), "the name server is not allowed")
	own.ClientCertFile, own.ClientKeyFile = peer.Cert, peer.Key
	require.NoError(t, connect(own))
	own.AllowedCNs = []string{"peer"}
	require.ErrorIs(t, connect(own), errNotAllowed, "the names are those of servers, too")
	own.AllowedCNs, own.TrustedCAFile = nil, other.CA
	require.Error(t, connect(own))
	require.Error(t, connect(Settings{TrustedCAFile: ca.CA}), "no certificate to show")

	// The authorities are those of the moment.
	s := Settings{CertFile: peer.Cert, KeyFile: peer.Key, TrustedCAFile: other.CA}
	side := newSide(t, s)
	cfg := side.Client()
	cfg.ServerName = "127.0.0.1"
	require.Error(t, dial(addr, cfg))
	certs.Write(t, other.CA, ca.PEM())
	cfg = side.Client()
	cfg.ServerName = "127.0.0.1"
	require.NoError(t, dial(addr, cfg))
}

func TestSettingsThatContradict(t *testing.T) {
	ca := certs.New(t)
	p := ca.Issue("a", "a")
	empty := filepath.Join(t.TempDir(), "empty")
	certs.Write(t, empty, nil)
	for _, c := range []struct {
		s    Settings
		want string
	}{
		{Settings{CertFile: p.Cert}, "KeyFile and CertFile must both be present"},
		{Settings{KeyFile: p.Key}, "KeyFile and CertFile must both be present"},
		{Settings{CertFile: p.Cert, KeyFile: p.Key, ClientKeyFile: p.Key}, "ClientKeyFile and ClientCertFile must both be present or both absent"},
		{Settings{CertFile: p.Cert, KeyFile: p.Key, AllowedCNs: []string{"a"}, AllowedHostnames: []string{"b"}}, "mutually exclusive"},
		{Settings{CertFile: "/does/not/exist", KeyFile: p.Key}, "no such file"},
		{Settings{CertFile: p.Cert, KeyFile: p.Cert}, "private key"},
		{Settings{CertFile: p.Cert, KeyFile: p.Key, TrustedCAFile: empty}, "no certificates"},
		{Settings{CertFile: p.Cert, KeyFile: p.Key, CRLFile: p.Cert}, "x509"},
	} {
		_, err := New(c.s, clock.Real, zap.NewNop())
		require.ErrorContains(t, err, c.want)
	}
	_, err := Version("TLS1.1")
	require.EqualError(t, err, `unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)`)
	_, err = CipherSuites([]string{"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_RSA_WITH_NULL"})
	require.EqualError(t, err, `unexpected TLS cipher suite "TLS_RSA_WITH_NULL"`)
	require.ErrorContains(t, CheckVersions("TLS1.3", "TLS1.2", nil), "is greater than")
	require.ErrorContains(t, CheckVersions("TLS1.3", "", []string{"x"}), "cannot be configured")
	require.NoError(t, CheckVersions("TLS1.2", "", []string{"x"}))
}

func TestSelfSigned(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fixtures", "client")
	make := func(years uint, clk clock.Clock) Settings {
		s, err := SelfSigned(Settings{AutoTLS: true, TrustedCAFile: "x"}, dir, []string{"127.0.0.1:1", "localhost:2", "/tmp/socket"}, years, clk, zap.NewNop())
		require.NoError(t, err)
		return s
	}
	s := make(2, clock.Real)
	require.Equal(t, filepath.Join(dir, "cert.pem"), s.CertFile)
	for path, mode := range map[string]os.FileMode{dir: 0o700, s.CertFile: 0o600, s.KeyFile: 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	require.NoError(t, err)
	require.Equal(t, []string{"localhost"}, pair.Leaf.DNSNames)
	require.Len(t, pair.Leaf.IPAddresses, 1)
	require.InDelta(t, 2*365*24, time.Until(pair.Leaf.NotAfter).Hours(), 1)

	side := newSide(t, s)
	addr := listenTLS(t, side)
	cfg := side.Client()
	cfg.ServerName = "any.name"
	require.NoError(t, dial(addr, cfg), "members trust each other without an authority")
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	require.NoError(t, dial(addr, &tls.Config{RootCAs: pool}), "it is its own authority")

	before := mustRead(t, s.CertFile)
	make(2, clock.Real)
	require.Equal(t, before, mustRead(t, s.CertFile))
	make(2, &still{Clock: clock.Real, now: time.Now().Add(3 * 365 * 24 * time.Hour)})
	require.NotEqual(t, before, mustRead(t, s.CertFile), "it has expired")
	_, err = SelfSigned(Settings{}, dir, nil, 0, clock.Real, zap.NewNop())
	require.Error(t, err)
}

// names is a name service.
type names map[string][]string

func (n names) LookupAddr(_ context.Context, addr string) ([]string, error) { return n.find(addr) }
func (n names) LookupHost(_ context.Context, host string) ([]string, error) { return n.find(host) }

func (n names) find(what string) ([]string, error) {
	if out, ok := n[what]; ok {
		return out, nil
	}
	return nil, errors.New("no such host")
}

func TestCheckAddress(t *testing.T) {
	r := names{"10.0.0.1": {"a.example."}, "a.example": {"10.0.0.1"}, "b.example": {"10.0.0.2", "10.0.0.3"}}
	for _, c := range []struct {
		name   string
		ips    []string
		dns    []string
		remote string
		fits   bool
	}{
		{"no names", nil, nil, "10.0.0.9:1", true},
		{"address", []string{"10.0.0.8", "10.0.0.9"}, nil, "10.0.0.9:1", true},
		{"other address", []string{"10.0.0.8"}, nil, "10.0.0.9:1", false},
		{"other address, its name", []string{"10.0.0.8"}, []string{"a.example"}, "10.0.0.1:1", true},
		{"other address, other name", []string{"10.0.0.8"}, []string{"c.example"}, "10.0.0.1:1", false},
		{"wildcard", nil, []string{"*.example"}, "10.0.0.1:1", true},
		{"wildcard of another domain", nil, []string{"*.test"}, "10.0.0.1:1", false},
		{"a wildcard is not looked up", nil, []string{"*.b.example"}, "10.0.0.2:1", false},
		{"forward only", nil, []string{"b.example"}, "10.0.0.3:1", true},
		{"forward to others", nil, []string{"b.example"}, "10.0.0.4:1", false},
		{"no address", []string{"10.0.0.8"}, nil, "@", false},
		{"version 6", []string{"::1"}, nil, "[::1]:1", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			cert := &x509.Certificate{DNSNames: c.dns}
			for _, ip := range c.ips {
				cert.IPAddresses = append(cert.IPAddresses, net.ParseIP(ip))
			}
			err := CheckAddress(t.Context(), r, cert, c.remote)
			if c.fits {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
			}
		})
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}
