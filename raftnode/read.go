package raftnode

import (
	"context"
	"encoding/binary"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// round is one question to the cluster, "up to where is the log committed?", asked for all who joined before it was sent.
type round struct {
	wanted bool          // somebody has joined; guarded by reads.mu
	done   chan struct{} // closed when index or err is set
	index  uint64
	err    error
}

func newRound() *round { return &round{done: make(chan struct{})} }

// reads gathers readers for the next round.
type reads struct {
	mu   sync.Mutex
	next *round
}

// join returns the round that was not yet sent, and whether the loop must be told of it.
func (r *reads) join() (joined *round, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	first = !r.next.wanted
	r.next.wanted = true
	return r.next, first
}

// take closes the next round to newcomers and returns it, nil if nobody has joined.
func (r *reads) take() *round {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.next.wanted {
		return nil
	}
	taken := r.next
	r.next = newRound()
	return taken
}

// ReadIndex returns an index such that a state machine which has applied it holds every write that was acknowledged, by
// any member, before ReadIndex was called. It costs a message round with a quorum, shared with all who wait meanwhile;
// nothing is ever answered from a lease or a clock. Follow it by WaitApplied.
// Errors: ErrTimeout, ErrLeaderChanged (the same, but a leader was lost meanwhile), ErrStopped, ctx's.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	r, first := n.reads.join()
	if first {
		n.inbox.signal()
	}
	select {
	case <-r.done:
		return r.index, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-n.quit:
		return 0, ErrStopped
	}
}

// readState is the loop's part in reading: the round in flight.
type readState struct {
	round       *round
	id          uint64 // of the last request sent; ids never come again, not even after a restart
	firstID     uint64 // of the round's first request
	started     uint64 // tick
	asked       uint64 // tick of the last request
	leaderLost  bool   // the leader changed since the round began
	maxPosition uint64 // highest read position that this leader has sent to followers in its term
}

// readPosition reads the context of a heartbeat, in which raft numbers the reads that it confirms.
func readPosition(ctx []byte) uint64 { return binary.LittleEndian.Uint64(ctx) }

// startRead sends the next round if none is in flight and somebody waits.
func (c *core) startRead() {
	r := &c.read
	if r.round == nil {
		if r.round = c.n.reads.take(); r.round == nil {
			return
		}
		r.started, r.leaderLost, r.firstID, r.asked = c.tick, false, r.id+1, 0
		c.ask()
		return
	}
	if r.asked == 0 {
		c.ask()
	}
}

// ask sends a request for the round in flight, if there is somebody to ask.
//
// A leader that is the only voter needs no round. But raft answers it from the commit index at once, also before the
// leader has committed an entry of its own term; after a power cut that index can be older than what was acknowledged,
// because a commit index alone is not synced. So the question is put off until then.
func (c *core) ask() {
	if c.lead == raft.None || c.state == raft.StateLeader && c.onlyVoter() && !c.committedInTerm() {
		return
	}
	r := &c.read
	r.id++
	r.asked = max(c.tick, 1)
	c.raft.ReadIndex(binary.BigEndian.AppendUint64(nil, r.id))
}

func (c *core) committedInTerm() bool {
	t, err := c.log.Term(c.commit)
	return err == nil && t == c.term
}

func (c *core) onlyVoter() bool {
	cs := c.confState
	return len(cs.GetVoters()) == 1 && cs.GetVoters()[0] == c.n.cfg.ID && len(cs.GetVotersOutgoing()) == 0
}

// onReadState ends the round if the answer is to one of its requests. Any of them will do, also one that an earlier
// leader answered: all were sent after everybody had joined.
func (c *core) onReadState(rs raft.ReadState) {
	r := &c.read
	if len(rs.RequestCtx) != 8 || r.round == nil {
		return
	}
	if id, sent := binary.BigEndian.Uint64(rs.RequestCtx), r.id+1-r.firstID; id-r.firstID >= sent {
		c.n.metrics.slowReads.Inc()
		return
	}
	r.round.index = rs.Index
	c.endRead()
}

func (c *core) endRead() {
	close(c.read.round.done)
	c.read.round = nil
}

// readLeaderChanged asks the new leader what the old one may never answer.
func (c *core) readLeaderChanged() {
	if c.read.round != nil {
		c.read.leaderLost, c.read.asked = true, 0
	}
}

// tickRead repeats a request that got no answer, and gives up in the end.
func (c *core) tickRead() {
	r := &c.read
	if r.round == nil {
		return
	}
	t := &c.n.cfg.Timing
	switch {
	case c.tick-r.started >= t.ticks(t.ReadTimeout):
		r.round.err = ErrTimeout
		if r.leaderLost {
			r.round.err = ErrLeaderChanged
		}
		c.n.metrics.failedReads.Inc()
		c.n.lg.Warn("a read found no quorum in time", zap.Duration("timeout", t.ReadTimeout), zap.String("leader", hex(c.lead)))
		c.endRead()
	case r.asked != 0 && c.tick-r.asked >= t.ticks(t.ReadRetry):
		c.n.metrics.slowReads.Inc()
		c.ask()
	}
}

// notePosition remembers what a heartbeat asks followers to confirm.
func (c *core) notePosition(m *raftpb.Message) {
	if ctx := m.GetContext(); len(ctx) >= 8 {
		c.read.maxPosition = max(c.read.maxPosition, readPosition(ctx))
	}
}
