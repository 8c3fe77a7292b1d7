package mvcc

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/eventlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// model is the store as simply as it can be written: the list of all changes.
type model struct {
	changes    []change
	all        []change // also what was compacted
	rev        int64
	compactRev int64
	hashes     []KVHash // of compactions
}

type change struct {
	rev       backend.Rev
	tombstone bool
	fields    Fields
}

// at returns the last change of each key up to a main revision.
func (m *model) at(rev int64) map[string]change {
	last := map[string]change{}
	for _, c := range m.changes {
		if c.rev.Main <= rev {
			last[string(c.fields.Key)] = c
		}
	}
	return last
}

func in(key string, from, end []byte) bool {
	switch {
	case end == nil:
		return key == string(from)
	case bytes.Equal(end, []byte{0}):
		return key >= string(from)
	}
	return key >= string(from) && key < string(end)
}

func (m *model) rangeAt(key, end []byte, rev int64) (kvs []KV) {
	last := m.at(rev)
	var keys []string
	for k, c := range last {
		if !c.tombstone && in(k, key, end) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		f := last[k].fields
		kvs = append(kvs, f.Marshal())
	}
	return kvs
}

func (m *model) put(key, value []byte, lease, sub int64) {
	f := Fields{Key: key, Value: value, CreateRev: m.rev + 1, ModRev: m.rev + 1, Version: 1, Lease: lease}
	if c, ok := m.at(m.rev + 1)[string(key)]; ok && !c.tombstone {
		f.CreateRev, f.Version = c.fields.CreateRev, c.fields.Version+1
	}
	m.add(change{backend.Rev{Main: m.rev + 1, Sub: sub}, false, f})
}

func (m *model) add(c change) {
	m.changes, m.all = append(m.changes, c), append(m.all, c)
}

func (m *model) delete(key, end []byte, sub int64) (deleted [][]byte) {
	for _, kv := range m.rangeAt(key, end, m.rev+1) {
		k := kv.Parse().Key
		m.add(change{backend.Rev{Main: m.rev + 1, Sub: sub + int64(len(deleted))}, true, Fields{Key: k}})
		deleted = append(deleted, k)
	}
	return deleted
}

// hashKV is etcd's: see server/storage/mvcc/hash.go there.
func (m *model) hashKV(rev int64) KVHash { return m.hashOf(rev, false) }

// hashOf hashes as a compaction does (compacting: deletions at its revision are kept, too) or as a request does.
func (m *model) hashOf(rev int64, compacting bool) KVHash {
	keep := map[backend.Rev]bool{}
	for _, c := range m.at(rev) {
		if !c.tombstone || compacting && c.rev.Main == rev {
			keep[c.rev] = true
		}
	}
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	h.Write([]byte("key"))
	for _, c := range m.changes {
		if c.rev.Main > rev || c.rev.Main <= m.compactRev && len(keep) > 0 && !keep[c.rev] || c.rev.Main == m.compactRev && c.tombstone {
			continue
		}
		h.Write(backend.AppendKey(nil, c.rev, c.tombstone))
		h.Write(c.fields.Marshal())
	}
	return KVHash{Hash: h.Sum32(), CompactRev: m.compactRev, Rev: rev}
}

// compact forgets what a compaction removes.
func (m *model) compact(rev int64) {
	m.hashes = append(m.hashes, m.hashOf(rev, true))
	m.hashes = m.hashes[max(0, len(m.hashes)-10):]
	m.compactRev = rev
	last := m.at(rev)
	m.changes = slices.DeleteFunc(m.changes, func(c change) bool {
		l := last[string(c.fields.Key)]
		return c.rev.Main <= rev && (c.rev != l.rev || c.tombstone && c.rev.Main < rev)
	})
}

type rig struct {
	t     *testing.T
	rng   *rand.Rand
	path  string
	be    *backend.Backend
	store *Store
	model model
	done  []<-chan struct{}
	lease map[string]int64
}

func newRig(t *testing.T, seed uint64) *rig {
	r := &rig{t: t, rng: rand.New(rand.NewPCG(seed, 1)), path: filepath.Join(t.TempDir(), "db")}
	r.model = model{rev: 1, compactRev: -1}
	r.open()
	return r
}

func (r *rig) open() {
	var err error
	r.be, err = backend.Open(backend.Config{Path: r.path, BatchInterval: time.Millisecond, NoSync: true, InitialMmapBytes: 1 << 30})
	require.NoError(r.t, err)
	r.lease = map[string]int64{}
	r.store, err = Open(r.be, Config{CompactionBatchLimit: 5, CompactionSleep: time.Microsecond, EventLogBytes: 1 << 20, HashCompactions: true}, func(k []byte, id int64) { r.lease[string(k)] = id })
	require.NoError(r.t, err)
}

func (r *rig) close() {
	r.store.Close()
	require.NoError(r.t, r.be.Close())
}

func (r *rig) key() []byte { return fmt.Appendf(nil, "k%02d", r.rng.IntN(30)) }

func (r *rig) span() (key, end []byte) {
	switch key = r.key(); r.rng.IntN(4) {
	case 0:
		return key, nil
	case 1:
		return key, []byte{0}
	}
	return key, r.key()
}

// txn makes a transaction of some changes, each of other keys, and compares what it sees with the model.
func (r *rig) txn() {
	w := r.store.Write()
	defer w.End()
	var sub int64
	touched := map[string]bool{}
	for range 1 + r.rng.IntN(3) {
		if key := r.key(); r.rng.IntN(3) > 0 && !touched[string(key)] {
			touched[string(key)] = true
			value, lease := fmt.Append(nil, r.rng.IntN(1000)), int64(r.rng.IntN(3))
			w.Put(key, value, lease)
			r.model.put(key, value, lease, sub)
			sub++
		} else if len(touched) == 0 {
			key, end := r.span()
			got := w.DeleteRange(key, end)
			want := r.model.delete(key, end, sub)
			require.Equal(r.t, want, got)
			for _, k := range want {
				touched[string(k)] = true
			}
			sub += int64(len(want))
		}
		if sub > 0 {
			require.Equal(r.t, r.model.rev+1, w.Rev())
		}
		key, end := r.span()
		res, err := w.Range(key, end, RangeOptions{})
		require.NoError(r.t, err)
		requireKVs(r.t, r.model.rangeAt(key, end, r.model.rev+1), res.KVs)
	}
	if sub > 0 {
		r.model.rev++
	}
}

func requireKVs(t *testing.T, want, got []KV) {
	t.Helper()
	require.Equal(t, len(want), len(got))
	for i := range want {
		require.Equal(t, want[i].Parse(), got[i].Parse())
		require.True(t, bytes.Equal(want[i], got[i]))
	}
}

func (r *rig) read() {
	txn := r.store.Read()
	defer txn.Close()
	require.Equal(r.t, r.model.rev, txn.Rev())
	require.Equal(r.t, r.model.compactRev, txn.CompactRev())
	key, end := r.span()
	o := RangeOptions{Limit: int64(r.rng.IntN(4)), CountOnly: r.rng.IntN(4) == 0}
	if r.rng.IntN(2) == 0 {
		o.Rev = max(1, r.model.rev-int64(r.rng.IntN(20)))
	}
	res, err := txn.Range(key, end, o)
	if o.Rev > 0 && o.Rev < r.model.compactRev {
		require.ErrorIs(r.t, err, ErrCompacted)
		return
	}
	require.NoError(r.t, err)
	rev := o.Rev
	if rev == 0 {
		rev = r.model.rev
	}
	want := r.model.rangeAt(key, end, rev)
	require.EqualValues(r.t, len(want), res.Count)
	require.Equal(r.t, r.model.rev, res.Rev)
	if o.CountOnly {
		want = nil
	}
	if o.Limit > 0 && int64(len(want)) > o.Limit {
		want = want[:o.Limit]
	}
	requireKVs(r.t, want, res.KVs)
	_, err = txn.Range(key, end, RangeOptions{Rev: r.model.rev + 1})
	require.ErrorIs(r.t, err, ErrFutureRev)
	r.weigh(txn, key)
}

// weigh compares the sizes of the keys from one on with the model.
func (r *rig) weigh(txn *ReadTxn, key []byte) {
	want, offset := r.model.rangeAt(key, []byte{0}, r.model.rev), int64(0)
	_, all := txn.Weigh("", nil)
	keys, bytes := txn.Weigh(string(key), nil)
	for _, kv := range want {
		at, ok := txn.KeyAt(all - bytes + offset)
		require.True(r.t, ok)
		require.Equal(r.t, string(kv.Parse().Key), at)
		offset += int64(len(kv))
	}
	require.Equal(r.t, []int64{int64(len(want)), offset}, []int64{keys, bytes})
	_, ok := txn.KeyAt(all)
	require.False(r.t, ok)
}

func (r *rig) compact() {
	rev := r.model.rev - int64(r.rng.IntN(15))
	done, err := r.store.Compact(rev)
	if rev <= r.model.compactRev {
		require.ErrorIs(r.t, err, ErrCompacted)
	} else {
		require.NoError(r.t, err)
		r.model.compact(rev)
	}
	r.done = append(r.done, done)
	_, err = r.store.Compact(r.model.rev + 1)
	require.ErrorIs(r.t, err, ErrFutureRev)
	r.store.Publish()
}

func (r *rig) hash() {
	rev := max(r.model.compactRev, r.model.rev-int64(r.rng.IntN(10)), 1)
	if r.rng.IntN(2) == 0 { // what compactions are under way may leave a hash
		r.settle()
		require.Equal(r.t, r.model.hashes, r.store.CompactHashes())
	} else if rev == r.model.compactRev {
		return
	}
	want := r.model.hashKV(rev)
	for _, h := range r.model.hashes {
		if h.Rev == rev {
			want = h
		}
	}
	got, current, err := r.store.HashKV(rev)
	require.NoError(r.t, err)
	require.Equal(r.t, r.model.rev, current)
	require.Equal(r.t, want, got)
	if old := r.model.compactRev - 1; old > 1 && !slices.ContainsFunc(r.model.hashes, func(h KVHash) bool { return h.Rev == old }) {
		_, _, err = r.store.HashKV(old)
		require.ErrorIs(r.t, err, ErrCompacted)
	}
}

// settle waits for all compactions, also for one that was taken up again.
func (r *rig) settle() {
	last, err := r.store.Compact(-1)
	require.ErrorIs(r.t, err, ErrCompacted)
	r.store.Publish()
	r.done = append(r.done, last)
	for _, done := range r.done {
		<-done
	}
	r.done = nil
}

func (r *rig) history() {
	key, end := r.span()
	from := max(1, r.model.rev-int64(r.rng.IntN(20)))
	if from < r.model.compactRev {
		_, _, err := r.store.Events(key, end, from, r.model.rev, 100)
		require.ErrorIs(r.t, err, ErrCompacted)
		return
	}
	var got []eventlog.Event
	for next := from; next <= r.model.rev; {
		evs, n, err := r.store.Events(key, end, next, r.model.rev, 60)
		require.NoError(r.t, err)
		require.Greater(r.t, n, next)
		got, next = append(got, evs...), n
	}
	i := 0
	for _, c := range r.model.changes {
		// A revision below the compacted one may still be there or not.
		if c.rev.Main < from || c.rev.Main <= r.model.compactRev || !in(string(c.fields.Key), key, end) {
			continue
		}
		for got[i].Main <= r.model.compactRev {
			i++
		}
		ev := got[i]
		require.Equal(r.t, c.rev, backend.Rev{Main: ev.Main, Sub: ev.Sub})
		require.Equal(r.t, c.tombstone, ev.Delete)
		require.Equal(r.t, string(c.fields.Key), string(ev.Key))
		f := KV(ev.KV).Parse()
		require.Equal(r.t, c.rev.Main, f.ModRev)
		require.Equal(r.t, string(c.fields.Value), string(f.Value))
		i++
		if prev := r.store.Prev(ev.Key, ev.Main-1); ev.Main-1 >= r.model.compactRev {
			want := r.model.rangeAt(ev.Key, nil, ev.Main-1)
			require.Equal(r.t, len(want) > 0, prev != nil)
			if prev != nil {
				require.True(r.t, bytes.Equal(want[0], prev))
			}
		}
	}
}

func TestModel(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, seed)
			var events []eventlog.Event
			last := int64(1)
			for range 600 {
				switch op := r.rng.IntN(20); {
				case op < 9:
					for range r.rng.IntN(4) {
						r.txn()
					}
					r.store.Publish()
				case op < 15:
					r.read()
				case op == 15:
					r.compact()
				case op == 16:
					r.hash()
					r.sums()
				case op == 17:
					r.history()
				case op == 18:
					w := r.store.Log().Window()
					for i := w.Search(last + 1); i < w.Len(); i++ {
						events = append(events, *w.At(i))
					}
					last = w.Rev
				case op == 19 && r.rng.IntN(10) == 0:
					r.close()
					r.open()
					r.model.hashes = nil
					last = r.model.rev
					for k, c := range r.model.at(r.model.rev) {
						require.Equal(t, c.fields.Lease, r.lease[k])
					}
				}
			}
			r.settle()
			r.hash()
			r.sums()
			view, ok := r.be.View()
			require.True(t, ok)
			var left []backend.Rev
			require.NoError(t, view.ForEachRev(backend.Rev{}, func(rev backend.Rev, _ bool, _ []byte) error {
				left = append(left, rev)
				return nil
			}))
			view.Release()
			var want []backend.Rev
			for _, c := range r.model.changes {
				want = append(want, c.rev)
			}
			require.Equal(t, want, left, "a compaction removes exactly what it should")
			require.True(t, slices.IsSortedFunc(events, func(a, b eventlog.Event) int {
				return backend.Rev{Main: a.Main, Sub: a.Sub}.Compare(backend.Rev{Main: b.Main, Sub: b.Sub})
			}))
			r.close()
			_, err := r.store.Read().Range([]byte("k"), nil, RangeOptions{})
			require.ErrorIs(t, err, ErrClosed)
		})
	}
}

// TestPagesOfAnOldRevision reads a list in pages at a revision that is not the current one any more: what is kept for them must
// not be taken for the state at the revision that is current meanwhile.
func TestPagesOfAnOldRevision(t *testing.T) {
	r := newRig(t, 1)
	defer r.close()
	put := func(keys ...string) {
		w := r.store.Write()
		for _, k := range keys {
			w.Put([]byte(k), []byte("v"), 0)
		}
		w.End()
		r.store.Publish()
	}
	page := func(key string, rev int64) *RangeResult {
		txn := r.store.Read()
		defer txn.Close()
		res, err := txn.Range([]byte(key), []byte{0}, RangeOptions{Rev: rev, Limit: 1})
		require.NoError(t, err)
		return res
	}
	put("a", "b", "c")
	old := page("a", 0).Rev
	put("d", "e")
	require.EqualValues(t, 2, page("b", old).Count)
	now := old + 1
	put("f")
	require.EqualValues(t, 5, page("a", now).Count)
}

// TestConcurrentReaders reads while a writer keeps a sum over all keys constant and compacts what is behind.
func TestConcurrentReaders(t *testing.T) {
	r := newRig(t, 1)
	defer r.close()
	const accounts, total = 20, 1000
	w := r.store.Write()
	for i := range accounts {
		w.Put(fmt.Appendf(nil, "a%02d", i), []byte{byte(total / accounts)}, 0)
	}
	w.End()
	r.store.Publish()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			var seen int64
			for {
				select {
				case <-stop:
					return
				default:
				}
				txn := r.store.Read()
				res, err := txn.Range([]byte("a"), []byte("b"), RangeOptions{})
				if err != nil || res.Rev < seen || len(res.KVs) != accounts {
					t.Errorf("revision %d after %d, %d keys: %v", res.Rev, seen, len(res.KVs), err)
				}
				sum := 0
				for _, kv := range res.KVs {
					sum += int(kv.Parse().Value[0])
				}
				if sum != total {
					t.Errorf("the sum is %d at revision %d", sum, res.Rev)
				}
				seen = res.Rev
				txn.Close()
			}
		})
	}
	for i := range 3000 {
		w := r.store.Write()
		from, to := fmt.Appendf(nil, "a%02d", r.rng.IntN(accounts)), fmt.Appendf(nil, "a%02d", r.rng.IntN(accounts))
		get := func(k []byte) byte {
			res, err := w.Range(k, nil, RangeOptions{})
			require.NoError(t, err)
			return res.KVs[0].Parse().Value[0]
		}
		if a, b := get(from), get(to); !bytes.Equal(from, to) && a > 0 && b < 255 {
			w.Put(from, []byte{a - 1}, 0)
			w.Put(to, []byte{b + 1}, 0)
		}
		w.End()
		if i%100 == 99 {
			_, err := r.store.Compact(w.Rev() - 10)
			require.NoError(t, err)
		}
		r.store.Publish()
	}
	close(stop)
	wg.Wait()
}

func FuzzKV(f *testing.F) {
	full := Fields{Key: []byte("k"), Value: []byte("v"), CreateRev: 1, ModRev: 2, Version: 3, Lease: -4}
	f.Add([]byte(full.Marshal()))
	f.Add([]byte{0x0a, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		fields, err := KV(b).parse()
		if err == nil {
			again := fields.Marshal().Parse()
			require.Equal(t, string(fields.Key), string(again.Key))
			require.Equal(t, string(fields.Value), string(again.Value))
		}
	})
}
