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

const (
	regionBytes = 64 << 10  // about how much of a segment one region covers
	readBuffer  = 128 << 10 // for reading entries back
)

// place is where the frame of an entry begins, and the checksum up to there.
type place struct {
	index  uint64
	offset int64
	crc    uint32
}

// region is a run of entries in one segment: from first up to the next region's first.
type region struct {
	first  uint64
	seq    uint64
	offset int64
	crc    uint32
	joined bool // the region before it goes on here: between them there are no other entries
}

// regions is where the present version of every entry is. Their indexes have no gaps. A new region begins wherever an entry
// replaces an earlier one; what it replaces is forgotten. So entries are found by reading from the start of a region, with
// rising indexes.
type regions struct {
	mu   sync.Mutex
	list []region
	end  uint64 // one past the last entry
	cuts uint64 // how often entries were replaced
}

// add records the places of entries of a segment.
func (r *regions) add(seq uint64, places ...place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range places {
		r.put(seq, p)
	}
}

func (r *regions) put(seq uint64, p place) {
	joined := p.index == r.end
	switch {
	case p.index > r.end: // after a snapshot that was received: what is before it does not belong to this history
		r.list = r.list[:0]
		r.cuts++
	case p.index < r.end:
		r.list = r.list[:sort.Search(len(r.list), func(i int) bool { return r.list[i].first >= p.index })]
		r.cuts++
	}
	r.end = p.index + 1
	if joined = joined && len(r.list) > 0; joined {
		last := r.list[len(r.list)-1]
		joined = last.seq == seq
		if joined && p.offset-last.offset < regionBytes {
			return
		}
	}
	r.list = append(r.list, region{first: p.index, seq: seq, offset: p.offset, crc: p.crc, joined: joined})
}

// drop forgets everything in segments before one.
func (r *regions) drop(seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := sort.Search(len(r.list), func(i int) bool { return r.list[i].seq >= seq })
	r.list = append([]region(nil), r.list[i:]...)
}

// find returns the region that holds an index, one past the last index that can be read from its start without a break, and
// the number of cuts.
func (r *regions) find(index uint64) (reg region, end, cuts uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := sort.Search(len(r.list), func(i int) bool { return r.list[i].first > index }) - 1
	if i < 0 || index >= r.end {
		return region{}, 0, r.cuts, false
	}
	for j := i + 1; j < len(r.list); j++ {
		if !r.list[j].joined {
			return r.list[i], r.list[j].first, r.cuts, true
		}
	}
	return r.list[i], r.end, r.cuts, true
}

// Entries reads the entries lo..hi-1 back, as many as fit maxBytes but at least one. ErrReleased: lo is not, or no longer,
// in the log.
func (l *Log) Entries(lo, hi, maxBytes uint64) ([]*raftpb.Entry, error) {
	var rb readBack
	rb.left = maxBytes
	var before uint64
	for next := lo; next < hi && !rb.full; next = lo + uint64(len(rb.out)) {
		reg, end, cuts, ok := l.regions.find(next)
		if !ok || next != lo && cuts != before {
			break // what comes next is of a later history than what is there already
		}
		before = cuts
		if err := l.readRegion(&rb, reg, next, min(end, hi)); err != nil {
			return nil, err
		}
	}
	if len(rb.out) == 0 && lo < hi {
		return nil, fmt.Errorf("entry %d: %w", lo, ErrReleased)
	}
	return rb.out, nil
}

// readBack collects entries.
type readBack struct {
	out  []*raftpb.Entry
	left uint64 // bytes that may be added
	full bool
}

// readRegion reads the entries lo..hi-1 from the start of a region on.
func (l *Log) readRegion(rb *readBack, reg region, lo, hi uint64) error {
	f, err := l.openSegment(reg.seq)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size() - reg.offset
	d := newDecoder(io.NewSectionReader(f, reg.offset, size), size, reg.crc, false, readBuffer)
	for next := reg.first; next < hi; {
		rec, err := d.next()
		if err != nil {
			return fmt.Errorf("wal: reading back entry %d from %s: %w", next, f.Name(), err)
		}
		if rec.kind != kindEntry {
			continue
		}
		e := &raftpb.Entry{}
		if err := proto.Unmarshal(rec.data, e); err != nil {
			return fmt.Errorf("wal: reading back entry %d from %s: %w", next, f.Name(), err)
		}
		if e.GetIndex() != next {
			return fmt.Errorf("wal: reading back entry %d from %s: found %d", next, f.Name(), e.GetIndex())
		}
		next++
		if e.GetIndex() < lo {
			continue
		}
		if n := uint64(len(rec.data)); n <= rb.left {
			rb.left -= n
		} else if rb.full = true; len(rb.out) > 0 {
			return nil
		}
		if rb.out = append(rb.out, e); rb.full {
			return nil
		}
	}
	return nil
}

func (l *Log) openSegment(seq uint64) (vfs.File, error) {
	l.mu.Lock()
	name := ""
	for _, list := range [][]segment{l.released, l.open} {
		for _, s := range list {
			if s.seq == seq {
				name = s.name
			}
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
