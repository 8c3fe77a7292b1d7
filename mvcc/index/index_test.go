package index

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/mvcc/backend"
)

// check verifies order, counts and sizes of a subtree.
func check(t *testing.T, n *node, lo, hi string) (entries int) {
	live, stale, bytes := n.live, n.stale, n.bytes
	n.count()
	require.Equal(t, n.live, live)
	require.Equal(t, n.stale, stale)
	require.Equal(t, n.bytes, bytes)
	require.Less(t, n.size(), maxItems)
	for i, e := range n.entries {
		require.True(t, e.Key >= lo && (hi == "" || e.Key < hi))
		require.True(t, i == 0 || n.entries[i-1].Key < e.Key)
	}
	entries = len(n.entries)
	for i, c := range n.children {
		clo, chi := lo, hi
		if i > 0 {
			clo = n.keys[i-1]
		}
		if i < len(n.keys) {
			chi = n.keys[i]
		}
		entries += check(t, c, clo, chi)
	}
	return entries
}

func stamps(e *Entry) []Stamp { return e.Since(nil, 0, 1<<60) }

// TestModel compares the tree with a map, and frozen roots with what they were when they were frozen.
func TestModel(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 7))
		tree, model := NewTree(), map[string]*Entry{}
		type frozen struct {
			root  Root
			model map[string]*Entry
		}
		var old []frozen
		keys := 1 << (3 + seed)
		for i := range 20000 {
			key := fmt.Sprintf("%05d", rng.IntN(keys))
			r := backend.Rev{Main: int64(i + 2)}
			e := model[key]
			switch op := rng.IntN(10); {
			case e == nil && op < 8:
				model[key] = New(key, NewStamp(r, false), r.Main, 1)
			case e == nil:
				continue
			case op < 5:
				model[key] = e.Put(r)
			case op < 8 && e.Live():
				model[key] = e.Delete(r)
			default:
				delete(model, key)
				tree.Remove(key)
				tree.Remove(key)
				continue
			}
			if e := model[key]; e.Live() {
				e.Size = uint32(rng.IntN(1000))
			}
			tree.Set(model[key])
			if rng.IntN(2000) == 0 {
				m := map[string]*Entry{}
				for k, v := range model {
					m[k] = v
				}
				old = append(old, frozen{tree.Freeze(), m})
			}
		}
		old = append(old, frozen{tree.Freeze(), model})
		for _, f := range old {
			compare(t, f.root, f.model, rng, keys)
		}
	}
}

func compare(t *testing.T, root Root, model map[string]*Entry, rng *rand.Rand, keys int) {
	require.Equal(t, len(model), check(t, root.n, "", ""))
	compareRow(t, root)
	for range 50 {
		lo, hi := fmt.Sprintf("%05d", rng.IntN(keys)), fmt.Sprintf("%05d", rng.IntN(keys))
		end := &hi
		if rng.IntN(4) == 0 {
			end = nil
		}
		var all, live, stale []string
		for k, e := range model {
			if k < lo || end != nil && k >= hi {
				continue
			}
			all = append(all, k)
			if e.Live() {
				live = append(live, k)
			}
			if e.stale() && end == nil {
				stale = append(stale, k)
			}
		}
		collect := func(walk func(fn func(*Entry) bool)) (got []string) {
			walk(func(e *Entry) bool {
				require.Same(t, model[e.Key], e)
				got = append(got, e.Key)
				return true
			})
			return got
		}
		for _, s := range [][]string{all, live, stale} {
			slices.Sort(s)
		}
		require.Equal(t, all, collect(func(fn func(*Entry) bool) { root.Ascend(lo, end, fn) }))
		require.Equal(t, live, collect(func(fn func(*Entry) bool) { root.AscendLive(lo, end, fn) }))
		require.EqualValues(t, len(live), root.Count(lo, end))
		bytes := int64(0)
		for _, k := range live {
			bytes += int64(model[k].Size)
		}
		gotKeys, gotBytes := root.Weigh(lo, end)
		require.Equal(t, []int64{int64(len(live)), bytes}, []int64{gotKeys, gotBytes})
		if end == nil {
			require.Equal(t, stale, collect(func(fn func(*Entry) bool) { root.AscendStale(lo, fn) }))
		}
		require.Same(t, model[lo], root.Get(lo))
	}
}

// compareRow looks up the first and the last byte of every live key.
func compareRow(t *testing.T, root Root) {
	offset := int64(0)
	root.AscendLive("", nil, func(e *Entry) bool {
		if size := int64(e.Size); size > 0 {
			require.Same(t, e, root.AtByte(offset))
			require.Same(t, e, root.AtByte(offset+size-1))
			offset += size
		}
		return true
	})
	require.Nil(t, root.AtByte(offset))
	require.Nil(t, root.AtByte(-1))
	_, all := root.Weigh("", nil)
	require.Equal(t, offset, all)
}

// TestEntry compares one key's entry with a list of its changes.
func TestEntry(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		e := New("k", NewStamp(backend.Rev{Main: 2}, false), 2, 1)
		list := []Stamp{e.Last}
		main := int64(2)
		for range rng.IntN(20) {
			main += 1 + int64(rng.IntN(3))
			if e.Live() && rng.IntN(3) == 0 {
				e = e.Delete(backend.Rev{Main: main, Sub: 1})
			} else {
				e = e.Put(backend.Rev{Main: main})
			}
			list = append(list, e.Last)
		}
		for compacted := int64(0); compacted < main+2; compacted += 1 + int64(rng.IntN(4)) {
			var want []Stamp
			for i, s := range list {
				last := i == len(list)-1 || list[i+1].Main > compacted
				if s.Main > compacted || last && (!s.Tombstone() || s.Main == compacted) {
					want = append(want, s)
				}
			}
			got, dropped := e.Compact(compacted, nil)
			if got == nil {
				require.Empty(t, want)
				require.Equal(t, list, dropped)
				continue
			}
			require.Equal(t, want, stamps(got))
			require.Equal(t, list, append(dropped, stamps(got)...))
			require.Equal(t, e.Version, got.Version)
			for at := compacted; at <= main; at++ {
				a, okA := e.At(at)
				b, okB := got.At(at)
				if okB || okA && !a.Tombstone() {
					require.Equal(t, a, b)
				}
			}
		}
	}
}

func TestGenerations(t *testing.T) {
	e := New("k", NewStamp(backend.Rev{Main: 2}, false), 2, 1)
	e = e.Put(backend.Rev{Main: 3})
	require.EqualValues(t, []int64{2, 2}, []int64{e.Create, e.Version})
	e = e.Delete(backend.Rev{Main: 4}).Put(backend.Rev{Main: 5})
	require.EqualValues(t, []int64{5, 1}, []int64{e.Create, e.Version})
}

func BenchmarkSet(b *testing.B) {
	for _, n := range []int{1000, 1000000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tree := NewTree()
			keys := make([]string, n)
			for i := range keys {
				keys[i] = fmt.Sprintf("key-%09d", i*7919%n)
				tree.Set(New(keys[i], NewStamp(backend.Rev{Main: 1}, false), 1, 1))
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				e := tree.Root().Get(keys[i%n])
				tree.Set(New(e.Key, NewStamp(backend.Rev{Main: int64(i)}, false), 1, 1))
				if i%16 == 0 {
					tree.Freeze()
				}
			}
		})
	}
}
