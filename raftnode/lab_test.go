package raftnode

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// disk is what a member of a lab keeps over a restart.
type disk interface {
	open(t testing.TB) (Log, testSnaps, Recovered)
	close(t testing.TB)
	crash(t testing.TB) // a power cut: un-synced data is gone
	saveState(b []byte) error
	loadState() []byte
}

type testSnaps interface {
	Snapshots
	saveDB(r io.Reader, index uint64) error
	readDB(index uint64) ([]byte, error)
}

// lab is a cluster without goroutines of its own: each member's loop, appender and applier are driven by settle, so that
// scripts play the same way every time.
type lab struct {
	t       testing.TB
	members map[uint64]*member
	cut     map[[2]uint64]bool
	lost    map[raftpb.MessageType]bool // messages of these types do not arrive
	wire    []*raftpb.Message
	dbs     []sentSnapshot
	holdDBs bool // snapshots stay on the way
	limits  Limits
	logger  *zap.Logger
	newDisk func() disk
}

type sentSnapshot struct {
	m  *raftpb.Message
	db io.ReadCloser
}

type member struct {
	id                 uint64
	lab                *lab
	node               *Node
	sm                 *testSM
	disk               disk
	snaps              testSnaps
	stalled, slow      bool
	read               *round
	leaderships, wires int
}

func newLab(t testing.TB, newDisk func() disk) *lab {
	return &lab{t: t, members: map[uint64]*member{}, cut: map[[2]uint64]bool{}, lost: map[raftpb.MessageType]bool{}, newDisk: newDisk,
		limits: Limits{SnapshotCount: 1 << 40, CacheBytes: 1 << 30}}
}

func (l *lab) bootstrap(ids ...uint64) {
	var peers []raft.Peer
	for _, id := range ids {
		peers = append(peers, raft.Peer{ID: id})
	}
	for _, id := range ids {
		l.add(id).start(peers)
	}
	l.settle()
}

func (l *lab) add(id uint64) *member {
	m := &member{id: id, lab: l, disk: l.newDisk()}
	l.members[id] = m
	return m
}

func (m *member) start(peers []raft.Peer) {
	l := m.lab
	log, snaps, rec := m.disk.open(l.t)
	m.snaps = snaps
	m.sm = &testSM{persist: m.disk.saveState, readDB: snaps.readDB}
	if b := m.disk.loadState(); b != nil {
		require.NoError(l.t, m.sm.load(b))
	}
	if idx := rec.Snapshot.GetMetadata().GetIndex(); m.sm.state.Applied < idx { // the crash came before Restore was done
		b, err := snaps.readDB(idx)
		require.NoError(l.t, err)
		require.NoError(l.t, m.sm.load(b))
	}
	rec.Applied = m.sm.state.Applied
	n, err := New(Config{ID: m.id, Peers: peers, Recovered: rec, Log: log, Snapshots: snaps, StateMachine: m.sm, Transport: (*labTransport)(m),
		Timing: Timing{ElectionTicks: 10, PreVote: true, ReadTimeout: 3 * time.Second}, Limits: l.limits, Logger: l.logger,
		Hooks: Hooks{Leadership: func(_, _ uint64, isLeader bool) { m.leaderships++ }}})
	require.NoError(l.t, err)
	m.sm.node, m.node = n, n
	m.stalled, m.slow, m.read = false, false, nil
	n.inbox.signal()
}

// stop ends a member; with a crash, what it had not synced is gone.
func (m *member) stop(crash bool) {
	m.node.end(nil)
	m.node.group.Wait()
	if crash {
		m.disk.crash(m.lab.t)
	} else {
		m.disk.close(m.lab.t)
	}
	m.node = nil
}

type labTransport member

func (tr *labTransport) Send(msgs []*raftpb.Message) {
	for _, m := range msgs {
		tr.lab.wire = append(tr.lab.wire, proto.Clone(m).(*raftpb.Message))
		tr.wires++
	}
}

func (tr *labTransport) SendSnapshot(m *raftpb.Message, db io.ReadCloser, _ int64) {
	tr.lab.dbs = append(tr.lab.dbs, sentSnapshot{proto.Clone(m).(*raftpb.Message), db})
}

func (tr *labTransport) ActivePeers() int { return 0 }

func (l *lab) ids() []uint64 {
	var ids []uint64
	for id, m := range l.members {
		if m.node != nil {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// settle lets the cluster work until nothing is left to do.
func (l *lab) settle() {
	deadline := time.Now().Add(20 * time.Second)
	for busy := true; busy; {
		require.True(l.t, time.Now().Before(deadline), "the cluster does not settle")
		busy = false
		for _, id := range l.ids() {
			busy = l.members[id].work() || busy
		}
		wire := l.wire
		l.wire = nil
		for _, m := range wire {
			l.deliver(m)
			busy = true
		}
		if dbs := l.dbs; !l.holdDBs && len(dbs) > 0 {
			l.dbs = nil
			for _, s := range dbs {
				l.deliverSnapshot(s)
			}
			busy = true
		}
	}
}

func (l *lab) deliver(m *raftpb.Message) {
	to := l.members[m.GetTo()]
	if to == nil || to.node == nil || l.cut[[2]uint64{m.GetFrom(), m.GetTo()}] || l.lost[m.GetType()] {
		return
	}
	_ = to.node.Step(l.t.Context(), m)
}

func (l *lab) deliverSnapshot(s sentSnapshot) {
	from, to := l.members[s.m.GetFrom()], l.members[s.m.GetTo()]
	failed := to == nil || to.node == nil || l.cut[[2]uint64{s.m.GetFrom(), s.m.GetTo()}]
	if !failed {
		require.NoError(l.t, to.snaps.saveDB(s.db, s.m.GetSnapshot().GetMetadata().GetIndex()))
		failed = to.node.Step(l.t.Context(), s.m) != nil
	}
	require.NoError(l.t, s.db.Close())
	if from.node != nil {
		from.node.ReportSnapshot(s.m.GetTo(), failed)
	}
}

// work does what a member's goroutines would do; false if there is nothing to do.
func (m *member) work() bool {
	n := m.node
	if n.Err() != nil {
		return false
	}
	busy := false
	select {
	case <-n.inbox.wake:
		n.core.turn()
		busy = true
	default:
	}
	if !m.stalled {
		if jobs := n.appender.jobs.take(nil); len(jobs) > 0 {
			busy = true
			if err := n.appender.process(jobs); err != nil {
				n.end(err)
				return true
			}
		}
	}
	if !m.slow {
		if jobs := n.applier.jobs.take(nil); len(jobs) > 0 {
			busy = true
			m.applying(jobs)
		}
	}
	if n.applier.snap.busy() || len(n.core.fetch.running) > 0 {
		runtime.Gosched()
		busy = true
	}
	return busy
}

// applying runs the applier on jobs while the loop (and the appender, for a snapshot under way) goes on.
func (m *member) applying(jobs []applyJob) {
	n := m.node
	done := make(chan error, 1)
	go func() { done <- n.applier.process(jobs) }()
	for {
		select {
		case err := <-done:
			if err != nil {
				n.end(err)
			}
			return
		case <-n.inbox.wake:
			n.core.turn()
		case <-n.appender.jobs.wake:
			if m.stalled {
				continue
			}
			if err := n.appender.process(n.appender.jobs.take(nil)); err != nil {
				n.end(err)
				return
			}
		}
	}
}

func (m *member) tick(n int) {
	for range n {
		m.node.Tick()
		m.node.core.turn()
	}
}

// ask starts a read; answer tells what became of it.
func (m *member) ask() {
	m.read, _ = m.node.reads.join()
	m.node.inbox.signal()
}

func (m *member) answer() string {
	select {
	case <-m.read.done:
		if m.read.err != nil {
			return m.read.err.Error()
		}
		return fmt.Sprintf("index %d", m.read.index)
	default:
		return "no answer yet"
	}
}

// memDisk is a disk on which everything is durable at once.
type memDisk struct {
	log   *memLog
	snaps *memSnaps
	state []byte
}

func newMemDisk() disk { return &memDisk{log: &memLog{}, snaps: &memSnaps{}} }

func (d *memDisk) open(testing.TB) (Log, testSnaps, Recovered) {
	rec := Recovered{HardState: d.log.hard}
	from := uint64(0)
	if k := len(d.snaps.files); k > 0 {
		rec.Snapshot = d.snaps.files[k-1]
		from = rec.Snapshot.GetMetadata().GetIndex()
	}
	if from < uint64(len(d.log.ents)) {
		rec.Entries = slices.Clone(d.log.ents[from:])
	}
	return d.log, d.snaps, rec
}

func (d *memDisk) close(testing.TB)         {}
func (d *memDisk) crash(testing.TB)         {}
func (d *memDisk) saveState(b []byte) error { d.state = bytes.Clone(b); return nil }
func (d *memDisk) loadState() []byte        { return d.state }
