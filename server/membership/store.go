package membership

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/coreos/go-semver/semver"
	"go.uber.org/zap"
)

// Bucket names a table of the backend.
type Bucket string

// The tables that this package owns.
const (
	BucketCluster Bucket = "cluster"
	BucketMembers Bucket = "members"
	BucketRemoved Bucket = "members_removed"
)

// Buckets is the storage of a Cluster. Writes become durable with the log entry that caused them; a failing disk is not
// this package's matter. Slices are not kept by either side beyond the call, except that Put may keep the value.
type Buckets interface {
	Get(b Bucket, key []byte) []byte
	Put(b Bucket, key, value []byte)
	Delete(b Bucket, key []byte)
	// ForEach visits all rows until fn returns an error, which it returns.
	ForEach(b Bucket, fn func(k, v []byte) error) error
}

// Keys of the cluster bucket.
const (
	versionKey   = "clusterVersion"
	downgradeKey = "downgrade"
)

// removedMark is the value of every row of the removed bucket.
const removedMark = "removed"

// Load makes a Cluster from what is stored, and stores changes in the same place.
func Load(cfg Config, rows Buckets) (*Cluster, error) {
	c := newCluster(cfg)
	if err := c.Restore(rows); err != nil {
		return nil, err
	}
	return c, nil
}

// Attach says where changes of a cluster that came from the configuration are stored. Nothing may be stored there yet.
func (c *Cluster) Attach(rows Buckets) error {
	old, err := read(rows)
	if err != nil {
		return err
	}
	if len(old.members)+len(old.removed) > 0 {
		return errors.New("the database holds the members of a cluster, but the log is missing; remove the data directory and add the member anew")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rows = rows
	return nil
}

// Restore replaces everything but the ids of this member and of the cluster by what is stored in another place, which
// takes changes from now on. After an error nothing has changed.
func (c *Cluster) Restore(rows Buckets) error {
	s, err := read(rows)
	if err != nil {
		return err
	}
	if err := checkNotNewer(s.version); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rows = rows
	c.members, c.removed, c.version, c.downgrade = s.members, s.removed, s.version, s.downgrade
	c.applied = make(map[uint64]bool, len(c.members))
	for id, m := range c.members {
		c.applied[id] = true
		c.cfg.Logger.Info("recovered member", zap.String("cluster-id", FormatID(c.id)), zap.String("member-id", FormatID(id)),
			zap.Strings("peer-urls", m.PeerURLs), zap.Bool("learner", m.IsLearner))
	}
	if c.downgrade.Enabled {
		c.cfg.Logger.Info("cluster is downgrading", zap.String("target-version", c.downgrade.TargetVersion))
	}
	c.show()
	return nil
}

type stored struct {
	members   map[uint64]*Member
	removed   map[uint64]bool
	version   *semver.Version
	downgrade DowngradeInfo
}

func read(rows Buckets) (stored, error) {
	s := stored{members: map[uint64]*Member{}, removed: map[uint64]bool{}}
	err := rows.ForEach(BucketMembers, func(k, v []byte) error {
		m, err := parseMember(k, v)
		if err != nil {
			return err
		}
		s.members[m.ID] = m
		return nil
	})
	if err != nil {
		return s, fmt.Errorf("members bucket: %w", err)
	}
	err = rows.ForEach(BucketRemoved, func(k, _ []byte) error {
		id, err := ParseID(string(k))
		s.removed[id] = true
		return err
	})
	if err != nil {
		return s, fmt.Errorf("bucket of removed members: %w", err)
	}
	if v := rows.Get(BucketCluster, []byte(versionKey)); v != nil {
		if s.version, err = semver.NewVersion(string(v)); err != nil {
			return s, fmt.Errorf("cluster version %q: %w", v, err)
		}
	}
	if v := rows.Get(BucketCluster, []byte(downgradeKey)); v != nil {
		if s.downgrade, err = parseDowngrade(v); err != nil {
			return s, fmt.Errorf("downgrade: %w", err)
		}
	}
	return s, nil
}

func parseMember(key, value []byte) (*Member, error) {
	id, err := ParseID(string(key))
	if err != nil {
		return nil, err
	}
	m := &Member{ID: id}
	if err := json.Unmarshal(value, m); err != nil {
		return nil, fmt.Errorf("member %s: %w", key, err)
	}
	if m.ID != id {
		return nil, fmt.Errorf("the row of member %x describes member %x", id, m.ID)
	}
	return m, nil
}

func parseDowngrade(value []byte) (DowngradeInfo, error) {
	var d DowngradeInfo
	if err := json.Unmarshal(value, &d); err != nil {
		return d, err
	}
	if d.Enabled {
		if _, err := semver.NewVersion(d.TargetVersion); err != nil {
			return d, fmt.Errorf("target version %q: %w", d.TargetVersion, err)
		}
	}
	return d, nil
}

// save stores a member, which is applied from now on. The caller holds the mutex.
func (c *Cluster) save(m *Member) error {
	if c.rows == nil {
		return errNotAttached
	}
	value, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("member %x: %w", m.ID, err)
	}
	c.rows.Put(BucketMembers, []byte(FormatID(m.ID)), value)
	c.applied[m.ID] = true
	return nil
}

var errNotAttached = errors.New("membership: a change before Attach")
