package membership

import (
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/server/errdefs"
)

// healthInterval is how long a connection must have lasted to count.
const healthInterval = 5 * time.Second

// Activity says since when this member has been connected with another; the zero time if it is not.
type Activity func(id uint64) time.Time

// The following are the strict checks of a change before it is proposed: it must leave enough members that have started,
// and enough that are connected. They are advice of one member, based on what it sees, while
// ValidateConfigurationChange is the law.

// MayAdd says whether a member may be added now. The new member counts as one that is down.
func (c *Cluster) MayAdd(m *Member, active Activity, now time.Time) error {
	if !m.IsLearner && !c.IsReadyToAddVotingMember() {
		return c.reject("add", m.ID, errdefs.ErrNotEnoughStartedMembers)
	}
	voting := c.VotingMembers()
	if len(voting) > 1 && c.connected(voting, active, now) < quorum(len(voting)+1) {
		return c.reject("add", m.ID, errdefs.ErrUnhealthy)
	}
	return nil
}

// MayRemove says whether a member may be removed now. A learner always may, and so may one that is not connected.
func (c *Cluster) MayRemove(id uint64, active Activity, now time.Time) error {
	if m := c.Member(id); m != nil && m.IsLearner {
		return nil
	}
	if !c.IsReadyToRemoveVotingMember(id) {
		return c.reject("remove", id, errdefs.ErrNotEnoughStartedMembers)
	}
	if id != c.local() && active(id).IsZero() {
		return nil
	}
	voting := c.VotingMembers()
	if c.connected(voting, active, now)-1 < quorum(len(voting)-1) {
		return c.reject("remove", id, errdefs.ErrUnhealthy)
	}
	return nil
}

// MayPromote says whether a learner may become a voting member now. Whether it has the log is the leader's to judge.
func (c *Cluster) MayPromote(id uint64) error {
	if !c.IsReadyToPromote() {
		return c.reject("promote", id, errdefs.ErrNotEnoughStartedMembers)
	}
	return nil
}

// IsReadyToAddVotingMember says whether the voting members that have started would be a quorum with one more member. A
// cluster of one may always grow.
func (c *Cluster) IsReadyToAddVotingMember() bool {
	started, all := c.started(0)
	return started == 1 && all == 1 || started >= quorum(all+1)
}

// IsReadyToRemoveVotingMember says whether the voting members that have started would be a quorum without one of them.
func (c *Cluster) IsReadyToRemoveVotingMember(id uint64) bool {
	started, all := c.started(id)
	return started >= quorum(all)
}

// IsReadyToPromote says whether the voting members that have started would be a quorum with a learner, which counts as
// started.
func (c *Cluster) IsReadyToPromote() bool {
	started, all := c.started(0)
	return started+1 >= quorum(all+1)
}

func quorum(n int) int { return n/2 + 1 }

// started counts the voting members but one, and how many of them have started.
func (c *Cluster) started(except uint64) (started, all int) {
	for _, m := range c.VotingMembers() {
		if m.ID == except {
			continue
		}
		all++
		if m.IsStarted() {
			started++
		}
	}
	return started, all
}

// connected counts those members that this one has been connected with for long enough, and itself.
func (c *Cluster) connected(members []*Member, active Activity, now time.Time) int {
	self, since, n := c.local(), now.Add(-healthInterval), 0
	for _, m := range members {
		if m.ID == self {
			n++
		} else if t := active(m.ID); !t.IsZero() && t.Before(since) {
			n++
		}
	}
	return n
}

func (c *Cluster) local() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.self
}

func (c *Cluster) reject(what string, id uint64, err error) error {
	c.cfg.Logger.Warn("rejecting a change of the members", zap.String("change", what), zap.String("member-id", FormatID(id)), zap.Error(err))
	return err
}
