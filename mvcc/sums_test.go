package mvcc

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/mvcc/backend"
)

// sum is the sum of a state from scratch: as if there had been one compaction only.
func (m *model) sum(rev, compactRev int64) (sum uint64) {
	last := map[string]change{}
	for _, c := range m.all {
		if c.rev.Main <= compactRev {
			last[string(c.fields.Key)] = c
		}
	}
	for _, c := range m.all {
		gone := c.rev.Main <= compactRev && (c.rev != last[string(c.fields.Key)].rev || c.tombstone)
		if c.rev.Main <= rev && !gone {
			sum += recordSum(c.rev, c.tombstone, c.fields.Marshal())
		}
	}
	return sum
}

// sums compares every sum that the store knows, while compactions are under way or not.
func (r *rig) sums() {
	settled := r.rng.IntN(2) == 0
	if settled {
		r.settle()
	}
	known := r.store.Sums()
	require.Equal(r.t, r.model.rev, known.Last)
	if settled {
		require.Equal(r.t, r.model.compactRev, known.Compactions[len(known.Compactions)-1])
	}
	for _, c := range known.Compactions {
		_, ok := r.store.Sum(known.Last, c)
		require.True(r.t, ok || !settled, "a compaction that ends meanwhile may push an old one out")
		for rev := max(0, known.Last-300); rev <= known.Last+1; rev++ {
			got, ok := r.store.Sum(rev, c)
			if ok {
				require.Equal(r.t, r.model.sum(rev, c), got, "revision %d, compaction %d", rev, c)
			}
			require.Equal(r.t, ok && rev <= known.Last, ok, "revision %d of %d", rev, known.Last)
			require.Equal(r.t, ok && rev >= max(c, known.First), ok)
		}
	}
}

// TestSumSeesEveryBit changes one bit of one stored record, or a record's place.
func TestSumSeesEveryBit(t *testing.T) {
	kv := make([]byte, 100)
	whole := recordSum(backend.Rev{Main: 7, Sub: 3}, false, kv)
	seen := map[uint64]string{whole: "whole"}
	add := func(what string, h uint64) {
		require.Empty(t, seen[h], what)
		seen[h] = what
	}
	for i := range len(kv) * 8 {
		kv[i/8] ^= 1 << (i % 8)
		add(fmt.Sprint("bit ", i), recordSum(backend.Rev{Main: 7, Sub: 3}, false, kv))
		kv[i/8] ^= 1 << (i % 8)
	}
	add("tombstone", recordSum(backend.Rev{Main: 7, Sub: 3}, true, kv))
	add("sub", recordSum(backend.Rev{Main: 7, Sub: 4}, false, kv))
	add("main", recordSum(backend.Rev{Main: 8, Sub: 3}, false, kv))
	add("swapped", recordSum(backend.Rev{Main: 3, Sub: 7}, false, kv))
	add("shorter", recordSum(backend.Rev{Main: 7, Sub: 3}, false, kv[1:]))
	require.Equal(t, uint64(0x35d896c7eec2619), recordSum(backend.Rev{Main: 1, Sub: 2}, true, []byte("a record")), "other members compute the same")
}

// TestCommonPoint: stores that are at most so far apart have a point in common, wherever they are.
func TestCommonPoint(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		ahead := rng.Int64N(1 << rng.IntN(22))
		stores := [2]*Store{{}, {}}
		start := rng.Int64N(1 << 30)
		for i, s := range stores {
			s.sums.reset(start, uint64(start), &sumBase{compactRev: -1})
			end := start + ahead*int64(i) + 70
			for l := sumLevels - 1; l >= 0; l-- { // what writing all of them would leave
				step := int64(1) << (l * sumBits)
				for rev := max(start/step+1, end/step-sumRing+1) * step; rev <= end; rev += step {
					s.sums.written = uint64(rev)
					s.sums.point(rev)
				}
			}
		}
		rev, c, ok := Common(0, stores[0].Sums(), stores[1].Sums())
		if !ok {
			require.Greater(t, ahead, int64(40), "start %d, ahead %d", start, ahead)
			continue
		}
		for _, s := range stores {
			sum, ok := s.Sum(rev, c)
			require.True(t, ok, "start %d, ahead %d, point %d", start, ahead, rev)
			require.Equal(t, uint64(rev), sum)
		}
	}
	_, _, ok := Common(0)
	require.False(t, ok)
	_, _, ok = Common(0, SumRange{1, 10, []int64{3}}, SumRange{1, 10, []int64{4}})
	require.False(t, ok, "no compaction in common")
	_, _, ok = Common(0, SumRange{1, 10, []int64{-1}}, SumRange{11, 20, []int64{-1}})
	require.False(t, ok, "no revision in common")
	rev, c, ok := Common(0, SumRange{1, 30, []int64{4, 9, 12}}, SumRange{2, 20, []int64{4, 9}})
	require.True(t, ok)
	require.Equal(t, [2]int64{20, 9}, [2]int64{rev, c})
}

// TestCompactionsHashedWhenAsked: without the setting only those are hashed that somebody may ask for.
func TestCompactionsHashedWhenAsked(t *testing.T) {
	be, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db"), NoSync: true, InitialMmapBytes: 1 << 30})
	require.NoError(t, err)
	s, err := Open(be, Config{}, nil)
	require.NoError(t, err)
	defer func() { s.Close(); require.NoError(t, be.Close()) }()
	var compacted []int64
	compact := func() {
		w := s.Write()
		w.Put([]byte("k"), []byte("v"), 0)
		w.End()
		done, err := s.Compact(w.Rev())
		require.NoError(t, err)
		s.Publish()
		<-done
		compacted = append(compacted, w.Rev())
	}
	hashed := func() (revs []int64) {
		for _, h := range s.CompactHashes() {
			revs = append(revs, h.Rev)
		}
		return revs
	}
	compact()
	compact()
	require.Empty(t, hashed())
	_, _, err = s.HashKV(0)
	require.NoError(t, err)
	compact()
	require.Empty(t, hashed(), "that was not asked for a compaction")
	_, _, err = s.HashKV(compacted[2])
	require.NoError(t, err)
	compact()
	compact()
	compact()
	require.Equal(t, compacted[3:5], hashed())
	_, _, err = s.HashKV(compacted[4])
	require.NoError(t, err)
	compact()
	require.True(t, slices.Contains(hashed(), compacted[6]))
}

func BenchmarkRecordSum(b *testing.B) {
	for _, size := range []int{64, 300, 4096} {
		kv := make([]byte, size)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			for i := range b.N {
				_ = recordSum(backend.Rev{Main: int64(i)}, false, kv)
			}
		})
	}
}

// BenchmarkPut is a transaction of one put, batches of 100, as the applier makes them.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{100, 1000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			be, err := backend.Open(backend.Config{Path: filepath.Join(b.TempDir(), "db"), NoSync: true})
			require.NoError(b, err)
			s, err := Open(be, Config{}, nil)
			require.NoError(b, err)
			defer func() { s.Close(); _ = be.Close() }()
			value := make([]byte, size)
			b.ReportAllocs()
			for i := range b.N {
				w := s.Write()
				w.Put(fmt.Appendf(nil, "key-%06d", i%100_000), value, 0)
				w.End()
				if i%100 == 99 {
					s.Publish()
				}
			}
			s.Publish()
		})
	}
}
