package transport

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMessagesOfAllTypes(t *testing.T) {
	a, b, c := newMember(t, 1), newMember(t, 2), newMember(t, 3)
	connect(t, a, b, c)
	require.Equal(t, 2, a.tr.ActivePeers())
	require.False(t, a.tr.ActiveSince(2).IsZero())
	require.True(t, a.tr.ActiveSince(9).IsZero())

	var msgs []*raftpb.Message
	for typ := range raftpb.MessageType_name {
		if raftpb.MessageType(typ) == raftpb.MsgSnap {
			continue
		}
		for _, to := range []uint64{2, 3} {
			msgs = append(msgs, numbered(raftpb.MessageType(typ), 1, to, uint64(typ)))
		}
	}
	msgs = append(msgs, message(raftpb.MsgHup, 1, 0), message(raftpb.MsgHup, 1, 9))
	kept := make([]*raftpb.Message, len(msgs))
	for i, m := range msgs {
		kept[i] = proto.Clone(m).(*raftpb.Message)
	}
	a.tr.Send(msgs)
	for _, m := range []*member{b, c} {
		got := m.awaitMessages(len(raftpb.MessageType_name) - 1)
		seen := map[raftpb.MessageType]bool{}
		for _, g := range got {
			require.Equal(t, m.id, g.GetTo())
			require.Equal(t, uint64(g.GetType()), g.GetIndex())
			seen[g.GetType()] = true
		}
		require.Len(t, seen, len(got))
	}
	for i := range msgs {
		requireEqual(t, kept[i], msgs[i])
	}
	require.Positive(t, a.metric("etcd_network_peer_sent_bytes_total"))
	require.Positive(t, b.metric("etcd_network_peer_received_bytes_total"))
	require.Equal(t, 2.0, a.metric("etcd_network_active_peers"))
	require.Eventually(t, func() bool { return a.metric("etcd_network_peer_round_trip_time_seconds") > 1 }, 15*time.Second, 5*time.Millisecond)
}

func TestOrderAndContentOfAppends(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	connect(t, a, b)
	const n = 2000
	var want []*raftpb.Message
	for i := range uint64(n) {
		want = append(want, appendMessage(5, 5, 100+i, 100+i, entry(5, 101+i, strings.Repeat("x", int(i%300)))))
	}
	for i := 0; i < n; i += 10 {
		a.tr.Send(want[i : i+10])
	}
	for i, got := range b.awaitMessages(n) {
		requireEqual(t, want[i], got)
	}
}

func TestLargeMessage(t *testing.T) {
	patient := func(c *Config) { c.ReadTimeout = 5 * time.Second } // under the race detector, encoding alone may take a second
	a, b := newMember(t, 1, patient), newMember(t, 2, patient)
	connect(t, a, b)
	want := appendMessage(5, 5, 100, 100, entry(5, 101, strings.Repeat("x", 20<<20)))
	a.tr.Send([]*raftpb.Message{want})
	requireEqual(t, want, b.awaitMessages(1)[0])
}

func TestMessagesWithoutStreams(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	a.tr.AddRemote(2, []string{b.url()})
	a.tr.Send([]*raftpb.Message{message(raftpb.MsgAppResp, 1, 2)})
	requireEqual(t, message(raftpb.MsgAppResp, 1, 2), b.awaitMessages(1)[0])
	require.Zero(t, a.tr.ActivePeers(), "a remote is no peer")

	// The receiver has learnt where the sender is.
	require.True(t, b.tr.known(1))
	b.tr.Send([]*raftpb.Message{message(raftpb.MsgApp, 2, 1)})
	a.awaitMessages(1)

	// A remote that becomes a peer gets streams.
	connect(t, a, b)
	require.Empty(t, a.tr.remotes)
	a.tr.Send([]*raftpb.Message{message(raftpb.MsgHeartbeat, 1, 2)})
	b.awaitMessages(2)
}

func TestIdleStreamsStayUp(t *testing.T) {
	short := func(c *Config) { c.ReadTimeout, c.HeartbeatInterval = 200*time.Millisecond, 50*time.Millisecond }
	a, b := newMember(t, 1, short), newMember(t, 2, short)
	connect(t, a, b)
	since := a.tr.ActiveSince(2)
	time.Sleep(600 * time.Millisecond)
	require.Equal(t, since, a.tr.ActiveSince(2))
	n, _ := a.raft.reports()
	require.Zero(t, n)
	require.Empty(t, a.raft.messages(), "heartbeats of the streams stay below raft")
}

func TestSilentStreamIsGivenUp(t *testing.T) {
	var dials sync.Map
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dials.Store(r.RemoteAddr, true)
		w.Header().Set(headerVersion, "3.7.3")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer srv.Close()
	a := newMember(t, 1, func(c *Config) { c.ReadTimeout = 100 * time.Millisecond })
	a.tr.AddPeer(2, []string{srv.URL})
	require.Eventually(t, func() bool {
		n := 0
		dials.Range(func(any, any) bool { n++; return true })
		return n > 4
	}, 15*time.Second, 5*time.Millisecond)
	a.tr.RemovePeer(2)
	require.Positive(t, a.metric("etcd_network_disconnected_peers_total"))
}

func TestSource(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has all of 127.0.0.0/8")
	}
	from := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case from <- r.RemoteAddr:
		default:
		}
	}))
	defer srv.Close()
	a := newMember(t, 1, func(c *Config) { c.Source = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 7)} })
	a.tr.AddPeer(2, []string{srv.URL})
	require.Contains(t, <-from, "127.0.0.7:")
	a.tr.RemovePeer(2)
}

// TestSockets has members that meet at sockets in the working directory, as in etcd.
func TestSockets(t *testing.T) {
	t.Chdir(t.TempDir())
	at := func(id int) string { return fmt.Sprintf("m%d:1", id) }
	var ms []*member
	for id := 1; id <= 2; id++ {
		m := newMember(t, uint64(id), func(c *Config) {
			c.LocalURLs = []string{"unix://" + at(id)}
			c.Source = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
		})
		l, err := net.Listen("unix", at(id))
		require.NoError(t, err)
		m.stopServer()
		m.listen(l)
		ms = append(ms, m)
	}
	ms[0].tr.AddPeer(2, []string{"unix://" + at(2)})
	ms[1].tr.AddPeer(1, []string{"unix://" + at(1)})
	ms[0].awaitStreams(2)
	ms[1].awaitStreams(1)
	ms[0].tr.Send([]*raftpb.Message{message(raftpb.MsgHeartbeat, 1, 2)})
	requireEqual(t, message(raftpb.MsgHeartbeat, 1, 2), ms[1].awaitMessages(1)[0])
	_, err := parseURLs([]string{"unix://"})
	require.Error(t, err)
}

// TestReconnectAfterServerRestart closes only the listening side of b: its messages take the pipeline until a can open
// streams again.
func TestReconnectAfterServerRestart(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	connect(t, a, b)
	b.stopServer()
	require.Eventually(t, func() bool {
		n, _ := b.raft.reports()
		return n == int(streamKinds) && !b.streaming(1)
	}, 15*time.Second, 5*time.Millisecond)
	b.tr.Send([]*raftpb.Message{numbered(raftpb.MsgApp, 2, 1, 76)})
	a.tr.Send([]*raftpb.Message{numbered(raftpb.MsgApp, 1, 2, 76)})
	a.awaitMessages(1)
	b.awaitMessages(1)
	b.restartServer()
	b.awaitStreams(1)
	b.tr.Send([]*raftpb.Message{numbered(raftpb.MsgApp, 2, 1, 77)})
	require.EqualValues(t, 77, a.awaitMessages(2)[1].GetIndex())
}

// TestReconnectAfterRestart stops all of b and starts it again.
func TestReconnectAfterRestart(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	connect(t, a, b)
	cfg := b.tr.cfg
	b.tr.Stop()
	b.stopServer()
	require.Eventually(t, func() bool {
		a.tr.Send([]*raftpb.Message{numbered(raftpb.MsgHeartbeat, 1, 2, 1)})
		n, _ := a.raft.reports()
		return n > int(streamKinds) && a.tr.ActivePeers() == 0
	}, 15*time.Second, 10*time.Millisecond)
	require.Equal(t, 1.0, a.metric("etcd_network_disconnected_peers_total"))
	require.Zero(t, a.metric("etcd_network_active_peers"))

	cfg.Registerer = nil
	var err error
	b.tr, err = New(cfg)
	require.NoError(t, err)
	b.restartServer()
	connect(t, b, a)
	require.Eventually(t, func() bool { return a.tr.ActivePeers() == 1 }, 15*time.Second, 5*time.Millisecond)
	before := len(b.raft.messages())
	a.tr.Send([]*raftpb.Message{numbered(raftpb.MsgApp, 1, 2, 77)})
	require.Eventually(t, func() bool {
		got := b.raft.messages()
		return len(got) > before && got[len(got)-1].GetIndex() == 77
	}, 15*time.Second, 5*time.Millisecond)
}

func TestUpdatePeer(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	a.tr.AddPeer(2, []string{"http://127.0.0.1:1"})
	b.tr.AddPeer(1, []string{a.url()})
	a.tr.UpdatePeer(2, []string{"nonsense"})
	a.tr.UpdatePeer(9, []string{b.url()})
	a.tr.UpdatePeer(2, []string{b.url()})
	b.awaitStreams(1)
}

func TestSecondURLIsTried(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	b.tr.AddPeer(1, []string{"http://127.0.0.1:1", a.url()})
	a.tr.AddPeer(2, []string{b.url()})
	a.awaitStreams(2)
}

func TestCutAndMend(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	connect(t, a, b)
	a.tr.Cut(2)
	a.tr.Send([]*raftpb.Message{numbered(raftpb.MsgHeartbeat, 1, 2, 1)})
	b.tr.Send([]*raftpb.Message{numbered(raftpb.MsgHeartbeat, 2, 1, 1)})
	code, _ := a.request(http.MethodPost, raftPath, bytes.NewReader(marshal(t, numbered(raftpb.MsgApp, 2, 1, 1))))
	require.Equal(t, http.StatusServiceUnavailable, code)
	a.tr.SendSnapshot(snapshotMessage(1, 2, 7), io.NopCloser(strings.NewReader("db")), 2)
	a.awaitSnapshotReport("2 true")
	time.Sleep(50 * time.Millisecond)
	a.tr.Mend(2)
	a.tr.Send([]*raftpb.Message{numbered(raftpb.MsgHeartbeat, 1, 2, 2)})
	b.tr.Send([]*raftpb.Message{numbered(raftpb.MsgHeartbeat, 2, 1, 2)})
	require.EqualValues(t, 2, a.awaitMessages(1)[0].GetIndex())
	require.EqualValues(t, 2, b.awaitMessages(1)[0].GetIndex())
}

func TestQueueFull(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	b.stopServer()
	a.tr.AddPeer(2, []string{b.url()})
	msgs := make([]*raftpb.Message, 200)
	for i := range msgs {
		msgs[i] = message(raftpb.MsgHeartbeat, 1, 2)
	}
	msgs = append(msgs, snapshotMessage(1, 2, 7))
	a.tr.Send(msgs)
	require.Positive(t, a.metric("etcd_network_peer_sent_failures_total"))
	n, _ := a.raft.reports()
	require.Positive(t, n)
	a.awaitSnapshotReport("2 true")
}

func TestStreamQueueFull(t *testing.T) {
	p := &peer{}
	o := &outgoing{peer: p, conn: &streamConn{wake: make(chan struct{}, 1)}}
	for range streamQueue {
		require.Equal(t, queued, o.send(message(raftpb.MsgApp, 1, 2)))
	}
	require.Equal(t, queueFull, o.send(message(raftpb.MsgApp, 1, 2)))
	require.Len(t, o.take(o.conn), streamQueue)
	require.Equal(t, queued, o.send(message(raftpb.MsgApp, 1, 2)))
}

// TestStalledReader has a peer that opens a stream and then reads nothing: the writer must give up in time and Stop must
// not wait for it.
func TestStalledReader(t *testing.T) {
	for _, stop := range []bool{false, true} {
		t.Run(fmt.Sprint("stop ", stop), func(t *testing.T) {
			a := newMember(t, 1, func(c *Config) {
				if !stop {
					c.WriteTimeout = 100 * time.Millisecond
				}
			})
			a.tr.AddPeer(2, []string{"http://127.0.0.1:1"})
			conn, err := net.Dial("tcp", a.addr)
			require.NoError(t, err)
			defer conn.Close()
			fmt.Fprintf(conn, "GET %s/2 HTTP/1.1\r\nHost: a\r\nX-Server-From: 2\r\nX-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\n"+
				"X-Etcd-Cluster-ID: c1\r\nX-Raft-To: 1\r\n\r\n", msgAppStream.path())
			o := a.tr.peer(2).streams[msgAppStream]
			up := func() bool {
				o.mu.Lock()
				defer o.mu.Unlock()
				return o.conn != nil
			}
			require.Eventually(t, up, 15*time.Second, time.Millisecond)
			big := appendMessage(5, 5, 100, 100, entry(5, 101, strings.Repeat("x", 32<<20)))
			a.tr.Send([]*raftpb.Message{big})
			if stop {
				time.Sleep(50 * time.Millisecond)
				start := time.Now()
				a.tr.Stop()
				require.Less(t, time.Since(start), 2*time.Second)
				return
			}
			require.Eventually(t, func() bool { return !up() }, 15*time.Second, 5*time.Millisecond)
			n, _ := a.raft.reports()
			require.Positive(t, n)
		})
	}
}

func TestTLS(t *testing.T) {
	var asked atomic.Int64
	secure := func(c *Config) {
		c.TLS = func() *tls.Config {
			asked.Add(1)
			return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}
		}
	}
	a, b := newMember(t, 1, secure), newMember(t, 2, secure)
	connect(t, a, b)
	a.tr.Send([]*raftpb.Message{message(raftpb.MsgApp, 1, 2), message(raftpb.MsgHeartbeat, 1, 2)})
	b.awaitMessages(2)
	a.tr.SendSnapshot(snapshotMessage(1, 2, 42), io.NopCloser(strings.NewReader("database")), 8)
	a.awaitSnapshotReport("2 false")
	require.Equal(t, "database", string(b.snaps.db(42)))
	require.Greater(t, asked.Load(), int64(2*3), "it is asked for every connection")
}

func BenchmarkAppends(b *testing.B) {
	from, to := newMember(b, 1), newMember(b, 2)
	connect(b, from, to)
	data := strings.Repeat("x", 256)
	msgs := make([]*raftpb.Message, b.N)
	for i := range msgs {
		n := uint64(i)
		msgs[i] = appendMessage(5, 5, n, n, entry(5, n+1, data))
	}
	received := func() int {
		to.raft.mu.Lock()
		defer to.raft.mu.Unlock()
		return len(to.raft.got)
	}
	b.SetBytes(256)
	b.ReportAllocs()
	b.ResetTimer()
	for i, m := range msgs {
		for i-received() > streamQueue/2 {
			runtime.Gosched()
		}
		from.tr.Send([]*raftpb.Message{m})
	}
	for received() < b.N {
		runtime.Gosched()
	}
}

func TestConfigIsChecked(t *testing.T) {
	r, s := &fakeRaft{}, &fakeSnapshots{}
	for name, cfg := range map[string]Config{
		"no id":        {Raft: r, Snapshots: s},
		"no raft":      {ID: 1, Snapshots: s},
		"no snapshots": {ID: 1, Raft: r},
		"bad url":      {ID: 1, Raft: r, Snapshots: s, LocalURLs: []string{"ftp://x:1"}},
	} {
		_, err := New(cfg)
		require.Error(t, err, name)
	}
	reg := prometheus.NewRegistry()
	tr, err := New(Config{ID: 1, Raft: r, Snapshots: s, Registerer: reg})
	require.NoError(t, err)
	tr.Stop()
	tr.Stop()
	_, err = New(Config{ID: 1, Raft: r, Snapshots: s, Registerer: reg})
	require.Error(t, err, "metrics are registered twice")
	for _, bad := range [][]string{nil, {"http://nohost"}, {"http://h:1/path"}, {"ftp://h:1"}, {":"}} {
		_, err := parseURLs(bad)
		require.Error(t, err, "%q", bad)
	}
}

func marshal(t *testing.T, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}
