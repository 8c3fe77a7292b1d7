package raftnode

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// maxSnapshotsInFlight bounds the snapshots that are being sent.
const maxSnapshotsInFlight = 16

// snapshotter makes the member's own snapshots. It belongs to the apply goroutine, but for running, which is closed by
// the goroutine that saves a snapshot.
type snapshotter struct {
	n       *Node
	last    uint64 // index of the newest snapshot, made or received
	bytes   uint64 // of the entries applied since
	running chan struct{}
	forced  atomic.Bool
}

// maybe starts a snapshot when it is time for one; size is what the last batch added.
func (s *snapshotter) maybe(a *applier, size uint64) {
	s.bytes += size
	l := s.n.cfg.Limits
	due := a.index-s.last > l.SnapshotCount || s.bytes > l.SnapshotBytes || s.forced.Load()
	if !due || s.busy() || a.index == s.last {
		return
	}
	s.forced.Store(false)
	data, persist, err := s.n.cfg.StateMachine.Snapshot(a.index)
	if err != nil {
		s.n.lg.Error("no snapshot could be made", zap.Uint64("index", a.index), zap.Error(err))
		s.last, s.bytes = a.index-min(a.index, l.SnapshotCount-l.SnapshotCount/10), 0 // soon again
		return
	}
	snap := &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
		Index: new(a.index), Term: new(a.term), ConfState: proto.Clone(a.confState).(*raftpb.ConfState),
	}}
	s.last, s.bytes = a.index, 0
	done := make(chan struct{})
	if s.n.goRun(func() { defer close(done); s.save(snap, persist) }) {
		s.running = done
	}
}

func (s *snapshotter) busy() bool {
	select {
	case <-s.running:
		s.running = nil
	default:
	}
	return s.running != nil
}

// wait returns when no snapshot is being saved.
func (s *snapshotter) wait() {
	if s.running != nil {
		<-s.running
		s.running = nil
	}
}

// restored notes a received snapshot and lets go of databases received before.
func (s *snapshotter) restored(index uint64) {
	s.last, s.bytes = index, 0
	s.n.goRun(func() { s.releaseDBs(index) })
}

func (s *snapshotter) releaseDBs(before uint64) {
	if err := s.n.cfg.Snapshots.ReleaseDBs(before); err != nil {
		s.n.lg.Warn("received databases that are not needed any more stay", zap.Uint64("before", before), zap.Error(err))
	}
}

// save makes a snapshot durable, in this order: the state, the file, the marker in the log. The marker is written after
// everything that the appender was given before the snapshot's entries were applied, so a hard state that commits them
// precedes it. Then the log before it, but for the entries kept for followers, is let go.
func (s *snapshotter) save(snap *raftpb.Snapshot, persist func() error) {
	meta := snap.GetMetadata()
	lg := s.n.lg.With(zap.Uint64("index", meta.GetIndex()), zap.Uint64("term", meta.GetTerm()))
	if err := persist(); err != nil {
		lg.Error("the state could not be made durable; no snapshot", zap.Error(err))
		return
	}
	if err := s.n.cfg.Snapshots.Save(snap); err != nil {
		lg.Error("no snapshot file could be written", zap.Error(err))
		return
	}
	if err := s.n.appender.do(func() error { return s.n.appender.mark(meta) }); err != nil {
		return // the appender has ended the node, or it is stopping
	}
	lg.Info("saved snapshot to disk")
	s.releaseDBs(meta.GetIndex())
	s.n.inbox.call(func(c *core) { c.snapshotSaved(meta.GetIndex()) })
}

// ForceSnapshot makes a snapshot after the next applied batch.
func (n *Node) ForceSnapshot() { n.applier.snap.forced.Store(true) }

// holds counts the snapshots in flight. While there is one, and for a while after it has arrived, no log is released: the
// follower needs the entries after it.
type holds struct {
	byMember map[uint64]hold
	pending  uint64 // a snapshot index whose release was put off
}

type hold struct {
	sending bool
	until   uint64 // tick, once sent
}

// sendSnapshot takes care of raft's wish to send a snapshot to a follower.
func (c *core) sendSnapshot(m *raftpb.Message) {
	to := m.GetTo()
	sending := 0
	for _, h := range c.holds.byMember {
		if h.sending {
			sending++
		}
	}
	if c.holds.byMember[to].sending || sending >= maxSnapshotsInFlight {
		c.n.lg.Warn("a snapshot is not sent: too many in flight", zap.String("to", hex(to)), zap.Int("in-flight", sending))
		c.raft.ReportSnapshot(to, raft.SnapshotFailure)
		return
	}
	c.holds.byMember[to] = hold{sending: true}
	c.n.applier.jobs.push(applyJob{send: m})
}

// snapshotSent ends the sending of a snapshot.
func (c *core) snapshotSent(to uint64, failed bool) {
	status := raft.SnapshotFinish
	if failed {
		status = raft.SnapshotFailure
	}
	c.raft.ReportSnapshot(to, status)
	if !c.holds.byMember[to].sending {
		return
	}
	if failed {
		delete(c.holds.byMember, to)
		return
	}
	c.holds.byMember[to] = hold{until: c.tick + c.n.cfg.Timing.ticks(c.n.cfg.Timing.SnapshotHold)}
}

// expireHolds lets go of the log when no snapshot needs it any more.
func (c *core) expireHolds() {
	for id, h := range c.holds.byMember {
		if !h.sending && c.tick >= h.until {
			delete(c.holds.byMember, id)
		}
	}
	if c.holds.pending > 0 && len(c.holds.byMember) == 0 {
		c.releaseLog(c.holds.pending)
	}
}

// snapshotSaved lets go of the log before a snapshot of this member.
func (c *core) snapshotSaved(index uint64) {
	if len(c.holds.byMember) > 0 {
		c.n.lg.Info("the log is kept while a snapshot is in flight", zap.Uint64("index", index))
		c.holds.pending = index
		return
	}
	c.releaseLog(index)
}

func (c *core) releaseLog(snap uint64) {
	c.holds.pending = 0
	l := c.n.cfg.Limits
	from := c.log.keepFrom(snap, l.SnapshotCatchUpEntries, l.SnapshotBytes)
	c.log.release(from)
	n := c.n
	n.appender.jobs.push(appendJob{task: func() error {
		if err := n.cfg.Log.ReleaseTo(min(from, snap)); err != nil {
			n.lg.Warn("log files that are not needed any more stay", zap.Uint64("from", from), zap.Error(err))
		}
		return nil
	}})
}

// sendSnapshot completes a snapshot message with the state as it is now, which is at least what raft asked for, and
// gives it to the transport.
func (a *applier) sendSnapshot(m *raftpb.Message) {
	to := m.GetTo()
	if a.index < a.n.cfg.Recovered.Applied {
		a.n.lg.Info("no snapshot is sent before the log has been replayed", zap.String("to", hex(to)), zap.Uint64("applied", a.index))
		a.n.ReportSnapshot(to, true)
		return
	}
	db, size, data, err := a.n.cfg.StateMachine.OpenDB()
	if err != nil {
		a.n.lg.Error("no snapshot could be opened for a follower", zap.String("to", hex(to)), zap.Error(err))
		a.n.ReportSnapshot(to, true)
		return
	}
	m.Snapshot = &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
		Index: new(a.index), Term: new(a.term), ConfState: proto.Clone(a.confState).(*raftpb.ConfState),
	}}
	a.n.lg.Info("sending a snapshot", zap.String("to", hex(to)), zap.Uint64("index", a.index), zap.Int64("bytes", size))
	a.n.cfg.Transport.SendSnapshot(m, &sentDB{ReadCloser: db, n: a.n, to: to}, size)
}

// sentDB notes that the transport is done with a database, so that one that is never reported does not hold the log.
type sentDB struct {
	io.ReadCloser
	n    *Node
	to   uint64
	once sync.Once
}

// Close implements io.Closer.
func (d *sentDB) Close() error {
	d.once.Do(func() {
		d.n.inbox.call(func(c *core) {
			if c.holds.byMember[d.to].sending {
				c.holds.byMember[d.to] = hold{until: c.tick + c.n.cfg.Timing.ticks(c.n.cfg.Timing.SnapshotHold)}
			}
		})
	})
	return d.ReadCloser.Close()
}

// checkSnapshot refuses a received snapshot that raft or the state machine could not take.
func (n *Node) checkSnapshot(snap *raftpb.Snapshot) error {
	index := snap.GetMetadata().GetIndex()
	if err := checkConfState(snap.GetMetadata().GetConfState()); err != nil {
		return err
	}
	if _, err := n.cfg.Snapshots.DBPath(index); err != nil {
		return fmt.Errorf("snapshot at %d without its database: %w", index, err)
	}
	if n.cfg.Hooks.CheckSnapshot != nil {
		if err := n.cfg.Hooks.CheckSnapshot(snap); err != nil {
			return fmt.Errorf("snapshot at %d: %w", index, err)
		}
	}
	return nil
}
