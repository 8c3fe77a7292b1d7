package reconfig

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/tracker"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/raftnode"
	"github.com/keelson-io/keelson/server/membership"
)

// AutoPromote makes learners voting members without being asked, while this member leads: one after the other, each when it has
// kept up for a while and the cluster has a quorum with it.
type AutoPromote struct {
	Status  func() raftnode.Status
	Started func(id uint64) bool // whether a learner has told its name, and enough voting members have
	Promote func(ctx context.Context, id uint64) error
	Stay    time.Duration // how long a learner must keep up; it is looked at ten times meanwhile
	Clock   clock.Clock
	Logger  *zap.Logger
	// Promoted counts promotions; may be nil.
	Promoted prometheus.Counter
}

// looks is how often a learner must be found to keep up.
const looks = 10

// NewAutoPromoted makes the counter of promotions.
func NewAutoPromoted() prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{
		Name: "keelson_learners_auto_promoted_total", Help: "Learners that this member, as leader, made voting members without being asked.",
	})
}

// Run promotes learners until ctx ends.
func (a AutoPromote) Run(ctx context.Context) error {
	kept := map[uint64]int{} // how often in a row a learner was found to keep up
	ticker := a.Clock.NewTicker(a.Stay / looks)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C():
		case <-ctx.Done():
			return ctx.Err()
		}
		id := a.next(kept)
		if id == 0 {
			continue
		}
		lg := a.Logger.With(zap.String("member-id", membership.FormatID(id)))
		if err := a.Promote(ctx, id); err != nil {
			lg.Warn("a learner that keeps up could not be promoted, trying again", zap.Error(err))
		} else {
			lg.Info("promoted a learner that keeps up")
			if a.Promoted != nil {
				a.Promoted.Inc()
			}
		}
		clear(kept) // the others are judged by the new cluster
	}
}

// next looks once at all learners, and returns one that is to be promoted, or 0.
func (a AutoPromote) next(kept map[uint64]int) uint64 {
	st := a.Status()
	if st.Lead != st.ID || st.Progress == nil || st.LeadTransferee != 0 {
		clear(kept)
		return 0
	}
	for id := range kept {
		if _, ok := st.Progress[id]; !ok {
			delete(kept, id) // removed
		}
	}
	var due []uint64
	for id := range st.Progress {
		if !keepsUp(st, id) || !a.Started(id) {
			delete(kept, id)
			continue
		}
		if kept[id]++; kept[id] > looks {
			due = append(due, id)
		}
	}
	if len(due) == 0 || !quorumWith(st) {
		return 0
	}
	return slices.Min(due)
}

// keepsUp says whether a learner is connected and gets the log as it grows, and has as much of it as is asked of one that is promoted by hand.
func keepsUp(st raftnode.Status, id uint64) bool {
	p, ok := st.Progress[id]
	return ok && p.Learner && p.Active && p.State == tracker.StateReplicate && p.PendingSnapshot == 0 && hasLog(p, st.Progress[st.ID])
}

// hasLog says whether a learner has enough of the leader's log.
func hasLog(learner, leader raftnode.Progress) bool {
	return learner.Match*100 >= leader.Match*readyPercent
}

// quorumWith says whether the voting members that are connected would be a quorum with one more, which is.
func quorumWith(st raftnode.Status) bool {
	voters, connected := 1, 1
	for id, p := range st.Progress {
		if p.Learner {
			continue
		}
		voters++
		if p.Active || id == st.ID {
			connected++
		}
	}
	return connected > voters/2
}
