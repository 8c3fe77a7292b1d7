package lease

import (
	"context"
	"math"
	"slices"
	"time"
)

// Checkpoint says how much time a lease has left.
type Checkpoint struct {
	ID        ID
	Remaining int64 // seconds; 0: all of its time to live
}

const (
	// maxBatch bounds what one batch holds, of either kind.
	maxBatch = 1000
	// gather is the least pause of Run between two looks at the clock, so that leases that end one after the other come in
	// batches.
	gather = 10 * time.Millisecond
)

// Expired delivers leases that have ended, in batches of up to 1000. The receiver confirms that this member still leads
// the cluster, passes the batch through StillExpired, and proposes to revoke what is left, in a way that a follower would
// refuse and not forward. A lease that is not revoked within Config.RetryInterval is delivered again.
func (t *Table) Expired() <-chan []ID { return t.expired }

// CheckpointsDue delivers checkpoints, in batches of up to 1000. The receiver proposes them in the order in which they
// come. Clients' renewals may be waiting for them.
func (t *Table) CheckpointsDue() <-chan []Checkpoint { return t.checkpoints }

// StillExpired returns those of a batch that exist and have expired on a primary, in place.
func (t *Table) StillExpired(batch []ID) []ID {
	r := t.reign.Load()
	if r == nil {
		return nil
	}
	now := t.now()
	kept := batch[:0]
	for _, id := range batch {
		l, sh := t.lookup(id)
		if l == nil {
			continue
		}
		if l.reign == r.number && l.deadline <= now {
			kept = append(kept, id)
		}
		sh.mu.Unlock()
	}
	return kept
}

// collector gathers what is due in one reign. It belongs to one goroutine.
type collector struct {
	t       *Table
	r       *reign
	expired []ID // to be delivered; not in the queue
	checks  []Checkpoint
}

// maxLook bounds how many entries one look takes from the queue.
const maxLook = 8192

// collect gathers what is due now and returns when to look again, in nanoseconds on the table's clock.
func (c *collector) collect() (next int64) {
	c.finishPromotion()
	c.r.beginLook()
	now := c.t.now()
	var buf [256]entry
	for looked := 0; looked < maxLook; {
		due := c.r.take(buf[:0], now)
		if len(due) == 0 {
			break
		}
		for _, e := range due {
			c.decide(e, now)
		}
		looked += len(due)
	}
	return c.r.endLook()
}

// finishPromotion gives every lease its deadline in a new reign.
func (c *collector) finishPromotion() {
	for ; c.r.passed < shardCount && c.t.reign.Load() == c.r; c.r.passed++ {
		sh := &c.t.shards[c.r.passed]
		sh.mu.Lock()
		for _, l := range sh.leases {
			c.t.enlist(c.r, l)
		}
		sh.mu.Unlock()
	}
}

// beginLook says that nobody needs to be woken for what is queued from now on.
func (r *reign) beginLook() {
	r.mu.Lock()
	r.next = math.MinInt64
	r.mu.Unlock()
}

// endLook returns the time of the first entry; the collector must be woken for one that comes before it.
func (r *reign) endLook() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next = never
	if len(r.queue) > 0 {
		r.next = r.queue[0].when
	}
	return r.next
}

// take moves entries that are due from the queue into buf, up to its capacity.
func (r *reign) take(buf []entry, now int64) []entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(buf) < cap(buf) && len(r.queue) > 0 && r.queue[0].when <= now {
		buf = append(buf, r.queue.pop())
	}
	return buf
}

// decide finds out what is due for the lease of an entry and queues it for what comes next.
func (c *collector) decide(e entry, now int64) {
	t, l := c.t, e.l
	sh := t.shard(l.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.leases[l.id] != l || l.reign != c.r.number || l.queued != e.when {
		return // revoked, of another reign, or queued for an earlier time as well
	}
	l.queued = never
	if l.deadline <= now {
		c.expired = append(c.expired, l.id)
		return // offered queues it again
	}
	switch remaining := ceilSeconds(l.deadline - now); {
	case l.clearing:
		c.checks = append(c.checks, Checkpoint{ID: l.id})
		l.unsettled = true
		t.schedule(c.r, l, min(l.deadline, later(now, int64(t.cfg.RetryInterval))))
		return
	case l.checkpoint > now:
	case remaining < l.ttl:
		c.checks = append(c.checks, Checkpoint{l.id, remaining})
		l.unsettled = true
		l.checkpoint = later(now, t.interval(l))
	default:
		if l.remaining > 0 {
			c.checks = append(c.checks, Checkpoint{ID: l.id})
			l.unsettled = true
		}
		l.checkpoint = later(now, t.interval(l))
	}
	t.schedule(c.r, l, min(l.deadline, l.checkpoint))
}

// offered queues the leases of a batch that was delivered, in case that they are not revoked.
func (c *collector) offered(batch []ID) {
	now := c.t.now()
	for _, id := range batch {
		l, sh := c.t.lookup(id)
		if l == nil {
			continue
		}
		if l.reign == c.r.number {
			c.t.schedule(c.r, l, later(now, int64(c.t.cfg.RetryInterval)))
		}
		sh.mu.Unlock()
	}
}

// ceilSeconds converts nanoseconds, more than none, to seconds: rather too many than too few.
func ceilSeconds(ns int64) int64 { return (ns-1)/int64(time.Second) + 1 }

// Run delivers what is due to Expired and CheckpointsDue until ctx ends. It is called once.
func (t *Table) Run(ctx context.Context) {
	var c *collector
	for ctx.Err() == nil {
		r := t.reign.Load()
		if r == nil {
			select {
			case <-t.wake:
			case <-ctx.Done():
			}
			continue
		}
		if c == nil || c.r != r {
			c = &collector{t: t, r: r}
		}
		c.deliver(ctx, c.collect())
	}
}

// deliver hands on what was gathered until the next look is due.
func (c *collector) deliver(ctx context.Context, next int64) {
	t := c.t
	wait := time.Duration(next - t.now())
	if wait > 0 {
		wait = max(wait, gather)
	}
	timer := t.cfg.Clock.NewTimer(wait)
	defer timer.Stop()
	for {
		expired, toExpired := head(c.expired, t.expired)
		checks, toChecks := head(c.checks, t.checkpoints)
		batch := slices.Clone(expired) // the receiver filters its own in place
		select {
		case toExpired <- expired:
			c.expired = c.expired[len(expired):]
			c.offered(batch)
		case toChecks <- checks:
			c.checks = c.checks[len(checks):]
		case <-timer.C():
			return
		case <-t.wake:
			return
		case <-c.r.over:
			return
		case <-ctx.Done():
			return
		}
	}
}

// head returns the first batch of a list and the channel for it, nil if there is nothing to send.
func head[T any](list []T, ch chan []T) ([]T, chan []T) {
	if len(list) == 0 {
		return nil, nil
	}
	n := min(len(list), maxBatch)
	return list[:n:n], ch
}
