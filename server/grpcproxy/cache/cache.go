// Package cache remembers answers to range requests.
//
// # Model
//
// An entry is the answer that one identity got to one request. Answers of the current revision leave the cache when a write to
// their range passes by, all others when their revision is compacted. What passes by elsewhere is not seen: an answer is
// therefore good for serializable reads only, and for MaxAge at most. The least recently used entries make room for new ones.
//
// # Invariants
//
//   - Who has seen a write return gets no answer of before it: a reader says, by Begin, when it asks, and its answer is not
//     kept if a write to its range has passed by since, or if the answer is of an earlier revision than that write.
//   - An identity never gets an answer that another one got.
//
// # Concurrency
//
// A Cache may be used from any number of goroutines. Responses in it are shared and must not be changed.
package cache

import (
	"container/list"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
)

// Bounds of a cache.
const (
	MaxEntries = 2048
	MaxBytes   = 64 << 20
	MaxAge     = 10 * time.Second
	// maxWrites is how many of the last writes are remembered, to judge answers that were on their way when they passed by.
	maxWrites = 128
)

// Key names an entry.
type Key struct {
	identity any // comparable
	request  string
}

// KeyOf returns the key of a request as asked serializably.
func KeyOf(identity any, r *pb.RangeRequest) Key {
	serializable := r.Serializable
	r.Serializable = true
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	r.Serializable = serializable
	if err != nil {
		return Key{} // a request that was decoded can be encoded
	}
	return Key{identity, string(b)}
}

// Cache is described in the package comment.
type Cache struct {
	clk clock.Clock

	mu        sync.Mutex
	entries   map[Key]*list.Element
	used      *list.List // of *entry, the last used one first
	points    map[string]map[*list.Element]struct{}
	ranges    map[*list.Element]struct{}
	bytes     int
	compacted int64

	seq    uint64 // of the last write
	writes []write
}

// entry is one answer. Those of a fixed revision are in no index of ranges.
type entry struct {
	key        Key
	begin, end string // end "": one key
	current    bool   // of no fixed revision
	resp       *pb.RangeResponse
	size       int
	since      time.Time
}

// write is a change that passed by.
type write struct {
	seq        uint64
	begin, end string
	rev        int64 // 0: unknown
}

// New makes a Cache.
func New(clk clock.Clock) *Cache {
	return &Cache{
		clk: clk, entries: map[Key]*list.Element{}, used: list.New(), points: map[string]map[*list.Element]struct{}{},
		ranges: map[*list.Element]struct{}{},
	}
}

// Get returns the answer to a request of the key. compacted: the revision that it asks for is.
func (c *Cache) Get(k Key, r *pb.RangeRequest) (resp *pb.RangeResponse, compacted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[k]
	if r.Revision > 0 && r.Revision < c.compacted {
		if el != nil {
			c.remove(el)
		}
		return nil, true
	}
	if el == nil {
		return nil, false
	}
	e := el.Value.(*entry)
	if c.clk.Now().Sub(e.since) > MaxAge {
		c.remove(el)
		return nil, false
	}
	c.used.MoveToFront(el)
	return e.resp, false
}

// Begin is to be called before a request is sent whose answer is to be added.
func (c *Cache) Begin() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seq
}

// Add keeps an answer to a request that was sent after Begin returned begun.
func (c *Cache) Add(k Key, r *pb.RangeRequest, resp *pb.RangeResponse, begun uint64) {
	size := proto.Size(resp) + len(k.request)
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &entry{key: k, begin: string(r.Key), end: string(r.RangeEnd), current: r.Revision <= 0, resp: resp, size: size, since: c.clk.Now()}
	if size > MaxBytes/16 || !e.current && r.Revision < c.compacted || e.current && c.overtaken(e, begun) {
		return
	}
	if old := c.entries[k]; old != nil {
		c.remove(old)
	}
	el := c.used.PushFront(e)
	c.entries[k] = el
	c.bytes += size
	switch {
	case !e.current:
	case e.end == "":
		if c.points[e.begin] == nil {
			c.points[e.begin] = map[*list.Element]struct{}{}
		}
		c.points[e.begin][el] = struct{}{}
	default:
		c.ranges[el] = struct{}{}
	}
	for c.used.Len() > MaxEntries || c.bytes > MaxBytes {
		c.remove(c.used.Back())
	}
}

// overtaken says whether a write to the entry's range is not in its answer, as far as can be known.
func (c *Cache) overtaken(e *entry, begun uint64) bool {
	if c.seq > begun+maxWrites {
		return true // the first ones are forgotten
	}
	for _, w := range c.writes {
		if !overlap(w.begin, w.end, e.begin, e.end) {
			continue
		}
		if w.seq > begun || w.rev > e.resp.GetHeader().GetRevision() {
			return true
		}
	}
	return false
}

// Wrote takes out what a write to a range changes; end "" is one key. rev is the revision of the write, 0 if it is not known.
func (c *Cache) Wrote(key, end []byte, rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	if len(c.writes) == maxWrites {
		c.writes = append(c.writes[:0], c.writes[1:]...)
	}
	w := write{seq: c.seq, begin: string(key), end: string(end), rev: rev}
	c.writes = append(c.writes, w)
	if w.end == "" {
		for el := range c.points[w.begin] {
			c.remove(el)
		}
	} else {
		for key, els := range c.points {
			if overlap(w.begin, w.end, key, "") {
				for el := range els {
					c.remove(el)
				}
			}
		}
	}
	for el := range c.ranges {
		if e := el.Value.(*entry); overlap(w.begin, w.end, e.begin, e.end) {
			c.remove(el)
		}
	}
}

// Compact forgets revisions below rev.
func (c *Cache) Compact(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compacted = max(c.compacted, rev)
	for el := c.used.Front(); el != nil; {
		next := el.Next()
		if e := el.Value.(*entry); !e.current && requested(e.key) < c.compacted {
			c.remove(el)
		}
		el = next
	}
}

// requested is the revision that a key asks for.
func requested(k Key) int64 {
	var r pb.RangeRequest
	if proto.Unmarshal([]byte(k.request), &r) != nil {
		return 0
	}
	return r.Revision
}

// Clear forgets all answers, and those that are on their way.
func (c *Cache) Clear() {
	c.Wrote([]byte{0}, []byte{0}, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.used.Len() > 0 {
		c.remove(c.used.Back())
	}
}

// Len is the number of entries.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used.Len()
}

func (c *Cache) remove(el *list.Element) {
	e := c.used.Remove(el).(*entry)
	delete(c.entries, e.key)
	c.bytes -= e.size
	delete(c.ranges, el)
	if set := c.points[e.begin]; set != nil {
		if delete(set, el); len(set) == 0 {
			delete(c.points, e.begin)
		}
	}
}

// overlap says whether two ranges have a key in common. An end "" means one key, "\x00" all keys from the first one on.
func overlap(a, aEnd, b, bEnd string) bool {
	return below(a, b, bEnd) && below(b, a, aEnd)
}

// below says whether a range from key begins before the range of start and end is over.
func below(key, start, end string) bool {
	switch end {
	case "":
		return key <= start
	case "\x00":
		return true
	}
	return key < end
}
