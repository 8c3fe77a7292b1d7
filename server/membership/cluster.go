package membership

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-semver/semver"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Config is what a Cluster needs to know.
type Config struct {
	MaxLearners int
	Logger      *zap.Logger
	Registerer  prometheus.Registerer
}

// DowngradeInfo says whether the cluster is being prepared for an older version.
type DowngradeInfo struct {
	TargetVersion string `json:"target-version"`
	Enabled       bool   `json:"enabled"`
}

// Cluster is described in the package comment.
type Cluster struct {
	cfg     Config
	metrics metrics

	mu        sync.Mutex
	self      uint64 // 0: not known yet
	id        uint64
	members   map[uint64]*Member
	applied   map[uint64]bool // members that are in the bucket
	removed   map[uint64]bool
	version   *semver.Version // nil: not decided
	downgrade DowngradeInfo
	rows      Buckets // nil before Attach
}

func newCluster(cfg Config) *Cluster {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Cluster{
		cfg:     cfg,
		metrics: newMetrics(cfg.Registerer),
		members: map[uint64]*Member{},
		applied: map[uint64]bool{},
		removed: map[uint64]bool{},
	}
}

// NewFromInitialCluster makes the cluster that a configuration describes: initial is "name=url,name=url". Nothing is
// stored; Attach says where changes go.
func NewFromInitialCluster(cfg Config, token, initial string) (*Cluster, error) {
	urls, err := parseInitialCluster(initial)
	if err != nil {
		return nil, err
	}
	c := newCluster(cfg)
	for name, us := range urls {
		m := &Member{ID: memberID(us, token), RaftAttributes: RaftAttributes{PeerURLs: us}, Attributes: Attributes{Name: name}}
		if other := c.members[m.ID]; other != nil {
			return nil, fmt.Errorf("members %q and %q would have the same ID %x", other.Name, name, m.ID)
		}
		if m.ID == 0 {
			return nil, fmt.Errorf("cannot use 0 as ID of member %q", name)
		}
		c.members[m.ID] = m
	}
	c.id = clusterID(slices.Collect(maps.Keys(c.members)))
	return c, nil
}

// newFromMembers makes the cluster that another member tells of.
func newFromMembers(id uint64, members []*Member) *Cluster {
	c := newCluster(Config{})
	c.id = id
	for _, m := range members {
		c.members[m.ID] = m
	}
	return c
}

// ClusterID is the id of the cluster.
func (c *Cluster) ClusterID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.id
}

// SetIDs sets the ids of this member and of the cluster.
func (c *Cluster) SetIDs(member, cluster uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.self, c.id = member, cluster
	c.show()
}

// Members lists the known members in the order of their ids.
func (c *Cluster) Members() []*Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list(func(*Member) bool { return true })
}

// VotingMembers lists the members that are not learners.
func (c *Cluster) VotingMembers() []*Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list(func(m *Member) bool { return !m.IsLearner })
}

func (c *Cluster) list(keep func(*Member) bool) []*Member {
	var out []*Member
	for _, m := range c.members {
		if keep(m) {
			out = append(out, m.Clone())
		}
	}
	slices.SortFunc(out, byID)
	return out
}

// Member returns the member with an id, nil if there is none.
func (c *Cluster) Member(id uint64) *Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[id].Clone()
}

// MemberByName returns the member with a name, nil if there is none. Of several (nothing forbids that in a running
// cluster) it is the one with the lowest id.
func (c *Cluster) MemberByName(name string) *Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	if all := c.list(func(m *Member) bool { return m.Name == name }); len(all) > 0 {
		return all[0]
	}
	return nil
}

// IsRemoved says whether an id belonged to a member that was removed.
func (c *Cluster) IsRemoved(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.removed[id]
}

// IsLearner says whether this member is a learner.
func (c *Cluster) IsLearner() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.members[c.self]
	return m != nil && m.IsLearner
}

// RemotePeerURLs lists the peer URLs of all members but the one with a name, sorted.
func (c *Cluster) RemotePeerURLs(local string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	urls := []string{}
	for _, m := range c.members {
		if m.Name != local {
			urls = append(urls, m.PeerURLs...)
		}
	}
	slices.Sort(urls)
	return urls
}

// CheckSelf checks a configured cluster: this member (name) must be in it, and no URL twice. For a new cluster its URLs
// must be the advertised ones, too; host names may be resolved for that.
func (c *Cluster) CheckSelf(name string, advertised []string, founding bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var self *Member
	seen := map[string]bool{}
	for _, m := range c.list(func(*Member) bool { return true }) {
		if m.Name == name {
			self = m
		}
		for _, u := range m.PeerURLs {
			if seen[u] {
				return fmt.Errorf("initial cluster %s has duplicate url %s", c.initial(), u)
			}
			seen[u] = true
		}
	}
	if self == nil {
		return fmt.Errorf("couldn't find local name %q in the initial cluster configuration", name)
	}
	if !founding {
		return nil
	}
	return checkAdvertised(self, advertised)
}

func checkAdvertised(self *Member, advertised []string) error {
	urls, err := normalURLs(advertised)
	if err != nil {
		return fmt.Errorf("--initial-advertise-peer-urls: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	err = sameURLs(ctx, urls, self.PeerURLs)
	if err == nil {
		return nil
	}
	if missing := without(self.PeerURLs, urls); len(missing) > 0 {
		return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s (%w)",
			pairs(self.Name, missing), strings.Join(urls, ","), err)
	}
	if missing := without(urls, self.PeerURLs); len(missing) > 0 {
		return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s",
			strings.Join(missing, ","), pairs(self.Name, self.PeerURLs))
	}
	return fmt.Errorf("failed to resolve %s to match --initial-cluster=%s (%w)", strings.Join(urls, ","), pairs(self.Name, self.PeerURLs), err)
}

func without(urls, known []string) []string {
	return slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return slices.Contains(known, u) })
}

func pairs(name string, urls []string) string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = name + "=" + u
	}
	return strings.Join(out, ",")
}

// initial writes the members as in the configuration. The caller holds the mutex.
func (c *Cluster) initial() string {
	var out []string
	for _, m := range c.members {
		out = append(out, pairs(m.Name, m.PeerURLs))
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// AdoptIDs gives the members of a configured cluster the ids that they have in the running one, and the cluster its id.
// Members correspond if they have the same peer URLs; all must. Host names may be resolved for that.
func (c *Cluster) AdoptIDs(running *Cluster) error {
	existing, local := running.Members(), c.Members()
	if len(existing) != len(local) {
		return errors.New("member count is unequal")
	}
	ctx, cancel := context.WithTimeout(context.Background(), resolveTimeout)
	defer cancel()
	members := map[uint64]*Member{}
	for _, e := range existing {
		var last error
		i := slices.IndexFunc(local, func(l *Member) bool {
			last = sameURLs(ctx, e.PeerURLs, l.PeerURLs)
			return last == nil
		})
		if i < 0 {
			return fmt.Errorf("PeerURLs: no match found for existing member (%x, %v), last resolver error (%w)", e.ID, e.PeerURLs, last)
		}
		m := local[i]
		m.ID = e.ID
		members[m.ID] = m
		local = slices.Delete(local, i, i+1)
	}
	id := running.ClusterID()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members, c.id = members, id
	c.show()
	return nil
}
