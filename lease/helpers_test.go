package lease

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/clock"
)

// memRows are rows in memory.
type memRows struct {
	mu   sync.Mutex
	rows map[string][]byte
}

func newRows() *memRows { return &memRows{rows: map[string][]byte{}} }

func (m *memRows) Put(key, value []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows[string(key)] = value
}

func (m *memRows) Delete(key []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.rows, string(key))
}

func (m *memRows) ForEach(fn func(key, value []byte) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(m.rows)) {
		if err := fn([]byte(k), bytes.Clone(m.rows[k])); err != nil {
			return err
		}
	}
	return nil
}

// handClock moves only when a test says so. Its timers never fire: a test that uses it calls the collector itself.
type handClock struct{ now time.Time }

func newHandClock() *handClock { return &handClock{time.Unix(1000, 0)} }

func (c *handClock) Now() time.Time                       { return c.now }
func (c *handClock) NewTimer(d time.Duration) clock.Timer { return clock.Real.NewTimer(24 * time.Hour) }
func (c *handClock) NewTicker(d time.Duration) clock.Ticker {
	return clock.Real.NewTicker(24 * time.Hour)
}

// due looks at the queue once, as Run does, and returns what it would deliver.
func due(t *Table) (expired []ID, checks []Checkpoint, next int64) {
	r := t.reign.Load()
	if r == nil {
		return nil, nil, never
	}
	c := &collector{t: t, r: r}
	for {
		next = c.collect()
		if next > t.now() {
			break
		}
	}
	c.offered(c.expired)
	return c.expired, c.checks, c.r.endLook()
}

// runTable runs t until the test ends.
func runTable(tb testing.TB, t *Table) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func mustGrant(tb testing.TB, t *Table, id ID, ttl int64) {
	tb.Helper()
	_, err := t.Grant(id, ttl)
	require.NoError(tb, err)
}

// checkInvariants compares the indexes of a table with each other.
func checkInvariants(tb testing.TB, t *Table) {
	tb.Helper()
	keys := 0
	queued := map[*lease]int{}
	r := t.reign.Load()
	if r != nil {
		for _, e := range r.queue {
			if e.l.queued == e.when && e.l.reign == r.number {
				queued[e.l]++
			}
		}
	}
	for i := range t.shards {
		for id, l := range t.shards[i].leases {
			require.Equal(tb, id, l.id)
			require.Same(tb, t.shard(id), &t.shards[i])
			for at, k := range l.keys {
				require.Equal(tb, place{l, at}, t.items[k], "key %q", k)
			}
			keys += len(l.keys)
			if r != nil && l.reign == r.number && l.queued != never {
				require.GreaterOrEqual(tb, queued[l], 1, "lease %x is not in the queue", id)
				require.LessOrEqual(tb, l.queued, max(l.deadline, t.now()+int64(t.cfg.RetryInterval)))
			}
		}
	}
	require.Len(tb, t.items, keys)
}
