package membership

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
)

// ValidateConfigurationChange says whether a committed change may happen now. Every member decides alike: it looks at
// applied members only, and the order of the checks is part of the outcome.
func (c *Cluster) ValidateConfigurationChange(cc *raftpb.ConfChange) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := cc.GetNodeId()
	if c.removed[id] {
		return ErrIDRemoved
	}
	switch cc.GetType() {
	case raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode:
		var ctx ConfigChangeContext
		if err := json.Unmarshal(cc.GetContext(), &ctx); err != nil {
			return fmt.Errorf("membership: context of a configuration change: %w", err)
		}
		if ctx.IsPromote {
			return c.checkPromotion(id)
		}
		return c.checkAddition(id, &ctx.Member, cc.GetType() == raftpb.ConfChangeAddLearnerNode)
	case raftpb.ConfChangeRemoveNode:
		if !c.applied[id] {
			return ErrIDNotFound
		}
		return nil
	case raftpb.ConfChangeUpdateNode:
		if !c.applied[id] {
			return ErrIDNotFound
		}
		var m Member
		if err := json.Unmarshal(cc.GetContext(), &m); err != nil {
			return fmt.Errorf("membership: context of a configuration change: %w", err)
		}
		return c.checkURLs(m.PeerURLs, id)
	}
	return fmt.Errorf("membership: unknown type %v of a configuration change", cc.GetType())
}

func (c *Cluster) checkPromotion(id uint64) error {
	switch {
	case !c.applied[id]:
		return ErrIDNotFound
	case !c.members[id].IsLearner:
		return ErrMemberNotLearner
	}
	return nil
}

func (c *Cluster) checkAddition(id uint64, m *Member, asLearner bool) error {
	if c.applied[id] {
		return ErrIDExists
	}
	if err := c.checkURLs(m.PeerURLs, id); err != nil {
		return err
	}
	if !m.IsLearner || !asLearner {
		return nil
	}
	learners := 1
	for id := range c.applied {
		if c.members[id].IsLearner {
			learners++
		}
	}
	if learners > c.cfg.MaxLearners {
		return ErrTooManyLearners
	}
	return nil
}

// checkURLs refuses URLs that another member has.
func (c *Cluster) checkURLs(urls []string, self uint64) error {
	taken := map[string]bool{}
	for id := range c.applied {
		if id == self {
			continue
		}
		for _, u := range c.members[id].PeerURLs {
			taken[u] = true
		}
	}
	for _, u := range urls {
		if taken[u] {
			return ErrPeerURLExists
		}
	}
	return nil
}

// CheckLearners says whether so many members may be learners at all; it is for the start of a member.
func (c *Cluster) CheckLearners() error {
	learners := 0
	for _, m := range c.Members() {
		if m.IsLearner {
			learners++
		}
	}
	if learners > c.cfg.MaxLearners {
		return ErrTooManyLearners
	}
	return nil
}

// Add adds a member, or applies one that was known from the configuration.
func (c *Cluster) Add(m *Member) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m = m.Clone()
	if err := c.save(m); err != nil {
		return err
	}
	c.members[m.ID] = m
	c.show()
	c.note("added member", m.ID, zap.Strings("peer-urls", m.PeerURLs), zap.Bool("learner", m.IsLearner))
	return nil
}

// Remove removes a member for good.
func (c *Cluster) Remove(id uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows == nil {
		return errNotAttached
	}
	key := []byte(FormatID(id))
	c.rows.Delete(BucketMembers, key)
	c.rows.Put(BucketRemoved, key, []byte(removedMark))
	delete(c.members, id)
	delete(c.applied, id)
	c.removed[id] = true
	c.show()
	c.note("removed member", id)
	return nil
}

// Promote makes a learner a voting member.
func (c *Cluster) Promote(id uint64) error {
	return c.update("promoted member", id, func(m *Member) { m.IsLearner = false })
}

// UpdateRaftAttributes changes the peer URLs of a member. A learner stays one.
func (c *Cluster) UpdateRaftAttributes(id uint64, a RaftAttributes) error {
	return c.update("updated member", id, func(m *Member) { m.PeerURLs = slices.Clone(a.PeerURLs) })
}

// update changes a member. One that is gone is left alone: validation has refused that change before.
func (c *Cluster) update(what string, id uint64, change func(*Member)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[id].Clone()
	if m == nil {
		c.note("skipped a change of a member that does not exist", id, zap.String("change", what))
		return nil
	}
	change(m)
	if err := c.save(m); err != nil {
		return err
	}
	c.members[id] = m
	c.show()
	c.note(what, id, zap.Strings("peer-urls", m.PeerURLs), zap.Bool("learner", m.IsLearner))
	return nil
}

// SetAttributes applies what a member published about itself. That a member which was never there publishes something is
// an error.
func (c *Cluster) SetAttributes(r *membershippb.ClusterMemberAttrSetRequest) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := r.GetMember_ID()
	m := c.members[id].Clone()
	if m == nil {
		if !c.removed[id] {
			return fmt.Errorf("membership: attributes of member %x, which is unknown", id)
		}
		c.note("skipped attributes of a removed member", id)
		return nil
	}
	m.Attributes = Attributes{Name: r.GetMemberAttributes().GetName(), ClientURLs: slices.Clone(r.GetMemberAttributes().GetClientUrls())}
	if err := c.save(m); err != nil {
		return err
	}
	c.members[id] = m
	return nil
}

// SetVersion applies a new version of the cluster. One that is newer than this program is an error.
func (c *Cluster) SetVersion(r *membershippb.ClusterVersionSetRequest) error {
	v, err := semver.NewVersion(r.GetVer())
	if err != nil {
		return fmt.Errorf("membership: cluster version %q: %w", r.GetVer(), err)
	}
	if err := checkNotNewer(v); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows == nil {
		return errNotAttached
	}
	c.rows.Put(BucketCluster, []byte(versionKey), []byte(v.String()))
	before := "none"
	if c.version != nil {
		before = c.version.String()
	}
	c.version = v
	c.show()
	c.cfg.Logger.Info("set cluster version", zap.String("cluster-id", FormatID(c.id)), zap.String("from", before), zap.Stringer("to", v))
	return nil
}

// SetDowngrade applies the beginning or the end of a downgrade.
func (c *Cluster) SetDowngrade(r *membershippb.DowngradeInfoSetRequest) error {
	var d DowngradeInfo
	if r.GetEnabled() {
		d = DowngradeInfo{Enabled: true, TargetVersion: r.GetVer()}
	}
	value, err := json.Marshal(d)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows == nil {
		return errNotAttached
	}
	c.rows.Put(BucketCluster, []byte(downgradeKey), value)
	c.downgrade = d
	return nil
}

func (c *Cluster) note(what string, id uint64, more ...zap.Field) {
	fields := []zap.Field{zap.String("cluster-id", FormatID(c.id)), zap.String("local-member-id", FormatID(c.self)), zap.String("member-id", FormatID(id))}
	c.cfg.Logger.Info(what, append(fields, more...)...)
}
