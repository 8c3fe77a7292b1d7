package membership

import (
	"errors"
	"fmt"
	"strings"

	"github.com/coreos/go-semver/semver"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"
)

// notDecided is what a member says while the cluster has no version.
const notDecided = "not_decided"

// unknownVersion is what a member says while its storage has no version.
const unknownVersion = "unknown"

// NewerVersion compares versions like 3.7 or 3.7.3. A missing patch number counts as 0.
func NewerVersion(v, than string) (bool, error) {
	a, err := parseVersion(v)
	if err != nil {
		return false, err
	}
	b, err := parseVersion(than)
	if err != nil {
		return false, err
	}
	return b.LessThan(*a), nil
}

func parseVersion(s string) (*semver.Version, error) {
	full := s
	if strings.Count(s, ".") == 1 {
		full += ".0"
	}
	v, err := semver.NewVersion(full)
	if err != nil {
		return nil, fmt.Errorf("version %q: %w", s, err)
	}
	return v, nil
}

// major reduces a version to major and minor number, which is what a cluster's consists of.
func major(v *semver.Version) *semver.Version {
	return &semver.Version{Major: v.Major, Minor: v.Minor}
}

func minorOf(v *semver.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

func ownVersion() *semver.Version { return semver.New(version.Version) }

// checkNotNewer refuses a cluster version that this program is too old for.
func checkNotNewer(v *semver.Version) error {
	if v != nil && major(ownVersion()).LessThan(*v) {
		return fmt.Errorf("this version (%s) is older than the cluster's (%s)", version.Version, minorOf(v))
	}
	return nil
}

// Version is the version of the cluster, "" while it is not decided.
func (c *Cluster) Version() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.version == nil {
		return ""
	}
	return c.version.String()
}

// Downgrade says whether a downgrade is under way.
func (c *Cluster) Downgrade() DowngradeInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.downgrade
}

// DecideVersion is for the leader: it returns the version that the cluster should have, judged by those of all members
// (see Versions; nil for one that did not answer), or "" if it is to stay as it is. That is the lowest of the members',
// or the target of a downgrade under way.
func (c *Cluster) DecideVersion(members map[uint64]*version.Versions) (string, error) {
	c.mu.Lock()
	present, down := c.version, c.downgrade
	c.mu.Unlock()
	lowest := c.lowest(members)
	switch {
	case present == nil && lowest == nil:
		return semver.New(version.MinClusterVersion).String(), nil
	case present == nil:
		return major(lowest).String(), nil
	case lowest == nil:
		return "", nil
	case down.Enabled:
		return decideDowngrade(present, lowest, down.TargetVersion)
	case present.LessThan(*lowest) && mayBecome(present, lowest):
		return major(lowest).String(), nil
	}
	return "", nil
}

func decideDowngrade(present, lowest *semver.Version, to string) (string, error) {
	target, err := semver.NewVersion(to)
	if err != nil {
		return "", fmt.Errorf("downgrade target %q: %w", to, err)
	}
	if target.Equal(*present) {
		return "", nil
	}
	if !target.Equal(*oneMinorLess(present)) || !target.Equal(*oneMinorLess(lowest)) {
		return "", errors.New("invalid downgrade target")
	}
	return major(target).String(), nil
}

func oneMinorLess(v *semver.Version) *semver.Version {
	return &semver.Version{Major: v.Major, Minor: v.Minor - 1}
}

// mayBecome says whether a cluster may go from one version to another: up within a major version, down by one minor.
func mayBecome(from, to *semver.Version) bool {
	from, to = major(from), major(to)
	return to.Equal(*oneMinorLess(from)) || from.Major == to.Major && from.LessThan(*to)
}

// lowest is the lowest version among the members; nil if one is unknown.
func (c *Cluster) lowest(members map[uint64]*version.Versions) *semver.Version {
	var low *semver.Version
	for id, vs := range members {
		if vs == nil {
			return nil
		}
		v, err := semver.NewVersion(vs.Server)
		if err != nil {
			c.cfg.Logger.Warn("a member has an unreadable version", zap.String("member-id", FormatID(id)), zap.String("version", vs.Server), zap.Error(err))
			return nil
		}
		if low == nil || v.LessThan(*low) {
			low = v
		}
	}
	return low
}

// DowngradeDone is for the leader: it says whether all members run at the target of the downgrade under way, so that it
// is to be ended (false if there is none).
func (c *Cluster) DowngradeDone(members map[uint64]*version.Versions) bool {
	d := c.Downgrade()
	if !d.Enabled {
		return false
	}
	target, err := semver.NewVersion(d.TargetVersion)
	if err != nil {
		return false
	}
	for _, vs := range members {
		if vs == nil {
			return false
		}
		v, err := semver.NewVersion(vs.Server)
		if err != nil || !major(target).Equal(*major(v)) {
			return false
		}
	}
	return true
}
