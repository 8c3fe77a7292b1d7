package backend

import (
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"go.etcd.io/bbolt"
)

// Snapshot is a copy of the file, consistent and complete, that can be written out once or more.
type Snapshot struct {
	tx    *bbolt.Tx
	b     *Backend
	start time.Time
}

// Snapshot holds the file still with everything that is published. Writes go on meanwhile.
func (b *Backend) Snapshot() (*Snapshot, error) {
	b.fileMu.Lock()
	defer b.fileMu.Unlock()
	tx, err := b.flushedTx()
	if err != nil {
		return nil, err
	}
	return &Snapshot{tx: tx, b: b, start: b.cfg.Clock.Now()}, nil
}

// flushedTx begins a bbolt transaction that sees everything published; the caller holds fileMu.
func (b *Backend) flushedTx() (*bbolt.Tx, error) {
	if err := b.flush(); err != nil {
		return nil, err
	}
	tx, err := b.db.Begin(false)
	if err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	return tx, nil
}

// Size is the number of bytes that WriteTo writes.
func (s *Snapshot) Size() int64 { return s.tx.Size() }

// WriteTo writes the file.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) { return s.tx.WriteTo(w) }

// Close ends the snapshot.
func (s *Snapshot) Close() error {
	s.b.metrics.snapshot.Observe(s.b.cfg.Clock.Now().Sub(s.start).Seconds())
	return s.tx.Rollback()
}

// Hash is the CRC32-Castagnoli of all buckets' names, keys and values in the order of the file, without the rows that skip
// names. It equals etcd's.
func (b *Backend) Hash(skip func(bucket string, key []byte) bool) (uint32, error) {
	b.fileMu.Lock()
	tx, err := b.flushedTx()
	b.fileMu.Unlock()
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback() }()
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	err = tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
		h.Write(name)
		return bucket.ForEach(func(k, v []byte) error {
			if !skip(string(name), k) {
				h.Write(k)
				h.Write(v)
			}
			return nil
		})
	})
	return h.Sum32(), err
}
