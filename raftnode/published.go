package raftnode

import (
	"context"
	"sync"
	"sync/atomic"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"
)

// Status is a copy of the node's state. It must not be changed.
type Status struct {
	ID             uint64
	Term           uint64
	Lead           uint64 // 0: none
	Role           raft.StateType
	Commit         uint64
	Applied        uint64
	FirstIndex     uint64 // of the log that followers can be served from
	LastIndex      uint64
	LeadTransferee uint64 // 0: no transfer under way
	Voters         []uint64
	Learners       []uint64
	Progress       map[uint64]Progress // of all members, this one too; for a leader only, as of the last tick or role change
	CacheBytes     uint64              // of entries in memory
}

// Progress is what a leader knows of a member.
type Progress struct {
	Match           uint64 // its log is known to agree up to here
	Next            uint64
	State           tracker.StateType
	Learner         bool
	Active          bool // heard from lately
	PendingSnapshot uint64
}

// published is what other goroutines read without asking the loop.
type published struct {
	lead, term, commit, applied atomic.Uint64
	leader                      atomic.Bool
	status                      atomic.Pointer[Status]
	leaderChanged               notifier
	firstCommit                 notifier
}

func (p *published) init(cfg Config) {
	rec := cfg.Recovered
	p.term.Store(rec.HardState.GetTerm())
	p.commit.Store(rec.HardState.GetCommit())
	p.applied.Store(rec.Snapshot.GetMetadata().GetIndex())
	p.status.Store(&Status{ID: cfg.ID})
	p.leaderChanged.init()
	p.firstCommit.init()
}

// notifier is a channel that is closed on an event and replaced by a new one.
type notifier struct {
	mu sync.Mutex
	c  chan struct{}
}

func (n *notifier) init() { n.c = make(chan struct{}) }

func (n *notifier) receive() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.c
}

func (n *notifier) notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.c)
	n.c = make(chan struct{})
}

// Status returns the state as of the last tick or role change; term, leader, commit and applied index are those of now.
func (n *Node) Status() Status {
	s := *n.pub.status.Load()
	s.Term, s.Lead, s.Commit, s.Applied = n.Term(), n.Lead(), n.Committed(), n.Applied()
	return s
}

// StatusNow returns the state as it is when the loop comes to it. ErrStopped.
func (n *Node) StatusNow(ctx context.Context) (Status, error) {
	done := make(chan struct{})
	if !n.inbox.call(func(c *core) { c.publishStatus(); close(done) }) {
		return Status{}, ErrStopped
	}
	select {
	case <-done:
		return n.Status(), nil
	case <-n.quit:
		return Status{}, ErrStopped
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

// ID returns the member's own id.
func (n *Node) ID() uint64 { return n.cfg.ID }

// Lead returns the leader's id, 0 if none is known.
func (n *Node) Lead() uint64 { return n.pub.lead.Load() }

// IsLeader tells whether this member believes that it leads. Another one may already lead; see ReadIndex.
func (n *Node) IsLeader() bool { return n.pub.leader.Load() }

// Term returns the current term.
func (n *Node) Term() uint64 { return n.pub.term.Load() }

// Committed returns the index up to which the log is committed, as far as this member knows.
func (n *Node) Committed() uint64 { return n.pub.commit.Load() }

// Applied returns the index up to which StateMachine.Apply has returned.
func (n *Node) Applied() uint64 { return n.pub.applied.Load() }

// LeaderChanged returns a channel that is closed when a leader, another one or the same in a new term, is known. Call it again after that.
func (n *Node) LeaderChanged() <-chan struct{} { return n.pub.leaderChanged.receive() }

// FirstCommitInTerm returns a channel that is closed when a leader's first entry of its term has been applied here.
func (n *Node) FirstCommitInTerm() <-chan struct{} { return n.pub.firstCommit.receive() }
