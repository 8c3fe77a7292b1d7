package index

import (
	"sort"

	"github.com/keelson-io/keelson/mvcc/backend"
)

// Stamp is a revision at which a key changed.
type Stamp struct {
	Main int64
	sub  uint64 // sub revision << 1 | tombstone
}

// NewStamp makes the stamp of a put, or of a deletion.
func NewStamp(r backend.Rev, tombstone bool) Stamp {
	s := Stamp{r.Main, uint64(r.Sub) << 1}
	if tombstone {
		s.sub |= 1
	}
	return s
}

// Rev is the revision of the change.
func (s Stamp) Rev() backend.Rev { return backend.Rev{Main: s.Main, Sub: int64(s.sub >> 1)} }

// Tombstone says whether the change deleted the key.
func (s Stamp) Tombstone() bool { return s.sub&1 == 1 }

// Entry is a key and the revisions at which it changed.
type Entry struct {
	Key     string
	Last    Stamp
	Create  int64  // main revision at which the present life of the key began
	Version int64  // number of puts in the present life
	Size    uint32 // bytes of the stored key-value as of Last, 0 for a deletion; set before the entry is in a tree
	older   *[]Stamp
}

// New makes the entry of a key that changed once.
func New(key string, s Stamp, create, version int64) *Entry {
	return &Entry{Key: key, Last: s, Create: create, Version: version}
}

// Live says whether the key exists as of its last change.
func (e *Entry) Live() bool { return !e.Last.Tombstone() }

// stale says whether a compaction could ever shorten the entry.
func (e *Entry) stale() bool { return e.older != nil || e.Last.Tombstone() }

// Put returns the entry after a put. A key that was deleted begins a new life.
func (e *Entry) Put(r backend.Rev) *Entry {
	n := e.changed(NewStamp(r, false))
	if e.Live() {
		n.Create, n.Version = e.Create, e.Version+1
	} else {
		n.Create, n.Version = r.Main, 1
	}
	return n
}

// Delete returns the entry after a deletion.
func (e *Entry) Delete(r backend.Rev) *Entry { return e.changed(NewStamp(r, true)) }

func (e *Entry) changed(s Stamp) *Entry {
	var list []Stamp
	if e.older != nil {
		list = *e.older // appended to behind its end: readers of older entries do not look there
	}
	list = append(list, e.Last)
	return &Entry{Key: e.Key, Last: s, older: &list}
}

// At returns the change that decided about the key at a main revision; false if it had not changed yet.
func (e *Entry) At(main int64) (Stamp, bool) {
	if e.Last.Main <= main {
		return e.Last, true
	}
	if e.older == nil {
		return Stamp{}, false
	}
	list := *e.older
	i := sort.Search(len(list), func(i int) bool { return list[i].Main > main })
	if i == 0 {
		return Stamp{}, false
	}
	return list[i-1], true
}

// Since appends the changes with from <= main revision <= to.
func (e *Entry) Since(to []Stamp, from, until int64) []Stamp {
	if e.older != nil {
		list := *e.older
		for _, s := range list[sort.Search(len(list), func(i int) bool { return list[i].Main >= from }):] {
			if s.Main > until {
				return to
			}
			to = append(to, s)
		}
	}
	if from <= e.Last.Main && e.Last.Main <= until {
		to = append(to, e.Last)
	}
	return to
}

// Compact returns the entry without what nobody can read any more once revisions below main are compacted, and appends
// what it dropped. The entry is nil if nothing is left: a key whose deletion is older than main.
func (e *Entry) Compact(main int64, dropped []Stamp) (*Entry, []Stamp) {
	keep, ok := e.At(main)
	if !ok {
		return e, dropped
	}
	whole := keep.Tombstone() && keep.Main < main // the deletion itself goes too
	var list []Stamp
	if e.older != nil {
		list = *e.older
	}
	i := sort.Search(len(list), func(i int) bool { return list[i].Rev().Compare(keep.Rev()) >= 0 })
	dropped = append(dropped, list[:i]...)
	if whole {
		dropped = append(dropped, keep)
		i++
	}
	switch {
	case i > len(list):
		return nil, dropped
	case i == 0:
		return e, dropped
	}
	n := &Entry{Key: e.Key, Last: e.Last, Create: e.Create, Version: e.Version, Size: e.Size}
	if i < len(list) {
		rest := append([]Stamp(nil), list[i:]...)
		n.older = &rest
	}
	return n, dropped
}
