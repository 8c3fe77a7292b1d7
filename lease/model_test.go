package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cluster is a naive model of what uses tables: three members that apply one log, a leader that changes, clients that
// remember what they were promised. Proposals take a while and sometimes get lost.
type cluster struct {
	t       *testing.T
	rnd     *rand.Rand
	extend  time.Duration
	tables  []*Table
	rows    []*memRows
	stop    []func()
	mu      sync.Mutex // held while an entry is applied
	term    uint64
	leader  int
	group   sync.WaitGroup
	closing chan struct{}

	// The model: what must be true.
	keys     map[string]ID
	ttl      map[ID]int64
	promised map[ID]time.Time // a lease lives at least so long
	latest   map[ID]time.Time // and under a leader that stays, not longer
	revoked  int
	renewed  int
}

func newCluster(t *testing.T, seed uint64) *cluster {
	c := &cluster{
		t: t, rnd: rand.New(rand.NewPCG(seed, 1)), extend: time.Duration(seed%2) * time.Second, closing: make(chan struct{}),
		keys: map[string]ID{}, ttl: map[ID]int64{}, promised: map[ID]time.Time{}, latest: map[ID]time.Time{},
	}
	for range 3 {
		rows := newRows()
		tab := NewTable(Config{MinTTL: 2, Extend: c.extend, CheckpointInterval: 40 * time.Second, Rows: rows})
		c.tables, c.rows = append(c.tables, tab), append(c.rows, rows)
		c.stop = append(c.stop, runTable(t, tab))
	}
	for member := range c.tables {
		c.group.Go(func() { c.propose(member) })
	}
	c.elect()
	return c
}

// propose is the server's part of a member: batches become log entries if the member still leads.
func (c *cluster) propose(member int) {
	tab := c.tables[member]
	for {
		select {
		case ids := <-tab.Expired():
			c.delay()
			if c.random(10) == 0 {
				continue // lost
			}
			c.mu.Lock()
			for _, id := range tab.StillExpired(ids) {
				c.expire(member, id)
			}
			c.mu.Unlock()
		case checks := <-tab.CheckpointsDue():
			c.delay()
			if c.random(10) == 0 {
				continue
			}
			c.mu.Lock()
			// Unlike revocations, checkpoints may come from a leader that was deposed meanwhile.
			for _, t := range c.tables {
				for _, ch := range checks {
					assert.NoError(c.t, t.Checkpoint(ch.ID, ch.Remaining))
				}
			}
			c.mu.Unlock()
		case <-c.closing:
			return
		}
	}
}

// delay is what a proposal takes to be applied.
func (c *cluster) delay() {
	ms := c.random(20)
	if c.random(8) == 0 {
		ms = c.random(3000)
	}
	time.Sleep(time.Duration(ms) * time.Millisecond)
}

func (c *cluster) random(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rnd.IntN(n)
}

// expire applies a revocation that the owner proposed because the lease had ended.
func (c *cluster) expire(member int, id ID) {
	assert.Equal(c.t, c.leader, member, "a member that does not lead revoked a lease")
	assert.Contains(c.t, c.ttl, id)
	now := time.Now()
	assert.False(c.t, now.Before(c.promised[id]), "lease %d ended %v early", id, c.promised[id].Sub(now))
	c.revoke(id)
	c.revoked++
}

func (c *cluster) revoke(id ID) {
	var want []string
	for k, l := range c.keys {
		if l == id {
			want = append(want, k)
			delete(c.keys, k)
		}
	}
	slices.Sort(want)
	for _, t := range c.tables {
		got, err := t.Revoke(id)
		assert.NoError(c.t, err)
		assert.ElementsMatch(c.t, want, got)
		assert.True(c.t, slices.IsSorted(got))
	}
	delete(c.ttl, id)
	delete(c.promised, id)
	delete(c.latest, id)
}

// elect makes another member the leader, or the same one again. c.mu need not be held.
func (c *cluster) elect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term > 0 {
		c.tables[c.leader].Leadership(c.term, false)
	}
	c.term++
	c.leader = c.rnd.IntN(len(c.tables))
	c.tables[c.leader].Leadership(c.term, true)
	require.True(c.t, c.tables[c.leader].Promote(c.term))
	now := time.Now()
	for id, ttl := range c.ttl {
		// At most what the lease was granted, from now on.
		if at := now.Add(c.extend + time.Duration(ttl)*time.Second); at.After(c.latest[id]) {
			c.latest[id] = at
		}
	}
}

func (c *cluster) grant() {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, ttl := ID(c.rnd.IntN(40)+1), int64(c.rnd.IntN(90))
	for _, t := range c.tables {
		got, err := t.Grant(id, ttl)
		if _, ok := c.ttl[id]; ok {
			require.ErrorIs(c.t, err, ErrLeaseExists)
			continue
		}
		require.NoError(c.t, err)
		require.Equal(c.t, max(2, ttl), got)
	}
	if _, ok := c.ttl[id]; !ok {
		c.ttl[id] = max(2, ttl)
		c.promise(id)
	}
}

func (c *cluster) promise(id ID) {
	c.promised[id] = time.Now().Add(time.Duration(c.ttl[id]) * time.Second)
	c.latest[id] = c.promised[id]
}

func (c *cluster) attach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, key := ID(c.rnd.IntN(40)+1), fmt.Sprintf("key%d", c.rnd.IntN(60))
	_, ok := c.ttl[id]
	for _, t := range c.tables {
		require.Equal(c.t, c.keys[key], t.LeaseOf([]byte(key)))
		if err := t.Attach(id, []byte(key)); ok {
			require.NoError(c.t, err)
		} else {
			require.ErrorIs(c.t, err, ErrLeaseNotFound)
		}
	}
	if ok {
		c.keys[key] = id
	}
}

func (c *cluster) detach() {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := fmt.Sprintf("key%d", c.rnd.IntN(60))
	for _, t := range c.tables {
		t.Detach([]byte(key))
	}
	delete(c.keys, key)
}

// renew is a client's renewal at a random member, in the background since it may wait.
func (c *cluster) renew() {
	c.mu.Lock()
	member, id := c.rnd.IntN(len(c.tables)), ID(c.rnd.IntN(40)+1)
	if c.rnd.IntN(4) > 0 {
		member = c.leader
	}
	c.mu.Unlock()
	c.group.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		ttl, err := c.tables[member].Renew(ctx, id)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case err == nil && member == c.leader:
			// Time stands still in the bubble while anything runs, so this is the moment of the renewal.
			if want, ok := c.ttl[id]; ok {
				assert.Equal(c.t, want, ttl)
				c.promise(id)
				c.renewed++
			}
		case err == nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrNotPrimary):
		default:
			assert.ErrorIs(c.t, err, ErrLeaseNotFound)
		}
	})
}

func (c *cluster) revokeOnRequest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := ID(c.rnd.IntN(40) + 1)
	if _, ok := c.ttl[id]; ok {
		c.revoke(id)
		return
	}
	for _, t := range c.tables {
		_, err := t.Revoke(id)
		require.ErrorIs(c.t, err, ErrLeaseNotFound)
	}
}

// restart gives a member that does not lead a new table, made from its rows.
func (c *cluster) restart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.rnd.IntN(len(c.tables))
	if m == c.leader {
		return
	}
	t := c.tables[m]
	require.NoError(c.t, t.Restore(c.rows[m]))
	for k, id := range c.keys {
		require.NoError(c.t, t.Attach(id, []byte(k)))
	}
}

// check compares every table with the model.
func (c *cluster) check() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, t := range c.tables {
		require.Equal(c.t, slices.Sorted(maps.Keys(c.ttl)), slices.Sorted(slices.Values(t.Leases())))
		require.Equal(c.t, c.rows[0].rows, c.rows[1].rows)
		require.Equal(c.t, c.rows[0].rows, c.rows[2].rows)
	}
	for id, at := range c.latest {
		// A lost proposal is repeated after 3 s.
		require.False(c.t, now.After(at.Add(30*time.Second)), "lease %d should have ended %v ago", id, now.Sub(at))
		info, err := c.tables[c.leader].TimeToLive(id, false)
		require.NoError(c.t, err)
		require.GreaterOrEqual(c.t, float64(info.Remaining), c.promised[id].Sub(now).Seconds()-1)
		require.LessOrEqual(c.t, float64(info.Remaining), max(0, at.Sub(now).Seconds()))
	}
}

func (c *cluster) close() {
	// Nothing is lost: under a leader that stays, all ends.
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	c.mu.Lock()
	require.Empty(c.t, c.ttl)
	require.Empty(c.t, c.keys)
	for _, t := range c.tables {
		require.Zero(c.t, t.Len())
		require.Empty(c.t, t.items)
	}
	for _, r := range c.rows {
		require.Empty(c.t, r.rows)
	}
	c.mu.Unlock()
	close(c.closing)
	for _, stop := range c.stop {
		stop()
	}
	c.group.Wait()
}

// TestModel runs random operations on three members and checks that no lease ends early, that none is lost, that only the
// leader ends them, and that keys, rows and lists agree with the model on every member.
func TestModel(t *testing.T) {
	seeds := uint64(30)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, seed)
				ops := []func(){c.grant, c.grant, c.attach, c.attach, c.detach, c.renew, c.renew, c.renew, c.revokeOnRequest, c.restart}
				for i := range 1500 {
					ops[c.random(len(ops))]()
					if c.random(60) == 0 {
						c.elect()
					}
					if pause := c.random(4); pause > 0 {
						time.Sleep(time.Duration(c.random(300*pause)) * time.Millisecond)
					}
					synctest.Wait()
					if i%20 == 0 {
						c.check()
					}
				}
				c.close()
				require.Positive(t, c.revoked)
				require.Positive(t, c.renewed)
				t.Logf("%d expired, %d renewed, term %d", c.revoked, c.renewed, c.term)
			})
		})
	}
}
