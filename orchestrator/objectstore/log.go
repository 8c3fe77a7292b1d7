package objectstore

import (
	"sort"
	"sync"
	"sync/atomic"
	"time"
)

// change is one change of one object, made once and read by all watchers.
type change struct {
	item     *Item // the new state; of a deletion, the last one with the revision of the deletion
	prev     *Item // what was there before, nil if nothing
	revision int64
	gone     func() *Item // prev with the revision of the change, for those whose selector it does not match any more
}

func (c *change) size() int {
	n := 256
	if c.item != nil {
		n += c.item.size
	}
	return n
}

const chunkLen = 128

// firstNumber is that of the first change. There is room for what is put before it.
const firstNumber = 1 << 40

// chunk is a piece of the log. Its first used changes never change.
type chunk struct {
	first   uint64 // the number of changes[0]
	changes [chunkLen]change
	used    atomic.Int32
	next    atomic.Pointer[chunk]
	dropped atomic.Bool // the log does not have it any more, nor a way from it to the next

	// The writer's.
	bytes int
	last  time.Time // when the newest change came
}

// position is a place in the log.
type position struct {
	chunk *chunk
	index int
}

func (p position) number() uint64 { return p.chunk.first + uint64(p.index) }

// changeLog is the recent changes, in order. One goroutine appends; readers follow chunks without a lock. What has to go
// goes in whole chunks, which are cut off from those after them, so that a reader who stands still keeps one chunk alive.
// Older changes may be put in front (history.go).
type changeLog struct {
	maxChanges, maxBytes int
	maxAge               time.Duration

	tail    *chunk        // the writer's
	reading chan struct{} // holds one while history is read

	mu     sync.Mutex // guards what follows, which readers need only to begin
	chunks []*chunk
	bytes  int
	floor  int64 // every change after this revision is in the log
}

func newChangeLog(maxChanges, maxBytes int, maxAge time.Duration) *changeLog {
	l := &changeLog{maxChanges: maxChanges, maxBytes: maxBytes, maxAge: maxAge, reading: make(chan struct{}, 1)}
	l.tail = &chunk{first: firstNumber}
	l.chunks = []*chunk{l.tail}
	return l
}

// append adds a change and says where. The writer's.
func (l *changeLog) append(c change, now time.Time) position {
	n := int(l.tail.used.Load())
	if n == chunkLen || l.tail.bytes > l.maxBytes/16 {
		next := &chunk{first: l.tail.first + uint64(n)}
		l.mu.Lock()
		l.chunks = append(l.chunks, next)
		l.mu.Unlock()
		l.tail.next.Store(next)
		l.tail, n = next, 0
	}
	size := c.size()
	l.tail.changes[n] = c
	l.tail.bytes += size
	l.tail.last = now
	l.mu.Lock()
	l.bytes += size
	l.mu.Unlock()
	l.tail.used.Store(int32(n + 1))
	l.trim(now)
	return position{l.tail, n}
}

// trim drops the oldest chunks that are too much. The writer's.
func (l *changeLog) trim(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.chunks) > 1 {
		c := l.chunks[0]
		held := l.tail.first + uint64(l.tail.used.Load()) - c.first
		if held <= uint64(l.maxChanges)+chunkLen && l.bytes <= l.maxBytes && now.Sub(c.last) <= l.maxAge {
			return
		}
		l.dropFirstLocked()
	}
}

func (l *changeLog) dropFirstLocked() {
	c := l.chunks[0]
	l.chunks[0] = nil
	l.chunks = l.chunks[1:]
	l.bytes -= c.bytes
	if n := c.used.Load(); n > 0 {
		l.floor = c.changes[n-1].revision
	}
	c.dropped.Store(true)
	c.next.Store(nil)
}

// reset empties the log: what came before a revision is not known. All who read it find that they fell behind.
func (l *changeLog) reset(floor int64) {
	next := &chunk{first: l.tail.first + firstNumber} // as if there had been many more
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.chunks) > 0 {
		l.dropFirstLocked()
	}
	l.chunks, l.bytes, l.floor = append(l.chunks, next), 0, floor
	l.tail = next
}

// seek finds the first change after a revision, or the end. It is false if the log does not reach so far back; floor is
// how far it does.
func (l *changeLog) seek(after int64) (p position, floor int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if after < l.floor {
		return position{}, l.floor, false
	}
	// The last chunk that begins with something not after the revision, then inside of it. Only the last one may be empty:
	// what will be in it comes after all the others.
	i := sort.Search(len(l.chunks), func(i int) bool {
		c := l.chunks[i]
		return c.used.Load() == 0 || c.changes[0].revision > after
	})
	c := l.chunks[max(0, i-1)]
	n := int(c.used.Load())
	return position{c, sort.Search(n, func(j int) bool { return c.changes[j].revision > after })}, l.floor, true
}

// read returns the change at a position, and moves it on. Nil: there is none yet, or (behind) it is not known any more.
func (l *changeLog) read(p *position) (c *change, behind bool) {
	for {
		if n := int(p.chunk.used.Load()); p.index < n {
			c = &p.chunk.changes[p.index]
			p.index++
			return c, false
		}
		switch next := p.chunk.next.Load(); {
		case next != nil && int(p.chunk.used.Load()) == p.index:
			p.chunk, p.index = next, 0
		case next != nil: // the last change came before the next chunk did
		case !p.chunk.dropped.Load(): // looked at after next: a chunk is marked before it is cut off
			return nil, false
		case !l.rejoin(p):
			return nil, true
		}
	}
}

// rejoin finds the way on from a chunk that was dropped after all of it was read.
func (l *changeLog) rejoin(p *position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if int(p.chunk.used.Load()) != p.index || p.number() != l.chunks[0].first {
		return false
	}
	*p = position{l.chunks[0], 0}
	return true
}
