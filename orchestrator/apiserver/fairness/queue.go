package fairness

import "time"

// queue is requests of flows that were dealt it, in the order of their coming. It exists while it has any.
type queue struct {
	index   int
	next    float64 // virtual time at which the next request begins
	served  int     // requests that are being served
	waiting int     // requests that wait
	work    int     // seats of those
	turn    uint64  // of its last dispatch
	place   int     // in the level's backlog, -1: none
	head    *waiter
	tail    *waiter
}

// waiter is a request in a queue.
type waiter struct {
	seat    Seat
	arrived float64 // virtual time
	served  bool
	ready   chan struct{} // closed when it has a seat
	prev    *waiter
	after   *waiter
}

// queue returns a queue by its index.
func (l *level) queue(index int) *queue {
	if q := l.active[index]; q != nil {
		return q
	}
	q := &queue{}
	if n := len(l.spare); n > 0 {
		q, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	*q = queue{index: index, next: l.clock.r, place: -1}
	l.active[index] = q
	return q
}

// maxSpare is how many queues without requests are kept for the next ones.
const maxSpare = 64

// settle removes a queue that has no requests.
func (l *level) settle(q *queue) {
	if q.served > 0 || q.waiting > 0 {
		return
	}
	delete(l.active, q.index)
	if len(l.spare) < maxSpare {
		l.spare = append(l.spare, q)
	}
	if len(l.active) == 0 {
		l.clock.r = 0 // nobody has a virtual time: it may begin anew, so that it stays exact
	}
}

// join puts a waiter at the end of his queue.
func (l *level) join(w *waiter, now time.Time) {
	q := w.seat.queue
	if q.tail == nil {
		q.head = w
	} else {
		q.tail.after, w.prev = w, q.tail
	}
	q.tail = w
	q.waiting++
	q.work += w.seat.width
	l.waiting += w.seat.width
	if q.place < 0 {
		q.place = len(l.backlog)
		l.backlog = append(l.backlog, q)
	}
	q.bound()
	l.demand.set(float64(l.inUse+l.waiting), now)
}

// drop takes a waiter out of his queue.
func (l *level) drop(w *waiter) {
	q := w.seat.queue
	if w.prev == nil {
		q.head = w.after
	} else {
		w.prev.after = w.after
	}
	if w.after == nil {
		q.tail = w.prev
	} else {
		w.after.prev = w.prev
	}
	w.prev, w.after = nil, nil
	q.waiting--
	q.work -= w.seat.width
	l.waiting -= w.seat.width
	if q.waiting > 0 {
		return
	}
	last := len(l.backlog) - 1
	moved := l.backlog[last]
	l.backlog[q.place], moved.place = moved, q.place
	l.backlog[last] = nil
	l.backlog = l.backlog[:last]
	q.place = -1
}

// bound keeps a queue from saving up time that it did not use: nothing begins before it came.
func (q *queue) bound() {
	if q.head != nil {
		q.next = max(q.next, q.head.arrived)
	}
}
