package wal

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"bytes"

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
}

// reader reads the segments of a log.
type reader struct {
	fs       vfs.FS
	dir      string
	start    *walpb.Snapshot
	contents Contents
	state    []byte
	markers  []*walpb.Snapshot
	matched  bool
	last     uint64
	crc      uint32
	valid    int64 // end of what is good in the last segment
	note     func(index, seq uint64, offset int64, jump bool)
}

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
	d := newDecoder(f, info.Size(), r.crc, last)
	for {
		rec, err := d.next()
		if err == nil {
			err = r.take(&rec, seq)
		}
		r.valid, r.crc = d.valid, d.crc
		switch {
		case err == io.EOF:
			return nil
		case errors.Is(err, errTorn):
			return err
		case err != nil:
			return &CorruptError{File: filepath.Join(r.dir, name), Offset: d.valid, Reason: err.Error(), Advice: adviceRejoin}
		}
	}
}

func (r *reader) take(rec *record, seq uint64) error {
	switch rec.kind {
	case kindMetadata:
		if r.contents.Metadata != nil && !bytes.Equal(r.contents.Metadata, rec.data) {
			return errors.New("the metadata differs from that of an earlier segment")
		}
		r.contents.Metadata = append([]byte{}, rec.data...)
	case kindEntry:
		e := &raftpb.Entry{}
		if err := proto.Unmarshal(rec.data, e); err != nil {
			return fmt.Errorf("not an entry: %w", err)
		}
		return r.entry(e, seq, rec.offset)
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
		}
		r.last = max(r.last, m.GetIndex())
	case kindCRC:
	default:
		return fmt.Errorf("a record of unknown type %d", rec.kind)
	}
	return nil
}

// entry puts an entry in its place; it replaces what was there and behind.
func (r *reader) entry(e *raftpb.Entry, seq uint64, offset int64) error {
	if r.note != nil {
		r.note(e.GetIndex(), seq, offset, e.GetIndex() != r.last+1)
	}
	r.last = e.GetIndex()
	start := r.start.GetIndex()
	if e.GetIndex() <= start {
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
// its end is cut off, with a copy set aside. Errors: ErrInUse, ErrSnapshotNotFound, *CorruptError.
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
	l := &Log{fs: fs, dir: dir, opts: o}
	if err := l.lockAll(names); err != nil {
		return nil, nil, errors.Join(err, l.closeFiles())
	}
	r := &reader{fs: fs, dir: dir, start: marker, note: l.regions.note}
	err = r.run(names)
	if errors.Is(err, errTorn) {
		err = l.repair(names[len(names)-1], r.valid, err)
	}
	if err == nil && !r.matched {
		err = fmt.Errorf("%w: index %d, term %d", ErrSnapshotNotFound, marker.GetIndex(), marker.GetTerm())
	}
	if err == nil {
		err = l.resume(names[len(names)-1], r)
	}
	if err != nil {
		return nil, nil, errors.Join(err, l.closeFiles())
	}
	l.metrics = newMetrics(o.Registerer)
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
	src, err := l.fs.OpenFile(path, osReadWrite, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := vfs.Create(l.fs, path+".broken")
	if err != nil {
		return fmt.Errorf("setting a copy of %s aside: %w", path, err)
	}
	_, err = io.Copy(dst, src)
	if err := errors.Join(err, dst.Close()); err != nil {
		return fmt.Errorf("setting a copy of %s aside: %w", path, err)
	}
	return errors.Join(src.Truncate(valid), src.Sync())
}

// resume opens the last segment for appending. What may lie behind the end of the log is zeroed: it must not be taken for
// records after the next ones.
func (l *Log) resume(name string, r *reader) error {
	f, err := l.fs.OpenFile(filepath.Join(l.dir, name), osReadWrite, 0)
	if err != nil {
		return err
	}
	l.file, l.size = f, r.valid
	if err := errors.Join(f.Truncate(r.valid), f.Preallocate(max(l.opts.SegmentBytes, r.valid)), f.Sync()); err != nil {
		return err
	}
	l.metadata, l.last, l.enc.crc = r.contents.Metadata, r.last, r.crc
	if r.contents.HardState != nil {
		l.state = r.state
	}
	all, err := l.fs.ReadDir(l.dir)
	for _, n := range all {
		if strings.HasSuffix(n, ".tmp") || strings.HasSuffix(n, ".new") {
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
	if err := r.run(names); err != nil && !errors.Is(err, errTorn) {
		return nil, err
	}
	if !r.matched {
		return nil, fmt.Errorf("%w: index %d, term %d", ErrSnapshotNotFound, marker.GetIndex(), marker.GetTerm())
	}
	return &r.contents, nil
}

// SnapshotMarkers returns the markers of snapshots up to what is committed, in order. The first is that of an empty log.
func SnapshotMarkers(fs vfs.FS, dir string) ([]*walpb.Snapshot, error) {
	names, err := segments(fs, dir)
	if err != nil {
		return nil, err
	}
	r := &reader{fs: fs, dir: dir, start: &walpb.Snapshot{Index: proto.Uint64(1<<64 - 1)}}
	if err := r.run(names); err != nil && !errors.Is(err, errTorn) {
		return nil, err
	}
	var out []*walpb.Snapshot
	for _, m := range r.markers {
		if m.GetIndex() <= r.contents.HardState.GetCommit() {
			out = append(out, m)
		}
	}
	return out, nil
}
