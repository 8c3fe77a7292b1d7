package fairness

import (
	"container/heap"
	"container/list"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/invariants"
)

// ErrRefused is the answer to a request that found a full queue or waited too long.
var ErrRefused = errors.New("fairness: too many requests")

// Config says how a Lane works.
type Config struct {
	Name     string         // what metrics call it
	Capacity int64          // units at once
	Open     int64          // units that are given to anybody who fits; above, callers are identified. 0: Capacity
	Share    int64          // units that one identity may have at once above Open; a single request may pass it. 0: no bound
	Weights  map[string]int // of identities; 1 for those that are not named
	MaxQueue int            // requests of one identity that may wait
	MaxWait  time.Duration  // how long one may wait
	Clock    clock.Clock
	Metrics  *Metrics // may be nil
}

// Lane is described in the package comment.
type Lane struct {
	cfg     Config
	metrics laneMetrics
	used    atomic.Int64 // units
	waiting atomic.Int64 // requests

	mu    sync.Mutex
	now   float64 // virtual time: units for weight 1
	flows map[string]*flow
	ready flowHeap // flows in which somebody waits
	busy  int      // requests that waited and are in now
}

// flow is the requests of one identity.
type flow struct {
	name   string
	weight float64
	start  float64 // virtual time at which the next request begins
	queue  list.List
	inside int   // requests that waited and are in now
	held   int64 // units that they have
	index  int   // in ready, -1: nobody waits, or it is parked
	parked bool  // somebody waits, but the flow has its share already
}

// waiter is a request that waits.
type waiter struct {
	flow *flow
	cost int64
	in   chan struct{} // closed when it is let in
}

// maxIdle is how many identities are remembered that neither wait nor are in.
const maxIdle = 1024

// New makes a Lane, or nil, which has no bounds, if the capacity is 0.
func New(cfg Config) *Lane {
	if cfg.Capacity <= 0 {
		return nil
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Open == 0 {
		cfg.Open = cfg.Capacity
	}
	if cfg.Share == 0 {
		cfg.Share = math.MaxInt64
	}
	l := &Lane{cfg: cfg, flows: make(map[string]*flow)}
	l.metrics = cfg.Metrics.lane(l)
	return l
}

// Ticket is the right to use units until Leave. The zero Ticket is good for nothing to be returned.
type Ticket struct {
	lane *Lane
	flow *flow // nil: it did not wait
	cost int64
}

// Waited says whether the units were waited for: then the identity competes, and is charged by Leave.
func (t Ticket) Waited() bool { return t.flow != nil }

// Try takes units if they are free and nobody waits.
func (l *Lane) Try(cost int64) (Ticket, bool) {
	if l == nil {
		return Ticket{}, true
	}
	cost = min(cost, l.cfg.Capacity)
	if l.waiting.Load() > 0 || !l.take(cost, l.cfg.Open) {
		return Ticket{}, false
	}
	return Ticket{lane: l, cost: cost}, true
}

// Wait waits for units in the flow of an identity. ErrRefused, or the error of ctx.
func (l *Lane) Wait(ctx context.Context, identity string, cost int64) (Ticket, error) {
	if l == nil {
		return Ticket{}, nil
	}
	w := &waiter{cost: min(cost, l.cfg.Capacity), in: make(chan struct{})}
	place := l.enqueue(identity, w)
	if place == nil {
		l.metrics.refused("queue")
		return Ticket{}, ErrRefused
	}
	begin := l.cfg.Clock.Now()
	timer := l.cfg.Clock.NewTimer(l.cfg.MaxWait)
	defer timer.Stop()
	var err error
	select {
	case <-w.in:
	case <-timer.C():
		err = ErrRefused
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil && l.leaveQueue(w, place) {
		if errors.Is(err, ErrRefused) {
			l.metrics.refused("wait")
		}
		return Ticket{}, err
	}
	l.metrics.waited(l.cfg.Clock.Now().Sub(begin)) // let in at the last moment counts as let in
	return Ticket{lane: l, flow: w.flow, cost: w.cost}, nil
}

// Leave returns the units. more is what the request has cost beyond them; it is charged to an identity that competes.
func (t Ticket) Leave(more int64) {
	l := t.lane
	if l == nil {
		return
	}
	l.give(t.cost)
	if t.flow == nil && l.waiting.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f := t.flow; f != nil {
		f.inside--
		l.busy--
		f.held -= t.cost
		f.start += float64(more) / f.weight
		l.unpark(f)
		if f.index >= 0 {
			heap.Fix(&l.ready, f.index)
		}
	}
	l.dispatch()
	l.forget()
}

// Shrink returns what is above cost, for a request that turned out to need less.
func (t Ticket) Shrink(cost int64) Ticket {
	l := t.lane
	if l == nil || cost >= t.cost {
		return t
	}
	l.give(t.cost - cost)
	if t.flow != nil || l.waiting.Load() > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.flow != nil {
			t.flow.held -= t.cost - cost
			l.unpark(t.flow)
		}
		l.dispatch()
	}
	t.cost = cost
	return t
}

// Capacity is how many units there are; 0: no bound.
func (l *Lane) Capacity() int64 {
	if l == nil {
		return 0
	}
	return l.cfg.Capacity
}

// Used is how many units are in use; Waiting how many requests wait.
func (l *Lane) Used() int64 { return l.used.Load() }

// Waiting is described at Used.
func (l *Lane) Waiting() int64 { return l.waiting.Load() }

// Identities is how many identities have requests that wait.
func (l *Lane) Identities() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.ready)
	for _, f := range l.flows {
		if f.parked {
			n++
		}
	}
	return n
}

// take takes units, if no more than most are in use then.
func (l *Lane) take(cost, most int64) bool {
	for {
		used := l.used.Load()
		if used+cost > most {
			return false
		}
		if l.used.CompareAndSwap(used, used+cost) {
			return true
		}
	}
}

func (l *Lane) give(cost int64) {
	left := l.used.Add(-cost)
	invariants.Check(left >= 0, "fairness: lane %s has %d units in use", l.cfg.Name, left)
}

// enqueue adds a request to its flow, and lets in who fits: perhaps room became free meanwhile. It returns nil if the queue
// is full.
func (l *Lane) enqueue(identity string, w *waiter) *list.Element {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.flows[identity]
	if f == nil {
		f = &flow{name: identity, weight: float64(max(1, l.cfg.Weights[identity])), index: -1}
		l.flows[identity] = f
	}
	if f.queue.Len() >= l.cfg.MaxQueue {
		return nil
	}
	w.flow = f
	place := f.queue.PushBack(w)
	if f.index < 0 && !f.parked {
		l.compete(f)
	}
	l.waiting.Add(1) // before the look at what is free: whoever returns units later sees it
	l.dispatch()
	return place
}

// leaveQueue takes a request out of its queue, unless it has been let in.
func (l *Lane) leaveQueue(w *waiter, place *list.Element) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-w.in:
		return false
	default:
	}
	l.remove(w.flow, place)
	l.dispatch() // it may have been the one that did not fit
	l.forget()
	return true
}

func (l *Lane) remove(f *flow, place *list.Element) {
	f.queue.Remove(place)
	l.waiting.Add(-1)
	switch {
	case f.queue.Len() > 0:
	case f.parked:
		f.parked = false
	default:
		heap.Remove(&l.ready, f.index)
	}
}

// compete puts a flow among those that have somebody to let in.
func (l *Lane) compete(f *flow) {
	f.start = max(f.start, l.now)
	heap.Push(&l.ready, f)
}

// park takes a flow from among them until it has returned some of what it has.
func (l *Lane) park(f *flow) {
	heap.Remove(&l.ready, f.index)
	f.parked = true
}

func (l *Lane) unpark(f *flow) {
	if f.parked {
		f.parked = false
		l.compete(f)
	}
}

// dispatch lets in those whose turn it is, as long as they fit.
func (l *Lane) dispatch() {
	for len(l.ready) > 0 {
		f := l.ready[0]
		place := f.queue.Front()
		w := place.Value.(*waiter)
		if f.held > 0 && f.held+w.cost > l.cfg.Share {
			l.park(f)
			continue
		}
		if !l.take(w.cost, l.cfg.Capacity) {
			return
		}
		l.now = max(l.now, f.start)
		f.start += float64(w.cost) / f.weight
		f.inside++
		f.held += w.cost
		l.busy++
		l.remove(f, place)
		if f.index >= 0 {
			heap.Fix(&l.ready, f.index)
		}
		close(w.in)
	}
}

// forget starts anew when nobody competes any more. While they do, it drops identities that have neither rights nor debts when
// there are many, and all that rest when there are too many.
func (l *Lane) forget() {
	if len(l.ready) == 0 && l.busy == 0 {
		clear(l.flows)
		l.now = 0
		return
	}
	for _, debtors := range []bool{false, true} {
		if len(l.flows) <= maxIdle+len(l.ready) {
			return
		}
		for name, f := range l.flows {
			if f.index < 0 && f.inside == 0 && !f.parked && (debtors || f.start <= l.now) {
				delete(l.flows, name)
			}
		}
	}
}

// flowHeap is a heap of flows by their tags.
type flowHeap []*flow

// Len is heap.Interface.
func (h flowHeap) Len() int { return len(h) }

// Less is heap.Interface. Ties fall by name, so that the order is the same every time.
func (h flowHeap) Less(i, j int) bool {
	if h[i].start != h[j].start {
		return h[i].start < h[j].start
	}
	return h[i].name < h[j].name
}

// Swap is heap.Interface.
func (h flowHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is heap.Interface.
func (h *flowHeap) Push(x any) {
	f := x.(*flow)
	f.index = len(*h)
	*h = append(*h, f)
}

// Pop is heap.Interface.
func (h *flowHeap) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last], *h = nil, (*h)[:last]
	f.index = -1
	return f
}
