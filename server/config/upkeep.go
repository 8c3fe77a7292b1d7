package config

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// Upkeep is what the member does by itself.
type Upkeep struct {
	AutoCompaction       AutoCompaction
	CorruptCheckTime     time.Duration // 0: never
	CompactHashCheckTime time.Duration // with the gate CompactHashCheck
	DowngradeCheckTime   time.Duration // 0: never
	IntegrityInterval    time.Duration // 0: never
}

// AutoCompaction says what history is kept.
type AutoCompaction struct {
	Mode      string // periodic or revision
	Retention string // see Parse
}

// The modes of automatic compaction.
const (
	CompactPeriodic = "periodic"
	CompactRevision = "revision"
)

// Parse reads the retention as etcd does: a number is one of hours in periodic mode and of revisions in the other; anything
// else is a duration. In revision mode the result is a number of revisions. 0 means that everything is kept.
func (a AutoCompaction) Parse() (time.Duration, error) {
	switch a.Mode {
	case CompactPeriodic, CompactRevision:
	case "":
		return 0, fmt.Errorf("undefined auto-compaction-mode")
	default:
		return 0, fmt.Errorf("unknown auto-compaction-mode %q", a.Mode)
	}
	if a.Retention == "" {
		return 0, nil
	}
	if n, err := strconv.Atoi(a.Retention); err == nil && n >= 0 {
		if a.Mode == CompactRevision {
			return time.Duration(n), nil
		}
		return a.check(time.Duration(n) * time.Hour)
	}
	d, err := time.ParseDuration(a.Retention)
	if err != nil {
		return 0, fmt.Errorf("error parsing CompactionRetention: %w", err)
	}
	return a.check(d)
}

// shortest is a period that can be divided into the intervals at which revisions are noted.
const shortest = 10 * time.Millisecond

func (a AutoCompaction) check(d time.Duration) (time.Duration, error) {
	if d != 0 && d < shortest {
		return 0, fmt.Errorf("--auto-compaction-retention must be 0 or at least %v (set to %q)", shortest, a.Retention)
	}
	return d, nil
}

func (c *Config) upkeepFlags(fs *pflag.FlagSet) {
	a := &c.Upkeep.AutoCompaction
	fs.StringVar(&a.Mode, "auto-compaction-mode", a.Mode, "Meaning of --auto-compaction-retention: periodic (a time) or revision (a number of revisions).")
	fs.StringVar(&a.Retention, "auto-compaction-retention", a.Retention, "What history is kept by automatic compaction: hours or a duration, or revisions (0: all).")
	u := &c.Upkeep
	fs.DurationVar(&u.CorruptCheckTime, "corrupt-check-time", u.CorruptCheckTime, "Interval at which the leader compares the members' data (0: never).")
	fs.DurationVar(&u.CompactHashCheckTime, "compact-hash-check-time", u.CompactHashCheckTime, "Interval at which the leader compares what compactions left, with the feature gate CompactHashCheck.")
	fs.DurationVar(&u.DowngradeCheckTime, "downgrade-check-time", u.DowngradeCheckTime, "Interval at which the leader looks whether a downgrade is done (0: never).")
	fs.DurationVar(&u.IntegrityInterval, "integrity-interval", u.IntegrityInterval, "Interval at which members compare their data (0: never).")
	fs.Var(&c.Features.Gates, "feature-gates", "Comma-separated feature gates: "+gateNames()+".")
	fs.Var(stage{}, "v2-deprecation", "Has no effect.")
}

// Idle says of each feature gate and key of the file that was set and makes no difference why that is so.
func (c *Config) Idle() []string {
	out := c.Features.Gates.Idle()
	for _, name := range c.idle {
		out = append(out, "the key "+name+": it belongs to earlier versions of etcd")
	}
	return out
}

func (c *Config) checkUpkeep() error {
	if _, err := c.Upkeep.AutoCompaction.Parse(); err != nil {
		return err
	}
	switch {
	case c.Upkeep.CompactHashCheckTime <= 0:
		return fmt.Errorf("--compact-hash-check-time must be >0 (set to %v)", c.Upkeep.CompactHashCheckTime)
	case c.Upkeep.DowngradeCheckTime < 0:
		return fmt.Errorf("--downgrade-check-time must not be negative (set to %v)", c.Upkeep.DowngradeCheckTime)
	case c.Upkeep.IntegrityInterval != 0 && c.Upkeep.IntegrityInterval < shortest:
		return fmt.Errorf("--integrity-interval must be 0 or at least %v (set to %v)", shortest, c.Upkeep.IntegrityInterval)
	case c.Upkeep.CorruptCheckTime < 0:
		return fmt.Errorf("--corrupt-check-time must not be negative (set to %v)", c.Upkeep.CorruptCheckTime)
	}
	return c.Features.Gates.check()
}

func gateNames() string {
	var names []string
	for _, k := range gates() {
		names = append(names, fmt.Sprintf("%s=true|false (%s - default=%t)", k.Name, k.Stage, k.Enabled))
	}
	return strings.Join(names, ", ")
}
