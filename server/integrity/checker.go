package integrity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/membership"
)

// Store is the key space of this member.
type Store interface {
	Sums() mvcc.SumRange
	Sum(rev, compactRev int64) (sum uint64, ok bool)
}

// Config is what a Checker needs.
type Config struct {
	MemberID uint64
	Members  *membership.Cluster
	Store    Store
	Interval time.Duration // between comparisons, about; 0: never
	Timeout  time.Duration // of a question
	Peers    *http.Client
	// Quarantined is told when quarantine begins and ends. It must return soon.
	Quarantined func(on bool)
	// Stranger is told of a member that does not know the question: of etcd, most likely.
	Stranger   func()
	FS         vfs.FS
	Marker     string // path of the file that keeps quarantine over a restart
	Clock      clock.Clock
	Logger     *zap.Logger
	Registerer prometheus.Registerer
}

// confirm is how many comparisons in a row change the state of a member.
const confirm = 2

// Checker is described in the package comment.
type Checker struct {
	cfg         Config
	metrics     *metrics
	quiet       quiet
	quarantined atomic.Bool

	mu        sync.Mutex
	compared  time.Time // when something was last compared
	at        point     // the last point compared
	right     []uint64  // others that have the majority's data, and serve them
	against   int       // comparisons in a row that accuse this member
	favour    int       // comparisons in a row that acquit it
	undecided bool      // members differ, and there is no majority
	accused   []uint64  // others that differ from the majority, as was last said
	next      point
	last      int64 // the newest revision of any member, a round ago
}

// New makes a Checker. A member that stopped in quarantine is in quarantine again.
func New(cfg Config) *Checker {
	c := &Checker{cfg: cfg, quiet: quiet{lg: cfg.Logger}, compared: cfg.Clock.Now()}
	c.metrics = newMetrics(cfg.Registerer, func() float64 {
		c.mu.Lock()
		defer c.mu.Unlock()
		return cfg.Clock.Now().Sub(c.compared).Seconds()
	})
	if vfs.Exists(cfg.FS, cfg.Marker) {
		cfg.Logger.Error("this member was in quarantine when it stopped and stays there until its data agree with those of the majority; " +
			"`ctl endpoint refetch` gives it new ones")
		c.set(true)
	}
	return c
}

// Quarantined says whether this member must not serve data.
func (c *Checker) Quarantined() bool { return c.quarantined.Load() }

// Trouble says in words what is wrong, "" if nothing is known to be.
func (c *Checker) Trouble() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.Quarantined():
		return "quarantined: the data of this member differ from those of the majority; see `ctl endpoint refetch`"
	case c.undecided:
		return "members have different data, and there is no majority that agrees"
	}
	return ""
}

// Run compares until ctx ends.
func (c *Checker) Run(ctx context.Context) error {
	if c.cfg.Interval <= 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	for {
		timer := c.cfg.Clock.NewTimer(c.cfg.Interval*3/4 + rand.N(c.cfg.Interval/2+1))
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		c.round(ctx)
	}
}

// round compares with those who answer, and finds the point for the next time.
func (c *Checker) round(ctx context.Context) {
	var others []*membership.Member
	voters := map[uint64]bool{}
	for _, m := range c.cfg.Members.Members() {
		if !m.IsLearner {
			voters[m.ID] = true
		}
		if m.ID != c.cfg.MemberID && len(m.PeerURLs) > 0 {
			others = append(others, m)
		}
	}
	if len(others) == 0 {
		c.alone()
		return
	}
	at := c.next
	answers := c.ask(ctx, others, at)
	own := c.own(at)
	if own.known {
		votes := []vote{{c.cfg.MemberID, own.sum, voters[c.cfg.MemberID], own.Quarantined}}
		for id, a := range answers {
			if a.known {
				votes = append(votes, vote{id, a.sum, voters[id], a.Quarantined})
			}
		}
		if len(votes) > 1 {
			c.conclude(at, judge(votes, len(voters)), answers)
		}
	}
	c.aim(own, answers)
}

// aim chooses the point for the next round: the one at which most members can be compared.
func (c *Checker) aim(own *answer, answers map[uint64]*answer) {
	newest := own.Last
	var ids []uint64
	for id, a := range answers {
		newest = max(newest, a.Last)
		ids = append(ids, id)
	}
	slices.Sort(ids)
	slack := 2 * max(0, newest-c.last) // what is written until then, and as much again
	c.last = newest
	best := 0
	for start := range ids {
		ranges := []mvcc.SumRange{own.sums()}
		var p point
		for i := range ids {
			with := append(slices.Clone(ranges), answers[ids[(start+i)%len(ids)]].sums())
			if rev, compact, ok := mvcc.Common(slack, with...); ok {
				ranges, p = with, point{rev, compact}
			}
		}
		if len(ranges)-1 > best {
			best, c.next = len(ranges)-1, p
		}
	}
}

// conclude draws the consequences of a comparison.
func (c *Checker) conclude(at point, v verdict, answers map[uint64]*answer) {
	id := c.cfg.MemberID
	c.mu.Lock()
	c.compared, c.at = c.cfg.Clock.Now(), at
	switch {
	case v.accuses(id):
		c.against, c.favour = c.against+1, 0
	case v.acquits(id):
		c.against, c.favour = 0, c.favour+1
	}
	c.right = slices.DeleteFunc(slices.Clone(v.right), func(r uint64) bool { return r == id || answers[r] == nil || answers[r].Quarantined })
	accused := slices.DeleteFunc(slices.Clone(v.wrong), func(w uint64) bool { return w == id })
	slices.Sort(accused)
	newlyAccused := !slices.Equal(accused, c.accused) && len(accused) > 0
	newlyUndecided := v.undecided && !c.undecided
	c.accused, c.undecided = accused, v.undecided
	against, favour := c.against, c.favour
	c.mu.Unlock()

	c.count(at, &v)
	lg := c.cfg.Logger.With(zap.Int64("revision", at.Rev), zap.Int64("compact-revision", at.Compact), zap.Int("members-compared", v.compared))
	if newlyAccused {
		lg.Error("members have other data than the majority", zap.Strings("member-ids", names(accused)))
	}
	if newlyUndecided {
		lg.Error("members have different data, and there is no majority of the cluster that agrees: nobody knows who is right")
	}
	switch {
	case against >= confirm && !c.Quarantined():
		lg.Error("the data of this member differ from those of the majority: it serves no data and does not lead until they agree again; "+
			"`ctl endpoint refetch` gives it new ones", zap.Strings("majority", names(v.right)))
		c.mark(true)
		c.set(true)
	case favour >= confirm && c.Quarantined():
		lg.Info("the data of this member agree with those of the majority again: it leaves quarantine")
		c.mark(false)
		c.set(false)
	}
}

func (c *Checker) count(at point, v *verdict) {
	c.metrics.revision.Set(float64(at.Rev))
	c.metrics.compared.Set(float64(v.compared))
	diverged := len(v.wrong)
	if v.undecided {
		diverged = v.compared
	}
	c.metrics.diverged.Set(float64(diverged))
	if v.differ {
		c.metrics.mismatches.Inc()
	}
}

// alone ends the quarantine of the only member: what it has is what the cluster has.
func (c *Checker) alone() {
	if c.Quarantined() {
		c.cfg.Logger.Warn("this member is the only one of its cluster: it leaves quarantine, and nobody can say whether its data are right")
		c.mark(false)
		c.set(false)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compared, c.undecided, c.accused, c.against, c.favour = c.cfg.Clock.Now(), false, nil, 0, 0
}

// swapped notes that the state is another one now: what was found before says nothing of it.
func (c *Checker) swapped() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.against, c.favour = 0, 0
	c.metrics.refetches.Inc()
}

func (c *Checker) set(on bool) {
	c.quarantined.Store(on)
	c.metrics.quarantined.Set(0)
	if on {
		c.metrics.quarantined.Set(1)
	}
	c.cfg.Quarantined(on)
}

// mark writes or removes the file that keeps quarantine over a restart.
func (c *Checker) mark(on bool) {
	err := c.cfg.FS.Remove(c.cfg.Marker)
	if on {
		var f vfs.File
		if f, err = vfs.Create(c.cfg.FS, c.cfg.Marker); err == nil {
			_, err = f.Write([]byte("This member's data differ from those of the majority of its cluster.\n"))
			err = errors.Join(err, f.Sync(), f.Close())
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if err = errors.Join(err, c.cfg.FS.SyncDir(filepath.Dir(c.cfg.Marker))); err != nil {
		c.cfg.Logger.Warn("whether this member is in quarantine could not be recorded for the next start", zap.Error(err))
	}
}

func names(ids []uint64) (out []string) {
	for _, id := range ids {
		out = append(out, membership.FormatID(id))
	}
	return out
}

// quiet logs an error of a member once, until another one comes.
type quiet struct {
	lg   *zap.Logger
	mu   sync.Mutex
	last map[uint64]string
}

func (q *quiet) once(id uint64, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.last == nil {
		q.last = map[uint64]string{}
	}
	if text := fmt.Sprint(err); q.last[id] != text {
		q.last[id] = text
		q.lg.Info("cannot compare data with a member", zap.String("member-id", membership.FormatID(id)), zap.Error(err))
	}
}
