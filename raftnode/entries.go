package raftnode

import (
	"context"

	"go.etcd.io/raft/v3/raftpb"
)

// Entries returns the entries lo..hi-1, which must have been applied: as many as fit maxBytes, but at least one. They are
// shared with the log and must not be changed. What is not in memory is read from the log's files on the caller's goroutine, also
// what no follower would be served from any more.
// Errors: ErrStopped, ctx's, those of Log.Entries: lo may be released.
func (n *Node) Entries(ctx context.Context, lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	found := make(chan []*raftpb.Entry, 1)
	if !n.inbox.call(func(c *core) { found <- c.log.inMemory(lo, hi, maxBytes) }) {
		return nil, ErrStopped
	}
	select {
	case ents := <-found:
		if len(ents) > 0 {
			return ents, nil
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.quit:
		return nil, ErrStopped
	}
	n.metrics.fetches.Inc()
	return n.cfg.Log.Entries(lo, hi, maxBytes)
}

// inMemory returns the entries lo..hi-1 as limitSize does, nil if they are not all in memory.
func (c *logCache) inMemory(lo, hi, maxBytes uint64) []*raftpb.Entry {
	if lo < c.memFirst || lo >= hi || hi > c.last+1 {
		return nil
	}
	return limitSize(c.ents[lo-c.memFirst:hi-c.memFirst], maxBytes)
}
