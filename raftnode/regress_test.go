package raftnode

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/wal"
	"github.com/keelson-io/keelson/wal/snap"
)

// The tests named after etcd's issues are listed in docs/contributing/regressions.md.

// lossyDisk is a real log and real snapshot files on a disk that loses in a crash what was not synced.
type lossyDisk struct {
	rng   *rand.Rand
	fs    *vfs.Mem
	log   *wal.Log
	snaps *snap.Dir
	state []byte
}

func newLossyDisk(rng *rand.Rand) func() disk {
	return func() disk {
		fs := vfs.NewMem()
		if err := errors.Join(fs.MkdirAll("/member/snap", 0o700), fs.SyncDir("/"), fs.SyncDir("/member")); err != nil {
			panic(err)
		}
		return &lossyDisk{rng: rng, fs: fs}
	}
}

const logDir = "/member/wal"

func (d *lossyDisk) open(t testing.TB) (Log, testSnaps, Recovered) {
	o := wal.Options{SegmentBytes: 8 << 10}
	var err error
	d.snaps, err = snap.Open(d.fs, "/member/snap", snap.Options{})
	require.NoError(t, err)
	rec := Recovered{}
	if !wal.Exist(d.fs, logDir) {
		d.log, err = wal.Create(d.fs, logDir, []byte("meta"), o)
		require.NoError(t, err)
		return d.log, d, rec
	}
	markers, err := wal.SnapshotMarkers(d.fs, logDir)
	require.NoError(t, err)
	marker := markers[len(markers)-1]
	if marker.GetIndex() > 0 {
		rec.Snapshot, err = d.snaps.LoadMatching(markers[len(markers)-1:])
		require.NoError(t, err, "a marker without its file")
	}
	var contents *wal.Contents
	d.log, contents, err = wal.Open(d.fs, logDir, marker, o)
	require.NoError(t, err)
	rec.HardState, rec.Entries = contents.HardState, contents.Entries
	return d.log, d, rec
}

func (d *lossyDisk) close(t testing.TB) { require.NoError(t, d.log.Close()) }

func (d *lossyDisk) crash(t testing.TB) {
	after := d.fs.CrashClone(d.rng)
	require.NoError(t, d.log.Close())
	d.fs = after
}

func (d *lossyDisk) saveState(b []byte) error { d.state = slices.Clone(b); return nil }
func (d *lossyDisk) loadState() []byte        { return d.state }

// Save, DBPath and ReleaseDBs implement Snapshots.
func (d *lossyDisk) Save(s *raftpb.Snapshot) error       { return d.snaps.Save(s) }
func (d *lossyDisk) DBPath(index uint64) (string, error) { return d.snaps.DBPath(index) }
func (d *lossyDisk) ReleaseDBs(before uint64) error      { return d.snaps.ReleaseDBs(before) }

func (d *lossyDisk) saveDB(r io.Reader, index uint64) error {
	_, err := d.snaps.SaveDB(r, index)
	return err
}

func (d *lossyDisk) readDB(index uint64) ([]byte, error) {
	path, err := d.snaps.DBPath(index)
	if err != nil {
		return nil, err
	}
	return vfs.ReadFile(d.fs, path)
}

// crashes runs a lab whose members lose power at any moment, and remembers what clients could see: a command that some member
// has executed is acknowledged, or was read.
type crashes struct {
	t     *testing.T
	l     *lab
	rng   *rand.Rand
	acked []string
	seen  map[string]bool // the same
	made  int
	told  map[*testSM]int // lines of a state machine that were looked at
}

func newCrashes(t *testing.T, seed uint64, size int) *crashes {
	c := &crashes{t: t, rng: rand.New(rand.NewPCG(seed, 14143)), seen: map[string]bool{}, told: map[*testSM]int{}}
	c.l = newLab(t, newLossyDisk(c.rng))
	c.l.limits = Limits{SnapshotCount: 40, SnapshotCatchUpEntries: 5, CacheBytes: 1 << 20}
	ids := []uint64{1, 2, 3}[:size]
	c.l.bootstrap(ids...)
	t.Cleanup(func() {
		for _, id := range c.l.ids() {
			c.l.members[id].stop(false)
		}
	})
	return c
}

// part does a part of the work that is to be done, so that a crash finds all in the middle of it.
func (c *crashes) part() {
	for range c.rng.IntN(6) {
		ids := c.l.ids()
		if len(ids) == 0 {
			return
		}
		m := c.l.members[ids[c.rng.IntN(len(ids))]]
		m.stalled = c.rng.IntN(3) == 0 // its disk is slow for a moment
		m.work()
		m.stalled = false
		n := c.rng.IntN(len(c.l.wire) + 1)
		wire := c.l.wire[:n]
		c.l.wire = slices.Clone(c.l.wire[n:])
		for _, msg := range wire {
			c.l.deliver(msg)
		}
		c.look()
	}
}

// look notes what was executed.
func (c *crashes) look() {
	for _, id := range c.l.ids() {
		sm := c.l.members[id].sm
		lines := sm.lines()
		for _, line := range lines[min(c.told[sm], len(lines)):] {
			if !c.seen[line] {
				c.seen[line] = true
				c.acked = append(c.acked, line)
			}
		}
		c.told[sm] = len(lines)
	}
}

// disconnect loses what is on the way.
func (c *crashes) disconnect() {
	c.l.wire = nil
	for _, s := range c.l.dbs {
		require.NoError(c.t, s.db.Close())
		if from := c.l.members[s.m.GetFrom()]; from.node != nil {
			from.node.ReportSnapshot(s.m.GetTo(), true)
		}
	}
	c.l.dbs = nil
}

func (c *crashes) propose() {
	ids := c.l.ids()
	if len(ids) == 0 {
		return
	}
	id := ids[c.rng.IntN(len(ids))]
	c.made++
	_ = c.l.members[id].node.Propose(fmt.Append(nil, id, "-", c.made))
}

// has checks that a list of executed commands holds all that was acknowledged so far.
func (c *crashes) has(lines []string, acked []string, what string) {
	c.t.Helper()
	have := make(map[string]bool, len(lines))
	for _, line := range lines {
		have[line] = true
	}
	for _, a := range acked {
		require.True(c.t, have[a], "%s: %s", what, a)
	}
}

// TestEtcd14370SingleMemberSyncsFirst cuts the power of the only member again and again, and loses what it had not synced. In
// etcd a single member acknowledged writes before they were on the disk.
func TestEtcd14370SingleMemberSyncsFirst(t *testing.T) {
	for seed := range uint64(10) {
		c := newCrashes(t, seed, 1)
		m := c.l.members[1]
		for range 15 {
			m.tick(1)
			for range 1 + c.rng.IntN(20) {
				c.propose()
				c.part()
			}
			c.look()
			m.stop(true)
			c.disconnect()
			m.start(nil)
			c.l.settle() // it learns again that it is the only voter
			m.tick(1)
			c.l.settle()
			c.has(m.sm.lines(), c.acked, "an acknowledged command is gone")
			c.told[m.sm] = len(m.sm.lines())
		}
		require.Greater(t, len(c.acked), 30)
	}
}

// TestEtcd14143And14140LostBytes cuts the power of one, two or all of three members again and again, in the middle of
// anything, and loses what they had not synced. With etcd committed writes were lost that way, two members led in one term,
// and reads were stale.
func TestEtcd14143And14140LostBytes(t *testing.T) {
	acked, answers := 0, 0
	for seed := range uint64(12) {
		c := newCrashes(t, seed, 3)
		leaders := map[uint64]uint64{} // by term
		answered := 0
		for range 25 {
			for _, id := range c.l.ids() {
				c.l.members[id].tick(1 + c.rng.IntN(4))
			}
			elect(c.l.members[uint64(1+c.rng.IntN(3))])
			for range 1 + c.rng.IntN(15) {
				c.propose()
				c.part()
				for _, id := range c.l.ids() {
					if st := c.l.members[id].node.core; st.state == raft.StateLeader {
						require.Contains(t, []uint64{0, id}, leaders[st.term], "two leaders of term %d", st.term)
						leaders[st.term] = id
					}
				}
			}
			c.look()
			before := len(c.acked)
			reader := c.l.members[c.l.ids()[c.rng.IntN(len(c.l.ids()))]]
			reader.ask()
			for range 6 {
				c.part()
			}
			if done(reader.read) && reader.read.err == nil {
				answered++
				for reader.node.Applied() < reader.read.index && reader.work() {
				}
				if reader.node.Applied() >= reader.read.index {
					c.has(reader.sm.lines(), c.acked[:before], "a read is stale")
				}
			}
			c.look()
			victims := slices.Clone(c.l.ids())
			c.rng.Shuffle(len(victims), func(i, j int) { victims[i], victims[j] = victims[j], victims[i] })
			victims = victims[:c.rng.IntN(len(victims)+1)]
			for _, id := range victims {
				c.l.members[id].stop(true)
			}
			c.disconnect()
			for _, id := range victims {
				c.l.members[id].start(nil)
				c.told[c.l.members[id].sm] = len(c.l.members[id].sm.lines())
			}
		}
		for range 60 {
			for _, id := range c.l.ids() {
				c.l.members[id].tick(1 + c.rng.IntN(2))
			}
			c.l.settle()
		}
		c.look()
		for _, id := range c.l.ids() {
			c.has(c.l.members[id].sm.lines(), c.acked, fmt.Sprintf("seed %d: member %d lost an acknowledged command", seed, id))
		}
		require.Contains(t, c.l.same(), "on 3 members")
		acked, answers = acked+len(c.acked), answers+answered
	}
	require.Greater(t, acked, 300)
	require.Greater(t, answers, 30)
	t.Logf("%d commands acknowledged, %d reads", acked, answers)
}

// TestEtcd14143VoteIsSynced cuts the power of a member right after its vote. It must not vote for another one in that term:
// both would lead.
func TestEtcd14143VoteIsSynced(t *testing.T) {
	l := newLab(t, newLossyDisk(nil))
	l.bootstrap(1, 2, 3)
	t.Cleanup(func() {
		for _, id := range l.ids() {
			l.members[id].stop(false)
		}
	})
	cut := func(a, b uint64) { l.cut[[2]uint64{a, b}], l.cut[[2]uint64{b, a}] = true, true }
	cut(2, 3)
	elect(l.members[2])
	voter := l.members[1]
	for voter.node.core.term < 2 || len(l.wire) == 0 {
		l.members[2].work()
		wire := l.wire
		l.wire = nil
		for _, m := range wire {
			l.deliver(m)
		}
		voter.work()
	}
	voter.stop(true) // its vote is on the way
	l.settle()
	first := l.members[2].node.core
	require.Equal(t, raft.StateLeader, first.state)

	voter.start(nil)
	cut(1, 2)
	l.settle()
	elect(l.members[3])
	l.settle()
	second := l.members[3].node.core
	require.Equal(t, first.term, second.term)
	require.NotEqual(t, raft.StateLeader, second.state, "two leaders of term %d", first.term)
}

// elect has a member stand for election at once, as if the leader had handed over.
func elect(m *member) {
	m.node.inbox.call(func(c *core) {
		_ = c.raft.Step(&raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: new(uint64(99))})
	})
}

func done(r *round) bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// TestEtcd18055TwoSnapshots sends a follower a second snapshot while it has not yet restored the first. In etcd the second one
// removed the database of the first, and the member panicked.
func TestEtcd18055TwoSnapshots(t *testing.T) {
	l := newLab(t, newLossyDisk(rand.New(rand.NewPCG(1, 18055))))
	l.limits = Limits{SnapshotCount: 20, SnapshotCatchUpEntries: 2, CacheBytes: 1 << 20}
	l.bootstrap(1, 2, 3)
	t.Cleanup(func() {
		for _, id := range l.ids() {
			l.members[id].stop(false)
		}
	})
	leader, late := l.members[1], l.members[3]
	leader.node.Campaign()
	l.settle()
	cut := func(on bool) {
		for _, id := range []uint64{1, 2} {
			l.cut[[2]uint64{id, 3}], l.cut[[2]uint64{3, id}] = on, on
		}
	}
	write := func() {
		for k := range 60 {
			require.NoError(t, leader.node.Propose(fmt.Append(nil, "x", k)))
			l.settle()
		}
	}
	tick := func(n int) {
		for range n {
			for _, id := range []uint64{1, 2} {
				l.members[id].tick(1)
			}
			l.settle()
		}
	}
	late.slow = true // what it receives is durable, but its state machine is busy
	received := map[uint64]bool{}
	for range 2 {
		cut(true)
		write()
		tick(400) // until the leader lets go of the log that it kept for the snapshot before
		write()
		cut(false)
		tick(5)
		received[late.node.core.log.first] = true
	}
	require.Len(t, received, 2, "two snapshots arrived")
	require.Zero(t, late.sm.restore)
	late.slow = false
	l.settle()
	require.NoError(t, late.node.Err())
	require.Equal(t, 2, late.sm.restore)
	require.Equal(t, leader.sm.lines(), late.sm.lines())

	late.stop(true)
	late.start(nil)
	tick(5)
	require.Equal(t, leader.sm.lines(), late.sm.lines(), "also after a power cut")
}

// TestEtcd20418And21399PausedLeader pauses a leader with a read under way until others have gone on without it, and lets
// answers to its old questions arrive at any time after that. A read that begins then must not be answered by them: etcd's
// paused members answered from what they knew, and took answers to earlier questions.
func TestEtcd20418And21399PausedLeader(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 20418))
		l := newLab(t, newMemDisk)
		l.bootstrap(1, 2, 3)
		elect(l.members[1])
		l.settle()
		old := l.members[1]
		require.NoError(t, old.node.Propose([]byte("before")))
		l.settle()

		// It asks, and asks again; the questions reach the others, whose answers stay on the way.
		old.ask()
		early := old.read
		var onTheWay []*raftpb.Message
		for range 1 + rng.IntN(3) {
			old.node.core.turn()
			wire := l.wire
			l.wire = nil
			for _, m := range wire {
				l.deliver(m)
			}
			for _, id := range []uint64{2, 3} {
				l.members[id].work()
			}
			onTheWay = append(onTheWay, l.wire...)
			l.wire = nil
			if rng.IntN(2) == 0 {
				old.tick(6) // the question is repeated
			}
		}
		require.False(t, done(early))

		// It is paused. The others elect a leader and acknowledge a write.
		for _, id := range []uint64{2, 3} {
			l.cut[[2]uint64{id, 1}], l.cut[[2]uint64{1, id}] = true, true
		}
		paused := l.members[1]
		delete(l.members, 1)
		elect(l.members[2])
		l.settle()
		require.NoError(t, l.members[2].node.Propose([]byte("newer")))
		l.settle()
		written := l.members[2].node.Applied()
		require.Contains(t, l.members[2].sm.lines(), "newer")

		// It goes on. A new read joins before, between or after the late answers, and before it hears of the new leader.
		l.members[1] = paused
		clear(l.cut)
		rng.Shuffle(len(onTheWay), func(i, j int) { onTheWay[i], onTheWay[j] = onTheWay[j], onTheWay[i] })
		at := rng.IntN(len(onTheWay) + 1)
		var late *round
		for i := 0; i <= len(onTheWay); i++ {
			if i == at {
				late, _ = old.node.reads.join()
				old.node.inbox.signal()
			}
			if i < len(onTheWay) {
				l.deliver(onTheWay[i])
			}
			if rng.IntN(2) == 0 {
				old.node.core.turn()
			}
		}
		check := func() {
			t.Helper()
			if done(late) && late.err == nil {
				require.GreaterOrEqual(t, late.index, written, "seed %d: a stale read", seed)
			}
		}
		old.node.core.turn()
		check()
		for range 30 {
			for _, id := range []uint64{1, 2, 3} {
				l.members[id].tick(1)
			}
			l.settle()
			check()
		}
		require.True(t, done(late) && done(early), "seed %d: no answer", seed)
		require.NoError(t, late.err)
		for _, id := range l.ids() {
			l.members[id].stop(false)
		}
	}
}

// TestEtcd15247RevocationOfAnOldLeader proposes what only the leader of a term may: on a member that has lost its leadership
// in the meantime it is dropped. In etcd a leader that was stuck revoked leases, through the new leader, which clients had
// renewed there.
func TestEtcd15247RevocationOfAnOldLeader(t *testing.T) {
	l := newLab(t, newMemDisk)
	l.bootstrap(1, 2, 3)
	t.Cleanup(func() {
		for _, id := range l.ids() {
			l.members[id].stop(false)
		}
	})
	elect(l.members[1])
	l.settle()
	old := l.members[1].node
	term := old.core.term
	require.NoError(t, old.ProposeIn(term, []byte("as the leader")))
	require.NoError(t, old.ProposeIn(term-1, []byte("of an earlier term")))
	l.settle()
	require.Equal(t, []string{"as the leader"}, l.members[2].sm.lines())

	// It decides to revoke, and before its loop gets to that it hears that another one leads.
	paused := l.members[1]
	delete(l.members, 1)
	elect(l.members[2])
	l.settle()
	l.members[1] = paused
	require.NoError(t, old.ProposeIn(term, []byte("too late")))
	lead := l.members[2].node.core
	require.NoError(t, old.Step(t.Context(), &raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(lead.term), Commit: new(uint64(0))}))
	for range 5 {
		l.members[2].tick(1)
		l.settle()
	}
	require.NoError(t, old.Propose([]byte("of anybody")))
	require.NoError(t, old.ProposeIn(lead.term, []byte("not the leader")))
	l.settle()
	require.Equal(t, []string{"as the leader", "of anybody"}, l.members[2].sm.lines())
	require.Equal(t, "2 commands on 3 members\n", l.same())
	require.Zero(t, old.inbox.propBytes, "what was dropped takes no room")
}
