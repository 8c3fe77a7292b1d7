// Package snap keeps snapshot files beside the log, in etcd's formats.
//
//	<term>-<index>.snap    snappb.Snapshot{crc, data}; data is a marshalled raftpb.Snapshot, crc its CRC32-Castagnoli
//	<index>.snap.db        a database received from the leader, before it is put in the place of the member's own
//	*.broken               a .snap file that could not be read
//
// All numbers have 16 hexadecimal digits. A file appears whole and durable under its name, or not at all.
//
// # Concurrency
//
// All methods may be called from any goroutine.
package snap

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/snappb"
	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
)

// Errors of this package.
var (
	ErrNoSnapshot   = errors.New("snap: no snapshot")
	ErrNoDBSnapshot = errors.New("snap: snapshot file doesn't exist")
	ErrEmpty        = errors.New("snap: empty snapshot file")
	ErrCRCMismatch  = errors.New("snap: checksum mismatch")
)

const (
	snapSuffix = ".snap"
	dbSuffix   = ".snap.db"
	tmpSuffix  = ".tmp"
)

// Dir is a directory of snapshot files.
type Dir struct {
	fs     vfs.FS
	dir    string
	lg     *zap.Logger
	clock  clock.Clock
	stats  *metrics
	writes atomic.Uint64 // numbers unfinished files: the same one may be received twice at a time
}

// Options are settings that may be left out.
type Options struct {
	Logger     *zap.Logger
	Registerer prometheus.Registerer
	Clock      clock.Clock
}

// Open opens a directory and removes what an earlier process left unfinished in it.
func Open(fs vfs.FS, dir string, o Options) (*Dir, error) {
	lg := o.Logger
	if lg == nil {
		lg = zap.NewNop()
	}
	if o.Clock == nil {
		o.Clock = clock.Real
	}
	names, err := fs.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("snap: %w", err)
	}
	for _, n := range names {
		if strings.HasSuffix(n, tmpSuffix) || strings.HasPrefix(n, "tmp") || strings.HasPrefix(n, "db.tmp") {
			lg.Info("removing unfinished file", zap.String("path", filepath.Join(dir, n)))
			if err := fs.Remove(filepath.Join(dir, n)); err != nil {
				return nil, fmt.Errorf("snap: %w", err)
			}
		}
	}
	if err := fs.SyncDir(dir); err != nil { // an earlier process may have died between naming a file and this
		return nil, fmt.Errorf("snap: %w", err)
	}
	return &Dir{fs: fs, dir: dir, lg: lg, clock: o.Clock, stats: newMetrics(o.Registerer)}, nil
}

// write makes a file that appears whole and durable.
func (d *Dir) write(name string, sync prometheus.Observer, content func(io.Writer) error) error {
	path := filepath.Join(d.dir, name)
	tmp := fmt.Sprintf("%s.%d%s", path, d.writes.Add(1), tmpSuffix)
	f, err := vfs.Create(d.fs, tmp)
	if err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	err = content(f)
	if err == nil {
		start := d.clock.Now()
		err = f.Sync()
		sync.Observe(d.since(start))
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.fs.Rename(tmp, path)
	}
	if err != nil {
		_ = d.fs.Remove(tmp)
		return fmt.Errorf("snap: writing %s: %w", path, err)
	}
	if err := d.fs.SyncDir(d.dir); err != nil {
		return fmt.Errorf("snap: writing %s: %w", path, err)
	}
	return nil
}

// since is the time from start on, in seconds.
func (d *Dir) since(start time.Time) float64 { return d.clock.Now().Sub(start).Seconds() }

// Save writes a .snap file. The empty snapshot, of index 0, needs none.
func (d *Dir) Save(s *raftpb.Snapshot) error {
	if s.GetMetadata().GetIndex() == 0 {
		return nil
	}
	start := d.clock.Now()
	data, err := proto.Marshal(s)
	if err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	sum := crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	b, err := proto.Marshal(&snappb.Snapshot{Crc: proto.Uint32(sum), Data: data})
	if err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	d.stats.marshal.Observe(d.since(start))
	err = d.write(fileName(s.GetMetadata().GetTerm(), s.GetMetadata().GetIndex()), d.stats.sync, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
	if err == nil {
		d.stats.save.Observe(d.since(start))
	}
	return err
}

func fileName(term, index uint64) string {
	return fmt.Sprintf("%016x-%016x%s", term, index, snapSuffix)
}

// Load returns the newest snapshot that can be read. ErrNoSnapshot.
func (d *Dir) Load() (*raftpb.Snapshot, error) {
	return d.load(func(*raftpb.SnapshotMetadata) bool { return true })
}

// LoadMatching returns the newest snapshot that can be read and that one of the log's markers names. ErrNoSnapshot.
func (d *Dir) LoadMatching(markers []*walpb.Snapshot) (*raftpb.Snapshot, error) {
	return d.load(func(meta *raftpb.SnapshotMetadata) bool {
		return slices.ContainsFunc(markers, func(m *walpb.Snapshot) bool {
			return m.GetIndex() == meta.GetIndex() && m.GetTerm() == meta.GetTerm()
		})
	})
}

// load looks through the files, newest first. One that cannot be read is renamed, so that nobody stumbles over it again.
func (d *Dir) load(fits func(*raftpb.SnapshotMetadata) bool) (*raftpb.Snapshot, error) {
	names, err := d.fs.ReadDir(d.dir)
	if err != nil {
		return nil, fmt.Errorf("snap: %w", err)
	}
	for _, n := range slices.Backward(names) {
		if !strings.HasSuffix(n, snapSuffix) {
			continue
		}
		path := filepath.Join(d.dir, n)
		s, err := Read(d.fs, path)
		if err != nil {
			d.lg.Warn("snapshot file cannot be read", zap.String("path", path), zap.Error(err))
			if err := d.fs.Rename(path, path+".broken"); err != nil {
				d.lg.Warn("snapshot file cannot be renamed", zap.String("path", path), zap.Error(err))
			}
			continue
		}
		if fits(s.GetMetadata()) {
			return s, nil
		}
	}
	return nil, ErrNoSnapshot
}

// Read reads a .snap file.
func Read(fs vfs.FS, path string) (*raftpb.Snapshot, error) {
	b, err := vfs.ReadFile(fs, path)
	if err != nil {
		return nil, err
	}
	return decode(b)
}

func decode(b []byte) (*raftpb.Snapshot, error) {
	envelope := &snappb.Snapshot{}
	if err := proto.Unmarshal(b, envelope); err != nil {
		return nil, fmt.Errorf("snap: %w", err)
	}
	if len(envelope.Data) == 0 || envelope.GetCrc() == 0 {
		return nil, ErrEmpty
	}
	if crc32.Checksum(envelope.Data, crc32.MakeTable(crc32.Castagnoli)) != envelope.GetCrc() {
		return nil, ErrCRCMismatch
	}
	s := &raftpb.Snapshot{}
	if err := proto.Unmarshal(envelope.Data, s); err != nil {
		return nil, fmt.Errorf("snap: %w", err)
	}
	return s, nil
}

func dbName(index uint64) string { return fmt.Sprintf("%016x%s", index, dbSuffix) }

// SaveDB makes the database of a snapshot durable and returns its size. After an error it is not to be relied on.
func (d *Dir) SaveDB(r io.Reader, index uint64) (n int64, err error) {
	start := d.clock.Now()
	err = d.write(dbName(index), d.stats.dbSync, func(w io.Writer) error {
		n, err = io.Copy(w, r)
		return err
	})
	if err == nil {
		d.stats.dbSave.Observe(d.since(start))
	}
	return n, err
}

// DBPath returns where the database of a snapshot is. ErrNoDBSnapshot.
func (d *Dir) DBPath(index uint64) (string, error) {
	path := filepath.Join(d.dir, dbName(index))
	if !vfs.Exists(d.fs, path) {
		return "", ErrNoDBSnapshot
	}
	return path, nil
}

// ReleaseDBs removes the databases of snapshots before an index.
func (d *Dir) ReleaseDBs(before uint64) error {
	names, err := d.fs.ReadDir(d.dir)
	if err != nil {
		return fmt.Errorf("snap: %w", err)
	}
	for _, n := range names {
		hex, ok := strings.CutSuffix(n, dbSuffix)
		if !ok {
			continue
		}
		index, err := strconv.ParseUint(hex, 16, 64)
		if err != nil || index >= before {
			continue
		}
		if err := d.fs.Remove(filepath.Join(d.dir, n)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("snap: %w", err) // not: the purger was faster
		}
	}
	return nil
}
