package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"sort"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/vfs"
)

// regionBytes is about how much of a segment one region covers.
const regionBytes = 64 << 10

// region is a run of entries in one segment: from first up to the next region's first.
type region struct {
	first  uint64
	seq    uint64
	offset int64
}

// regions is where the present version of every entry is. A new region begins wherever an entry replaces an earlier one;
// what it replaces is forgotten. So entries are found by reading a region from its start, with rising indexes, up to the
// next region.
type regions struct {
	mu   sync.Mutex
	list []region
	end  uint64 // one past the last entry
}

// note records that an entry is at an offset. jump says that its index does not follow the one before it.
func (r *regions) note(index, seq uint64, offset int64, jump bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if jump {
		r.list = r.list[:sort.Search(len(r.list), func(i int) bool { return r.list[i].first >= index })]
	}
	r.end = index + 1
	if n := len(r.list); !jump && n > 0 && r.list[n-1].seq == seq && offset-r.list[n-1].offset < regionBytes {
		return
	}
	r.list = append(r.list, region{index, seq, offset})
}

// drop forgets everything in segments before one.
func (r *regions) drop(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := sort.Search(len(r.list), func(i int) bool { return r.list[i].seq >= seq })
	r.list = append([]region(nil), r.list[i:]...)
}

// find returns the region that holds an index, and one past the last index that it holds.
func (r *regions) find(index uint64) (region, uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := sort.Search(len(r.list), func(i int) bool { return r.list[i].first > index }) - 1
	if i < 0 || index >= r.end {
		return region{}, 0, false
	}
	end := r.end
	if i+1 < len(r.list) {
		end = r.list[i+1].first
	}
	return r.list[i], end, true
}

// Entries reads the entries lo..hi-1 back, as many as fit maxBytes but at least one. ErrReleased: lo is no longer there.
func (l *Log) Entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	var out []*raftpb.Entry
	var size uint64
	for next := lo; next < hi; {
		reg, end, ok := l.regions.find(next)
		if !ok {
			break
		}
		ents, full, err := l.readRegion(reg, next, min(end, hi), maxBytes, &size, len(out) == 0)
		if err != nil {
			return nil, err
		}
		out = append(out, ents...)
		if full || len(ents) == 0 {
			break
		}
		next += uint64(len(ents))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("entry %d: %w", lo, ErrReleased)
	}
	return out, nil
}

// readRegion reads the entries lo..hi-1 of a region, until size passes maxBytes.
func (l *Log) readRegion(reg region, lo, hi, maxBytes uint64, size *uint64, first bool) (ents []*raftpb.Entry, full bool, err error) {
	f, err := l.openSegment(reg.seq)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	const far = 1 << 62 // the end is known by the index
	d := newDecoder(io.NewSectionReader(f, reg.offset, far), far, 0, false)
	d.unchecked = true
	for next := reg.first; next < hi; {
		rec, err := d.next()
		if err != nil {
			return nil, false, fmt.Errorf("wal: reading back entry %d: %w", next, err)
		}
		if rec.kind != kindEntry {
			continue
		}
		e := &raftpb.Entry{}
		if err := proto.Unmarshal(rec.data, e); err != nil {
			return nil, false, fmt.Errorf("wal: reading back entry %d: %w", next, err)
		}
		if e.GetIndex() != next {
			return nil, false, fmt.Errorf("wal: reading back entry %d: found %d", next, e.GetIndex())
		}
		next++
		if e.GetIndex() < lo {
			continue
		}
		if *size += uint64(len(rec.data)); *size > maxBytes && !(first && len(ents) == 0) {
			return ents, true, nil
		}
		ents = append(ents, e)
	}
	return ents, false, nil
}

func (l *Log) openSegment(seq uint64) (vfs.File, error) {
	l.mu.Lock()
	name := ""
	for _, s := range l.open {
		if s.seq == seq {
			name = s.name
		}
	}
	l.mu.Unlock()
	if name == "" {
		return nil, ErrReleased
	}
	f, err := vfs.Open(l.fs, filepath.Join(l.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrReleased
	}
	return f, err
}
