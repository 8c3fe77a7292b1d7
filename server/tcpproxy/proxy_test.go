package tcpproxy

import (
	"context"
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPick(t *testing.T) {
	for name, c := range map[string]struct {
		records []net.SRV
		down    []int
		want    map[string]int // of 1200 connections; targets with weights within a fifth
	}{
		"in turn":             {records: []net.SRV{{Port: 1}, {Port: 2}, {Port: 3}}, want: map[string]int{":1": 400, ":2": 400, ":3": 400}},
		"one is down":         {records: []net.SRV{{Port: 1}, {Port: 2}, {Port: 3}}, down: []int{1}, want: map[string]int{":1": 600, ":3": 600}},
		"all are down":        {records: []net.SRV{{Port: 1}}, down: []int{0}, want: map[string]int{"": 1200}},
		"priority":            {records: []net.SRV{{Port: 1, Priority: 2}, {Port: 2, Priority: 1}, {Port: 3, Priority: 1}}, want: map[string]int{":2": 600, ":3": 600}},
		"the next priority":   {records: []net.SRV{{Port: 1, Priority: 2}, {Port: 2, Priority: 1}}, down: []int{1}, want: map[string]int{":1": 1200}},
		"the lowest priority": {records: []net.SRV{{Port: 1, Priority: 65535}}, want: map[string]int{":1": 1200}},
		"weights":             {records: []net.SRV{{Port: 1, Weight: 1}, {Port: 2, Weight: 2}}, want: map[string]int{":1": 400, ":2": 800}},
	} {
		t.Run(name, func(t *testing.T) {
			var targets []*net.SRV
			weighted := false
			for _, r := range c.records {
				targets = append(targets, &r)
				weighted = weighted || r.Weight > 0
			}
			p := New(Config{Targets: targets, Logger: zap.NewNop()})
			for _, i := range c.down {
				p.targets[i].down = true
			}
			got := map[string]int{}
			for range 1200 {
				if picked := p.pick(); picked != nil {
					got[picked.addr]++
				} else {
					got[""]++
				}
			}
			if !weighted {
				require.Equal(t, c.want, got)
				return
			}
			require.Len(t, got, len(c.want))
			for addr, n := range c.want {
				require.InEpsilon(t, n, got[addr], 0.3, addr)
			}
		})
	}
}

// TestRarely picks targets of weight 0 beside one with a weight seldom, but sometimes, and each in turn.
func TestRarely(t *testing.T) {
	p := New(Config{Targets: []*net.SRV{{Port: 1, Weight: 1}, {Port: 2}, {Port: 3}}, Logger: zap.NewNop()})
	got := map[string]int{}
	for range 20_000 {
		got[p.pick().addr]++
	}
	require.Greater(t, got[":2"], 20)
	require.InDelta(t, got[":2"], got[":3"], 1)
	require.Greater(t, got[":1"], 19_000)
}

// backend greets with its name and returns what it is sent.
type backend struct {
	net.Listener
	name string
}

func newBackend(t *testing.T, name, addr string) *backend {
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	b := &backend{Listener: l, name: name}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, name)
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return b
}

func (b *backend) record(t *testing.T) *net.SRV {
	host, port, err := net.SplitHostPort(b.Addr().String())
	require.NoError(t, err)
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	return &net.SRV{Target: host, Port: uint16(n)}
}

// greeting connects and returns the name of who answers, nothing if the connection is closed. What is sent comes back.
func greeting(t *testing.T, addr string) string {
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	name := make([]byte, 1)
	if _, err := io.ReadFull(conn, name); err != nil {
		require.ErrorIs(t, err, io.EOF)
		return ""
	}
	_, err = io.WriteString(conn, "there and back")
	require.NoError(t, err)
	back := make([]byte, len("there and back"))
	_, err = io.ReadFull(conn, back)
	require.NoError(t, err)
	require.Equal(t, "there and back", string(back))
	return string(name)
}

func serve(t *testing.T, cfg Config) (addr string, stop func()) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	cfg.Logger = zap.NewNop()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		New(cfg).Serve(ctx, l)
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// TestComesBack leaves a target out while it cannot be reached, and only then.
func TestComesBack(t *testing.T) {
	a, b := newBackend(t, "a", "127.0.0.1:0"), newBackend(t, "b", "127.0.0.1:0")
	addr, _ := serve(t, Config{Targets: []*net.SRV{a.record(t), b.record(t)}, RetryDelay: 20 * time.Millisecond})
	require.Equal(t, "a", greeting(t, addr))
	require.Equal(t, "b", greeting(t, addr))
	require.NoError(t, b.Close())
	for range 4 {
		require.Equal(t, "a", greeting(t, addr))
	}
	require.NoError(t, a.Close())
	require.Empty(t, greeting(t, addr))
	newBackend(t, "c", b.Addr().String())
	require.Eventually(t, func() bool { return greeting(t, addr) == "c" }, 30*time.Second, 10*time.Millisecond)
}

// TestServeEnds closes open connections when it is told to end.
func TestServeEnds(t *testing.T) {
	a := newBackend(t, "a", "127.0.0.1:0")
	addr, stop := serve(t, Config{Targets: []*net.SRV{a.record(t)}})
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.ReadFull(conn, make([]byte, 1))
	require.NoError(t, err)
	stop()
	require.NoError(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}
