// Package autocompact compacts the key space by itself: what is older than a time, or all but the latest revisions.
//
//	periodic   the revision is noted ten times per period (per hour, if the period is longer). Once there is a note as old as
//	           the period, it is compacted to that note, and then again once per period (per hour).
//	revision   every five minutes, all but so many revisions are compacted.
//
// The schedule is etcd's, so that a cluster of both kinds behaves as one. Every member keeps its notes; only the leader
// compacts, so that a new leader goes on where the old one was.
//
// # Concurrency
//
// Run is one goroutine and keeps no state elsewhere.
package autocompact

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc"
)

const (
	// longest is the longest time between two periodic compactions.
	longest = time.Hour
	// notes is how many revisions are noted in that time, or in the period if it is shorter.
	notes = 10
	// revisionInterval is the time between two compactions in revision mode.
	revisionInterval = 5 * time.Minute
)

// Config is what Run needs.
type Config struct {
	Revisions bool          // revision mode: Retention is a number of revisions
	Retention time.Duration // 0: never compact; otherwise at least 10 ns
	Rev       func() int64  // the current revision
	IsLeader  func() bool
	// Compact compacts to a revision. mvcc.ErrCompacted counts as success.
	Compact func(ctx context.Context, rev int64) error
	Clock   clock.Clock
	Logger  *zap.Logger
}

// Run compacts until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	c := &compactor{Config: cfg}
	switch {
	case cfg.Retention == 0:
		<-ctx.Done()
	case cfg.Revisions:
		c.revision(ctx)
	default:
		c.periodic(ctx)
	}
	return ctx.Err()
}

type compactor struct {
	Config
	last int64 // the revision of the last success
}

// wait waits for an interval; false when ctx has ended.
func (c *compactor) wait(ctx context.Context, d time.Duration) bool {
	t := c.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *compactor) periodic(ctx context.Context) {
	pace := min(c.Retention, longest)
	interval := pace / notes
	window := int(c.Retention/interval) + 1
	revs := make([]int64, 0, window+1)
	since, due := c.Clock.Now(), c.Retention // the first time only when there is a note that old
	for {
		if revs = append(revs, c.Rev()); len(revs) > window {
			revs = append(revs[:0], revs[1:]...)
		}
		if !c.wait(ctx, interval) {
			return
		}
		if !c.IsLeader() || c.Clock.Now().Sub(since) < due || revs[0] == c.last {
			continue
		}
		due = pace
		if c.compact(ctx, revs[0]) {
			since = c.Clock.Now()
		}
	}
}

func (c *compactor) revision(ctx context.Context) {
	for c.wait(ctx, revisionInterval) {
		if !c.IsLeader() {
			continue
		}
		if rev := c.Rev() - int64(c.Retention); rev > 0 && rev != c.last {
			c.compact(ctx, rev)
		}
	}
}

// compact returns whether everything below a revision is compacted now.
func (c *compactor) compact(ctx context.Context, rev int64) bool {
	start := c.Clock.Now()
	err := c.Compact(ctx, rev)
	if err != nil && !errors.Is(err, mvcc.ErrCompacted) {
		if ctx.Err() == nil {
			c.Logger.Warn("failed auto compaction, trying again", zap.Int64("revision", rev), zap.Error(err))
		}
		return false
	}
	c.last = rev
	c.Logger.Info("completed auto compaction", zap.Int64("revision", rev), zap.Duration("took", c.Clock.Now().Sub(start)))
	return true
}
