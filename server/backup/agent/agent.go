package agent

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/backup/store"
)

// Config says what an agent does.
type Config struct {
	Endpoints      []string
	TLS            *tls.Config // nil: only where an endpoint's scheme says so
	User, Password string      // "": none
	Store          store.Store
	SegmentAge     time.Duration // how long what was received may be unarchived
	SegmentBytes   int           // of entries, before compression
	BaseInterval   time.Duration
	Keep           archive.Policy
	SpoolDir       string // for a database on its way; "": the system's
	Logger         *zap.Logger
	Registerer     prometheus.Registerer
}

func (c *Config) check() error {
	switch {
	case len(c.Endpoints) == 0:
		return errors.New("no endpoints")
	case c.SegmentAge <= 0 || c.SegmentBytes <= 0:
		return errors.New("a segment has to have an age and a size at which it is closed")
	case c.BaseInterval <= 0:
		return errors.New("the interval of bases has to be more than 0")
	}
	return nil
}

// agent is a running one.
type agent struct {
	cfg     Config
	lg      *zap.Logger
	link    *link
	self    archive.Agent
	metrics *metrics
	shared  *progress

	// Of the follower alone.
	founded bool            // the archive is of this cluster, and claimed
	chain   string          // "": a new one is to begin
	tail    *archive.Tail   // the last entry received; nil: none, begin with the next one
	segment *archive.Writer // nil: nothing is unarchived
	minTTL  int64           // of the open segment
}

// Run archives until ctx ends; then what was received is archived and Run returns nil. It goes on over every error of members
// and of the store but these: archive.ErrTakenOver, a user that is refused, an archive of another cluster, members without
// a feed.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.check(); err != nil {
		return err
	}
	a := &agent{cfg: cfg, lg: cfg.Logger, self: newIdentity(), metrics: newMetrics(cfg.Registerer), shared: newProgress()}
	if err := a.resume(ctx); err != nil {
		return err
	}
	var err error
	if a.link, err = connect(&cfg); err != nil {
		return err
	}
	defer a.link.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.follow(ctx) })
	g.Go(func() error { return a.takeBases(ctx) })
	return g.Wait()
}

func newIdentity() archive.Agent {
	host, err := os.Hostname()
	if err != nil {
		host = "a host without a name"
	}
	return archive.Agent{ID: rand.Text(), Host: host, Since: time.Now().UTC()}
}

// resume finds out where the archive ends.
func (a *agent) resume(ctx context.Context) error {
	cat, err := archive.Read(ctx, a.cfg.Store)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	c := cat.Latest()
	if c == nil {
		return nil
	}
	tail, err := a.end(ctx, c)
	if err != nil {
		a.lg.Error("the latest chain cannot be continued; a new one begins", zap.String("chain", c.Name), zap.Error(err))
		return nil
	}
	a.chain, a.tail = c.Name, tail
	a.shared.begin(c, tail)
	a.lg.Info("continuing an archive", zap.String("chain", c.Name), zap.Uint64("index", tail.Index), zap.Int64("revision", tail.Revision))
	return nil
}

// end is where a chain ends.
func (a *agent) end(ctx context.Context, c *archive.Chain) (*archive.Tail, error) {
	var last *archive.Segment
	for _, s := range c.Segments {
		if last == nil || s.Last > last.Last {
			last = s
		}
	}
	if last == nil {
		b := c.Bases[len(c.Bases)-1]
		return &archive.Tail{Index: b.Index, Term: b.Term, Revision: b.Revision, Time: b.Time.UnixNano()}, nil
	}
	t, err := archive.ReadTail(ctx, a.cfg.Store, last)
	return &t, err
}

// found makes the archive, or finds out whether it is this cluster's, and claims it.
func (a *agent) found(ctx context.Context, cluster uint64) error {
	if a.founded {
		return nil
	}
	if err := archive.Found(ctx, a.cfg.Store, cluster); err != nil {
		return fatal{err}
	}
	if err := archive.Claim(ctx, a.cfg.Store, a.self); err != nil {
		return err
	}
	a.founded = true
	return nil
}

// beginChain begins a new chain with the entry after next-1.
func (a *agent) beginChain(cluster, next uint64) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	a.chain = archive.NewChain(time.Now(), cluster, binary.NativeEndian.Uint64(random[:]))
	a.tail = &archive.Tail{Index: next - 1}
	a.metrics.chains.Inc()
	a.shared.begin(&archive.Chain{Name: a.chain}, a.tail)
	a.lg.Info("a new chain begins", zap.String("chain", a.chain), zap.Uint64("index", next))
}

// fatal is an error after which the agent ends.
type fatal struct{ error }

// Unwrap is the error as it came.
func (f fatal) Unwrap() error { return f.error }

func isFatal(err error) bool { return errors.As(err, new(fatal)) }

// sleep waits; it returns an error when ctx ends.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// backoff is how long to wait after so many failures in a row.
func backoff(failures int) time.Duration {
	return min(100*time.Millisecond<<min(failures, 10), 10*time.Second)
}

// errNoFeed says that the members are none of Keelson's, or of an older release.
var errNoFeed = errors.New("the members do not serve their log: they are etcd's, or Keelson's of an older release")

func describe(endpoint string, err error) error { return fmt.Errorf("%s: %w", endpoint, err) }
