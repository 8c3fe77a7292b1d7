package raftnode

import (
	"errors"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// propQueue holds proposals in the loop until a leader takes them.
type propQueue struct {
	waiting     []proposal
	termed      int    // of them, for a term
	uncommitted uint64 // bytes of entries that this leader has appended and not yet applied
	hold        bool   // raft refused; wait for the next tick or change of role
}

func (q *propQueue) add(ps []proposal, tick uint64) {
	for _, p := range ps {
		p.tick = tick
		if p.term != 0 {
			q.termed++
		}
		q.waiting = append(q.waiting, p)
	}
}

// room tells whether a leader may append entries without passing limit bytes of uncommitted ones.
func (q *propQueue) room(ents []*raftpb.Entry, limit uint64) bool {
	n := q.uncommitted
	for _, e := range ents {
		n += entryBytes(e)
	}
	return q.uncommitted == 0 || n <= limit
}

func (q *propQueue) accepted(ents []*raftpb.Entry) {
	for _, e := range ents {
		q.uncommitted += entryBytes(e)
	}
}

func (q *propQueue) applied(ents []*raftpb.Entry) {
	for _, e := range ents {
		q.uncommitted -= min(q.uncommitted, entryBytes(e))
	}
}

// batch returns how many proposals from the front make one message: up to maxBytes of entries, or one membership change.
func (q *propQueue) batch(maxBytes uint64) int {
	size := uint64(0)
	for k, p := range q.waiting {
		if size += entryBytes(p.entry); k > 0 && (size > maxBytes || p.reply != nil) {
			return k
		}
		if p.reply != nil {
			return k + 1
		}
	}
	return len(q.waiting)
}

// propose gives waiting proposals to raft, in messages as large as an append message may be. Without a leader, or when
// raft takes none (leadership is being handed over), they wait: a refused message has left no trace, so it can be repeated.
func (c *core) propose() {
	q := &c.props
	c.dropOutdated()
	var bytes uint64
	k := 0
	for k < len(q.waiting) && c.lead != raft.None && !q.hold {
		rest := propQueue{waiting: q.waiting[k:]}
		n := rest.batch(c.n.cfg.Limits.MaxSizePerMsg)
		ents := make([]*raftpb.Entry, n)
		for i := range ents {
			ents[i] = rest.waiting[i].entry
		}
		if c.state == raft.StateLeader && !q.room(ents, c.n.cfg.Limits.MaxPendingBytes) {
			break
		}
		if !c.proposeBatch(ents, rest.waiting[0].reply) {
			q.hold = true
			break
		}
		for _, p := range rest.waiting[:n] {
			bytes += entryBytes(p.entry)
		}
		k += n
	}
	if k > 0 {
		q.remove(k)
		c.n.inbox.proposed(bytes)
	}
}

// dropOutdated removes the proposals that were for another term of this member's.
func (c *core) dropOutdated() {
	q := &c.props
	if q.termed == 0 {
		return
	}
	now := c.raft.BasicStatus() // raft may have stepped down in this turn, which c.state does not tell yet
	var bytes uint64
	dropped := 0
	q.waiting = slices.DeleteFunc(q.waiting, func(p proposal) bool {
		if p.term == 0 || now.RaftState == raft.StateLeader && now.GetTerm() == p.term {
			return false
		}
		bytes += entryBytes(p.entry)
		dropped++
		return true
	})
	q.termed -= dropped
	c.n.metrics.dropped.Add(float64(dropped))
	c.n.inbox.proposed(bytes)
}

func (q *propQueue) remove(k int) {
	for _, p := range q.waiting[:k] {
		if p.term != 0 {
			q.termed--
		}
	}
	n := copy(q.waiting, q.waiting[k:])
	clear(q.waiting[n:])
	q.waiting = q.waiting[:n]
}

// proposeBatch gives entries to raft; false if it refuses.
func (c *core) proposeBatch(ents []*raftpb.Entry, reply chan<- error) bool {
	err := c.raft.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(c.n.cfg.ID), Entries: ents})
	if errors.Is(err, raft.ErrProposalDropped) {
		return false
	}
	if c.state == raft.StateLeader {
		c.props.accepted(ents)
	}
	if reply != nil {
		if err == nil && ents[0].GetType() == raftpb.EntryNormal {
			err = ErrConfChangeRefused // raft has put an empty entry into its place
		}
		reply <- err
	}
	return true
}

// expire drops proposals that have found no leader for too long: nobody waits for them any more.
func (q *propQueue) expire(c *core) {
	limit := c.n.cfg.Timing.ticks(c.n.cfg.Timing.ProposalTimeout)
	var bytes uint64
	k := 0
	for ; k < len(q.waiting) && c.tick-q.waiting[k].tick > limit; k++ {
		bytes += entryBytes(q.waiting[k].entry)
		if r := q.waiting[k].reply; r != nil {
			r <- ErrNoLeader
		}
	}
	if k == 0 {
		return
	}
	c.n.metrics.dropped.Add(float64(k))
	c.n.lg.Warn("dropped proposals that no leader took in time", zap.Int("proposals", k), zap.Duration("timeout", c.n.cfg.Timing.ProposalTimeout))
	q.remove(k)
	c.n.inbox.proposed(bytes)
}
