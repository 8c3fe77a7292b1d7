package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/vfs"
)

const (
	copyBatchBytes = 32 << 20 // of one transaction of a copy
	maxPasses      = 8        // rounds of catching up before writers are held off for the last one
	smallDelta     = 4096     // changes that are little enough for the last round
)

// journal is what a rewriting has to carry over beside new revisions.
type journal struct {
	deletes []deletion
	rows    [bucketCount]map[string]bool
}

func (j *journal) note(p *batch) {
	j.deletes = append(j.deletes, p.deletes...)
	for bk, m := range p.rows {
		if j.rows[bk] == nil && len(m) > 0 {
			j.rows[bk] = make(map[string]bool)
		}
		for key := range m {
			j.rows[bk][key] = true
		}
	}
}

// ErrDefragmenting says that the file is already being rewritten.
var ErrDefragmenting = errors.New("backend: defragmentation is already under way")

// Defrag writes the file anew without its free pages. Reads and writes go on: the copy is made from a transaction, then
// catches up in rounds with what was flushed meanwhile, and only the last, short round holds off flushes. Whenever it
// stops, either the old file or the complete new one is in place. ErrDefragmenting, ErrRetired, ctx's error.
func (b *Backend) Defrag(ctx context.Context) error {
	b.fileMu.Lock()
	switch {
	case b.journal != nil:
		b.fileMu.Unlock()
		return ErrDefragmenting
	case b.retired:
		b.fileMu.Unlock()
		return ErrRetired
	}
	tx, err := b.flushedTx()
	mine := &journal{}
	if err == nil {
		b.journal = mine
	}
	b.fileMu.Unlock()
	if err != nil {
		return err
	}
	start := b.cfg.Clock.Now()
	b.metrics.defragInflight.Set(1)
	defer func() {
		b.metrics.defragInflight.Set(0)
		b.metrics.defrag.Observe(b.cfg.Clock.Now().Sub(start).Seconds())
	}()
	dst, err := b.copyFile(ctx, tx)
	for pass := 0; err == nil && pass < maxPasses && !dst.near; pass++ {
		b.fileMu.Lock()
		tx, delta, begin := b.delta(mine)
		b.fileMu.Unlock()
		if err = begin; err == nil {
			err = errors.Join(dst.catchUp(tx, delta), ctx.Err())
		}
	}
	return b.finish(dst, mine, err)
}

// delta returns what was flushed since the last call, as noted in j; the caller holds fileMu.
func (b *Backend) delta(j *journal) (*bbolt.Tx, *journal, error) {
	tx, err := b.flushedTx()
	if err != nil {
		return nil, nil, err
	}
	if b.journal != j {
		return nil, nil, errors.Join(errSuperseded, tx.Rollback())
	}
	noted := *j
	*j = journal{}
	return tx, &noted, nil
}

// finish brings the copy up to date and puts it in the place of the file, unless err says that it failed.
func (b *Backend) finish(dst *fileCopy, j *journal, err error) error {
	b.fileMu.Lock()
	defer b.fileMu.Unlock()
	if err == nil {
		var tx *bbolt.Tx
		var delta *journal
		if tx, delta, err = b.delta(j); err == nil {
			err = dst.catchUp(tx, delta)
		}
	}
	if errors.Is(err, errSuperseded) {
		return dst.discard()
	}
	if b.journal == j {
		b.journal = nil
	}
	if err == nil {
		err = b.install(dst)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("backend: defragmentation: %w", err), dst.discard())
	}
	return nil
}

// errSuperseded ends a rewriting that another one has overtaken: the file is as it should be.
var errSuperseded = errors.New("backend: superseded")

// rewriteNow is Defrag for a caller that holds fileMu and wants a larger memory map.
func (b *Backend) rewriteNow() error {
	if b.retired {
		return ErrRetired
	}
	b.journal = nil // supersedes the one under way
	tx, err := b.db.Begin(false)
	if err != nil {
		return err
	}
	dst, err := b.copyFile(context.Background(), tx)
	if err == nil {
		err = b.install(dst)
	}
	if err != nil {
		return errors.Join(err, dst.discard())
	}
	return nil
}

// install puts a complete copy in the place of the file.
func (b *Backend) install(dst *fileCopy) error {
	if b.retired {
		return ErrRetired
	}
	dst.db.NoSync, dst.db.NoGrowSync = b.cfg.NoSync, b.cfg.NoSync
	if err := dst.db.Sync(); err != nil {
		return err
	}
	tx, err := b.beginShared(dst.db)
	if err != nil {
		return err
	}
	if err := os.Rename(dst.path, b.cfg.Path); err != nil {
		tx.release()
		return err
	}
	if err := vfs.OS.SyncDir(filepath.Dir(b.cfg.Path)); err != nil {
		b.cfg.Logger.Warn("could not sync the directory of the database", zap.Error(err))
	}
	old := b.db
	b.db, b.mapped = dst.db, dst.mapped
	b.mu.Lock()
	cur := b.current.Load()
	b.current.Store(&state{window: cur.window, tx: tx, payload: cur.payload})
	b.mu.Unlock()
	cur.tx.release()
	b.measure()
	go old.Close() // waits for the views that are held
	return nil
}

// fileCopy is a file on its way to replace another.
type fileCopy struct {
	db     *bbolt.DB
	path   string
	mapped int64
	last   Rev  // the last revision copied
	near   bool // the last round had little to do
}

// copyFile copies what tx sees into a new file and ends tx. The copy is not nil even after an error.
func (b *Backend) copyFile(ctx context.Context, tx *bbolt.Tx) (*fileCopy, error) {
	defer func() { _ = tx.Rollback() }()
	dst := &fileCopy{}
	f, err := os.CreateTemp(filepath.Dir(b.cfg.Path), "db.tmp.*")
	if err != nil {
		return dst, err
	}
	dst.path = f.Name()
	if err := f.Close(); err != nil {
		return dst, err
	}
	if dst.db, dst.mapped, err = b.openFile(dst.path, tx.Size()); err != nil {
		return dst, err
	}
	dst.db.NoSync, dst.db.NoGrowSync = true, true
	return dst, tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
		return dst.copyBucket(ctx, name, bucket, nil)
	})
}

// discard removes the copy.
func (f *fileCopy) discard() error {
	var errs []error
	if f.db != nil {
		errs = append(errs, f.db.Close())
	}
	if f.path != "" {
		if err := os.Remove(f.path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// copyBucket copies the rows of a bucket from a key on.
func (f *fileCopy) copyBucket(ctx context.Context, name []byte, src *bbolt.Bucket, from []byte) error {
	c := src.Cursor()
	k, v := c.Seek(from)
	for first := true; k != nil || first; first = false {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := f.db.Update(func(tx *bbolt.Tx) error {
			dst, err := tx.CreateBucketIfNotExists(name)
			if err != nil {
				return err
			}
			dst.FillPercent = revFill
			for n := 0; k != nil && n < copyBatchBytes; k, v = c.Next() {
				if err := dst.Put(k, v); err != nil {
					return err
				}
				n += len(k) + len(v)
				if string(name) == Key.String() {
					if f.last, _, err = ParseKey(k); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// catchUp applies what changed since the last round, as tx sees it, and ends tx.
func (f *fileCopy) catchUp(tx *bbolt.Tx, delta *journal) error {
	defer func() { _ = tx.Rollback() }()
	before, changed := f.last, len(delta.deletes)
	revs := tx.Bucket([]byte(Key.String()))
	if err := f.copyBucket(context.Background(), []byte(Key.String()), revs, AppendKey(nil, Rev{before.Main, before.Sub + 1}, false)); err != nil {
		return err
	}
	if err := f.db.Update(func(dst *bbolt.Tx) error {
		n, err := delta.replay(tx, dst)
		changed += n
		return err
	}); err != nil {
		return err
	}
	f.near = changed < smallDelta && f.last.Main-before.Main < smallDelta
	return nil
}

// replay writes the changed rows as src sees them, and removes the removed revisions. It returns the number of rows.
func (j *journal) replay(src, dst *bbolt.Tx) (n int, err error) {
	var buf [revLen + 1]byte
	revs := dst.Bucket([]byte(Key.String()))
	for _, d := range j.deletes {
		if err := revs.Delete(AppendKey(buf[:0], d.rev, d.tombstone)); err != nil {
			return 0, err
		}
	}
	for bk, keys := range j.rows {
		name := []byte(Bucket(bk).String())
		for key := range keys {
			n++
			if v := src.Bucket(name).Get([]byte(key)); v != nil {
				err = dst.Bucket(name).Put([]byte(key), bytes.Clone(v))
			} else {
				err = dst.Bucket(name).Delete([]byte(key))
			}
			if err != nil {
				return 0, err
			}
		}
	}
	meta, name := dst.Bucket([]byte(Meta.String())), []byte(Meta.String())
	for _, key := range [][]byte{consistentIndexKey, termKey} {
		if v := src.Bucket(name).Get(key); v != nil {
			if err := meta.Put(key, bytes.Clone(v)); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
