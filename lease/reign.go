package lease

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
)

// reign is one uninterrupted time as primary.
type reign struct {
	number uint64
	term   uint64
	began  int64
	over   chan struct{} // closed at its end

	mu    sync.Mutex // taken after a shard's
	queue queue
	next  int64 // when Run looks at the queue again; the least time while it is not asleep

	passed int // shards whose leases all have a deadline of this reign; the collector's own
}

// never checkpoint a lease more often than this after a grant or a renewal.
const minCheckpointInterval = 15 * time.Second

// seconds converts to nanoseconds; what is too long ends never.
func seconds(s int64) int64 {
	switch {
	case s <= 0:
		return 0
	case s > math.MaxInt64/int64(time.Second):
		return never
	}
	return s * int64(time.Second)
}

// later adds times of which neither is negative.
func later(a, b int64) int64 {
	if a > never-b {
		return never
	}
	return a + b
}

// Leadership tells the table of every change of this member's role: in this term it leads, or does not. Losing the
// leadership ends the reign at once. It never blocks, and is meant to be called by the consensus loop itself.
func (t *Table) Leadership(term uint64, leads bool) {
	t.reignMu.Lock()
	defer t.reignMu.Unlock()
	if leads {
		t.leading = term
		return
	}
	t.lost = max(t.lost, t.leading)
	t.leading = 0
	t.endReign()
}

// Promote begins a reign: the entry with which this member began its term as the leader is applied. It is ignored, with
// false, if the leadership of that term was lost in the meantime.
func (t *Table) Promote(term uint64) bool {
	t.reignMu.Lock()
	defer t.reignMu.Unlock()
	if term <= t.lost {
		return false
	}
	t.endReign()
	t.reigns++
	t.reign.Store(&reign{number: t.reigns, term: term, began: t.now(), over: make(chan struct{}), next: math.MinInt64})
	t.poke()
	t.lg.Info("this member now decides when leases end", zap.Uint64("term", term))
	return true
}

// Demote ends the reign, if there is one, and keeps Promote from beginning another in its term.
func (t *Table) Demote() {
	t.reignMu.Lock()
	defer t.reignMu.Unlock()
	if r := t.reign.Load(); r != nil {
		t.lost = max(t.lost, r.term)
	}
	t.endReign()
}

// endReign is called with reignMu held.
func (t *Table) endReign() {
	r := t.reign.Load()
	if r == nil {
		return
	}
	t.reign.Store(nil)
	close(r.over)
	r.mu.Lock()
	r.queue = nil
	r.mu.Unlock()
	t.poke()
}

// IsPrimary says whether this member decides when leases end.
func (t *Table) IsPrimary() bool { return t.reign.Load() != nil }

func (t *Table) poke() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// left is what a lease has left when a reign begins, in seconds.
func (l *lease) left() int64 {
	if l.remaining > 0 {
		return l.remaining
	}
	return l.ttl
}

// enlist gives a lease its deadline in a reign if it has none. False: that reign is over. The shard is locked.
func (t *Table) enlist(r *reign, l *lease) bool {
	switch {
	case l.reign == r.number:
		return true
	case l.reign > r.number:
		return false
	}
	l.reign, l.queued = r.number, never
	l.clearing, l.unsettled = false, false
	l.deadline = later(later(r.began, int64(t.cfg.Extend)), seconds(l.left()))
	l.checkpoint = later(r.began, t.interval(l))
	t.schedule(r, l, min(l.deadline, l.checkpoint))
	return true
}

// refresh gives a lease all of its time. The shard is locked.
func (t *Table) refresh(r *reign, l *lease, now int64) {
	l.deadline = later(now, seconds(l.ttl))
	l.checkpoint = later(now, t.interval(l))
	t.schedule(r, l, min(l.deadline, l.checkpoint))
}

// interval is the time between two checkpoints of a lease, or never.
func (t *Table) interval(l *lease) int64 {
	ttl := seconds(l.ttl)
	i := min(max(ttl/2, int64(minCheckpointInterval)), int64(t.cfg.CheckpointInterval))
	if i >= ttl {
		return never
	}
	return i
}

// schedule makes sure that the lease is looked at by a time. An entry that is there for an earlier time stays: it is moved
// on when it comes up, so that a renewal costs nothing here. The shard is locked.
func (t *Table) schedule(r *reign, l *lease, when int64) {
	if when >= l.queued {
		return
	}
	l.queued = when
	r.mu.Lock()
	sooner := when < r.next
	if sooner {
		r.next = when
	}
	r.queue.push(entry{when, l})
	r.mu.Unlock()
	if sooner {
		t.poke()
	}
}

// settle reacts to a checkpoint that came through the log. The shard is locked.
func (t *Table) settle(l *lease) {
	l.notify()
	r := t.reign.Load()
	if r == nil || l.reign != r.number {
		return
	}
	l.unsettled = false
	now := t.now()
	switch {
	case l.remaining <= 0:
		l.clearing = false
	case l.clearing:
	case later(now, seconds(l.remaining)) < l.deadline:
		// It says less than there is: it was taken before a renewal, perhaps by the previous primary. Correct it at once.
		l.checkpoint = now
		t.schedule(r, l, now)
	}
}

// Renew gives a lease all of its time again and returns that, in seconds. It waits while the fate of an expired lease is
// being decided, and until a recorded remainder is cleared through the log. ErrNotPrimary; ErrLeaseNotFound, also for an
// expired lease once it is revoked; ctx's error.
//
// What Renew says holds only if this member still leads after the call: confirm that before a client is told.
func (t *Table) Renew(ctx context.Context, id ID) (ttl int64, err error) {
	for {
		r := t.reign.Load()
		if r == nil {
			return 0, ErrNotPrimary
		}
		l, sh := t.lookup(id)
		if l == nil {
			return 0, ErrLeaseNotFound
		}
		if !t.enlist(r, l) || t.reign.Load() != r {
			sh.mu.Unlock()
			continue
		}
		now := t.now()
		if l.settled(now) {
			t.refresh(r, l, now)
			ttl = l.ttl
			sh.mu.Unlock()
			t.stats.renewed.Inc()
			return ttl, nil
		}
		if l.deadline > now && !l.clearing {
			l.clearing = true
			t.schedule(r, l, now)
		}
		if l.changed == nil {
			l.changed = make(chan struct{})
		}
		changed := l.changed
		sh.mu.Unlock()
		select {
		case <-changed:
		case <-r.over:
			return 0, ErrNotPrimary
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// TryRenew is Renew where there is nothing to wait for. False: nothing was done, ask Renew.
func (t *Table) TryRenew(id ID) (ttl int64, ok bool) {
	r := t.reign.Load()
	if r == nil {
		return 0, false
	}
	l, sh := t.lookup(id)
	if l == nil {
		return 0, false
	}
	defer sh.mu.Unlock()
	now := t.now()
	if !t.enlist(r, l) || t.reign.Load() != r || !l.settled(now) {
		return 0, false
	}
	t.refresh(r, l, now)
	t.stats.renewed.Inc()
	return l.ttl, true
}

// settled says that a lease may simply be renewed: it has not ended, and the log says nothing of what it has left. The
// shard is locked.
func (l *lease) settled(now int64) bool { return l.deadline > now && l.remaining <= 0 && !l.unsettled }

// Info describes a lease.
type Info struct {
	ID        ID
	Granted   int64    // granted time to live, seconds
	Remaining int64    // whole seconds left, 0 for an expired lease
	Keys      []string // ascending; nil if not asked for
}

// TimeToLive describes a lease, with its keys if asked to. ErrLeaseNotFound, ErrNotPrimary.
func (t *Table) TimeToLive(id ID, keys bool) (Info, error) {
	for {
		r := t.reign.Load()
		l, sh := t.lookup(id)
		if l == nil {
			return Info{}, ErrLeaseNotFound
		}
		if r == nil {
			sh.mu.Unlock()
			return Info{}, ErrNotPrimary
		}
		if !t.enlist(r, l) {
			sh.mu.Unlock()
			continue
		}
		info := Info{ID: id, Granted: l.ttl, Remaining: max(0, (l.deadline-t.now())/int64(time.Second))}
		if keys {
			info.Keys = slices.Clone(l.keys)
		}
		sh.mu.Unlock()
		slices.Sort(info.Keys)
		return info, nil
	}
}

// Leases lists all leases, those that end first at the front; on a member that is not primary, in the order of their IDs.
func (t *Table) Leases() []ID {
	type ending struct {
		id ID
		at int64
	}
	r := t.reign.Load()
	var all []ending
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for id, l := range sh.leases {
			e := ending{id, 0}
			if r != nil && t.enlist(r, l) {
				e.at = l.deadline
			}
			all = append(all, e)
		}
		sh.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b ending) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.id, b.id)) })
	ids := make([]ID, len(all))
	for i, e := range all {
		ids[i] = e.id
	}
	return ids
}
