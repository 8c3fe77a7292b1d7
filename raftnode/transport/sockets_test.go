package transport

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/internal/testkit/certs"
)

// serveSocket answers on a unix socket with the host and the path that it is asked for.
func serveSocket(t *testing.T, path string, cfg *tls.Config) {
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	if cfg != nil {
		l = tls.NewListener(l, cfg)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host+" "+r.URL.RequestURI()) })}
	done := make(chan struct{})
	go func() {
		_ = srv.Serve(l)
		close(done)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
}

func TestRequestsToSockets(t *testing.T) {
	t.Chdir(t.TempDir())
	ca := certs.New(t)
	secure := ca.TLS(ca.Issue("server", "server", "localhost"))
	abs := filepath.Join(t.TempDir(), "a.sock")
	require.NoError(t, os.Mkdir("run", 0o700))
	serveSocket(t, "localhost:2380", nil)
	serveSocket(t, "localhost:2381", secure)
	serveSocket(t, abs, nil)
	serveSocket(t, "run/b.sock", secure)
	from := DialFrom(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, time.Second)
	rt := NewRoundTripper(&http.Transport{}, from, func() *tls.Config { return ca.TLS() })
	defer rt.CloseIdleConnections()
	client := &http.Client{Transport: rt}
	for _, c := range []struct{ url, want, err string }{
		{url: "unix://localhost:2380/version", want: "localhost:2380 /version"},
		{url: "unix://localhost:2380/members?linearizable=true", want: "localhost:2380 /members?linearizable=true"},
		{url: "unixs://localhost:2381/version", want: "localhost:2381 /version"},
		{url: "unix://" + abs + "/raft/stream/message/1", want: "localhost:0 /raft/stream/message/1"},
		{url: "unixs://run/b.sock/version", want: "localhost:0 /version"},
		{url: "unixs://localhost:2380/version", err: "HTTP response to HTTPS client"},
		{url: "unix://localhost:9/version", err: "no such file"},
		{url: "unix:///does/not/exist/version", err: "no such file"},
		{url: "unix://" + filepath.Dir(abs) + "/version", err: "no such file"},
		{url: "unix://run", err: "there is no socket"},
	} {
		resp, err := client.Post(c.url, "text/plain", strings.NewReader("x"))
		if c.err != "" {
			require.ErrorContains(t, err, c.err, c.url)
			continue
		}
		require.NoError(t, err, c.url)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, c.want, string(body))
	}
}

// TestMembersOnSockets sends messages and a database between transports that listen on sockets.
func TestMembersOnSockets(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	for _, m := range []*member{a, b} {
		path := filepath.Join(t.TempDir(), "peer")
		l, err := net.Listen("unix", path)
		require.NoError(t, err)
		m.stopServer()
		m.listen(l)
		other := map[*member]*member{a: b, b: a}[m]
		other.tr.AddPeer(m.id, []string{"unix://" + path})
	}
	a.awaitStreams(2)
	b.awaitStreams(1)
	a.tr.Send([]*raftpb.Message{message(raftpb.MsgApp, 1, 2), message(raftpb.MsgHeartbeat, 1, 2)})
	b.awaitMessages(2)
	a.tr.SendSnapshot(snapshotMessage(1, 2, 42), io.NopCloser(strings.NewReader("database")), 8)
	a.awaitSnapshotReport("2 false")
	require.Equal(t, "database", string(b.snaps.db(42)))
}

func FuzzSplitSocket(f *testing.F) {
	f.Add("unix://localhost:1/x")
	f.Add("unixs:///a/b")
	f.Add("unix://a//b")
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.Parse(raw)
		if err != nil || !isSocket(u) {
			return
		}
		socket, path, err := splitSocket(u)
		if err == nil && socket+path != u.Host+u.Path {
			t.Fatalf("%q is %q and %q", raw, socket, path)
		}
		if got, err := decodeSocket(encodeSocket(raw)); err != nil || got != raw {
			t.Fatalf("%q became %q: %v", raw, got, err)
		}
	})
}
