package agent

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/backuppb"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/backup/store"
)

// member serves a log without anything behind it.
type member struct {
	backuppb.UnimplementedBackupServer
	pb.UnimplementedMaintenanceServer
	t    *testing.T
	addr string

	mu      sync.Mutex
	first   uint64 // what is before is released
	last    uint64
	ends    uint64 // a stream ends after this entry
	changed chan struct{}
	asked   []uint64
}

func newMember(t *testing.T, first, last uint64) *member {
	m := &member{t: t, first: first, last: last, ends: 1 << 60, changed: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	m.addr = l.Addr().String()
	g := grpc.NewServer()
	backuppb.RegisterBackupServer(g, m)
	pb.RegisterMaintenanceServer(g, m)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return m
}

// change changes the member under its lock.
func (m *member) change(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
	close(m.changed)
	m.changed = make(chan struct{})
}

func entry(index uint64) *raftpb.Entry {
	return &raftpb.Entry{Index: &index, Term: proto.Uint64(1), Data: fmt.Append(nil, index)}
}

func (m *member) Log(r *backuppb.LogRequest, stream backuppb.Backup_LogServer) error {
	m.mu.Lock()
	next := r.FromIndex
	m.asked = append(m.asked, next)
	if next == 0 {
		next = m.last + 1
	}
	m.mu.Unlock()
	for first := true; ; first = false {
		m.mu.Lock()
		released, last, ends, changed := m.first, m.last, m.ends, m.changed
		m.mu.Unlock()
		response := &backuppb.LogResponse{ClusterId: 7, NextIndex: next, AppliedIndex: last}
		switch {
		case next <= released && r.FromIndex != 0 || next < released:
			return status.Error(codes.OutOfRange, "released")
		case next > ends:
			return status.Error(codes.Unavailable, "the end")
		case first:
		case next > last:
			select {
			case <-changed:
				continue
			case <-stream.Context().Done():
				return nil
			}
		default:
			response.Chunk = &backuppb.Chunk{Entries: []*raftpb.Entry{entry(next)}, Revision: int64(next), TimeUnixNano: time.Now().UnixNano()}
			next++
			response.NextIndex = next
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
}

// Snapshot sends a database that says how far the log is.
func (m *member) Snapshot(_ *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	path := filepath.Join(m.t.TempDir(), "db")
	be, err := backend.Open(backend.Config{Path: path})
	if err != nil {
		return err
	}
	m.mu.Lock()
	be.SetConsistentIndex(m.last, 1)
	m.mu.Unlock()
	be.Publish(nil)
	if err := be.Close(); err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(b)
	half := len(b) / 2
	for _, r := range []*pb.SnapshotResponse{{Blob: b[:half], RemainingBytes: uint64(len(b) - half)}, {Blob: b[half:]}, {Blob: sum[:]}} {
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	return nil
}

// start runs an agent until the test ends.
func start(t *testing.T, members ...*member) store.Store {
	st, err := store.Open(filepath.Join(t.TempDir(), "archive"), store.S3Options{})
	require.NoError(t, err)
	cfg := Config{
		Store: st, SegmentAge: 20 * time.Millisecond, SegmentBytes: 1 << 20, BaseInterval: time.Hour, SpoolDir: t.TempDir(),
		Logger: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	}
	for _, m := range members {
		cfg.Endpoints = append(cfg.Endpoints, m.addr)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return st
}

// await waits until the latest of so many chains has a base and is archived up to an entry.
func await(t *testing.T, st store.Store, chains int, last uint64) *archive.Catalog {
	var cat *archive.Catalog
	require.Eventually(t, func() bool {
		var err error
		if cat, err = archive.Read(context.Background(), st); err != nil || len(cat.Chains) != chains {
			return false
		}
		spans := cat.Latest().Spans()
		return len(spans) == 1 && spans[0].LastIndex == last
	}, 30*time.Second, 5*time.Millisecond)
	return cat
}

// TestNextMember goes on at another member when the one that it followed has nothing more: no entry is missed.
func TestNextMember(t *testing.T) {
	t.Parallel()
	one, two := newMember(t, 1, 10), newMember(t, 1, 10)
	st := start(t, one, two)
	await(t, st, 1, 10)
	one.change(func() { one.last, one.ends = 20, 15 })
	two.change(func() { two.last = 30 })
	await(t, st, 1, 30)
	require.Contains(t, two.asked, uint64(16))
}

// TestReleased has the log released behind the agent's back: at one of two members the other one goes on, at both of them a new
// chain begins.
func TestReleased(t *testing.T) {
	t.Parallel()
	one, two := newMember(t, 1, 10), newMember(t, 1, 10)
	st := start(t, one, two)
	await(t, st, 1, 10)
	one.change(func() { one.last, one.ends = 12, 12 })
	two.change(func() { two.last = 12 })
	await(t, st, 1, 12)
	one.change(func() { one.first, one.last, one.ends = 40, 50, 1<<60 })
	two.change(func() { two.last = 20 })
	await(t, st, 1, 20)
	two.change(func() { two.first, two.last, two.ends = 40, 50, 50 })
	one.change(func() { one.last = 60 })
	cat := await(t, st, 2, 60)
	require.EqualValues(t, 20, cat.Chains[0].Spans()[0].LastIndex)
	r, err := archive.Verify(t.Context(), st, cat)
	require.NoError(t, err)
	require.Empty(t, r.Problems)
}

// TestProgress is about what a base has to be like.
func TestProgress(t *testing.T) {
	p := newProgress()
	chain, _, wait, _ := p.due(time.Now(), time.Hour)
	require.Equal(t, []any{"", time.Hour}, []any{chain, wait})
	p.begin(&archive.Chain{Name: "a"}, &archive.Tail{Index: 9, Time: 900})
	chain, _, _, changed := p.due(time.Now(), time.Hour)
	require.Empty(t, chain, "nobody has said yet that the members still have this history")
	p.follow(true)
	<-changed
	chain, first, _, _ := p.due(time.Now(), time.Hour)
	require.Equal(t, []any{"a", uint64(10)}, []any{chain, first})
	entries := []*raftpb.Entry{entry(10), entry(11), entry(12)}
	entries[2].Term = proto.Uint64(2)
	p.add(entries, 1200)
	p.stored(&archive.Segment{Chain: "b", Last: 99})
	p.stored(&archive.Segment{Chain: "a", Last: 12})
	for _, c := range []struct {
		index, term uint64
		same        bool
		at          int64
	}{{9, 5, true, 900}, {10, 1, true, 1200}, {11, 2, false, 1200}, {12, 2, true, 1200}, {12, 1, false, 1200}} {
		same, at, err := p.await(t.Context(), "a", c.index, c.term)
		require.NoError(t, err)
		require.Equal(t, []any{c.same, c.at}, []any{same, at}, "%+v", c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := p.await(ctx, "a", 13, 2)
	require.ErrorIs(t, err, context.Canceled)
	p.follow(false)
	_, _, err = p.await(ctx, "a", 12, 2)
	require.ErrorIs(t, err, context.Canceled, "what a member has that is not followed is no base")
	p.follow(true)
	same, _, err := p.await(ctx, "b", 13, 2)
	require.NoError(t, err)
	require.False(t, same, "it is another chain now")
	p.took(time.Now())
	chain, _, wait, _ = p.due(time.Now(), time.Hour)
	require.Empty(t, chain)
	require.Greater(t, wait, 59*time.Minute)
}
