package utl

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/spf13/cobra"
	"go.etcd.io/bbolt"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
)

// KVHash is the hash of a file's key space up to a revision.
type KVHash struct {
	Hash            uint32 `json:"hash"`
	HashRevision    int64  `json:"hashRevision"`
	CompactRevision int64  `json:"compactRevision"` // -1: nothing was ever compacted
}

func (u *utl) hashKV() *cobra.Command {
	var rev int64
	cmd := &cobra.Command{
		Use:   "hashkv <filename>",
		Short: "Prints the hash of the key space of a file",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			if err := u.checkFormat(); err != nil {
				return err
			}
			var h KVHash
			if err := u.readFile(args[0], func(tx *bbolt.Tx) (err error) {
				h, err = kvHashOf(tx, rev)
				return err
			}); err != nil {
				return err
			}
			return u.print(h)
		},
	}
	cmd.Flags().Int64Var(&rev, "rev", 0, "maximum revision to hash (default: latest revision)")
	return cmd
}

var compactionKeys = [][]byte{[]byte("scheduledCompactRev"), []byte("finishedCompactRev")}

// revisions is the bucket of revisions, with the compaction that it has seen or is to see.
type revisions struct {
	bucket  *bbolt.Bucket
	compact int64
}

// kvHashOf hashes what mvcc.Store.HashKV does, without a store: that would go on with an interrupted compaction, and write.
func kvHashOf(tx *bbolt.Tx, rev int64) (KVHash, error) {
	meta, keys := tx.Bucket(metaBucket), tx.Bucket(keyBucket)
	if meta == nil || keys == nil {
		return KVHash{}, errors.New("the file has no key space: it is no database of etcd's kind")
	}
	rs := revisions{bucket: keys, compact: -1}
	for _, name := range compactionKeys {
		if r, _, err := backend.ParseKey(meta.Get(name)); err == nil {
			rs.compact = max(rs.compact, r.Main)
		}
	}
	last := max(1, rs.compact)
	if k, _ := keys.Cursor().Last(); k != nil {
		r, _, err := backend.ParseKey(k)
		if err != nil {
			return KVHash{}, err
		}
		last = max(last, r.Main)
	}
	switch {
	case rev > 0 && rev < rs.compact:
		return KVHash{}, mvcc.ErrCompacted
	case rev > last:
		return KVHash{}, mvcc.ErrFutureRev
	case rev <= 0:
		rev = last
	}
	sum, err := rs.hash(rev)
	return KVHash{Hash: sum, HashRevision: rev, CompactRevision: rs.compact}, err
}

// hash leaves out what the compaction removes: up to its revision, all but the puts that are still in force at rev.
func (rs revisions) hash(rev int64) (uint32, error) {
	kept, err := rs.inForce(rev)
	if err == nil && len(kept) == 0 { // then etcd hashes what the compaction left
		kept, err = rs.inForce(rs.compact)
	}
	if err != nil {
		return 0, err
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write(keyBucket)
	err = rs.upTo(rev, func(r backend.Rev, _ bool, k, v []byte) error {
		if r.Main > rs.compact || kept[r] {
			h.Write(k)
			h.Write(v)
		}
		return nil
	})
	return h.Sum32(), err
}

// inForce returns the revisions of the keys that exist at a main revision.
func (rs revisions) inForce(rev int64) (map[backend.Rev]bool, error) {
	current := map[string]backend.Rev{}
	err := rs.upTo(rev, func(r backend.Rev, tombstone bool, _, v []byte) error {
		kv := mvcc.KV(v)
		if err := kv.Check(); err != nil {
			return fmt.Errorf("revision %d/%d: %w", r.Main, r.Sub, err)
		}
		if key := kv.Parse().Key; tombstone {
			delete(current, string(key))
		} else {
			current[string(key)] = r
		}
		return nil
	})
	kept := make(map[backend.Rev]bool, len(current))
	for _, r := range current {
		kept[r] = true
	}
	return kept, err
}

// upTo calls fn for every revision up to a main revision, in order.
func (rs revisions) upTo(rev int64, fn func(r backend.Rev, tombstone bool, k, v []byte) error) error {
	c := rs.bucket.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		r, tombstone, err := backend.ParseKey(k)
		if err != nil || r.Main > rev {
			return err
		}
		if err := fn(r, tombstone, k, v); err != nil {
			return err
		}
	}
	return nil
}
