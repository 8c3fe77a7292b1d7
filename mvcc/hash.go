package mvcc

import (
	"errors"
	"hash"
	"hash/crc32"
	"slices"
	"sync"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/index"
)

// Hash is the hash of all buckets, equal to etcd's, and the current revision.
func (s *Store) Hash() (hash uint32, rev int64, err error) {
	start := s.cfg.Clock.Now()
	hash, err = s.be.Load().Hash(func(bucket string, key []byte) bool {
		// These may differ between members of one state.
		switch string(key) {
		case "consistent_index", "term", "storageVersion":
			return bucket == backend.Meta.String()
		}
		return false
	})
	s.metrics.hash.Observe(s.cfg.Clock.Now().Sub(start).Seconds())
	return hash, s.Rev(), err
}

// KVHash is the hash of the key space up to a revision, as of a compaction: two members that have the same revision and the
// same compact revision have the same hash.
type KVHash struct {
	Hash       uint32
	CompactRev int64 // -1: nothing was compacted
	Rev        int64
}

// HashKV is the hash of the key space up to a revision (0: the current one), equal to etcd's: CRC32-Castagnoli over the
// keys and values of the bucket of revisions, without what a compaction removes, whether it has been removed yet or not.
// For the revision of a recent compaction it is the hash that the compaction left, see CompactHashes, if it left one: it does
// if Config.HashCompactions says so, or if somebody asked for the hash of a certain revision before it: who asks at a revision, and
// again after a compaction at it, is told the same.
// It also returns the current revision. Errors: ErrCompacted, ErrFutureRev.
func (s *Store) HashKV(rev int64) (h KVHash, current int64, err error) {
	t := s.Read()
	defer t.Close()
	if t.err != nil {
		return KVHash{}, 0, t.err
	}
	at := t.at
	if rev > 0 {
		s.hashes.ask()
	}
	if h, ok := s.hashes.at(rev); ok {
		return h, at.rev, nil
	}
	switch {
	case rev > 0 && rev < at.compactRev:
		return KVHash{}, 0, ErrCompacted
	case rev > at.rev:
		return KVHash{}, at.rev, ErrFutureRev
	case rev <= 0:
		rev = at.rev
	}
	start := s.cfg.Clock.Now()
	k := newKVHasher(at.compactRev, rev)
	if !keepsAny(at.root, rev) {
		k.decided = at.compactRev // then etcd hashes what the compaction left
	}
	err = t.view.ForEachRev(backend.Rev{}, func(r backend.Rev, tombstone bool, kv []byte) error { return k.add(at.root, r, tombstone, kv) })
	if errors.Is(err, errHashed) {
		err = nil
	}
	s.metrics.hashRev.Observe(s.cfg.Clock.Now().Sub(start).Seconds())
	return k.sum(), at.rev, err
}

// kvHasher hashes revisions that come in order.
type kvHasher struct {
	compactRev, rev int64
	decided         int64 // up to compactRev only that counts which is in force at this revision
	hash            hash.Hash32
	key             []byte // scratch
}

func newKVHasher(compactRev, rev int64) *kvHasher {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write([]byte(backend.Key.String()))
	return &kvHasher{compactRev: compactRev, rev: rev, decided: rev, hash: h}
}

// errHashed ends the walk: what follows is newer.
var errHashed = errors.New("everything is hashed")

func (k *kvHasher) add(root index.Root, r backend.Rev, tombstone bool, kv KV) error {
	switch {
	case r.Main > k.rev:
		return errHashed
	case r.Main <= k.compactRev && !kept(root, r, tombstone, kv, k.decided), r.Main == k.compactRev && tombstone:
		return nil
	}
	k.key = backend.AppendKey(k.key[:0], r, tombstone)
	k.hash.Write(k.key)
	k.hash.Write(kv)
	return nil
}

func (k *kvHasher) sum() KVHash {
	return KVHash{Hash: k.hash.Sum32(), CompactRev: k.compactRev, Rev: k.rev}
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

// maxHashes is how many hashes of compactions are kept, as in etcd.
const maxHashes = 10

// hashes are those of recent compactions, in the order of their revisions.
type hashes struct {
	mu    sync.Mutex
	list  []KVHash
	asked int // the next so many compactions are hashed
}

// askedFor is how many compactions are hashed after somebody, such as a member of etcd, has asked for one: the one that it
// may ask for next, and one in case that it comes too late.
const askedFor = 2

// ExpectHashing makes the next compactions leave a hash, as if somebody had asked for one.
func (s *Store) ExpectHashing() { s.hashes.ask() }

func (h *hashes) ask() {
	h.mu.Lock()
	h.asked = askedFor
	h.mu.Unlock()
}

// want says whether a compaction is to be hashed.
func (h *hashes) want(always bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	asked := h.asked > 0
	h.asked = max(0, h.asked-1)
	return always || asked
}

func (h *hashes) at(rev int64) (KVHash, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.list, func(k KVHash) bool { return k.Rev == rev })
	if i < 0 {
		return KVHash{}, false
	}
	return h.list[i], true
}

func (h *hashes) put(k KVHash) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, k)
	if len(h.list) > maxHashes {
		h.list = h.list[1:]
	}
}

func (h *hashes) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = nil
}

// CompactHashes are the hashes of the latest compactions (at most ten) since the store was opened, in the order of their
// revisions, those that were hashed (see HashKV): each of the key space up to the revision of the compaction, as the compaction before it had left it. All members
// compact at the same revisions, so they can be compared at any later time.
func (s *Store) CompactHashes() []KVHash {
	s.hashes.mu.Lock()
	defer s.hashes.mu.Unlock()
	return slices.Clone(s.hashes.list)
}

// hashStep is how many revisions are hashed at once; as long as that took nothing is done afterwards.
const hashStep = 4096

// hashCompaction hashes what a compaction finds, before it removes anything. It is false if it was stopped or failed.
func (s *Store) hashCompaction(q *compactQueue, c compaction) (KVHash, bool) {
	s.mu.Lock() // the batch with the compaction has been published when this is got
	lost := s.lost
	s.mu.Unlock()
	k := newKVHasher(c.prev, c.rev)
	for from, more := (backend.Rev{Main: 1}), !lost; more; {
		start := s.cfg.Clock.Now()
		var err error
		if from, more, err = s.hashSome(k, from); err != nil {
			s.cfg.Logger.Warn("could not hash the key space before a compaction", zap.Int64("compact-revision", c.rev), zap.Error(err))
			return KVHash{}, false
		}
		if more && !q.rest(s.cfg.Clock, s.cfg.Clock.Now().Sub(start)) {
			return KVHash{}, false
		}
	}
	return k.sum(), !lost
}

// hashSome hashes some revisions from one on, and returns the one to go on with. It looks at the present state each time, so
// that no state is held for long: revisions up to that of the compaction do not change meanwhile.
func (s *Store) hashSome(k *kvHasher, from backend.Rev) (next backend.Rev, more bool, err error) {
	view, at, err := s.view()
	if err != nil {
		return from, false, err
	}
	defer view.Release()
	n := 0
	err = view.ForEachRev(from, func(r backend.Rev, tombstone bool, kv []byte) error {
		if n++; n > hashStep {
			next, more = r, true
			return errHashed
		}
		return k.add(at.root, r, tombstone, kv)
	})
	if errors.Is(err, errHashed) {
		err = nil
	}
	return next, more, err
}
