package objectstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Config says where objects are stored, and bounds. Only Client must be set.
type Config struct {
	Client *client.Client
	// Prefix is what all keys begin with. Default "/registry".
	Prefix string
	// Transformer returns how the values of a resource are protected at rest. Nil: not at all.
	Transformer func(schema.GroupResource) Transformer

	// LogEvents, LogBytes and LogAge bound the recent changes of each kind that watches can begin from. Default 65536,
	// 64 MiB, 5 min.
	LogEvents, LogBytes int
	LogAge              time.Duration
	// PageSize is how many objects a request to the store asks for at most. Default 2000.
	PageSize int
	// FreshTimeout is how long a read waits for the watch cache to catch up. Default 3 s.
	FreshTimeout time.Duration
	// StoreTimeout is how long one request to the store, or the first filling of a watch cache, is waited for. Default 10 s.
	StoreTimeout time.Duration
	// BookmarkEvery is how often watches get bookmarks. Default 1 min.
	BookmarkEvery time.Duration
	// ProgressEvery is how often quiet watch caches learn how far the store is. Default 10 s.
	ProgressEvery time.Duration
	// CompactEvery is how often the store is compacted, to the revision it had that long before. 0: never.
	CompactEvery time.Duration

	Clock      clock.Clock           // nil: clock.Real
	Logger     *zap.Logger           // nil: none
	Registerer prometheus.Registerer // nil: none
}

func (c *Config) setDefaults() {
	orDefault(&c.Prefix, "/registry")
	orDefault(&c.LogEvents, 1<<16)
	orDefault(&c.LogBytes, 64<<20)
	orDefault(&c.LogAge, 5*time.Minute)
	orDefault(&c.PageSize, 2000)
	orDefault(&c.FreshTimeout, 3*time.Second)
	orDefault(&c.StoreTimeout, 10*time.Second)
	orDefault(&c.BookmarkEvery, time.Minute)
	orDefault(&c.ProgressEvery, 10*time.Second)
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	of := c.Transformer
	c.Transformer = func(r schema.GroupResource) Transformer {
		if of != nil {
			if t := of(r); t != nil {
				return t
			}
		}
		return Identity()
	}
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

var (
	errClosed   = errors.New("objectstore: the collection is closed")
	errRefilled = errors.New("objectstore: the watch cache was filled anew")
)

// Store is the objects of all kinds in one store.
type Store struct {
	cfg     Config
	metrics *metrics
	leases  *leases
	now     gate // the store's revision
	health  health

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu          sync.Mutex
	collections map[*kinds.Kind]*Collection
	caches      map[*kinds.Kind]*cache // by the stored kind
}

// New returns a Store. Close it before its client.
func New(cfg Config) *Store {
	cfg.setDefaults()
	s := &Store{
		cfg: cfg, metrics: newMetrics(cfg.Registerer), collections: map[*kinds.Kind]*Collection{}, caches: map[*kinds.Kind]*cache{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.now.ask, s.health.gate.ask = s.askRevision, s.askHealth
	s.leases = newLeases(cfg.Clock, func(ctx context.Context, seconds int64) (client.LeaseID, error) {
		r, err := cfg.Client.Grant(ctx, seconds)
		return client.LeaseID(r.GetID()), err
	})
	s.wg.Go(s.tick)
	if cfg.CompactEvery > 0 {
		s.wg.Go(s.compact)
	}
	return s
}

// Close ends all watches and everything that runs. It does not close the client.
func (s *Store) Close() error {
	s.cancel()
	s.mu.Lock()
	var open []*cache
	for k, c := range s.collections {
		c.end()
		delete(s.collections, k)
	}
	for p, c := range s.caches {
		open = append(open, c)
		delete(s.caches, p)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.close()
	}
	s.wg.Wait()
	return nil
}

// Collection returns the objects of a kind. The first call for what the kind is stored as starts a watch cache.
func (s *Store) Collection(k *kinds.Kind) *Collection {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.collections[k]; c != nil {
		return c
	}
	stored := k
	if k.Stored != nil {
		stored = k.Stored.Kind
	}
	c := &Collection{store: s, kind: k, closed: make(chan struct{})}
	if s.ctx.Err() != nil {
		c.cache = closedCache(s, stored)
		c.end()
		return c
	}
	shared := s.caches[stored]
	if shared == nil {
		shared = newCache(s, stored)
		s.caches[stored] = shared
	}
	shared.users++
	c.cache = shared
	s.collections[k] = c
	return c
}

// Remove ends the collection of a kind and its watches. The watch cache goes with the last kind that used it.
func (s *Store) Remove(k *kinds.Kind) {
	s.mu.Lock()
	c := s.collections[k]
	if c == nil {
		s.mu.Unlock()
		return
	}
	delete(s.collections, k)
	c.end()
	last := c.cache
	if last.users--; last.users == 0 {
		delete(s.caches, last.kind)
	} else {
		last = nil
	}
	s.mu.Unlock()
	if last != nil {
		last.close()
	}
}

// tick makes quiet caches learn how far the store is, so that bookmarks move on.
func (s *Store) tick() {
	t := s.cfg.Clock.NewTicker(s.cfg.ProgressEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C():
			s.mu.Lock()
			some := len(s.caches) > 0
			s.mu.Unlock()
			if some {
				s.cfg.Client.RequestProgress(s.ctx)
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// askRevision asks the store for a revision that contains all writes which ended before.
func (s *Store) askRevision() (int64, error) {
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.StoreTimeout)
	defer cancel()
	r, err := s.cfg.Client.Get(ctx, s.cfg.Prefix, client.WithCountOnly())
	return r.GetHeader().GetRevision(), err
}

// Collection is the objects of one kind.
type Collection struct {
	store  *Store
	kind   *kinds.Kind
	cache  *cache
	closed chan struct{}
	once   sync.Once
}

// Kind returns what the objects are.
func (c *Collection) Kind() *kinds.Kind { return c.kind }

// Len is how many objects the watch cache has.
func (c *Collection) Len() int { return c.cache.current.Load().tree.Len() }

// Ready says whether the collection's watch cache was ever filled, and if not, why the last attempt failed, if one did.
func (c *Collection) Ready() (bool, error) {
	if c.cache.current.Load().revision > 0 {
		return true, nil
	}
	if err := c.cache.trouble.Load(); err != nil {
		return false, *err
	}
	return false, nil
}

// Empty says that the watch cache was filled and has no objects.
func (c *Collection) Empty() bool {
	v := c.cache.current.Load()
	return v.revision > 0 && v.tree.Len() == 0 && c.open() == nil
}

func (c *Collection) end() { c.once.Do(func() { close(c.closed) }) }

// open fails once the collection is removed.
func (c *Collection) open() error {
	select {
	case <-c.closed:
		return busy("the server does not serve " + c.kind.GroupResource().String() + " any more")
	default:
		return nil
	}
}

// request bounds one request to the store.
func (c *cache) request(ctx context.Context, operation string) (context.Context, func()) {
	start := c.store.cfg.Clock.Now()
	ctx, cancel := context.WithTimeout(ctx, c.store.cfg.StoreTimeout)
	return ctx, func() {
		cancel()
		c.store.metrics.took(operation, c.resource, start, c.store.cfg.Clock.Now())
	}
}

// closedCache is the cache of a collection that was asked for after Close.
func closedCache(s *Store, k *kinds.Kind) *cache {
	c := newCache(s, k)
	c.close()
	return c
}

func (c *Collection) notFound(name string) error {
	return apierrors.NewNotFound(c.kind.GroupResource(), name)
}
