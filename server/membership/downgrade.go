package membership

import (
	"github.com/coreos/go-semver/semver"

	"github.com/keelson-io/keelson/server/errdefs"
)

// ParseTarget reads the version that a cluster is to be downgraded to, such as 3.6 or 3.6.1; the patch number does not count.
// Error: errdefs.ErrWrongDowngradeVersionFormat.
func ParseTarget(s string) (string, error) {
	v, err := semver.NewVersion(s)
	if err != nil {
		if v, err = semver.NewVersion(s + ".0"); err != nil {
			return "", errdefs.ErrWrongDowngradeVersionFormat
		}
	}
	return major(v).String(), nil
}

// CheckDowngrade says whether a downgrade to a version (see ParseTarget) may begin now: it must be one minor version less than
// the cluster's. Errors: errdefs.ErrClusterVersionUnavailable, ErrInvalidDowngradeTargetVersion, ErrDowngradeInProcess.
func (c *Cluster) CheckDowngrade(target string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.version == nil:
		return errdefs.ErrClusterVersionUnavailable
	case target != oneMinorLess(c.version).String():
		return errdefs.ErrInvalidDowngradeTargetVersion
	case c.downgrade.Enabled:
		return errdefs.ErrDowngradeInProcess
	}
	return nil
}
