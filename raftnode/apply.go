package raftnode

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// A batch for the state machine ends at one of these, so that its effects become visible in time.
const (
	maxBatchEntries = 8192
	maxBatchBytes   = 8 << 20
)

// applyJob is a piece of work for the apply goroutine.
type applyJob struct {
	m       *raftpb.Message  // MsgStorageApply
	restore *raftpb.Snapshot // a received snapshot, durable
	send    *raftpb.Message  // MsgSnap to be completed and sent
}

// applier owns the state machine.
type applier struct {
	n    *Node
	jobs *queue[applyJob]

	index, term uint64 // last applied
	confState   *raftpb.ConfState
	snap        snapshotter
}

func newApplier(n *Node) *applier {
	meta := n.cfg.Recovered.Snapshot.GetMetadata()
	a := &applier{n: n, jobs: newQueue[applyJob](), index: meta.GetIndex(), term: meta.GetTerm(), confState: n.cfg.Recovered.confState()}
	a.snap = snapshotter{n: n, last: a.index}
	return a
}

func (a *applier) run() {
	var jobs []applyJob
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

// process does jobs in order; it leaves the rest when the node is ending.
func (a *applier) process(jobs []applyJob) error {
	for len(jobs) > 0 {
		select {
		case <-a.n.quit:
			return nil
		default:
		}
		switch j := jobs[0]; {
		case j.m != nil:
			jobs = a.applyBatch(jobs)
			continue
		case j.restore != nil:
			if err := a.restore(j.restore); err != nil {
				return err
			}
		case j.send != nil:
			a.sendSnapshot(j.send)
		}
		jobs = jobs[1:]
	}
	return nil
}

// applyBatch applies the entries of as many messages from the front of jobs as make a batch, and returns the other jobs.
func (a *applier) applyBatch(jobs []applyJob) []applyJob {
	var ents []*raftpb.Entry
	var size uint64
	done := applied{}
	k := 0
	for ; k < len(jobs) && jobs[k].m != nil; k++ {
		more := jobs[k].m.GetEntries()
		if k > 0 && (len(ents)+len(more) > maxBatchEntries || size > maxBatchBytes) {
			break
		}
		for _, e := range more {
			size += entryBytes(e)
		}
		if k == 0 {
			ents = more[:len(more):len(more)]
		} else {
			ents = append(ents, more...)
		}
		done.responses = append(done.responses, jobs[k].m.GetResponses()...)
	}
	last := ents[len(ents)-1]
	a.n.cfg.StateMachine.Apply(ents)
	a.index, a.term = last.GetIndex(), last.GetTerm()
	done.index = a.index
	a.publish()
	a.n.inbox.applied(done)
	a.n.metrics.applyBatch.Observe(float64(len(ents)))
	for _, e := range ents {
		if e.GetType() == raftpb.EntryNormal && len(e.GetData()) == 0 {
			a.n.pub.firstCommit.notify()
			break
		}
	}
	a.snap.maybe(a, size)
	return jobs[k:]
}

func (a *applier) publish() {
	a.n.pub.applied.Store(a.index)
	a.n.waits.wake(a.index)
	a.n.metrics.applied.Set(float64(a.index))
}

// restore replaces the state by a received snapshot.
func (a *applier) restore(snap *raftpb.Snapshot) error {
	meta := snap.GetMetadata()
	if meta.GetIndex() <= a.index {
		a.n.lg.Info("a received snapshot is older than the state", zap.Uint64("snapshot", meta.GetIndex()), zap.Uint64("applied", a.index))
		return nil
	}
	a.snap.wait()
	a.n.metrics.snapshotApplying.Set(1)
	defer a.n.metrics.snapshotApplying.Set(0)
	a.n.lg.Info("restoring a received snapshot", zap.Uint64("index", meta.GetIndex()), zap.Uint64("term", meta.GetTerm()), zap.Uint64("applied", a.index))
	if err := a.n.cfg.StateMachine.Restore(snap); err != nil {
		return fmt.Errorf("raftnode: restore the received snapshot at %d: %w", meta.GetIndex(), err)
	}
	a.index, a.term = meta.GetIndex(), meta.GetTerm()
	a.confState = proto.Clone(meta.GetConfState()).(*raftpb.ConfState)
	a.snap.restored(a.index)
	a.publish()
	return nil
}

// confChange is Node.ApplyConfChange, on the apply goroutine.
func (a *applier) confChange(cc raftpb.ConfChangeI) *raftpb.ConfState {
	next, err := AfterConfChange(a.confState, cc)
	if err != nil {
		a.n.lg.Error("a committed membership change cannot be made and is skipped", zap.Error(err))
		return proto.Clone(a.confState).(*raftpb.ConfState)
	}
	done := make(chan struct{})
	if a.n.inbox.call(func(c *core) { c.applyConfChange(cc); close(done) }) {
		select {
		case <-done:
		case <-a.n.quit:
		}
	}
	a.confState = next
	return proto.Clone(next).(*raftpb.ConfState)
}

// applyWaits wakes those who wait for an index to be applied.
type applyWaits struct {
	mu      sync.Mutex
	waiting map[uint64]chan struct{}
	count   atomic.Int64
}

func (w *applyWaits) init() { w.waiting = map[uint64]chan struct{}{} }

func (w *applyWaits) wake(applied uint64) {
	if w.count.Load() == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for index, c := range w.waiting {
		if index <= applied {
			close(c)
			delete(w.waiting, index)
			w.count.Add(-1)
		}
	}
}

// at returns a channel that is closed once index is applied.
func (w *applyWaits) at(index uint64) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	c, ok := w.waiting[index]
	if !ok {
		c = make(chan struct{})
		w.waiting[index] = c
		w.count.Add(1)
	}
	return c
}

// WaitApplied returns when Applied is at least index. Errors: ErrStopped, ctx's.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error {
	if n.Applied() >= index {
		return nil
	}
	c := n.waits.at(index)
	// The index may have been applied before the channel was there; the waiter is then left to the next wake.
	if n.Applied() >= index {
		return nil
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.quit:
		return ErrStopped
	}
}
