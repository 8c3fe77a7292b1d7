package raftnode

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"go.uber.org/zap"
)

const (
	maxFetches   = 4       // reads of the log under way
	fetchBytes   = 4 << 20 // of one read
	maxFetchErrs = 3       // failed reads in a row, after which followers get a snapshot instead
)

// fetches are the reads of log entries that have left memory.
type fetches struct {
	running map[uint64]bool // by first index
	failed  int
}

// startFetch reads entries from lo on in the background, unless that is under way or already there.
func (c *core) startFetch(lo uint64) {
	f := &c.fetch
	if f.running[lo] || len(f.running) >= maxFetches || c.log.pages.covers(lo) || lo >= c.log.memFirst {
		return
	}
	if f.running == nil {
		f.running = map[uint64]bool{}
	}
	f.running[lo] = true
	c.n.metrics.fetches.Inc()
	n, hi := c.n, c.log.memFirst
	n.goRun(func() {
		ents, err := n.cfg.Log.Entries(lo, hi, fetchBytes)
		n.inbox.call(func(c *core) { c.fetched(lo, ents, err) })
	})
}

// fetched takes in what was read and prompts raft to go on with the followers that wait for it. If the log cannot be
// read it is given up up to what is in memory, and such followers get a snapshot.
func (c *core) fetched(lo uint64, ents []*raftpb.Entry, err error) {
	f := &c.fetch
	delete(f.running, lo)
	ents = c.log.known(lo, ents)
	if err != nil || len(ents) == 0 {
		f.failed++
		c.n.lg.Warn("log entries could not be read back", zap.Uint64("from", lo), zap.Int("entries", len(ents)), zap.Error(err))
		if f.failed >= maxFetchErrs {
			f.failed = 0
			c.log.release(c.log.memFirst)
		}
		return
	}
	f.failed = 0
	c.log.pages.add(ents, max(c.log.limit/4, 2*fetchBytes))
	c.prompt(lo, ents[len(ents)-1].GetIndex()+1)
}

// known returns the entries, which were read from lo on, if they continue the log as it is; nil otherwise.
func (c *logCache) known(lo uint64, ents []*raftpb.Entry) []*raftpb.Entry {
	for i, e := range ents {
		if t, err := c.Term(lo + uint64(i)); err != nil || e.GetIndex() != lo+uint64(i) || e.GetTerm() != t {
			return nil
		}
	}
	return ents
}

// prompt makes raft send to the followers that need an entry of [lo, hi) next. raft would do so by itself at their next
// heartbeat response; so they get one now, if they have answered lately anyway.
func (c *core) prompt(lo, hi uint64) {
	if c.state != raft.StateLeader {
		return
	}
	var ids []uint64
	c.raft.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if id != c.n.cfg.ID && pr.RecentActive && pr.State != tracker.StateSnapshot && lo <= pr.Next && pr.Next < hi {
			ids = append(ids, id)
		}
	})
	for _, id := range ids {
		_ = c.raft.Step(&raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), From: new(id)})
	}
}
