package backend

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string, change ...func(*Config)) *Backend {
	t.Helper()
	cfg := Config{Path: path, BatchInterval: time.Millisecond, NoSync: true, InitialMmapBytes: 1 << 30}
	for _, f := range change {
		f(&cfg)
	}
	b, err := Open(cfg)
	require.NoError(t, err)
	return b
}

func view(t testing.TB, b *Backend) View {
	v, ok := b.View()
	require.True(t, ok)
	return v
}

func value(r Rev) []byte { return fmt.Appendf(nil, "value of %d/%d", r.Main, r.Sub) }

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b := open(t, path)
	_, err := Open(Config{Path: path})
	require.ErrorIs(t, err, ErrInUse)
	require.NoError(t, b.Close())
	require.NoError(t, b.Close())
	_, ok := b.View()
	require.False(t, ok)
	require.ErrorIs(t, b.Commit(), ErrClosed)
}

func TestPublish(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "db"), func(c *Config) { c.BatchInterval = time.Hour })
	defer b.Close()
	b.AppendRev(Rev{2, 0}, false, []byte("a"))
	before := view(t, b)
	require.Nil(t, before.Get(Rev{2, 0}, false), "not published yet")
	b.Publish("first")
	require.Nil(t, before.Get(Rev{2, 0}, false), "an older view does not change")
	after := view(t, b)
	require.Equal(t, "a", string(after.Get(Rev{2, 0}, false)))
	require.Equal(t, "first", after.Payload())
	require.Nil(t, before.Payload())
	require.NoError(t, b.Commit())
	require.Equal(t, "a", string(after.Get(Rev{2, 0}, false)), "also once it is in the file")
	flushed := view(t, b)
	require.Equal(t, "a", string(flushed.Get(Rev{2, 0}, false)))
	require.Equal(t, "first", flushed.Payload())
	for _, v := range []View{before, after, flushed} {
		v.Release()
	}
}

func TestRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b := open(t, path, func(c *Config) { c.BatchInterval = time.Hour })
	rng := rand.New(rand.NewPCG(1, 2))
	model := map[string]string{}
	check := func() {
		t.Helper()
		var keys []string
		require.NoError(t, b.ForEach(Lease, func(k, v []byte) error {
			require.Equal(t, model[string(k)], string(v))
			keys = append(keys, string(k))
			return nil
		}))
		require.True(t, slices.IsSorted(keys))
		require.Len(t, keys, len(model))
		for i := range 40 {
			key := fmt.Sprintf("%02d", i)
			want, ok := model[key]
			got := b.Get(Lease, []byte(key))
			require.Equal(t, ok, got != nil)
			require.Equal(t, want, string(got))
		}
	}
	for i := range 400 {
		key := fmt.Sprintf("%02d", rng.IntN(40))
		switch rng.IntN(8) {
		case 0, 1, 2:
			model[key] = fmt.Sprint(i)
			b.Put(Lease, []byte(key), []byte(model[key]))
		case 3, 4:
			delete(model, key)
			b.Delete(Lease, []byte(key))
		case 5:
			b.Publish(nil)
		case 6:
			require.NoError(t, b.Commit())
		case 7:
			check()
		}
	}
	b.Publish(nil)
	require.NoError(t, b.Close())
	b = open(t, path)
	defer b.Close()
	check()
}

func TestConsistentIndexGoesWithItsBatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b := open(t, path, func(c *Config) { c.BatchInterval = time.Hour })
	b.AppendRev(Rev{2, 0}, false, []byte("a"))
	b.SetConsistentIndex(7, 1)
	b.Publish(nil)
	b.AppendRev(Rev{3, 0}, false, []byte("b"))
	b.SetConsistentIndex(8, 1)
	require.NoError(t, b.Commit())
	index, term := b.ConsistentIndex()
	require.EqualValues(t, 8, index)
	require.EqualValues(t, 1, term)

	copied := filepath.Join(t.TempDir(), "copy") // what a kill would leave
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(copied, data, 0o600))
	require.NoError(t, b.Close())
	b = open(t, copied)
	defer b.Close()
	index, _ = b.ConsistentIndex()
	require.EqualValues(t, 7, index)
	v := view(t, b)
	defer v.Release()
	require.NotNil(t, v.Get(Rev{2, 0}, false))
	require.Nil(t, v.Get(Rev{3, 0}, false))
}

// TestModel runs one writer, readers, flushes, defragmentations and a memory map that is too small, all at once.
func TestModel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b := open(t, path, func(c *Config) { c.InitialMmapBytes = 1 << 20; c.BatchLimit = 50; c.MaxBufferBytes = 1 << 20 })
	var wg sync.WaitGroup
	done := make(chan struct{})
	until := func(fn func()) {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					fn()
				}
			}
		})
	}
	for range 2 {
		until(func() {
			v := view(t, b)
			defer v.Release()
			p, _ := v.Payload().(Rev) // everything from 2 to p that is not a multiple of 3 is there
			for main := max(2, p.Main-200); main <= p.Main; main++ {
				r := Rev{main, 0}
				if main%3 != 0 && !bytes.Equal(v.Get(r, main%7 == 0), value(r)) {
					t.Errorf("revision %v is lost in the view at %v", r, p)
				}
			}
			if got := v.Get(Rev{p.Main + 1, 0}, false); got != nil {
				t.Errorf("a view at %v sees the future: %q", p, got)
			}
		})
	}
	until(func() {
		if err := b.Defrag(context.Background()); err != nil {
			t.Error(err)
		}
	})
	until(func() { _ = b.Commit() })
	const last = 20000
	var gone []Rev
	for main := int64(2); main <= last; main++ {
		r := Rev{main, 0}
		b.AppendRev(r, main%7 == 0, value(r))
		if main%3 == 0 {
			gone = append(gone, r)
		}
		b.Put(Lease, fmt.Append(nil, main%100), fmt.Append(nil, main))
		if main%10 == 0 {
			b.SetConsistentIndex(uint64(main), 1)
			b.Publish(r)
		}
		if main%500 == 0 {
			b.DeleteRevs(gone, func(i int) bool { return gone[i].Main%7 == 0 })
			gone = nil
		}
	}
	b.DeleteRevs(gone, func(i int) bool { return gone[i].Main%7 == 0 })
	b.Publish(Rev{last, 0})
	close(done)
	wg.Wait()
	require.NoError(t, b.Close())

	b = open(t, path)
	defer b.Close()
	v := view(t, b)
	defer v.Release()
	next := int64(2)
	require.NoError(t, v.ForEachRev(Rev{}, func(r Rev, tombstone bool, kv []byte) error {
		if next%3 == 0 {
			next++
		}
		require.Equal(t, Rev{next, 0}, r)
		require.Equal(t, next%7 == 0, tombstone)
		require.Equal(t, value(r), kv)
		next++
		return nil
	}))
	require.EqualValues(t, last+1, next)
	for i := range 100 {
		require.NotNil(t, b.Get(Lease, fmt.Append(nil, i)))
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	require.NoError(t, err)
	require.Equal(t, []string{path}, left, "no copies are left behind")
}

func TestDefragShrinksAndCanBeCancelled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b := open(t, path)
	defer b.Close()
	var all []Rev
	for main := range int64(5000) {
		r := Rev{main + 2, 0}
		b.AppendRev(r, false, bytes.Repeat([]byte("x"), 1000))
		all = append(all, r)
	}
	b.Publish(nil)
	require.NoError(t, b.Commit())
	b.DeleteRevs(all[:4990], func(int) bool { return false })
	b.Publish(nil)
	require.NoError(t, b.Commit())
	before := b.Size()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.ErrorIs(t, b.Defrag(ctx), context.Canceled)
	require.Equal(t, before, b.Size())
	require.NoError(t, b.Defrag(context.Background()))
	require.Less(t, b.Size(), before/10)
	v := view(t, b)
	defer v.Release()
	require.NotNil(t, v.Get(all[4999], false))
}

func TestSnapshotAndHash(t *testing.T) {
	dir := t.TempDir()
	b := open(t, filepath.Join(dir, "db"), func(c *Config) { c.BatchInterval = time.Hour })
	defer b.Close()
	b.AppendRev(Rev{2, 0}, false, []byte("a"))
	b.Publish(nil)
	snap, err := b.Snapshot()
	require.NoError(t, err)
	require.NoError(t, b.Defrag(context.Background()), "the file may be replaced meanwhile")
	b.AppendRev(Rev{3, 0}, false, []byte("b"))
	b.Publish(nil)
	require.NoError(t, b.Commit())
	f, err := os.Create(filepath.Join(dir, "copy"))
	require.NoError(t, err)
	n, err := snap.WriteTo(f)
	require.NoError(t, err)
	require.Equal(t, snap.Size(), n)
	require.NoError(t, snap.Close())
	require.NoError(t, f.Close())

	c := open(t, f.Name())
	defer c.Close()
	v := view(t, c)
	require.NotNil(t, v.Get(Rev{2, 0}, false))
	require.Nil(t, v.Get(Rev{3, 0}, false))
	v.Release()
	all := func(string, []byte) bool { return false }
	hb, err := b.Hash(all)
	require.NoError(t, err)
	hc, err := c.Hash(all)
	require.NoError(t, err)
	require.NotEqual(t, hb, hc)
	c.AppendRev(Rev{3, 0}, false, []byte("b"))
	c.Publish(nil)
	hc, err = c.Hash(all)
	require.NoError(t, err)
	require.Equal(t, hb, hc)
}

func TestCommitFailureLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	failed := make(chan error, 100)
	b := open(t, path, func(c *Config) { c.OnError = func(err error) { failed <- err } })
	tooLong := bytes.Repeat([]byte("k"), bbolt.MaxKeySize+1) // bbolt refuses it
	b.Put(Lease, tooLong, []byte("v"))
	b.AppendRev(Rev{2, 0}, false, []byte("a"))
	b.Publish(nil)
	require.Error(t, <-failed)
	v := view(t, b)
	require.NotNil(t, v.Get(Rev{2, 0}, false))
	v.Release()
	b.mu.Lock()
	delete(b.flushing.rows[Lease], string(tooLong))
	b.mu.Unlock()
	require.NoError(t, b.Close())
	b = open(t, path)
	defer b.Close()
	v = view(t, b)
	defer v.Release()
	require.NotNil(t, v.Get(Rev{2, 0}, false))
}

func TestMetricsOfAReplacement(t *testing.T) {
	reg := prometheus.NewRegistry()
	dir := t.TempDir()
	a := open(t, filepath.Join(dir, "a"), func(c *Config) { c.Registerer = reg })
	b := open(t, filepath.Join(dir, "b"), func(c *Config) { c.Registerer = reg })
	require.NoError(t, a.Close())
	families, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, families, 10)
	require.NoError(t, b.Close())
}

func FuzzParseKey(f *testing.F) {
	f.Add(AppendKey(nil, Rev{1, 2}, false))
	f.Add(AppendKey(nil, Rev{1, 2}, true))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, tombstone, err := ParseKey(b)
		if err == nil {
			require.Equal(t, b, AppendKey(nil, r, tombstone))
		}
	})
}

func BenchmarkAppendPublish(b *testing.B) {
	be := open(b, filepath.Join(b.TempDir(), "db"))
	defer be.Close()
	kv := make([]byte, 256)
	b.ReportAllocs()
	for i := range b.N {
		be.AppendRev(Rev{int64(i + 2), 0}, false, kv)
		if i%16 == 0 {
			be.Publish(nil)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	be := open(b, filepath.Join(b.TempDir(), "db"))
	defer be.Close()
	const n = 100000
	for i := range n {
		be.AppendRev(Rev{int64(i + 2), 0}, false, make([]byte, 100))
	}
	be.Publish(nil)
	require.NoError(b, be.Commit())
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for i := 0; p.Next(); i++ {
			v, _ := be.View()
			if v.Get(Rev{int64(i*7919%n + 2), 0}, false) == nil {
				b.Error("lost")
			}
			v.Release()
		}
	})
}

// TestListsFreePages tells files that list their free pages from those that do not.
func TestListsFreePages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	for _, listed := range []bool{true, false, true} {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoFreelistSync: !listed})
		require.NoError(t, err)
		for range 2 {
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				_, err := tx.CreateBucketIfNotExists([]byte("b"))
				return err
			}))
		}
		require.NoError(t, db.Close())
		f, err := os.Open(path)
		require.NoError(t, err)
		require.Equal(t, listed, listsFreePages(f))
		require.NoError(t, f.Close())
	}
}
