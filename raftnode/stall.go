package raftnode

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// diskWatch knows how long the log has not been written. Its clock is the tick.
type diskWatch struct {
	pending []uint64 // ticks at which the append messages under way were handed out
	since   uint64   // tick at which this leader found its disk stalled; 0: it is not, or this is no leader
}

// stalled tells whether the oldest write under way has taken longer than an election timeout.
func (c *core) stalled() bool {
	return len(c.disk.pending) > 0 && c.tick-c.disk.pending[0] > uint64(c.n.cfg.Timing.ElectionTicks)
}

// onStall takes the place of a tick while the disk is stalled.
//
// A leader goes on with heartbeats and first tries to hand over to the follower with the longest log, which takes a
// moment and loses nothing. If that has not happened half an election timeout later it steps down in its term: raft is
// told twice to check its quorum, and as nobody can have answered between the two checks, it finds none. With the only
// voter there is nobody to hand over to, and it stays.
//
// Others do not campaign while their log cannot be written: a candidate without a disk could win by the others' votes
// and would then lead a cluster to which it cannot answer. Their election clock stands still; it goes on with the disk.
func (c *core) onStall() {
	if c.state != raft.StateLeader {
		return
	}
	defer c.raft.Tick()
	if c.onlyVoter() {
		return
	}
	d := &c.disk
	if d.since == 0 {
		d.since = c.tick
		to := c.transfer(raft.None)
		c.n.metrics.stepDowns.Inc()
		c.n.lg.Error("the log could not be written for longer than an election timeout; giving up leadership",
			zap.Uint64("ticks", c.tick-d.pending[0]), zap.String("to", hex(to)))
		if to != raft.None {
			return
		}
	} else if c.tick-d.since < uint64(max(1, c.n.cfg.Timing.ElectionTicks/2)) {
		return
	}
	for range 2 {
		_ = c.raft.Step(&raftpb.Message{Type: raftpb.MsgCheckQuorum.Enum(), From: new(raft.LocalAppendThread)})
	}
}
