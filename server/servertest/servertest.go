// Package servertest runs members for tests: in this process, or as real binaries, alone or as a cluster, on loopback
// ports that were free a moment ago.
//
// # Concurrency
//
// A Cluster is for one test goroutine, unless a method says otherwise.
package servertest

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keelson-io/keelson/server"
	"github.com/keelson-io/keelson/server/config"
)

// Quick are flags for a cluster that elects leaders in half the usual time.
func Quick() []string { return []string{"--heartbeat-interval=50", "--election-timeout=500"} }

// readyTimeout is how long a member may take until it serves.
const readyTimeout = 2 * time.Minute

// Member is one member of a Cluster.
type Member struct {
	Name    string
	Dir     string // data directory
	Client  string // host:port
	PeerURL string
	Flags   []string
	srv     *server.Server
	proc    *process
}

// Done is closed when a member in this process cannot go on, or when the program has ended.
func (m *Member) Done() <-chan struct{} {
	if m.proc != nil {
		return m.proc.done
	}
	return m.srv.Done()
}

// Server is a member that runs in this process.
func (m *Member) Server() *server.Server { return m.srv }

// Cut separates two members that run in this process, until Mend.
func (m *Member) Cut(other *Member) {
	m.srv.Cut(other.srv.ID())
	other.srv.Cut(m.srv.ID())
}

// Mend joins two members again.
func (m *Member) Mend(other *Member) {
	m.srv.Mend(other.srv.ID())
	other.srv.Mend(m.srv.ID())
}

// Cluster is some members that know each other.
type Cluster struct {
	t       testing.TB
	tls     *tls.Config // how to connect; nil: without TLS
	Members []*Member
	Logger  *zap.Logger // of members in this process that are started from now on; nil is the test's log, if it is verbose
	Found   []string    // flags by which members find each other, instead of --initial-cluster
	made    int         // members that were ever prepared
}

// New prepares a cluster of so many members without starting them. flags are further server flags.
func New(t testing.TB, size int, flags ...string) *Cluster { return NewSecure(t, size, nil, flags...) }

// NewSecure is New for members that listen with TLS, if tls, the configuration of their clients, is given.
func NewSecure(t testing.TB, size int, tls *tls.Config, flags ...string) *Cluster {
	c := &Cluster{t: t, tls: tls}
	for range size {
		c.newMember(flags)
	}
	t.Cleanup(func() {
		for _, m := range c.Members {
			c.Kill(m)
		}
	})
	return c
}

// Add prepares a further member, which joins the running cluster when it is started. It must have been added to the
// cluster before that.
func (c *Cluster) Add(flags ...string) *Member {
	m := c.newMember(flags)
	m.Flags = append(m.Flags, "--initial-cluster-state=existing")
	return m
}

// Forget kills a member and drops it from Members, after it was removed from the cluster.
func (c *Cluster) Forget(m *Member) {
	c.Kill(m)
	c.Members = slices.DeleteFunc(c.Members, func(have *Member) bool { return have == m })
}

func (c *Cluster) newMember(flags []string) *Member {
	c.made++
	m := &Member{
		Name: fmt.Sprintf("m%d", c.made), Dir: filepath.Join(c.t.TempDir(), "data"), Client: FreeAddr(c.t),
		PeerURL: c.scheme() + FreeAddr(c.t), Flags: slices.Clone(flags),
	}
	c.Members = append(c.Members, m)
	return m
}

// Start prepares a cluster and starts it in this process.
func Start(t testing.TB, size int, flags ...string) *Cluster {
	t.Helper()
	c := New(t, size, flags...)
	for _, m := range c.Members {
		c.Run(m)
	}
	c.WaitReady(c.Members...)
	return c
}

// ports is how many ports this process has taken.
var ports atomic.Uint32

// FreeAddr returns a loopback address that nobody listens on, and that this process has not had before. Its port is below
// those that the system gives to outgoing connections, so that it stays free while the member that owns it is down.
func FreeAddr(t testing.TB) string {
	t.Helper()
	const first, count = 10_000, 22_000
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+(uint32(os.Getpid())*613+ports.Add(1))%count))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	require.FailNow(t, "no free port")
	return ""
}

func (c *Cluster) scheme() string {
	if c.tls != nil {
		return "https://"
	}
	return "http://"
}

// Args are the flags that a member is started with.
func (c *Cluster) Args(m *Member) []string {
	client := c.scheme() + m.Client
	var initial []string
	for _, have := range c.Members {
		initial = append(initial, have.Name+"="+have.PeerURL)
	}
	found := c.Found
	if found == nil {
		found = []string{"--initial-cluster=" + strings.Join(initial, ",")}
	}
	return slices.Concat([]string{
		"--name=" + m.Name, "--data-dir=" + m.Dir,
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + m.PeerURL, "--initial-advertise-peer-urls=" + m.PeerURL,
	}, found, m.Flags)
}

// Run starts a member in this process. It does not wait until the member serves.
func (c *Cluster) Run(m *Member) {
	c.t.Helper()
	cfg, err := config.Parse(c.Args(m), nil)
	require.NoError(c.t, err)
	lg := zap.NewNop()
	if c.Logger != nil {
		lg = c.Logger.With(zap.String("member", m.Name))
	} else if testing.Verbose() {
		lg = zaptest.NewLogger(c.t, zaptest.WrapOptions(zap.Fields(zap.String("member", m.Name))), zaptest.Level(zap.WarnLevel))
	}
	m.srv, err = server.Start(context.Background(), cfg, lg)
	require.NoError(c.t, err)
}

// WaitReady waits until members serve.
func (c *Cluster) WaitReady(members ...*Member) {
	c.t.Helper()
	timeout := time.After(readyTimeout)
	for _, m := range members {
		if m.srv == nil {
			c.waitDial(m)
			continue
		}
		select {
		case <-m.srv.Ready():
		case <-m.srv.Done():
			require.NoError(c.t, m.srv.Err())
		case <-timeout:
			require.FailNow(c.t, "not ready in time", m.Name)
		}
	}
}

// Stop stops a member in order.
func (c *Cluster) Stop(m *Member) {
	c.t.Helper()
	if m.srv != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(c.t, m.srv.Stop(ctx))
		m.srv = nil
	}
	if m.proc != nil {
		m.proc.terminate(c.t)
		m.proc = nil
	}
}

// Kill kills a process at once; a member in this process is stopped.
func (c *Cluster) Kill(m *Member) {
	if m.proc != nil {
		m.proc.kill()
		m.proc = nil
		return
	}
	if m.srv != nil {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = m.srv.Stop(ctx)
		m.srv = nil
	}
}

// Addrs are the client addresses of all members.
func (c *Cluster) Addrs() []string {
	var out []string
	for _, m := range c.Members {
		out = append(out, m.Client)
	}
	return out
}

// Dial connects to a member.
func (c *Cluster) Dial(m *Member) *grpc.ClientConn {
	c.t.Helper()
	creds := insecure.NewCredentials()
	if c.tls != nil {
		creds = credentials.NewTLS(c.tls)
	}
	conn, err := grpc.NewClient(m.Client, grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{ // a member that starts is found soon
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	require.NoError(c.t, err)
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}
