package wal

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
)

// Options say how a log works. Zero values mean the default named beside them.
type Options struct {
	SegmentBytes int64 // 64,000,000
	UnsafeNoSync bool
	Clock        clock.Clock
	Logger       *zap.Logger
	Registerer   prometheus.Registerer
}

func (o *Options) fill() {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 64_000_000
	}
	if o.Clock == nil {
		o.Clock = clock.Real
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
}

// segment is a file of the log that is open.
type segment struct {
	name  string
	seq   uint64
	index uint64 // the first that it may hold
	lock  io.Closer
}

// Log is described in the package comment.
type Log struct {
	fs      vfs.FS
	dir     string
	opts    Options
	metrics *metrics

	metadata []byte
	state    []byte // the last hard state, marshalled
	last     uint64 // index of the last entry
	enc      encoder
	file     vfs.File // the last segment
	size     int64    // of what was written to it
	dirty    bool     // written since the last sync
	err      error    // after which nothing is written
	places   []place  // of the entries being saved; scratch
	next     *pipeline

	mu       sync.Mutex
	open     []segment // with a lock, in order; the last is being written
	released []segment // before those, without a lock: Purge may have removed them
	regions  regions
}

// Create makes a new log. The directory appears as a whole or not at all.
func Create(fs vfs.FS, dir string, metadata []byte, o Options) (*Log, error) {
	o.fill()
	if Exist(fs, dir) {
		return nil, fmt.Errorf("%s: %w", dir, ErrExists)
	}
	tmp := filepath.Clean(dir) + ".tmp"
	if err := removeAll(fs, tmp); err != nil {
		return nil, err
	}
	if left, err := fs.ReadDir(dir); err == nil && len(left) > 0 {
		return nil, fmt.Errorf("wal: %s holds %s, which is no part of a log", dir, left[0])
	}
	if err := removeAll(fs, dir); err != nil {
		return nil, err
	}
	if err := fs.MkdirAll(tmp, 0o700); err != nil {
		return nil, err
	}
	l := &Log{fs: fs, dir: tmp, opts: o, metrics: newMetrics(o.Registerer), metadata: metadata}
	if err := l.first(); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	if err := errors.Join(fs.Rename(tmp, dir), fs.SyncDir(filepath.Dir(filepath.Clean(dir)))); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	l.dir = dir
	l.next = startPipeline(fs, dir, o.SegmentBytes)
	return l, nil
}

// first makes the first segment.
func (l *Log) first() error {
	path := filepath.Join(l.dir, segmentName(0, 0))
	f, err := vfs.Create(l.fs, path)
	if err != nil {
		return err
	}
	if err := f.Preallocate(l.opts.SegmentBytes); err != nil {
		return errors.Join(err, f.Close())
	}
	l.head()
	if err := l.enc.message(kindSnapshot, &walpb.Snapshot{Index: proto.Uint64(0), Term: proto.Uint64(0)}); err != nil {
		return errors.Join(err, f.Close())
	}
	return l.begin(f, path, segmentName(0, 0))
}

// removeAll removes a flat directory.
func removeAll(fs vfs.FS, dir string) error {
	names, err := fs.ReadDir(dir)
	if err != nil {
		return nil // not there
	}
	for _, n := range names {
		if err := fs.Remove(filepath.Join(dir, n)); err != nil {
			return err
		}
	}
	return fs.Remove(dir)
}

// head encodes what a segment begins with.
func (l *Log) head() {
	l.enc.append(kindCRC, nil)
	l.enc.append(kindMetadata, l.metadata)
	if l.state != nil {
		l.enc.append(kindState, l.state)
	}
}

// begin writes what the encoder holds, which is the head, to a new file, and makes it the last segment. The file gets its
// name only when the head is durable: a segment without one would break the chain of checksums.
func (l *Log) begin(f vfs.File, path, name string) error {
	seq, index, _ := parseName(name)
	lock, err := l.fs.Lock(path)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	l.file, l.size = f, 0
	l.mu.Lock()
	l.open = append(l.open, segment{name: name, seq: seq, index: index, lock: lock})
	l.mu.Unlock()
	if err := l.write(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	l.dirty = false
	if final := filepath.Join(l.dir, name); path != final {
		if err := l.fs.Rename(path, final); err != nil {
			return err
		}
	}
	return l.fs.SyncDir(l.dir)
}

// write writes what the encoder holds in one go.
func (l *Log) write() error {
	start := l.opts.Clock.Now()
	n, err := l.file.WriteAt(l.enc.buf, l.size)
	l.size += int64(n)
	l.metrics.wrote(n, l.opts.Clock.Now().Sub(start))
	l.dirty = true
	if cap(l.enc.buf) > maxKeptBuffer {
		l.enc.buf = nil
	}
	l.enc.buf = l.enc.buf[:0]
	return err
}

// maxKeptBuffer is the largest buffer that is kept for the next write.
const maxKeptBuffer = 8 << 20

// Save appends entries and then a hard state (nil or empty: none), and makes them durable if mustSync says so.
func (l *Log) Save(hs *raftpb.HardState, ents []*raftpb.Entry, mustSync bool) error {
	if l.err != nil {
		return l.err
	}
	l.places = l.places[:0]
	for _, e := range ents {
		l.places = append(l.places, place{e.GetIndex(), l.size + int64(len(l.enc.buf)), l.enc.crc})
		if err := l.enc.message(kindEntry, e); err != nil {
			return l.poison(err)
		}
		l.last = e.GetIndex()
	}
	if hs != nil && (hs.GetTerm() != 0 || hs.GetVote() != 0 || hs.GetCommit() != 0) {
		if err := l.enc.message(kindState, hs); err != nil {
			return l.poison(err)
		}
		l.state = append(l.state[:0], l.enc.msg...)
	}
	if len(l.enc.buf) == 0 {
		return nil
	}
	return l.flush(mustSync)
}

// SaveSnapshot records that a snapshot is on the disk.
func (l *Log) SaveSnapshot(marker *walpb.Snapshot) error {
	if l.err != nil {
		return l.err
	}
	if err := l.enc.message(kindSnapshot, marker); err != nil {
		return l.poison(err)
	}
	l.last = max(l.last, marker.GetIndex())
	l.places = l.places[:0]
	return l.flush(true)
}

// flush writes, syncs if need be, and begins a new segment when this one is full.
func (l *Log) flush(mustSync bool) error {
	if err := l.write(); err != nil {
		return l.poison(err)
	}
	if len(l.places) > 0 {
		l.regions.add(l.seq(), l.places...)
	}
	full := l.size >= l.opts.SegmentBytes
	if mustSync || full {
		if err := l.Sync(); err != nil {
			return err
		}
	}
	if full {
		if err := l.cut(); err != nil {
			return l.poison(err)
		}
	}
	return nil
}

// poison ends all writing.
func (l *Log) poison(err error) error {
	l.err = fmt.Errorf("wal: %s cannot be written any more: %w", l.dir, err)
	return l.err
}

// Sync makes what was written durable.
func (l *Log) Sync() error {
	if l.err != nil || !l.dirty {
		return l.err
	}
	if !l.opts.UnsafeNoSync {
		start := l.opts.Clock.Now()
		if err := l.file.SyncData(); err != nil {
			return l.poison(err)
		}
		took := l.opts.Clock.Now().Sub(start)
		l.metrics.sync.Observe(took.Seconds())
		if took > slowSync {
			l.opts.Logger.Warn("slow fdatasync", zap.Duration("took", took), zap.Duration("expected-duration", slowSync))
		}
	}
	l.dirty = false
	return nil
}

const slowSync = time.Second

// cut ends the present segment and begins the next one.
func (l *Log) cut() error {
	err := l.file.Truncate(l.size)
	if err == nil {
		err = l.file.Sync()
	}
	err = errors.Join(err, l.file.Close())
	l.file = nil
	if err != nil {
		return err
	}
	f, tmp, err := l.next.take()
	if err != nil {
		return err
	}
	name := segmentName(l.seq()+1, l.last+1)
	l.head()
	if err := l.begin(f, tmp, name); err != nil {
		return err
	}
	l.opts.Logger.Info("created a new WAL segment", zap.String("path", filepath.Join(l.dir, name)))
	return nil
}

// seq is the number of the present segment.
func (l *Log) seq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open[len(l.open)-1].seq
}

// maxReleased bounds the segments that are remembered after they were released, for a log that is never purged.
const maxReleased = 256

// ReleaseTo unlocks the segments that hold nothing from an index on but what the one after them has too, so that Purge may
// remove them. One before the index is kept. Until a segment is removed its entries can be read.
func (l *Log) ReleaseTo(index uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	keep := len(l.open) - 1
	for i, s := range l.open {
		if s.index >= index {
			keep = i - 1
			break
		}
	}
	var errs []error
	for ; keep > 0; keep-- {
		errs = append(errs, l.open[0].lock.Close())
		l.open[0].lock = nil
		l.released = append(l.released, l.open[0])
		l.open = l.open[1:]
	}
	l.forget()
	return errors.Join(errs...)
}

// forget drops released segments that are gone; the caller holds mu.
func (l *Log) forget() {
	for len(l.released) > 0 {
		if _, err := l.fs.Stat(filepath.Join(l.dir, l.released[0].name)); err == nil && len(l.released) <= maxReleased {
			break
		}
		l.released = l.released[1:]
	}
	first := l.open[0].seq
	if len(l.released) > 0 {
		first = l.released[0].seq
	}
	l.regions.drop(first)
}

// Close makes everything durable and closes the log.
func (l *Log) Close() error {
	if errors.Is(l.err, ErrClosed) {
		return nil
	}
	var err error
	if l.err == nil {
		err = l.Sync()
	}
	l.err = ErrClosed
	l.next.stop()
	return errors.Join(err, l.closeFiles())
}

func (l *Log) closeFiles() error {
	var errs []error
	if l.file != nil {
		errs = append(errs, l.file.Close())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.open {
		errs = append(errs, s.lock.Close())
	}
	l.open, l.released = nil, nil
	return errors.Join(errs...)
}
