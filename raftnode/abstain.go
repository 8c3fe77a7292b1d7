package raftnode

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// abstention is that of a member whose state is not to be trusted while its log is: it votes, acknowledges and applies, and does
// not lead. Its clock is the tick.
type abstention struct {
	on     bool
	silent uint64 // ticks since it last heard of a leader
	handed uint64 // tick at which it last tried to hand over
}

// abstainPatience is for how many election timeouts without a leader such a member waits for another one to be elected. After
// that it may well be the only one whose log has everything that was committed: it campaigns, and as the leader brings the
// others' logs up to date and hands over.
const abstainPatience = 4

// Abstain keeps this member from leading as long as others can, or ends that. It may be called before Start.
func (n *Node) Abstain(on bool) {
	n.inbox.call(func(c *core) {
		if c.abstain.on != on {
			c.abstain = abstention{on: on}
		}
	})
}

// abstains tells whether this member leaves leading to others.
func (c *core) abstains() bool { return c.abstain.on && !c.onlyVoter() }

// heard notes a message of a leader.
func (c *core) heard(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if m.GetTerm() >= c.term {
			c.abstain.silent = 0
		}
	}
}

// abstainTick is a tick of a member that abstains. It tells whether raft's clock goes on, too.
//
// A follower's clock stands still, or it would campaign; once its leader has been silent for an election timeout it forgets
// it, so that it votes for another one.
func (c *core) abstainTick() bool {
	a := &c.abstain
	timeout := uint64(c.n.cfg.Timing.ElectionTicks)
	if c.state == raft.StateLeader {
		a.silent = 0
		if a.handed == 0 || c.tick-a.handed >= timeout {
			a.handed = c.tick
			c.transfer(raft.None)
		}
		return true
	}
	a.handed = 0
	if a.silent++; a.silent >= timeout && c.lead != raft.None && c.state == raft.StateFollower {
		_ = c.raft.ForgetLeader()
	}
	return a.silent > abstainPatience*timeout
}
