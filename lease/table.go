package lease

import (
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// ID names a lease.
type ID int64

// NoLease is the ID of no lease.
const NoLease = ID(0)

// MaxTTL is the longest time to live that can be granted, in seconds.
const MaxTTL = 9_000_000_000

// The errors have etcd's texts.
var (
	ErrNotPrimary       = errors.New("not a primary lessor")
	ErrLeaseNotFound    = errors.New("lease not found")
	ErrLeaseExists      = errors.New("lease already exists")
	ErrLeaseTTLTooLarge = errors.New("too large lease TTL")
)

// Config configures a Table. The zero value of every field but MinTTL has a default.
type Config struct {
	// MinTTL is the shortest time to live, in seconds; shorter grants are raised to it. See MinTTL.
	MinTTL int64
	// Extend is added to the time of every lease when a reign begins: one election timeout, during which no leader could
	// renew anything.
	Extend time.Duration
	// CheckpointInterval bounds the time between two checkpoints of a lease that is not renewed. 5 minutes.
	CheckpointInterval time.Duration
	// RetryInterval is how long the owner has to revoke an expired lease before it is offered again. 3 seconds.
	RetryInterval time.Duration
	Rows          Rows                  // where grants are stored; nil: nowhere, until Restore
	Clock         clock.Clock           // nil: the real one
	Logger        *zap.Logger           // nil: none
	Registerer    prometheus.Registerer // nil: none
}

// MinTTL is etcd's shortest time to live, in whole seconds, for an election timeout of so many ticks: one and a half of it.
func MinTTL(electionTicks int, tick time.Duration) int64 {
	return int64(math.Ceil((time.Duration(3*electionTicks/2) * tick).Seconds()))
}

// shardCount is a power of two; see shard.
const shardCount = 256

// Table is described in the package comment.
type Table struct {
	cfg    Config
	lg     *zap.Logger
	stats  *metrics
	base   time.Time // zero of the table's clock
	shards [shardCount]shard
	rows   Rows // apply goroutine only

	itemsMu sync.Mutex // taken before a shard's
	items   map[string]place

	reign   atomic.Pointer[reign] // nil: not primary
	reignMu sync.Mutex            // guards the changes of reign and the fields below
	reigns  uint64                // number of the last one
	leading uint64                // term in which this member leads, as the last call of Leadership said; 0: in none
	lost    uint64                // term whose leadership was lost

	expired     chan []ID
	checkpoints chan []Checkpoint
	wake        chan struct{} // something is due before Run would look
}

type shard struct {
	mu     sync.Mutex
	leases map[ID]*lease
	_      [48]byte // shards do not share cache lines
}

// lease is guarded by its shard's mutex.
type lease struct {
	id         ID
	ttl        int64 // granted, seconds
	remaining  int64 // of the last checkpoint in the log, seconds; 0: none, all of ttl
	deadline   int64 // when it ends; valid in reign only, as the two below
	checkpoint int64 // when a checkpoint is due
	queued     int64 // time of the valid entry in the queue
	reign      uint64
	keys       []string      // unordered; Table.items knows the place of each
	changed    chan struct{} // made by those who wait; closed when the lease is revoked or a checkpoint was applied
	clearing   bool          // somebody waits for remaining to be cleared
	unsettled  bool          // a checkpoint was handed out and has not come back through the log
}

// place says where a key is: in which lease, and at which index of its keys.
type place struct {
	l  *lease
	at int
}

// never is later than every time.
const never = math.MaxInt64

// NewTable makes an empty table. It is not primary. Rows are not read: that is Restore's.
func NewTable(cfg Config) *Table {
	if cfg.CheckpointInterval <= 0 {
		cfg.CheckpointInterval = 5 * time.Minute
	}
	if cfg.RetryInterval <= 0 {
		cfg.RetryInterval = 3 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	t := &Table{
		cfg: cfg, lg: cfg.Logger, stats: newMetrics(cfg.Registerer), base: cfg.Clock.Now(), rows: cfg.Rows,
		items:       make(map[string]place),
		expired:     make(chan []ID),
		checkpoints: make(chan []Checkpoint),
		wake:        make(chan struct{}, 1),
	}
	for i := range t.shards {
		t.shards[i].leases = make(map[ID]*lease)
	}
	return t
}

func (t *Table) now() int64 { return int64(t.cfg.Clock.Now().Sub(t.base)) }

func (t *Table) shard(id ID) *shard {
	return &t.shards[uint64(id)*0x9e3779b97f4a7c15>>(64-8)]
}

// lookup returns a lease with its shard locked, or nil and nothing locked.
func (t *Table) lookup(id ID) (*lease, *shard) {
	sh := t.shard(id)
	sh.mu.Lock()
	if l := sh.leases[id]; l != nil {
		return l, sh
	}
	sh.mu.Unlock()
	return nil, nil
}

// Restore replaces all leases by those that rows hold and stores later ones there: the state came from a disk or from a
// snapshot. No key is attached; the caller attaches them as it reads them. A reign ends. Apply goroutine only.
func (t *Table) Restore(rows Rows) error {
	t.Demote()
	fresh := make([]map[ID]*lease, shardCount)
	for i := range fresh {
		fresh[i] = make(map[ID]*lease)
	}
	err := rows.ForEach(func(key, value []byte) error {
		r, err := decodeRow(key, value)
		if err != nil {
			return err
		}
		l := &lease{id: r.id, ttl: max(r.ttl, t.cfg.MinTTL), remaining: r.remaining, queued: never}
		fresh[uint64(r.id)*0x9e3779b97f4a7c15>>(64-8)][r.id] = l
		return nil
	})
	if err != nil {
		return err
	}
	t.rows = rows
	t.itemsMu.Lock()
	t.items = make(map[string]place)
	t.itemsMu.Unlock()
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for _, l := range sh.leases {
			l.notify()
		}
		sh.leases = fresh[i]
		sh.mu.Unlock()
	}
	return nil
}

// Grant makes a lease and returns its time to live in seconds, which is ttl or the shortest allowed one. The ID is the
// caller's choice. Errors: ErrLeaseExists, ErrLeaseTTLTooLarge, and ErrLeaseNotFound for NoLease, as in etcd. Apply
// goroutine only.
func (t *Table) Grant(id ID, ttl int64) (int64, error) {
	if id == NoLease {
		return 0, ErrLeaseNotFound
	}
	if ttl > MaxTTL {
		return 0, ErrLeaseTTLTooLarge
	}
	ttl = max(ttl, t.cfg.MinTTL)
	l := &lease{id: id, ttl: ttl, queued: never}
	sh := t.shard(id)
	sh.mu.Lock()
	if sh.leases[id] != nil {
		sh.mu.Unlock()
		return 0, ErrLeaseExists
	}
	sh.leases[id] = l
	if r := t.reign.Load(); r != nil {
		l.reign = r.number
		t.refresh(r, l, t.now())
	}
	sh.mu.Unlock()
	if t.rows != nil {
		t.rows.Put(rowKey(id), record{id: id, ttl: ttl}.marshal())
	}
	t.stats.granted.Inc()
	t.stats.ttl.Observe(float64(ttl))
	return ttl, nil
}

// Revoke ends a lease and returns its keys in ascending order, which the caller must delete in the same batch: they belong
// to no lease any more. ErrLeaseNotFound. Apply goroutine only.
func (t *Table) Revoke(id ID) (keys []string, err error) {
	t.itemsMu.Lock()
	l, sh := t.lookup(id)
	if l == nil {
		t.itemsMu.Unlock()
		return nil, ErrLeaseNotFound
	}
	delete(sh.leases, id)
	keys, l.keys = l.keys, nil
	if r := t.reign.Load(); r != nil && l.reign == r.number && l.deadline <= t.now() {
		t.stats.expired.Inc()
	}
	l.notify()
	sh.mu.Unlock()
	for _, k := range keys {
		delete(t.items, k)
	}
	t.itemsMu.Unlock()

	slices.Sort(keys)
	if t.rows != nil {
		t.rows.Delete(rowKey(id))
	}
	t.stats.revoked.Inc()
	return keys, nil
}

// notify wakes those who wait for a change of the lease.
func (l *lease) notify() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// Attach makes a key belong to a lease, and to no other one. ErrLeaseNotFound changes nothing. Apply goroutine only.
func (t *Table) Attach(id ID, key []byte) error {
	t.itemsMu.Lock()
	defer t.itemsMu.Unlock()
	old, found := t.items[string(key)]
	if found && old.l.id == id {
		return nil
	}
	l, sh := t.lookup(id)
	if l == nil {
		return ErrLeaseNotFound
	}
	k := string(key)
	at := len(l.keys)
	l.keys = append(l.keys, k)
	sh.mu.Unlock()
	if found {
		t.unlink(old)
	}
	t.items[k] = place{l, at}
	return nil
}

// Detach makes a key belong to no lease. Apply goroutine only.
func (t *Table) Detach(key []byte) {
	t.itemsMu.Lock()
	defer t.itemsMu.Unlock()
	if p, ok := t.items[string(key)]; ok {
		t.unlink(p)
		delete(t.items, string(key))
	}
}

// unlink takes a key out of the keys of its lease; the last of them fills the gap. itemsMu is held.
func (t *Table) unlink(p place) {
	sh := t.shard(p.l.id)
	sh.mu.Lock()
	keys := p.l.keys
	last := len(keys) - 1
	moved := keys[last]
	keys[p.at], keys[last] = moved, ""
	p.l.keys = shrink(keys[:last])
	sh.mu.Unlock()
	if p.at != last {
		t.items[moved] = p
	}
}

// shrink gives back memory once most of it is unused.
func shrink(keys []string) []string {
	switch {
	case len(keys) == 0:
		return nil
	case cap(keys) > 64 && len(keys) < cap(keys)/4:
		return append(make([]string, 0, 2*len(keys)), keys...)
	}
	return keys
}

// LeaseOf returns the lease that a key belongs to, or NoLease.
func (t *Table) LeaseOf(key []byte) ID {
	t.itemsMu.Lock()
	defer t.itemsMu.Unlock()
	if p, ok := t.items[string(key)]; ok {
		return p.l.id
	}
	return NoLease
}

// Checkpoint records how much time a lease has left, in seconds; 0 means all of it. It takes effect when the next reign
// begins. A lease that does not exist is no error. Apply goroutine only.
func (t *Table) Checkpoint(id ID, remaining int64) error {
	l, sh := t.lookup(id)
	if l == nil {
		return nil
	}
	l.remaining = remaining
	ttl := l.ttl
	t.settle(l)
	sh.mu.Unlock()
	if t.rows != nil {
		t.rows.Put(rowKey(id), record{id, ttl, remaining}.marshal())
	}
	return nil
}

// Exists says whether there is a lease, expired or not.
func (t *Table) Exists(id ID) bool {
	l, sh := t.lookup(id)
	if l == nil {
		return false
	}
	sh.mu.Unlock()
	return true
}

// Len is the number of leases.
func (t *Table) Len() int {
	n := 0
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		n += len(sh.leases)
		sh.mu.Unlock()
	}
	return n
}

// Keys returns the keys of a lease in ascending order. ErrLeaseNotFound.
func (t *Table) Keys(id ID) ([]string, error) {
	l, sh := t.lookup(id)
	if l == nil {
		return nil, ErrLeaseNotFound
	}
	keys := slices.Clone(l.keys)
	sh.mu.Unlock()
	slices.Sort(keys)
	return keys, nil
}

// CheckKeys calls check for the keys of a lease, in no order, until it fails, and returns its error; nil if there is no such
// lease. check must not call the table.
func (t *Table) CheckKeys(id ID, check func(key string) error) error {
	l, sh := t.lookup(id)
	if l == nil {
		return nil
	}
	defer sh.mu.Unlock()
	for _, k := range l.keys {
		if err := check(k); err != nil {
			return err
		}
	}
	return nil
}
