package mvcc

import (
	"hash/crc32"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/index"
)

// Hash is the hash of all buckets, equal to etcd's, and the current revision.
func (s *Store) Hash() (hash uint32, rev int64, err error) {
	hash, err = s.be.Load().Hash(func(bucket string, key []byte) bool {
		// These may differ between members of one state.
		switch string(key) {
		case "consistent_index", "term", "storageVersion":
			return bucket == backend.Meta.String()
		}
		return false
	})
	return hash, s.Rev(), err
}

// HashKV is the hash of the key space up to a revision (0: the current one), equal to etcd's: CRC32-Castagnoli over the
// keys and values of the bucket of revisions, without what a compaction removes, whether it has been removed yet or not.
// It also returns the compact revision, the revision hashed and the current revision. Errors: ErrCompacted, ErrFutureRev.
func (s *Store) HashKV(rev int64) (hash uint32, compactRev, hashRev, currentRev int64, err error) {
	t := s.Read()
	defer t.Close()
	if t.err != nil {
		return 0, 0, 0, 0, t.err
	}
	at := t.at
	switch {
	case rev > 0 && rev < at.compactRev:
		return 0, 0, 0, 0, ErrCompacted
	case rev > at.rev:
		return 0, 0, 0, at.rev, ErrFutureRev
	case rev <= 0:
		rev = at.rev
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write([]byte(backend.Key.String()))
	decided := rev
	if !keepsAny(at.root, rev) {
		decided = at.compactRev // then etcd hashes what the compaction left
	}
	var key []byte
	err = t.view.ForEachRev(backend.Rev{}, func(r backend.Rev, tombstone bool, kv []byte) error {
		if r.Main > rev ||
			r.Main <= at.compactRev && !kept(at.root, r, tombstone, kv, decided) ||
			r.Main == at.compactRev && tombstone {
			return nil
		}
		key = backend.AppendKey(key[:0], r, tombstone)
		h.Write(key)
		h.Write(kv)
		return nil
	})
	return h.Sum32(), at.compactRev, rev, at.rev, err
}

// kept says whether a put is what decides about its key at a main revision.
func kept(root index.Root, r backend.Rev, tombstone bool, kv KV, rev int64) bool {
	e := root.Get(str(kv.Parse().Key))
	if e == nil || tombstone {
		return false
	}
	s, ok := e.At(rev)
	return ok && s == index.NewStamp(r, false)
}

// keepsAny says whether any key exists at a main revision.
func keepsAny(root index.Root, rev int64) (any bool) {
	root.Ascend("", nil, func(e *index.Entry) bool {
		s, ok := e.At(rev)
		any = ok && !s.Tombstone()
		return !any
	})
	return any
}
