package mvcc

import (
	"slices"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/keelson-io/keelson/mvcc/backend"
)

// The sum of a set of records is the sum, modulo 2^64, of a hash of each. So a record is added or taken away at the cost of
// its own hash, in any order. 64 bits are enough to find faults: one that is not meant to stays unseen once in 2^64.
//
// What is kept of the past is chosen so that members which apply in batches of their own, at a pace of their own, have
// points in common: level 0 holds the last sumRing revisions, level n the last sumRing that 16^n divides.
const (
	sumLevels = 6
	sumBits   = 4 // a level is this many bits coarser than the one before
	sumRing   = 64
	maxBases  = 4 // finished compactions that are remembered
)

type sumPoint struct {
	rev int64
	sum uint64 // of everything written up to rev, and there when the store was loaded
}

// sumBase is a compaction whose removals are finished.
type sumBase struct {
	compactRev int64
	without    uint64 // what is not in the sum of a point as of this compaction
}

// sums are the sums of the key space at recent revisions, each as of a compaction that is finished: what is still being
// removed is not missed before all of it is gone, so that the pace of compaction does not show.
type sums struct {
	written uint64 // the writer's

	mu      sync.Mutex
	first   int64 // the revision that was loaded: there are no points before it
	last    int64
	removed uint64 // by compactions since
	bases   []sumBase
	levels  [sumLevels][sumRing]sumPoint
}

// recordSum is the hash of one record: of its stored bytes, and of its place among the revisions.
func recordSum(r backend.Rev, tombstone bool, kv []byte) uint64 {
	h := scatter(xxhash.Sum64(kv) ^ scatter(uint64(r.Main)))
	sub := uint64(r.Sub) << 1
	if tombstone {
		sub |= 1
	}
	return scatter(h + sub)
}

// scatter is the finalizer of MurmurHash3: one to one, every bit depends on every other.
func scatter(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// reset begins anew with what was loaded. base is nil if a compaction was under way: nobody knows what it has removed.
func (s *sums) reset(rev int64, sum uint64, base *sumBase) {
	s.mu.Lock()
	s.written, s.removed, s.bases, s.first = sum, 0, nil, rev
	s.levels = [sumLevels][sumRing]sumPoint{}
	if base != nil {
		s.bases = []sumBase{*base}
	}
	s.mu.Unlock()
	s.point(rev)
}

// point notes the sum at the revision that a transaction made; the writer calls it.
func (s *sums) point(rev int64) {
	s.mu.Lock()
	s.last = rev
	for l, at := 0, rev; l < sumLevels; l, at = l+1, at>>sumBits {
		s.levels[l][at%sumRing] = sumPoint{rev, s.written}
		if at&(1<<sumBits-1) != 0 {
			break
		}
	}
	s.mu.Unlock()
}

// compacted notes the end of a compaction: what it removed, and the deletions at its own revision. The latter stay in the
// file until the next one, but members of older versions of etcd did not keep them, so they never count.
func (s *sums) compacted(rev int64, removed, deletions uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed += removed
	s.bases = append(s.bases, sumBase{rev, s.removed + deletions})
	if len(s.bases) > maxBases {
		s.bases = slices.Delete(s.bases, 0, 1)
	}
}

// Sum is the hash of the key space at a main revision as the compaction at another one left it (-1: before any): of the
// stored bytes of all records, deletions at compactRev left out. It is the same on every member, whatever order and pace it
// got there in. False: it is not known, see Sums.
func (s *Store) Sum(rev, compactRev int64) (sum uint64, ok bool) {
	s.sums.mu.Lock()
	defer s.sums.mu.Unlock()
	i := slices.IndexFunc(s.sums.bases, func(b sumBase) bool { return b.compactRev == compactRev })
	if i < 0 || rev < max(compactRev, s.sums.first) {
		return 0, false
	}
	for l, at := 0, rev; l < sumLevels; l, at = l+1, at>>sumBits {
		if p := s.sums.levels[l][at%sumRing]; p.rev == rev {
			return p.sum - s.sums.bases[i].without, true
		}
		if at&(1<<sumBits-1) != 0 {
			break
		}
	}
	return 0, false
}

// SumRange says which sums a store knows.
type SumRange struct {
	First, Last int64   // no revision before First, nor after Last
	Compactions []int64 // that are finished, in rising order; -1: nothing was ever compacted
}

// Sums says which sums are known.
func (s *Store) Sums() SumRange {
	s.sums.mu.Lock()
	defer s.sums.mu.Unlock()
	r := SumRange{First: s.sums.first, Last: s.sums.last}
	for _, b := range s.sums.bases {
		r.Compactions = append(r.Compactions, b.compactRev)
	}
	return r
}

// Common is the latest revision of which all stores with these ranges know a sum, and will until there are so many more
// revisions, and the compaction as of which. False: there is none.
func Common(more int64, ranges ...SumRange) (rev, compactRev int64, ok bool) {
	if len(ranges) == 0 {
		return 0, 0, false
	}
	first, last, newest := int64(0), ranges[0].Last, int64(0)
	for _, r := range ranges {
		first, last, newest = max(first, r.First), min(last, r.Last), max(newest, r.Last)
	}
	// Compactions newest first.
	for _, c := range slices.Backward(ranges[0].Compactions) {
		shared := true
		for _, r := range ranges[1:] {
			shared = shared && slices.Contains(r.Compactions, c)
		}
		if !shared {
			continue
		}
		for l := range sumLevels {
			shift := l * sumBits
			at := last >> shift << shift
			if at >= max(first, c) && (newest+more)>>shift-at>>shift < sumRing {
				return at, c, true
			}
		}
	}
	return 0, 0, false
}
