package wal

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/vfs"
)

// TestEntriesAfterReceivedSnapshot reads entries back that follow a snapshot which the log has no entries before.
func TestEntriesAfterReceivedSnapshot(t *testing.T) {
	l, mem := createMem(t, 2048)
	require.NoError(t, l.Save(state(1, 10), entries(1, 11, 1), true))
	require.NoError(t, l.SaveSnapshot(&walpb.Snapshot{Index: proto.Uint64(100), Term: proto.Uint64(2)}))
	require.NoError(t, l.Save(state(2, 100), nil, true))
	check := func() {
		for _, index := range []uint64{1, 10, 11, 99, 100} {
			_, err := l.Entries(index, index+1, 0)
			require.ErrorIs(t, err, ErrReleased, index)
		}
		got, err := l.Entries(101, 140, 1<<62)
		require.NoError(t, err)
		requireEntries(t, entries(101, 140, 2), got)
		_, err = l.Entries(140, 141, 0)
		require.ErrorIs(t, err, ErrReleased, "not there yet")
		got, err = l.Entries(101, 101, 0)
		require.NoError(t, err)
		require.Empty(t, got)
	}
	require.NoError(t, l.Save(nil, entries(101, 140, 2), true))
	check()
	require.NoError(t, l.Close())
	var contents *Contents
	var err error
	l, contents, err = Open(mem, memDir, &walpb.Snapshot{Index: proto.Uint64(100), Term: proto.Uint64(2)}, Options{SegmentBytes: 2048})
	require.NoError(t, err)
	requireEntries(t, entries(101, 140, 2), contents.Entries)
	check()
	require.NoError(t, l.Close())
}

// TestSegmentAfterReceivedSnapshot checks that a segment is named after what it may hold, and begins with the hard state.
func TestSegmentAfterReceivedSnapshot(t *testing.T) {
	l, mem := createMem(t, 1024)
	require.NoError(t, l.Save(state(7, 5), entries(1, 6, 7), true))
	require.NoError(t, l.Close())
	l, _, err := Open(mem, memDir, nil, Options{SegmentBytes: 1024})
	require.NoError(t, err)
	marker := &walpb.Snapshot{Index: proto.Uint64(500), Term: proto.Uint64(7)}
	require.NoError(t, l.SaveSnapshot(marker))
	require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(501, 7, 100)}, true))
	for i := uint64(502); len(l.open) == 1; i++ {
		require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(i, 7, 100)}, true))
	}
	require.Greater(t, l.open[1].index, uint64(501))
	require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(l.last+1, 7, 100)}, true))
	require.NoError(t, l.SaveSnapshot(&walpb.Snapshot{Index: proto.Uint64(l.last), Term: proto.Uint64(7)}))
	last := l.last
	require.NoError(t, l.Close())
	contents, err := ReadOnly(mem, memDir, &walpb.Snapshot{Index: proto.Uint64(last), Term: proto.Uint64(7)})
	require.NoError(t, err)
	require.True(t, proto.Equal(state(7, 5), contents.HardState), "carried over: this segment only was read")

	l, mem = createMem(t, 256) // full after the marker
	require.NoError(t, l.Save(nil, entries(1, 2, 7), true))
	for len(l.open) == 1 {
		require.NoError(t, l.SaveSnapshot(marker))
	}
	require.EqualValues(t, 501, l.open[1].index)
	require.NoError(t, l.Close())
	require.True(t, vfs.Exists(mem, filepath.Join(memDir, segmentName(1, 501))))
}

// TestReplacedBeforeTheMarker replaces entries from an index before the marker on: those behind the marker are gone, too.
func TestReplacedBeforeTheMarker(t *testing.T) {
	marker := &walpb.Snapshot{Index: proto.Uint64(15), Term: proto.Uint64(3)}
	for how, replace := range map[string]func(l *Log) error{
		"by entries":                     func(l *Log) error { return l.Save(state(3, 15), entries(10, 16, 3), true) },
		"by entries, and committed late": func(l *Log) error { return l.Save(nil, entries(10, 16, 3), true) },
		"by a received snapshot":         func(l *Log) error { return nil },
	} {
		l, mem := createMem(t, 1<<20)
		require.NoError(t, l.Save(state(2, 5), entries(1, 21, 2), true))
		require.NoError(t, replace(l))
		require.NoError(t, l.SaveSnapshot(marker))
		require.NoError(t, l.Save(state(3, 15), nil, true))
		require.NoError(t, l.Close())
		l, contents, err := Open(mem, memDir, marker, Options{})
		require.NoError(t, err)
		require.Empty(t, contents.Entries, how)
		require.NoError(t, l.Save(nil, entries(16, 18, 4), true))
		got, err := l.Entries(16, 30, 1<<20)
		require.NoError(t, err)
		requireEntries(t, entries(16, 18, 4), got)
		require.NoError(t, l.Close())
		contents, err = ReadOnly(mem, memDir, marker)
		require.NoError(t, err)
		requireEntries(t, entries(16, 18, 4), contents.Entries)
	}

	// A snapshot of one's own leaves what comes after it.
	l, mem := createMem(t, 1<<20)
	require.NoError(t, l.Save(state(3, 15), entries(1, 21, 3), true))
	require.NoError(t, l.SaveSnapshot(marker))
	require.NoError(t, l.Close())
	contents, err := ReadOnly(mem, memDir, marker)
	require.NoError(t, err)
	requireEntries(t, entries(16, 21, 3), contents.Entries)
}

func entries(lo, hi, term uint64) (ents []*raftpb.Entry) {
	for i := lo; i < hi; i++ {
		ents = append(ents, entry(i, term, 50))
	}
	return ents
}

// TestEntriesBytes checks the bound in bytes, across regions and segments.
func TestEntriesBytes(t *testing.T) {
	l, _ := createMem(t, 1<<17)
	defer func() { require.NoError(t, l.Close()) }()
	var all []*raftpb.Entry
	for i := uint64(1); i <= 300; i++ {
		all = append(all, entry(i, 1, 1000))
		require.NoError(t, l.Save(nil, all[i-1:], false))
	}
	require.Greater(t, len(l.open), 2)
	require.Greater(t, len(l.regions.list), 4)
	one := uint64(proto.Size(all[99]))
	for _, lo := range []uint64{1, 50, 100, 129, 130, 131, 250} {
		for _, n := range []uint64{1, 2, 3, 40} {
			for _, slack := range []uint64{0, one - 10} {
				got, err := l.Entries(lo, 301, n*one+slack)
				require.NoError(t, err)
				size := uint64(0)
				for _, e := range got {
					size += uint64(proto.Size(e))
				}
				require.True(t, size <= n*one+slack || len(got) == 1)
				if next := lo + uint64(len(got)); next <= 300 {
					require.Greater(t, size+uint64(proto.Size(all[next-1])), n*one+slack, "there was room for one more")
				}
				requireEntries(t, all[lo-1:lo-1+uint64(len(got))], got)
			}
		}
	}
}

// TestReadBackChecks finds out a byte that changed on the disk after it was written.
func TestReadBackChecks(t *testing.T) {
	l, mem := createMem(t, 1<<20)
	defer func() { require.NoError(t, l.Close()) }()
	for i := uint64(1); i < 200; i++ {
		require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(i, 1, 1000)}, false))
	}
	reg, _, _, ok := l.regions.find(150)
	require.True(t, ok)
	for _, at := range []int64{100, 0, 6} { // in the first entry of a region, too; a length must not be believed
		f, err := mem.OpenFile(filepath.Join(memDir, segmentName(0, 0)), 2, 0)
		require.NoError(t, err)
		_, err = f.WriteAt([]byte{0x55}, reg.offset+at)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		_, err = l.Entries(reg.first, reg.first+1, 0)
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrReleased)
	}
}

// TestEntriesOfOneHistory replaces entries while they are read: those after them are of another history.
func TestEntriesOfOneHistory(t *testing.T) {
	var l *Log
	var armed atomic.Bool
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if op == vfs.OpOpen && armed.CompareAndSwap(true, false) {
			return l.Save(nil, entries(8, 40, 2), true)
		}
		return nil
	})
	l, err := Create(fs, memDir, nil, Options{SegmentBytes: 1024})
	require.NoError(t, err)
	for i := uint64(1); i < 40; i++ {
		require.NoError(t, l.Save(nil, entries(i, i+1, 1), false))
	}
	armed.Store(true)
	got, err := l.Entries(1, 40, 1<<62)
	require.NoError(t, err)
	require.Greater(t, len(got), 8)
	requireEntries(t, entries(1, uint64(len(got))+1, 1), got)
	got, err = l.Entries(1, 40, 1<<62)
	require.NoError(t, err)
	requireEntries(t, append(entries(1, 8, 1), entries(8, 40, 2)...), got)
	require.NoError(t, l.Close())
}

// TestEntriesMeanwhile reads entries back while others are written and replaced.
func TestEntriesMeanwhile(t *testing.T) {
	l, _ := createMem(t, 4096)
	var mu sync.Mutex
	begins := []uint64{1} // of terms, from term 1 on; each goes on with what was before it
	termAt := func(term, index uint64) uint64 {
		for begins[term-1] > index {
			term--
		}
		return term
	}
	var last, commit atomic.Uint64
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for i := range uint64(3) {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(i, 0))
			for {
				select {
				case <-stop:
					return
				default:
				}
				hi := commit.Load()
				if hi == 0 {
					continue
				}
				lo := 1 + rng.Uint64N(hi)
				got, err := l.Entries(lo, last.Load()+1, rng.Uint64N(20000))
				if err != nil || len(got) == 0 {
					t.Errorf("entry %d: %v", lo, err)
					return
				}
				mu.Lock()
				term := got[len(got)-1].GetTerm()
				for j, e := range got {
					if index := lo + uint64(j); e.GetIndex() != index || e.GetTerm() != termAt(term, index) {
						t.Errorf("entry %d of term %d where %d of term %d belongs, in the history of term %d", e.GetIndex(), e.GetTerm(), index, termAt(term, index), term)
					}
				}
				mu.Unlock()
			}
		})
	}
	rng := rand.New(rand.NewPCG(9, 9))
	for range 1500 {
		next, term := last.Load()+1, uint64(len(begins))
		if rng.IntN(10) == 0 {
			next = commit.Load() + 1 + rng.Uint64N(last.Load()-commit.Load()+1)
			mu.Lock()
			begins = append(begins, next)
			mu.Unlock()
			term++
		}
		hi := next + 1 + rng.Uint64N(4)
		if err := l.Save(nil, entries(next, hi, term), false); err != nil {
			t.Error(err)
			break
		}
		last.Store(hi - 1)
		commit.Store(max(commit.Load(), hi-1-rng.Uint64N(min(hi-1, 20)+1)))
	}
	close(stop)
	readers.Wait()
	require.NoError(t, l.Close())
}

// BenchmarkEntries reads 4 MiB back.
func BenchmarkEntries(b *testing.B) {
	l, _ := create(b, 0)
	defer l.Close()
	for i := uint64(1); i <= 20000; i++ {
		require.NoError(b, l.Save(nil, []*raftpb.Entry{entry(i, 1, 1000)}, false))
	}
	b.ReportAllocs()
	b.SetBytes(4 << 20)
	for b.Loop() {
		if _, err := l.Entries(10000, 20000, 4<<20); err != nil {
			b.Fatal(err)
		}
	}
}
