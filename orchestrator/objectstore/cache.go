package objectstore

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tidwall/btree"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

type tree = btree.BTreeG[*Item]

func newTree() *tree {
	return btree.NewBTreeGOptions(func(a, b *Item) bool { return a.Key < b.Key }, btree.Options{NoLocks: true})
}

// version is the state of a kind's objects at every revision from changed to revision. It never changes.
type version struct {
	tree       *tree
	changed    int64
	revision   int64         // 0: the cache was never filled
	superseded chan struct{} // closed once there is a newer one
}

func (v *version) get(key string) *Item {
	it, _ := v.tree.Get(&Item{Key: key})
	return it
}

func (v *version) at(revision int64) bool { return v.changed <= revision && revision <= v.revision }

// cache follows the objects of one stored kind.
type cache struct {
	store    *Store
	kind     *kinds.Kind
	codec    codec
	values   Transformer
	prefix   string // of keys, with "/" at its end
	resource string // for metrics
	logger   *zap.Logger

	current   atomic.Pointer[version]
	log       *changeLog
	wakers    wakers
	written   written
	snapshots snapshots

	watcher atomic.Pointer[client.Watcher]
	asked   atomic.Int64 // when progress was last asked for, in ns
	trouble atomic.Pointer[error]

	tree   *tree      // the feeding goroutine's
	marks  []position // the feeding goroutine's
	cancel context.CancelFunc
	done   chan struct{}
	users  int // guarded by Store.mu
}

func newCache(s *Store, k *kinds.Kind) *cache {
	c := &cache{
		store: s, kind: k, codec: newCodec(k), values: s.cfg.Transformer(k.GroupResource()),
		prefix: s.cfg.Prefix + "/" + k.Place + "/", resource: k.GroupResource().String(),
		log: newChangeLog(s.cfg.LogEvents, s.cfg.LogBytes, s.cfg.LogAge), tree: newTree(), done: make(chan struct{}),
	}
	c.logger = s.cfg.Logger.With(zap.String("resource", c.resource))
	c.wakers.by = map[interest]map[*Stream]struct{}{}
	c.current.Store(&version{tree: c.tree.Copy(), superseded: make(chan struct{})})
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	go c.run(ctx)
	return c
}

// close ends the cache and its watches.
func (c *cache) close() {
	c.cancel()
	<-c.done
	c.wakers.fail(errClosed)
	c.store.metrics.forget(c.resource)
}

const (
	minPause = 50 * time.Millisecond
	maxPause = 5 * time.Second
)

// run fills the cache and follows the store, again and again if history that it needs was compacted.
func (c *cache) run(ctx context.Context) {
	defer close(c.done)
	pause := minPause
	for ctx.Err() == nil {
		revision, err := c.fill(ctx)
		if err == nil {
			c.trouble.Store(nil)
			c.store.metrics.fills.WithLabelValues("ok", c.resource).Inc()
			pause = minPause
			err = c.follow(ctx, revision)
		} else {
			c.trouble.Store(&err)
			c.store.metrics.fills.WithLabelValues("error", c.resource).Inc()
		}
		if ctx.Err() != nil {
			return
		}
		c.logger.Warn("the watch cache starts anew", zap.Error(err), zap.Duration("in", pause))
		t := c.store.cfg.Clock.NewTimer(pause)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
		}
		pause = min(2*pause, maxPause)
	}
}

// fill reads all objects at one revision and publishes them.
func (c *cache) fill(ctx context.Context) (int64, error) {
	old := c.current.Load()
	t := newTree()
	key, revision := c.prefix, int64(0)
	for more := true; more; {
		r, err := c.page(ctx, key, client.PrefixEnd(c.prefix), revision, int64(c.store.cfg.PageSize))
		if err != nil {
			return 0, err
		}
		revision = max(revision, r.rev)
		for _, kv := range r.kvs {
			t.Set(c.known(old, kv))
		}
		if more = r.more; more {
			key = string(r.kvs[len(r.kvs)-1].Key) + "\x00"
		}
	}
	c.tree = t
	c.log.reset(revision)
	if old.revision > 0 {
		c.wakers.fail(errRefilled)
	}
	c.written.reach(revision)
	c.publish(revision, revision)
	return revision, nil
}

// follow applies what changes after a revision. It returns when the watch cannot go on.
func (c *cache) follow(ctx context.Context, revision int64) error {
	w := c.store.cfg.Client.Watch(ctx, c.prefix, client.WithPrefix(), client.WithRev(revision+1), client.WithProgressNotify(), client.WithFragment())
	defer w.Close()
	c.watcher.Store(w)
	defer c.watcher.Store(nil)
	for {
		r, err := w.Next(ctx)
		switch {
		case err != nil:
			return err
		case len(r.Events) > 0:
			c.apply(r.Events)
		case r.IsProgress():
			if v := c.current.Load(); r.Header.GetRevision() > v.revision {
				c.publish(v.changed, r.Header.GetRevision())
			}
			c.log.trim(c.store.cfg.Clock.Now())
		}
	}
}

// apply takes in the changes of whole revisions.
func (c *cache) apply(events []*client.Event) {
	revision := events[len(events)-1].Kv.ModRevision
	now := c.store.cfg.Clock.Now()
	c.marks = c.marks[:0]
	for _, e := range events {
		ch := change{revision: e.Kv.ModRevision}
		key := string(e.Kv.Key)
		if e.Type == client.EventDelete {
			prev, ok := c.tree.Delete(&Item{Key: key})
			if !ok {
				continue
			}
			ch.prev = prev
		} else {
			ch.item = c.written.share(key, e.Kv.ModRevision, func() *Item { return c.item(e.Kv) })
			ch.prev, _ = c.tree.Set(ch.item)
		}
		if prev := ch.prev; prev != nil {
			ch.gone = sync.OnceValue(func() *Item { return prev.at(ch.revision) })
		}
		c.marks = append(c.marks, c.log.append(ch, now))
	}
	c.store.metrics.events.WithLabelValues(c.resource).Add(float64(len(events)))
	c.wakers.deliver(c.marks, func() { c.publish(revision, revision) })
	c.written.forget(events, revision)
}

// publish makes the tree what readers see. All that watchers have to know of it is in the log, and they are marked.
func (c *cache) publish(changed, revision int64) {
	old := c.current.Load()
	v := &version{tree: c.tree.Copy(), changed: changed, revision: revision, superseded: make(chan struct{})}
	if changed == old.changed {
		v.tree = old.tree
	}
	c.current.Store(v)
	close(old.superseded)
	c.store.metrics.objects.WithLabelValues(c.resource).Set(float64(v.tree.Len()))
	c.store.metrics.revision.WithLabelValues(c.resource).Set(float64(revision))
}

// item makes an item of what the store has.
func (c *cache) item(kv *client.KeyValue) *Item {
	clear, stale, err := c.values.FromStore(kv.Value, kv.Key)
	var it *Item
	if err != nil {
		it = &Item{Key: string(kv.Key), Revision: kv.ModRevision, size: len(kv.Value), kind: c.kind, broken: err}
	} else {
		it = c.codec.item(string(kv.Key), clear, kv.ModRevision)
		it.stale = stale
	}
	if it.broken != nil {
		c.store.metrics.broken.WithLabelValues(c.resource).Inc()
		c.logger.Error("a stored object cannot be read", zap.String("key", it.Key), zap.Error(it.broken))
	}
	return it
}

// known is item, or the same one from a version of the cache.
func (c *cache) known(v *version, kv *client.KeyValue) *Item {
	if it := v.get(string(kv.Key)); it != nil && it.Revision == kv.ModRevision {
		return it
	}
	return c.item(kv)
}

var errStale = errors.New("the watch cache is behind")

// wait returns a version that is not older than a revision; 0 is any after the first filling. If there is none in time it
// returns the newest and errStale.
func (c *cache) wait(ctx context.Context, revision int64, limit time.Duration) (*version, error) {
	revision = max(revision, 1)
	v := c.current.Load()
	if v.revision >= revision {
		return v, nil
	}
	timeout := c.store.cfg.Clock.NewTimer(limit)
	defer timeout.Stop()
	pause := firstAsk
	again := c.store.cfg.Clock.NewTimer(pause)
	defer again.Stop()
	c.askProgress()
	for {
		select {
		case <-v.superseded:
		case <-again.C():
			c.askProgress()
			pause = min(2*pause, lastAsk)
			again.Reset(pause)
		case <-timeout.C():
			return v, errStale
		case <-c.done:
			return v, errClosed
		case <-ctx.Done():
			return v, ctx.Err()
		}
		if v = c.current.Load(); v.revision >= revision {
			return v, nil
		}
	}
}

// Those who wait for a revision ask for progress again after firstAsk, then less and less often.
const (
	firstAsk = 20 * time.Millisecond
	lastAsk  = 320 * time.Millisecond
	askPause = 2 * time.Millisecond // between the questions of all who wait
)

// askProgress makes the watch tell how far it is, if nothing else does.
func (c *cache) askProgress() {
	w := c.watcher.Load()
	if w == nil {
		return
	}
	now, last := c.store.cfg.Clock.Now().UnixNano(), c.asked.Load()
	if now-last > int64(askPause) && c.asked.CompareAndSwap(last, now) {
		w.RequestProgress()
	}
}

// written shares the items of writes between this process's writers and the watch that reports them, whoever is first, so that
// nothing is decoded twice.
type written struct {
	mu      sync.Mutex
	reached int64 // what the cache has published; 0: it is not filled
	items   map[string]*shared
}

// shared is the item of one write.
type shared struct {
	revision int64
	item     func() *Item // made once
}

// share returns the item of the write of a key at a revision. make is called unless somebody else does it.
func (w *written) share(key string, revision int64, make func() *Item) *Item {
	w.mu.Lock()
	s := w.items[key]
	switch {
	case w.reached == 0 || revision <= w.reached || s != nil && s.revision > revision: // nobody else will ask
		w.mu.Unlock()
		return make()
	case s == nil || s.revision < revision:
		s = &shared{revision: revision, item: sync.OnceValue(make)}
		if w.items == nil {
			w.items = map[string]*shared{}
		}
		w.items[key] = s
	}
	w.mu.Unlock()
	return s.item()
}

// forget drops what is published.
func (w *written) forget(events []*client.Event, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached = revision
	for _, e := range events {
		if s := w.items[string(e.Kv.Key)]; s != nil && s.revision <= revision {
			delete(w.items, string(e.Kv.Key))
		}
	}
}

// reach drops everything: the cache was filled.
func (w *written) reach(revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reached, w.items = revision, nil
}

// snapshots are versions that lists in pages began with.
type snapshots struct {
	mu   sync.Mutex
	kept []snapshot
}

type snapshot struct {
	version *version
	until   time.Time
}

const (
	maxSnapshots = 32
	snapshotTime = 2 * time.Minute
)

func (s *snapshots) keep(v *version, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.kept) > 0 && (len(s.kept) >= maxSnapshots || s.kept[0].until.Before(now)) {
		s.kept = s.kept[1:]
	}
	if n := len(s.kept); n == 0 || s.kept[n-1].version != v {
		s.kept = append(s.kept, snapshot{v, now.Add(snapshotTime)})
	}
}

func (s *snapshots) find(revision int64, now time.Time) *version {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kept {
		if k.version.at(revision) && k.until.After(now) {
			return k.version
		}
	}
	return nil
}
