// Package eventlog is the shared log of recent changes, in memory, that watchers read.
//
// The writer appends events and publishes them by revision. Readers take a Window, which never changes, and find their
// revision in it. The log is bounded by the bytes that its events hold; the oldest chunks go first, and a reader whose
// revision is gone reads history elsewhere.
//
// # Concurrency
//
// Append, Publish and Reset belong to one writer. Everything else may be called from anywhere and takes no lock.
package eventlog

import (
	"errors"
	"sort"
	"sync/atomic"
)

// ErrCompacted says that a revision has been compacted.
var ErrCompacted = errors.New("mvcc: required revision has been compacted")

// Event is one change of one key. It does not change after Append.
type Event struct {
	KV        []byte // marshalled mvccpb.KeyValue; of a deletion one with key and mod revision only
	Key       []byte
	Main, Sub int64
	Delete    bool
	Create    bool  // the put created the key
	CreateRev int64 // main revision at which the key was created
}

const (
	chunkLen      = 256
	eventOverhead = 96
)

type chunk struct {
	events [chunkLen]Event
	bytes  int64
}

// Window is what is published: the events of the revisions First to Rev.
type Window struct {
	First, Rev int64
	chunks     []*chunk
	end        int // events in chunks
}

// Log is described in the package comment.
type Log struct {
	maxBytes  int64
	published atomic.Pointer[Window]
	changed   atomic.Pointer[chan struct{}]
	// The writer's:
	chunks []*chunk
	end    int
	bytes  int64
	first  int64
}

// New makes an empty log of at most about maxBytes.
func New(maxBytes int64) *Log {
	l := &Log{maxBytes: maxBytes}
	l.Reset(0)
	return l
}

// Append adds an event, later than all before it. It is invisible until Publish.
func (l *Log) Append(ev Event) {
	if l.end == len(l.chunks)*chunkLen {
		l.chunks = append(l.chunks, new(chunk))
	}
	c := l.chunks[l.end/chunkLen]
	c.events[l.end%chunkLen] = ev
	l.end++
	n := int64(len(ev.KV)) + eventOverhead
	c.bytes += n
	l.bytes += n
}

// Publish makes what was appended visible: the current revision is rev.
func (l *Log) Publish(rev int64) {
	l.trim()
	l.published.Store(&Window{First: l.first, Rev: rev, chunks: l.chunks, end: l.end})
	l.wake()
}

// trim drops the oldest chunks that are over the bound. A revision is in memory as a whole or not at all.
func (l *Log) trim() {
	for l.bytes > l.maxBytes && len(l.chunks) > 1 {
		l.bytes -= l.chunks[0].bytes
		l.first = l.chunks[0].events[chunkLen-1].Main + 1
		l.chunks = l.chunks[1:]
		l.end -= chunkLen
	}
}

// Reset says that the state was replaced by one at a revision: no events up to it are in memory.
func (l *Log) Reset(rev int64) {
	l.chunks, l.end, l.bytes, l.first = nil, 0, 0, rev+1
	l.published.Store(&Window{First: l.first, Rev: rev})
	l.wake()
}

func (l *Log) wake() {
	if ch := l.changed.Swap(nil); ch != nil {
		close(*ch)
	}
}

// Changed returns a channel that is closed by the next Publish or Reset. Take it before looking at the Window.
func (l *Log) Changed() <-chan struct{} {
	for {
		if ch := l.changed.Load(); ch != nil {
			return *ch
		}
		ch := make(chan struct{})
		if l.changed.CompareAndSwap(nil, &ch) {
			return ch
		}
	}
}

// Window returns what is published.
func (l *Log) Window() Window { return *l.published.Load() }

// Rev is the current revision.
func (l *Log) Rev() int64 { return l.published.Load().Rev }

// First is the first revision whose events are all in memory.
func (l *Log) First() int64 { return l.published.Load().First }

// Search returns the place of the first event with a main revision of at least from.
func (w *Window) Search(from int64) int {
	return sort.Search(w.end, func(i int) bool { return w.At(i).Main >= from })
}

// Len is the number of places.
func (w *Window) Len() int { return w.end }

// At returns the event at a place.
func (w *Window) At(i int) *Event { return &w.chunks[i/chunkLen].events[i%chunkLen] }
