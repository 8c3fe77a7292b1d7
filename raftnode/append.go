package raftnode

import (
	"fmt"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/api/walpb"
)

// appendJob is a write to the log: what raft asks for, or a task that needs its place in the order of writes.
type appendJob struct {
	m    *raftpb.Message // MsgStorageAppend
	task func() error
}

// appender owns the writing side of the log. Everything that has queued up while the disk was busy goes out in one Save
// with at most one sync; only then do the responses go: to other members through the transport, to this one to the loop.
type appender struct {
	n    *Node
	jobs *queue[appendJob]
	hard *raftpb.HardState // as last written
}

func newAppender(n *Node) *appender {
	hs := n.cfg.Recovered.HardState
	if hs == nil {
		hs = &raftpb.HardState{}
	}
	return &appender{n: n, jobs: newQueue[appendJob](), hard: hs}
}

func (a *appender) run() {
	var jobs []appendJob
	for {
		select {
		case <-a.jobs.wake:
		case <-a.n.quit:
			return
		}
		jobs = a.jobs.take(jobs)
		if err := a.process(jobs); err != nil {
			a.n.end(err)
			return
		}
	}
}

func (a *appender) process(jobs []appendJob) error {
	var g appendGroup
	for _, j := range jobs {
		var err error
		switch {
		case j.task != nil:
			if err = a.flush(&g); err == nil {
				err = j.task()
			}
		case j.m.GetSnapshot() != nil:
			if err = a.flush(&g); err == nil {
				err = a.install(j.m)
			}
		default:
			g.add(j.m)
		}
		if err != nil {
			return err
		}
	}
	return a.flush(&g)
}

// appendGroup is what one write to the log holds.
type appendGroup struct {
	hard      *raftpb.HardState
	entries   []*raftpb.Entry
	own       bool // entries is a slice of the group's own
	responses []*raftpb.Message
	messages  int
}

func (g *appendGroup) add(m *raftpb.Message) {
	g.messages++
	if hs := hardState(m); hs != nil {
		g.hard = hs
	}
	if ents := m.GetEntries(); len(ents) > 0 {
		switch {
		case len(g.entries) == 0:
			g.entries, g.own = ents, false
		default:
			if !g.own {
				g.entries, g.own = append(make([]*raftpb.Entry, 0, len(g.entries)+len(ents)), g.entries...), true
			}
			// Entries that later ones replace need not be written: nobody has been told of them. The answers that they
			// would have given go out after the later ones are durable, as if the network had been slow.
			first, from := g.entries[0].GetIndex(), ents[0].GetIndex()
			if from < first {
				g.entries = g.entries[:0]
			} else if keep := from - first; keep < uint64(len(g.entries)) {
				g.entries = g.entries[:keep]
			}
			g.entries = append(g.entries, ents...)
		}
	}
	g.responses = append(g.responses, m.GetResponses()...)
}

// hardState returns the hard state that an append message carries, nil if none.
func hardState(m *raftpb.Message) *raftpb.HardState {
	hs := &raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	if raft.IsEmptyHardState(hs) {
		return nil
	}
	return hs
}

// flush writes the group and sends its responses.
func (a *appender) flush(g *appendGroup) error {
	if g.messages == 0 {
		return nil
	}
	if err := a.save(g.hard, g.entries); err != nil {
		return err
	}
	a.n.metrics.appendBatch.Observe(float64(len(g.entries)))
	a.respond(appended{entries: g.entries, done: g.messages}, g.responses)
	*g = appendGroup{}
	return nil
}

func (a *appender) save(hs *raftpb.HardState, ents []*raftpb.Entry) error {
	if hs == nil && len(ents) == 0 {
		return nil
	}
	mustSync := len(ents) > 0
	if hs != nil {
		mustSync = raft.MustSync(hs, a.hard, len(ents))
	} else {
		hs = &raftpb.HardState{}
	}
	if err := a.n.cfg.Log.Save(hs, ents, mustSync); err != nil {
		return fmt.Errorf("raftnode: write the log: %w", err)
	}
	if !raft.IsEmptyHardState(hs) {
		a.hard = hs
	}
	return nil
}

// respond delivers the responses to what has just become durable. The loop hears of it first, so that it knows of every
// entry that others hear of.
func (a *appender) respond(done appended, responses []*raftpb.Message) {
	self, others := a.split(responses)
	done.responses = self
	a.n.inbox.appended(done)
	if len(others) > 0 {
		a.n.cfg.Transport.Send(others)
	}
}

// split separates the responses to this member from the others and leaves out those that a later one covers: of all
// accepted appends to one member in one term the highest index says it all, and so does the last MsgStorageAppendResp.
func (a *appender) split(responses []*raftpb.Message) (self, others []*raftpb.Message) {
	for _, m := range responses {
		list := &others
		if m.GetTo() == a.n.cfg.ID {
			list = &self
		}
		if k := coveredBy(*list, m); k >= 0 {
			if m.GetIndex() >= (*list)[k].GetIndex() || m.GetType() == raftpb.MsgStorageAppendResp {
				*list = append(append((*list)[:k:k], (*list)[k+1:]...), m)
			}
			continue
		}
		*list = append(*list, m)
	}
	return self, others
}

// coveredBy returns the place of a message in list that says the same as m, or part of it, or more; -1 if there is none.
// It looks at the last few only.
func coveredBy(list []*raftpb.Message, m *raftpb.Message) int {
	const near = 8
	if m.GetReject() || m.GetSnapshot() != nil {
		return -1
	}
	for k := len(list) - 1; k >= 0 && k >= len(list)-near; k-- {
		o := list[k]
		if o.GetType() != m.GetType() || o.GetTo() != m.GetTo() || o.GetReject() || o.GetSnapshot() != nil {
			continue
		}
		switch m.GetType() {
		case raftpb.MsgAppResp:
			if o.GetTerm() == m.GetTerm() {
				return k
			}
		case raftpb.MsgStorageAppendResp:
			return k
		}
	}
	return -1
}

// install makes a received snapshot durable, hands it to the state machine, and answers the leader. The file comes first,
// then its marker in the log, then the hard state: whatever a power cut leaves, the newest valid marker has its file.
func (a *appender) install(m *raftpb.Message) error {
	snap := m.GetSnapshot()
	meta := snap.GetMetadata()
	if err := a.n.cfg.Snapshots.Save(snap); err != nil {
		return fmt.Errorf("raftnode: save the received snapshot at %d: %w", meta.GetIndex(), err)
	}
	if err := a.mark(meta); err != nil {
		return err
	}
	if err := a.save(hardState(m), m.GetEntries()); err != nil {
		return err
	}
	if err := a.n.cfg.Log.Sync(); err != nil {
		return fmt.Errorf("raftnode: sync the log: %w", err)
	}
	a.n.applier.jobs.push(applyJob{restore: snap})
	a.respond(appended{snapshot: snap, entries: m.GetEntries(), done: 1}, m.GetResponses())
	if err := a.n.cfg.Log.ReleaseTo(meta.GetIndex()); err != nil {
		a.n.lg.Warn("log files before the received snapshot stay", zap.Uint64("index", meta.GetIndex()), zap.Error(err))
	}
	return nil
}

// mark writes the log's marker of a snapshot, durably.
func (a *appender) mark(meta *raftpb.SnapshotMetadata) error {
	marker := &walpb.Snapshot{Index: meta.Index, Term: meta.Term, ConfState: meta.GetConfState()}
	if err := a.n.cfg.Log.SaveSnapshot(marker); err != nil {
		return fmt.Errorf("raftnode: mark the snapshot at %d in the log: %w", meta.GetIndex(), err)
	}
	return nil
}

// do runs a task at its place among the writes and waits for it; ErrStopped if it was not run.
func (a *appender) do(task func() error) error {
	done := make(chan error, 1)
	a.jobs.push(appendJob{task: func() error {
		err := task()
		done <- err
		return err
	}})
	select {
	case err := <-done:
		return err
	case <-a.n.quit:
		return ErrStopped
	}
}
