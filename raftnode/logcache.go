package raftnode

import (
	"sort"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
)

// entryOverhead is what an entry costs in memory beside its data: the message, its optional fields, the pointer to it.
const entryOverhead = 160

func entryBytes(e *raftpb.Entry) uint64 { return uint64(len(e.GetData())) + entryOverhead }

// termRun says that entries from index on have the term, up to the next run.
type termRun struct{ index, term uint64 }

// logCache is raft's view of the stable log. Three regions, by index:
//
//	... released | first ..........memFirst-1 | memFirst ........ last
//	 (snapshot)  |  in the log files only     |  in memory too
//
// The terms of everything from first-1 on are known without the disk (runs of equal terms, a handful of them). Entries of
// the middle region are fetched in the background: Entries answers ErrCompacted, on which raft asks for a snapshot and
// hears ErrSnapshotTemporarilyUnavailable, so it tries again later and then finds the fetched page.
// Entries that raft may still read unconditionally, which are those not yet applied, never leave memory.
//
// It belongs to the loop goroutine.
type logCache struct {
	first    uint64 // first index that followers can be served from
	last     uint64
	terms    []termRun // terms[0].index == first-1
	memFirst uint64
	ents     []*raftpb.Entry // memFirst..last
	bytes    uint64
	limit    uint64
	applied  uint64 // acknowledged by the state machine; entries above stay in memory

	hardState *raftpb.HardState // as recovered; for InitialState
	confState *raftpb.ConfState

	pages   pageCache
	missed  bool                             // the last answer of Entries was a miss, for Snapshot to know
	onMiss  func(lo uint64)                  // starts a fetch from lo
	current func() (*raftpb.Snapshot, error) // metadata of a snapshot that could be sent now
	marks   []byteMark                       // cumulated size of the log, coarse
	total   uint64                           // bytes ever appended, as marks count them
}

// byteMark says how many bytes of entries came before index.
type byteMark struct{ index, before uint64 }

// markBytes is the distance of byte marks.
const markBytes = 1 << 20

func newLogCache(rec Recovered, limit uint64) *logCache {
	meta := rec.Snapshot.GetMetadata()
	c := &logCache{limit: limit, hardState: rec.HardState, confState: rec.confState()}
	c.reset(meta.GetIndex(), meta.GetTerm())
	c.applied = meta.GetIndex()
	c.append(rec.Entries)
	return c
}

// reset empties the log after a snapshot at index.
func (c *logCache) reset(index, term uint64) {
	c.first, c.last, c.memFirst = index+1, index, index+1
	c.terms = append(c.terms[:0], termRun{index, term})
	c.ents, c.bytes, c.marks = nil, 0, nil
	c.applied = max(c.applied, index)
	c.pages.clear()
}

// append adds stable entries; those that it held from ents[0] on are replaced.
func (c *logCache) append(ents []*raftpb.Entry) {
	for len(ents) > 0 && ents[0].GetIndex() < c.first {
		ents = ents[1:]
	}
	if len(ents) == 0 {
		return
	}
	if from := ents[0].GetIndex(); from <= c.last {
		c.truncateFrom(from)
	}
	for _, e := range ents {
		if t := e.GetTerm(); t != c.terms[len(c.terms)-1].term {
			c.terms = append(c.terms, termRun{e.GetIndex(), t})
		}
		n := entryBytes(e)
		if len(c.marks) == 0 || c.total-c.marks[len(c.marks)-1].before >= markBytes {
			c.marks = append(c.marks, byteMark{e.GetIndex(), c.total})
		}
		c.bytes += n
		c.total += n
	}
	c.ents = append(c.ents, ents...)
	c.last = ents[len(ents)-1].GetIndex()
	c.evict()
}

// truncateFrom forgets the entries from index on. They are not applied, so they are in memory.
func (c *logCache) truncateFrom(index uint64) {
	k := int(index - c.memFirst)
	for i := k; i < len(c.ents); i++ {
		n := entryBytes(c.ents[i])
		c.bytes -= n
		c.total -= n
		c.ents[i] = nil
	}
	c.ents, c.last = c.ents[:k], index-1
	for len(c.terms) > 1 && c.terms[len(c.terms)-1].index >= index {
		c.terms = c.terms[:len(c.terms)-1]
	}
	for len(c.marks) > 0 && c.marks[len(c.marks)-1].index >= index {
		c.marks = c.marks[:len(c.marks)-1]
	}
}

// appliedTo lets entries up to index leave memory.
func (c *logCache) appliedTo(index uint64) {
	if index > c.applied {
		c.applied = index
		c.evict()
	}
}

// evict drops the oldest applied entries from memory until the bound is kept.
func (c *logCache) evict() {
	k := 0
	for c.bytes > c.limit && k < len(c.ents) && c.memFirst <= c.applied {
		c.bytes -= entryBytes(c.ents[k])
		c.ents[k] = nil
		c.memFirst++
		k++
	}
	c.ents = c.ents[k:]
}

// keepFrom returns the index from which on the log should be kept if snapshots reach to snap: catchUp entries before it,
// but no more than maxBytes of them.
func (c *logCache) keepFrom(snap, catchUp, maxBytes uint64) uint64 {
	from := uint64(1)
	if snap > catchUp {
		from = snap - catchUp
	}
	if c.total > maxBytes {
		i := sort.Search(len(c.marks), func(i int) bool { return c.total-c.marks[i].before <= maxBytes })
		if i < len(c.marks) {
			from = max(from, min(c.marks[i].index, snap))
		}
	}
	return max(from, c.first)
}

// release gives up the entries before index.
func (c *logCache) release(index uint64) {
	if index <= c.first || index > c.applied+1 {
		return
	}
	term, _ := c.Term(index - 1)
	k := sort.Search(len(c.terms), func(i int) bool { return c.terms[i].index >= index })
	c.terms = append([]termRun{{index - 1, term}}, c.terms[k:]...)
	c.first = index
	k = 0
	for ; c.memFirst < index; c.memFirst++ {
		c.bytes -= entryBytes(c.ents[k])
		c.ents[k] = nil
		k++
	}
	c.ents = c.ents[k:]
	k = sort.Search(len(c.marks), func(i int) bool { return c.marks[i].index >= index })
	c.marks = append([]byteMark(nil), c.marks[k:]...)
	c.pages.release(index)
}

// InitialState implements raft.Storage.
func (c *logCache) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	return c.hardState, c.confState, nil
}

// FirstIndex implements raft.Storage.
func (c *logCache) FirstIndex() (uint64, error) { return c.first, nil }

// LastIndex implements raft.Storage.
func (c *logCache) LastIndex() (uint64, error) { return c.last, nil }

// Term implements raft.Storage.
func (c *logCache) Term(i uint64) (uint64, error) {
	if i+1 < c.first {
		c.missed = false
		return 0, raft.ErrCompacted
	}
	if i > c.last {
		return 0, raft.ErrUnavailable
	}
	for k := len(c.terms) - 1; k >= 0; k-- {
		if c.terms[k].index <= i {
			return c.terms[k].term, nil
		}
	}
	return 0, raft.ErrCompacted
}

// Entries implements raft.Storage.
func (c *logCache) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	c.missed = false
	if lo < c.first {
		return nil, raft.ErrCompacted
	}
	if hi > c.last+1 {
		return nil, raft.ErrUnavailable
	}
	if lo >= c.memFirst {
		return limitSize(c.ents[lo-c.memFirst:hi-c.memFirst], maxSize), nil
	}
	if page := c.pages.find(lo); page != nil {
		if n := uint64(len(page)); n > hi-lo {
			page = page[:hi-lo]
		}
		return limitSize(page, maxSize), nil
	}
	c.missed = true
	c.onMiss(lo)
	return nil, raft.ErrCompacted
}

// Snapshot implements raft.Storage.
func (c *logCache) Snapshot() (*raftpb.Snapshot, error) {
	if c.missed {
		c.missed = false
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return c.current()
}

// limitSize copies the longest prefix of ents, but at least one, that is encoded in maxSize bytes.
func limitSize(ents []*raftpb.Entry, maxSize uint64) []*raftpb.Entry {
	n := 0
	for size := uint64(0); n < len(ents); n++ {
		if size += encodedSize(ents[n]); size > maxSize && n > 0 {
			break
		}
	}
	return append(make([]*raftpb.Entry, 0, n), ents[:n]...)
}

// encodedSize is proto.Size of an entry, without reflection. All fields of an entry from raft are set, except for Data.
func encodedSize(e *raftpb.Entry) uint64 {
	n := 3 + protowire.SizeVarint(uint64(e.GetType())) + protowire.SizeVarint(e.GetTerm()) + protowire.SizeVarint(e.GetIndex())
	if d := e.GetData(); d != nil {
		n += 1 + protowire.SizeBytes(len(d))
	}
	return uint64(n)
}

// pageCache holds runs of entries that were read back from the log, the most recently used last.
type pageCache struct {
	pages []page
	bytes uint64
}

type page struct {
	ents  []*raftpb.Entry
	bytes uint64
}

func (p page) first() uint64 { return p.ents[0].GetIndex() }
func (p page) next() uint64  { return p.ents[len(p.ents)-1].GetIndex() + 1 }

func (c *pageCache) clear() { *c = pageCache{} }

// find returns the entries from lo to the end of a page that holds lo, or nil.
func (c *pageCache) find(lo uint64) []*raftpb.Entry {
	for i, p := range c.pages {
		if p.first() <= lo && lo < p.next() {
			copy(c.pages[i:], c.pages[i+1:])
			c.pages[len(c.pages)-1] = p
			return p.ents[lo-p.first():]
		}
	}
	return nil
}

func (c *pageCache) covers(lo uint64) bool {
	for _, p := range c.pages {
		if p.first() <= lo && lo < p.next() {
			return true
		}
	}
	return false
}

// add keeps a page and drops the least recently used ones beyond limit bytes.
func (c *pageCache) add(ents []*raftpb.Entry, limit uint64) {
	p := page{ents: ents}
	for _, e := range ents {
		p.bytes += entryBytes(e)
	}
	c.pages = append(c.pages, p)
	c.bytes += p.bytes
	for len(c.pages) > 1 && c.bytes > limit {
		c.bytes -= c.pages[0].bytes
		c.pages = append([]page(nil), c.pages[1:]...)
	}
}

// release drops the pages that hold nothing from index on.
func (c *pageCache) release(index uint64) {
	kept := c.pages[:0]
	for _, p := range c.pages {
		if p.next() <= index {
			c.bytes -= p.bytes
			continue
		}
		kept = append(kept, p)
	}
	for i := len(kept); i < len(c.pages); i++ {
		c.pages[i] = page{}
	}
	c.pages = kept
}

// unappliedBytes is the size of the stable entries that the state machine has not yet executed.
func (c *logCache) unappliedBytes() uint64 {
	if c.last <= c.applied {
		return 0
	}
	i := sort.Search(len(c.marks), func(i int) bool { return c.marks[i].index > c.applied })
	if i == len(c.marks) {
		return 0
	}
	return c.total - c.marks[i].before
}
