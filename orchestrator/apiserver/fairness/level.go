package fairness

import (
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// expected is how long a request is thought to take before it has ended, in seconds.
const expected = 0.003

// rules are what a level's configuration says.
type rules struct {
	queues int // 0: requests without a seat are rejected
	hand   int
	length int // of a queue
}

// level is a priority level.
type level struct {
	name string
	free bool // it is the exempt one

	mu      sync.Mutex
	rules   rules
	dealer  *shufflesharding.Dealer // nil unless there are several queues
	limit   int                     // seats
	widest  int                     // most seats of a request
	served  int                     // requests
	inUse   int                     // seats of those
	waiting int                     // seats of those in queues
	clock   virtual
	active  map[int]*queue // those with requests
	backlog []*queue       // those with requests that wait
	spare   []*queue
	joined  int    // requests that were put into queues
	turn    uint64 // dispatches
	demand  demand
	retry   retry
}

// virtual is the virtual time, in seat-seconds for each queue, as of a moment.
type virtual struct {
	r  float64
	at time.Time
}

// maxHand is the largest hand that is dealt without an allocation.
const maxHand = 16

func newLevel(name string, now time.Time) *level {
	return &level{name: name, free: name == flowcontrolv1.PriorityLevelConfigurationNameExempt, active: map[int]*queue{}, demand: demand{at: now}, clock: virtual{at: now}, widest: 1}
}

// configure sets the rules of a level. Requests in queues that there are no more of stay in them until they are served.
func (l *level) configure(r rules, widest int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.widest = max(1, widest)
	if l.rules == r {
		return
	}
	l.rules, l.dealer = r, nil
	if r.queues > 1 {
		l.dealer, _ = shufflesharding.NewDealer(r.queues, r.hand) // nil if it is impossible: then there is one queue
	}
}

// setLimit sets the number of seats, and serves who finds one now.
func (l *level) setLimit(seats int, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(now)
	l.limit = seats
	l.dispatch(now)
}

// idle says that the level has no requests.
func (l *level) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.served == 0 && l.waiting == 0
}

// enter asks for seats. The answer is a seat, a place in a queue, or a reason why there is neither.
func (l *level) enter(s *schema, flow uint64, width int, now time.Time) (seat Seat, w *waiter, refused string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	width = max(1, min(width, l.widest))
	seat = Seat{schema: s, level: l, width: width, since: now}
	if l.free || l.rules.queues == 0 {
		if !l.free && (len(l.backlog) > 0 || !l.fits(width)) {
			return seat, nil, "concurrency-limit"
		}
		l.take(&seat, now)
		return seat, nil, ""
	}
	l.advance(now)
	q := l.choose(flow)
	if len(l.backlog) == 0 && l.fits(width) {
		seat.queue = q
		l.take(&seat, now)
		return seat, nil, ""
	}
	if l.inUse >= l.limit && q.waiting >= l.rules.length {
		l.settle(q)
		return seat, nil, "queue-full"
	}
	w = &waiter{seat: seat, arrived: l.clock.r, ready: make(chan struct{})}
	w.seat.queue = q
	l.join(w, now)
	l.dispatch(now)
	return seat, w, ""
}

// fits says that there are seats for a request. One that needs more than the limit is served alone.
func (l *level) fits(width int) bool {
	switch {
	case l.free:
		return true
	case l.limit <= 0:
		return false
	case width > l.limit:
		return l.served == 0
	}
	return l.inUse+width <= l.limit
}

// take gives a request its seats.
func (l *level) take(s *Seat, now time.Time) {
	l.served++
	l.inUse += s.width
	if q := s.queue; q != nil {
		q.served++
		q.next += expected * float64(s.width)
		l.turn++
		q.turn = l.turn
	}
	l.demand.set(float64(l.inUse+l.waiting), now)
}

// leave takes the seats back, and gives them to whom they are next for.
func (l *level) leave(s *Seat, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.advance(now)
	l.served--
	l.inUse -= s.width
	if q := s.queue; q != nil {
		q.served--
		q.next += float64(s.width) * (now.Sub(s.since).Seconds() - expected)
		q.bound()
		l.settle(q)
	}
	l.demand.set(float64(l.inUse+l.waiting), now)
	if len(l.backlog) > 0 {
		l.dispatch(now)
	}
}

// abandon takes a waiter out of its queue. It returns false if he has a seat already.
func (l *level) abandon(w *waiter, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.served {
		return false
	}
	l.advance(now)
	l.drop(w)
	w.seat.queue.bound()
	l.settle(w.seat.queue)
	l.demand.set(float64(l.inUse+l.waiting), now)
	l.dispatch(now) // he may have been the one for whom all waited
	return true
}

// advance moves virtual time on.
func (l *level) advance(now time.Time) {
	if d := now.Sub(l.clock.at).Seconds(); d > 0 {
		if n := len(l.active); n > 0 {
			l.clock.r += d * float64(min(l.inUse+l.waiting, l.limit)) / float64(n)
		}
		l.clock.at = now
	}
}

// choose deals a flow its hand and returns the queue in it with the least work waiting.
func (l *level) choose(flow uint64) *queue {
	if l.dealer == nil {
		return l.queue(0)
	}
	var cards [maxHand]int
	hand := l.dealer.DealIntoHand(flow, cards[:])
	best, least := 0, -1
	l.joined++
	for n := range hand {
		index, work := hand[(l.joined+n)%len(hand)], 0
		if q := l.active[index]; q != nil {
			work = q.work
		}
		if least < 0 || work < least {
			best, least = index, work
		}
	}
	return l.queue(best)
}

// dispatch gives out the seats that there are.
func (l *level) dispatch(now time.Time) {
	for len(l.backlog) > 0 && (l.inUse < l.limit || l.free) {
		q := l.first()
		w := q.head
		if !l.fits(w.seat.width) {
			return
		}
		l.drop(w)
		w.served, w.seat.since = true, now
		l.take(&w.seat, now)
		q.bound()
		close(w.ready)
	}
}

// first is the queue whose next request has the earliest virtual end; among equals the one that was served the longest ago.
func (l *level) first() *queue {
	var best *queue
	var end float64
	for _, q := range l.backlog {
		e := q.next + expected*float64(q.head.seat.width)
		if best == nil || e < end || e == end && q.turn < best.turn {
			best, end = q, e
		}
	}
	return best
}
