package wal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/vfs"
)

// Contents is what a log holds.
type Contents struct {
	Metadata  []byte
	HardState *raftpb.HardState // nil: none
	Entries   []*raftpb.Entry   // after the snapshot that the log was opened at
	Torn      bool              // ReadOnly: there is a torn write at the end, which was left out
}

// reader reads the segments of a log.
type reader struct {
	fs          vfs.FS
	dir         string
	start       *walpb.Snapshot
	markersOnly bool     // do not look at entries
	regions     *regions // nil: do not note where entries are

	contents Contents
	state    []byte
	markers  []*walpb.Snapshot
	matched  bool
	term     uint64 // of the entry at the start; 0: not seen
	last     uint64 // index of the last entry
	crc      uint32
	valid    int64 // end of what is good in the last segment
	headed   bool  // the last segment has more than a checksum
}

// scanBuffer is for reading whole segments.
const scanBuffer = 1 << 20

// run reads segments. errTorn: the last one ends in a torn write, after valid.
func (r *reader) run(names []string) error {
	for i, name := range names {
		path := filepath.Join(r.dir, name)
		f, err := vfs.Open(r.fs, path)
		if err != nil {
			return err
		}
		err = r.segment(f, name, i == len(names)-1)
		_ = f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) segment(f vfs.File, name string, last bool) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	seq, _, _ := parseName(name)
	d := newDecoder(f, info.Size(), r.crc, last, scanBuffer)
	r.headed = false
	for {
		rec, err := d.next()
		if err == nil {
			err = r.take(&rec, seq)
		}
		r.valid, r.crc = d.valid, d.crc
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, errTorn), errors.Is(err, ErrSnapshotMismatch):
			return err
		case d.lost:
			return fmt.Errorf("wal: reading %s: %w", filepath.Join(r.dir, name), err)
		case err != nil:
			return &CorruptError{File: filepath.Join(r.dir, name), Offset: d.valid, Reason: err.Error(), Advice: adviceRejoin}
		}
	}
}

func (r *reader) take(rec *record, seq uint64) error {
	r.headed = r.headed || rec.kind != kindCRC
	switch rec.kind {
	case kindMetadata:
		if r.contents.Metadata != nil && !bytes.Equal(r.contents.Metadata, rec.data) {
			return errors.New("the metadata differs from that of an earlier segment")
		}
		r.contents.Metadata = append([]byte{}, rec.data...)
	case kindEntry:
		if r.markersOnly {
			return nil
		}
		e := &raftpb.Entry{}
		if err := proto.Unmarshal(rec.data, e); err != nil {
			return fmt.Errorf("not an entry: %w", err)
		}
		return r.entry(e, seq, rec)
	case kindState:
		hs := &raftpb.HardState{}
		if err := proto.Unmarshal(rec.data, hs); err != nil {
			return fmt.Errorf("not a hard state: %w", err)
		}
		r.contents.HardState, r.state = hs, append(r.state[:0], rec.data...)
	case kindSnapshot:
		m := &walpb.Snapshot{}
		if err := proto.Unmarshal(rec.data, m); err != nil {
			return fmt.Errorf("not a snapshot marker: %w", err)
		}
		r.markers = append(r.markers, m)
		if m.GetIndex() == r.start.GetIndex() {
			if m.GetTerm() != r.start.GetTerm() {
				return fmt.Errorf("%w: index %d, term %d, not %d", ErrSnapshotMismatch, m.GetIndex(), m.GetTerm(), r.start.GetTerm())
			}
			r.matched = true
			if r.term != 0 && r.term != m.GetTerm() {
				r.contents.Entries = nil // the snapshot was received, and took the place of a log that did not agree with it
			}
		}
		r.last = max(r.last, m.GetIndex())
	case kindCRC:
	default:
		return fmt.Errorf("a record of unknown type %d", rec.kind)
	}
	return nil
}

// entry puts an entry in its place; it replaces what was there and behind.
func (r *reader) entry(e *raftpb.Entry, seq uint64, rec *record) error {
	if r.regions != nil {
		r.regions.add(seq, place{e.GetIndex(), rec.offset, rec.before})
	}
	r.last = e.GetIndex()
	start := r.start.GetIndex()
	if e.GetIndex() <= start {
		// What was behind it is replaced, too. Left standing, it would be the end of the log, and of an older term than what
		// comes before it: the member could vote for one that does not have all that is committed.
		r.contents.Entries, r.term = nil, 0
		if e.GetIndex() == start {
			r.term = e.GetTerm()
		}
		return nil
	}
	at := e.GetIndex() - start - 1
	if at > uint64(len(r.contents.Entries)) {
		return fmt.Errorf("entry %d follows entry %d", e.GetIndex(), start+uint64(len(r.contents.Entries)))
	}
	r.contents.Entries = append(r.contents.Entries[:at], e)
	return nil
}

// Open opens a log for appending and returns what it holds after a snapshot marker (nil: from the start). A torn write at
// its end is cut off, with a copy set aside. Errors: ErrInUse, ErrSnapshotNotFound, ErrSnapshotMismatch, *CorruptError.
func Open(fs vfs.FS, dir string, marker *walpb.Snapshot, o Options) (*Log, *Contents, error) {
	o.fill()
	all, err := segments(fs, dir)
	if err != nil {
		return nil, nil, err
	}
	names, err := from(dir, all, marker.GetIndex())
	if err != nil {
		return nil, nil, err
	}
	l := &Log{fs: fs, dir: dir, opts: o, metrics: newMetrics(o.Registerer)}
	if err := l.lockAll(names); err != nil {
		return nil, nil, errors.Join(err, l.closeFiles())
	}
	last := names[len(names)-1]
	r := &reader{fs: fs, dir: dir, start: marker, regions: &l.regions}
	err = r.run(names)
	torn := err
	if errors.Is(err, errTorn) {
		err = nil
	}
	if err == nil && !r.matched {
		err = fmt.Errorf("%w: index %d, term %d", ErrSnapshotNotFound, marker.GetIndex(), marker.GetTerm())
	}
	if err == nil && torn != nil {
		err = l.repair(last, r.valid, torn)
	}
	if err == nil {
		err = l.resume(last, r)
	}
	if err != nil {
		return nil, nil, errors.Join(err, l.closeFiles())
	}
	l.next = startPipeline(fs, dir, o.SegmentBytes)
	return l, &r.contents, nil
}

func (l *Log) lockAll(names []string) error {
	for _, name := range names {
		seq, index, _ := parseName(name)
		lock, err := l.fs.Lock(filepath.Join(l.dir, name))
		if errors.Is(err, vfs.ErrLocked) {
			return fmt.Errorf("%s: %w", l.dir, ErrInUse)
		}
		if err != nil {
			return err
		}
		l.open = append(l.open, segment{name: name, seq: seq, index: index, lock: lock})
	}
	return nil
}

// repair sets a copy of a segment aside and cuts off its end.
func (l *Log) repair(name string, valid int64, why error) error {
	path := filepath.Join(l.dir, name)
	l.opts.Logger.Warn("repairing the end of the log", zap.String("path", path), zap.Int64("offset", valid), zap.String("reason", why.Error()))
	src, err := l.fs.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := vfs.Create(l.fs, path+".broken")
	if err != nil {
		return fmt.Errorf("setting a copy of %s aside: %w", path, err)
	}
	_, err = io.Copy(dst, src)
	if err == nil {
		err = dst.Sync()
	}
	if err := errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("setting a copy of %s aside: %w", path, err)
	}
	if err := src.Truncate(valid); err != nil {
		return err
	}
	return src.Sync()
}

// resume opens the last segment for appending. What may lie behind the end of the log is zeroed: it must not be taken for
// records after the next ones.
func (l *Log) resume(name string, r *reader) error {
	f, err := l.fs.OpenFile(filepath.Join(l.dir, name), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l.file, l.size = f, r.valid
	l.metadata, l.last, l.enc.crc = r.contents.Metadata, r.last, r.crc
	if r.contents.HardState != nil {
		l.state = r.state
	}
	if !r.headed {
		l.size = 0
	}
	if err := f.Truncate(l.size); err != nil {
		return err
	}
	if err := f.Preallocate(max(l.opts.SegmentBytes, l.size)); err != nil {
		return err
	}
	if !r.headed { // it was lost together with all behind it
		l.head()
		if err := l.write(); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	l.dirty = false
	if err := l.cleanUp(); err != nil {
		return err
	}
	// The process that named the segment, or the directory, may not have come to it.
	return errors.Join(l.fs.SyncDir(l.dir), l.fs.SyncDir(filepath.Dir(filepath.Clean(l.dir))))
}

// cleanUp removes segments that were prepared and not used.
func (l *Log) cleanUp() error {
	all, err := l.fs.ReadDir(l.dir)
	for _, n := range all {
		if strings.HasSuffix(n, ".tmp") {
			err = errors.Join(err, l.fs.Remove(filepath.Join(l.dir, n)))
		}
	}
	return err
}

// ReadOnly reads a log without changing or locking anything. A torn write at its end is left out.
func ReadOnly(fs vfs.FS, dir string, marker *walpb.Snapshot) (*Contents, error) {
	all, err := segments(fs, dir)
	if err != nil {
		return nil, err
	}
	names, err := from(dir, all, marker.GetIndex())
	if err != nil {
		return nil, err
	}
	r := &reader{fs: fs, dir: dir, start: marker}
	err = r.run(names)
	if r.contents.Torn = errors.Is(err, errTorn); err != nil && !r.contents.Torn {
		return nil, err
	}
	if !r.matched {
		return nil, fmt.Errorf("%w: index %d, term %d", ErrSnapshotNotFound, marker.GetIndex(), marker.GetTerm())
	}
	return &r.contents, nil
}

// SnapshotMarkers returns the markers of snapshots up to what is committed, in rising order. Unless segments were purged, the
// first is that of the empty log.
func SnapshotMarkers(fs vfs.FS, dir string) ([]*walpb.Snapshot, error) {
	names, err := segments(fs, dir)
	if err != nil {
		return nil, err
	}
	r := &reader{fs: fs, dir: dir, start: &walpb.Snapshot{Index: proto.Uint64(1<<64 - 1)}, markersOnly: true}
	if err := r.run(names); err != nil && !errors.Is(err, errTorn) {
		return nil, err
	}
	var out []*walpb.Snapshot
	for _, m := range r.markers {
		if m.GetIndex() <= r.contents.HardState.GetCommit() {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b *walpb.Snapshot) int { return cmp.Compare(a.GetIndex(), b.GetIndex()) })
	return out, nil
}
