package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
)

func snapshotMessage(from, to, index uint64) *raftpb.Message {
	m := message(raftpb.MsgSnap, from, to)
	m.Snapshot = &raftpb.Snapshot{Data: []byte("members"), Metadata: &raftpb.SnapshotMetadata{Index: new(index), Term: new(uint64(3))}}
	return m
}

// testDB is a database that notes how often it is closed.
type testDB struct {
	io.Reader
	closed atomic.Int32
}

func (d *testDB) Close() error {
	d.closed.Add(1)
	return nil
}

func TestSendSnapshot(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	connect(t, a, b)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	db := &testDB{Reader: io.MultiReader(bytes.NewReader(content), strings.NewReader("more than announced"))}
	a.tr.SendSnapshot(snapshotMessage(1, 2, 42), db, int64(len(content)))
	a.awaitSnapshotReport("2 false")
	requireEqual(t, snapshotMessage(1, 2, 42), b.awaitMessages(1)[0])
	require.True(t, bytes.Equal(content, b.snaps.db(42)))
	require.EqualValues(t, 1, db.closed.Load())
	require.Equal(t, 1.0, a.metric("etcd_network_snapshot_send_success"))
	require.Equal(t, 1.0, a.metric("etcd_network_snapshot_send_total_duration_seconds"))
	require.Zero(t, a.metric("etcd_network_snapshot_send_inflights_total"))
	require.Eventually(t, func() bool { return b.metric("etcd_network_snapshot_receive_success") == 1 }, 15*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return b.metric("etcd_network_snapshot_receive_inflights_total") == 0 }, 15*time.Second, time.Millisecond)
}

// TestSendSnapshotWithoutDB sends a MsgSnap through Send, as raft does for members that keep no database.
func TestSendSnapshotWithoutDB(t *testing.T) {
	a, b := newMember(t, 1), newMember(t, 2)
	connect(t, a, b)
	a.tr.Send([]*raftpb.Message{snapshotMessage(1, 2, 42)})
	requireEqual(t, snapshotMessage(1, 2, 42), b.awaitMessages(1)[0])
	a.awaitSnapshotReport("2 false")
}

func TestSendSnapshotFailures(t *testing.T) {
	const size = 8 << 20
	for name, c := range map[string]struct {
		prepare func(a, b *member)
		db      io.Reader
	}{
		"the receiver cannot save":     {prepare: func(_, b *member) { b.snaps.err = errors.New("disk full") }},
		"the receiver's raft says no":  {prepare: func(_, b *member) { b.raft.set(func() { b.raft.stepErr = errors.New("no") }) }},
		"the sender is removed":        {prepare: func(_, b *member) { b.raft.set(func() { b.raft.removed[1] = true }) }},
		"the receiver is down":         {prepare: func(_, b *member) { b.stopServer() }},
		"the receiver is unknown":      {prepare: func(a, _ *member) { a.tr.RemovePeer(2) }},
		"the transport is stopped":     {prepare: func(a, _ *member) { a.tr.Stop() }},
		"the database ends early":      {db: strings.NewReader("short")},
		"the database cannot be read":  {db: io.MultiReader(strings.NewReader("part"), failingReader{})},
		"the receiver is someone else": {prepare: func(a, _ *member) { a.tr.UpdatePeer(2, []string{newMember(a.t, 3).url()}) }},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newMember(t, 1), newMember(t, 2)
			a.tr.AddPeer(2, []string{b.url()})
			if c.prepare != nil {
				c.prepare(a, b)
			}
			db := &testDB{Reader: c.db}
			if c.db == nil {
				db.Reader = bytes.NewReader(make([]byte, size))
			}
			a.tr.SendSnapshot(snapshotMessage(1, 2, 42), db, size)
			a.awaitSnapshotReport("2 true")
			require.EqualValues(t, 1, db.closed.Load())
			require.Empty(t, b.raft.messages())
			select {
			case <-a.tr.Removed():
				require.Contains(t, name, "sender is removed")
			default:
				require.NotContains(t, name, "sender is removed")
			}
		})
	}
}

type failingReader struct{}

func (failingReader) Read([]byte) (int, error) { return 0, errors.New("i/o error") }

// TestStopDuringSnapshot stops the sender, then the receiver, while a database is on its way and stalls.
func TestStopDuringSnapshot(t *testing.T) {
	for _, who := range []string{"sender", "receiver", "peer removed"} {
		t.Run(who, func(t *testing.T) {
			a, b := newMember(t, 1), newMember(t, 2)
			a.tr.AddPeer(2, []string{b.url()})
			pr, pw := io.Pipe()
			defer pw.Close()
			a.tr.SendSnapshot(snapshotMessage(1, 2, 42), pr, 1<<20)
			_, err := pw.Write([]byte("beginning"))
			require.NoError(t, err)
			require.Eventually(t, func() bool { return b.metric("etcd_network_snapshot_receive_inflights_total") == 1 }, 15*time.Second, time.Millisecond)
			start := time.Now()
			switch who {
			case "sender":
				pw.CloseWithError(errors.New("aborted")) // a reader of a database does not block for long
				a.tr.Stop()
			case "receiver":
				b.tr.Stop()
				pw.CloseWithError(errors.New("aborted"))
			default:
				pw.CloseWithError(errors.New("aborted"))
				a.tr.RemovePeer(2)
			}
			require.Less(t, time.Since(start), 3*time.Second)
			a.awaitSnapshotReport("2 true")
			require.Nil(t, b.snaps.db(42))
		})
	}
}

// TestBlockedDatabase has a database whose reader never returns until it is closed.
func TestBlockedDatabase(t *testing.T) {
	a, b := newMember(t, 1, func(c *Config) { c.WriteTimeout = 50 * time.Millisecond }), newMember(t, 2)
	a.tr.AddPeer(2, []string{b.url()})
	pr, pw := io.Pipe()
	defer pw.Close()
	a.tr.SendSnapshot(snapshotMessage(1, 2, 42), pr, 1<<20)
	require.Eventually(t, func() bool { return a.metric("etcd_network_snapshot_send_inflights_total") == 1 }, 15*time.Second, time.Millisecond)
	a.tr.RemovePeer(2)
	a.awaitSnapshotReport("2 true")
	_, err := pw.Write([]byte("x"))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestSnapshotThatStallsIsRefused(t *testing.T) {
	a := newMember(t, 1, func(c *Config) { c.SnapshotStall = 100 * time.Millisecond })
	conn, err := net.Dial("tcp", a.addr)
	require.NoError(t, err)
	defer conn.Close()
	head, err := appendSized(nil, snapshotMessage(2, 1, 42))
	require.NoError(t, err)
	_, err = io.WriteString(conn, "POST /raft/snapshot HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\nX-Server-From: 2\r\n"+
		"X-Server-Version: 3.7.3\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: c1\r\n\r\n"+string(head))
	require.NoError(t, err)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
	answer, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Contains(t, string(answer), "500 Internal Server Error")
	require.Nil(t, a.snaps.db(42))
	require.Equal(t, 1.0, a.metric("etcd_network_snapshot_receive_failures"))
}

func TestSnapshotHandlerRefusesNonsense(t *testing.T) {
	a := newMember(t, 1)
	sized := func(m *raftpb.Message) string {
		b, err := appendSized(nil, m)
		require.NoError(t, err)
		return string(b)
	}
	noMetadata := message(raftpb.MsgSnap, 2, 1)
	for name, c := range map[string]struct {
		body string
		code int
	}{
		"empty":         {"", http.StatusBadRequest},
		"huge":          {string(binary.BigEndian.AppendUint64(nil, maxSnapshotMessageBytes+1)), http.StatusBadRequest},
		"garbage":       {"\x00\x00\x00\x00\x00\x00\x00\x02\xff\xff", http.StatusBadRequest},
		"wrong type":    {sized(message(raftpb.MsgApp, 2, 1)), http.StatusBadRequest},
		"no metadata":   {sized(noMetadata), http.StatusBadRequest},
		"someone else":  {sized(snapshotMessage(2, 3, 5)), http.StatusForbidden},
		"one that fits": {sized(snapshotMessage(2, 1, 5)) + "database", http.StatusNoContent},
	} {
		code, text := a.request(http.MethodPost, snapshotPath, strings.NewReader(c.body))
		require.Equal(t, c.code, code, "%s: %s", name, text)
	}
	require.Equal(t, "database", string(a.snaps.db(5)))
	require.Equal(t, 6.0, a.metric("etcd_network_snapshot_receive_failures"))
}
