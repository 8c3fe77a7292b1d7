package raftnode

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// maxWaitingMessages bounds the messages of peers that wait for the loop. The loop never blocks, so they only get there
// when it has no processor.
const maxWaitingMessages = 16384

// inbox is all that other goroutines hand to the loop. Each kind keeps its order.
type inbox struct {
	mu        sync.Mutex
	next      mail
	propBytes uint64 // of proposals not yet given to raft: here and in the loop
	closed    bool
	wake      chan struct{} // capacity 1
}

// mail is what the loop takes out at once.
type mail struct {
	messages []*raftpb.Message
	props    []proposal
	appended []appended
	applied  []applied
	calls    []func(*core)
}

// proposal is an entry that waits for a leader.
type proposal struct {
	entry *raftpb.Entry
	tick  uint64       // when it came; set by the loop
	term  uint64       // only for this member as the leader of a term; 0: of anybody
	reply chan<- error // for membership changes; nil otherwise, capacity 1
}

// appended tells the loop that entries, after a snapshot if there is one, are durable.
type appended struct {
	snapshot  *raftpb.Snapshot
	entries   []*raftpb.Entry
	responses []*raftpb.Message // addressed to this member
	done      int               // number of append messages that this finishes
}

// applied tells the loop that the state machine has executed what these messages answer.
type applied struct {
	responses []*raftpb.Message
	index     uint64
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox into m, whose slices it reuses.
func (b *inbox) take(m *mail) {
	m.clear()
	b.mu.Lock()
	*m, b.next = b.next, *m
	b.mu.Unlock()
}

func (m *mail) clear() {
	clear(m.messages)
	clear(m.props)
	clear(m.appended)
	clear(m.applied)
	clear(m.calls)
	*m = mail{m.messages[:0], m.props[:0], m.appended[:0], m.applied[:0], m.calls[:0]}
}

func (b *inbox) message(m *raftpb.Message) error {
	b.mu.Lock()
	switch {
	case b.closed:
		b.mu.Unlock()
		return ErrStopped
	case len(b.next.messages) >= maxWaitingMessages:
		b.mu.Unlock()
		return ErrBusy
	}
	b.next.messages = append(b.next.messages, m)
	b.mu.Unlock()
	b.signal()
	return nil
}

// propose queues a proposal if fewer than limit bytes wait.
func (b *inbox) propose(p proposal, limit uint64) error {
	n := entryBytes(p.entry)
	b.mu.Lock()
	switch {
	case b.closed:
		b.mu.Unlock()
		return ErrStopped
	case b.propBytes > 0 && b.propBytes+n > limit:
		b.mu.Unlock()
		return ErrQueueFull
	}
	b.propBytes += n
	b.next.props = append(b.next.props, p)
	b.mu.Unlock()
	b.signal()
	return nil
}

// proposed gives back the room of proposals that have left the loop.
func (b *inbox) proposed(bytes uint64) {
	b.mu.Lock()
	b.propBytes -= bytes
	b.mu.Unlock()
}

func (b *inbox) appended(a appended) {
	b.mu.Lock()
	b.next.appended = append(b.next.appended, a)
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) applied(a applied) {
	b.mu.Lock()
	b.next.applied = append(b.next.applied, a)
	b.mu.Unlock()
	b.signal()
}

// call runs f on the loop; false if it never will.
func (b *inbox) call(f func(*core)) bool {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return false
	}
	b.next.calls = append(b.next.calls, f)
	b.mu.Unlock()
	b.signal()
	return true
}

// close refuses everything from now on; what is in it is lost.
func (b *inbox) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
}

// queue is an unbounded queue with one consumer that takes everything at once.
type queue[T any] struct {
	mu    sync.Mutex
	items []T
	wake  chan struct{} // capacity 1
}

func newQueue[T any]() *queue[T] { return &queue[T]{wake: make(chan struct{}, 1)} }

func (q *queue[T]) push(v T) {
	q.mu.Lock()
	q.items = append(q.items, v)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take moves all items into buf, which it overwrites.
func (q *queue[T]) take(buf []T) []T {
	clear(buf)
	q.mu.Lock()
	items := q.items
	q.items = buf[:0]
	q.mu.Unlock()
	return items
}
