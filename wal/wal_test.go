package wal

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func entry(index, term uint64, size int) *raftpb.Entry {
	data := bytes.Repeat([]byte{byte(index)}, size)
	return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: proto.Uint64(index), Term: proto.Uint64(term), Data: data}
}

func state(term, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: proto.Uint64(term), Vote: proto.Uint64(1), Commit: proto.Uint64(commit)}
}

func create(t testing.TB, segment int64) (*Log, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wal")
	l, err := Create(vfs.OS, dir, []byte("meta"), Options{SegmentBytes: segment})
	require.NoError(t, err)
	return l, dir
}

func requireEntries(t testing.TB, want, got []*raftpb.Entry) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.True(t, proto.Equal(want[i], got[i]), "entry %d: %v, want %v", i, got[i].GetIndex(), want[i].GetIndex())
	}
}

// TestModel appends and overwrites entries over many small segments, reads them back, and opens the log again.
func TestModel(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 0))
		l, dir := create(t, 4096)
		var model []*raftpb.Entry // entry i has index i+1
		term := uint64(1)
		hs := state(1, 0)
		for range 300 {
			switch rng.IntN(12) {
			case 0: // a new leader overwrites the end
				term++
				model = model[:len(model)-rng.IntN(min(len(model), 20)+1)]
				fallthrough
			default:
				var ents []*raftpb.Entry
				for range rng.IntN(5) {
					e := entry(uint64(len(model)+1), term, rng.IntN(700))
					ents, model = append(ents, e), append(model, e)
				}
				hs = state(term, uint64(rng.IntN(len(model)+1)))
				require.NoError(t, l.Save(hs, ents, rng.IntN(2) == 0))
			case 1:
				require.NoError(t, l.Close())
				var contents *Contents
				var err error
				l, contents, err = Open(vfs.OS, dir, nil, Options{SegmentBytes: 4096})
				require.NoError(t, err)
				require.Equal(t, "meta", string(contents.Metadata))
				requireEntries(t, model[:len(contents.Entries)], contents.Entries)
				if contents.HardState != nil {
					require.True(t, proto.Equal(hs, contents.HardState))
				}
				// What was cut off and not overwritten yet is still there.
				require.GreaterOrEqual(t, len(contents.Entries), len(model))
			case 2:
				if len(model) == 0 {
					break
				}
				lo := uint64(rng.IntN(len(model)) + 1)
				hi := lo + 1 + uint64(rng.IntN(len(model)-int(lo)+1))
				got, err := l.Entries(lo, hi, 1<<62)
				require.NoError(t, err)
				requireEntries(t, model[lo-1:hi-1], got)
				got, err = l.Entries(lo, hi, 0)
				require.NoError(t, err)
				requireEntries(t, model[lo-1:lo], got)
			}
			if int(l.last) > len(model) { // keep the model and the log the same: overwrite at once
				e := entry(uint64(len(model)+1), term, 10)
				model = append(model, e)
				require.NoError(t, l.Save(nil, []*raftpb.Entry{e}, true))
			}
		}
		names, err := segments(vfs.OS, dir)
		require.NoError(t, err)
		require.Greater(t, len(names), 3)
		require.NoError(t, l.Close())
	}
}

func TestSnapshotMarkersReleaseAndPurge(t *testing.T) {
	l, dir := create(t, 4096)
	for i := uint64(1); i <= 100; i++ {
		require.NoError(t, l.Save(state(1, i), []*raftpb.Entry{entry(i, 1, 500)}, true))
		if i%20 == 0 {
			require.NoError(t, l.SaveSnapshot(&walpb.Snapshot{Index: proto.Uint64(i), Term: proto.Uint64(1)}))
		}
	}
	require.NoError(t, l.SaveSnapshot(&walpb.Snapshot{Index: proto.Uint64(200), Term: proto.Uint64(1)}), "not committed")
	markers, err := SnapshotMarkers(vfs.OS, dir)
	require.NoError(t, err)
	var at []uint64
	for _, m := range markers {
		at = append(at, m.GetIndex())
	}
	require.Equal(t, []uint64{0, 20, 40, 60, 80, 100}, at)

	deleted, err := Purge(vfs.OS, dir, suffix, 2, nil)
	require.NoError(t, err)
	require.Empty(t, deleted, "all are locked")
	require.NoError(t, l.ReleaseTo(60))
	_, err = l.Entries(1, 2, 1<<20)
	require.ErrorIs(t, err, ErrReleased)
	got, err := l.Entries(61, 70, 1<<20)
	require.NoError(t, err)
	require.Len(t, got, 9)
	deleted, err = Purge(vfs.OS, dir, suffix, 2, nil)
	require.NoError(t, err)
	require.NotEmpty(t, deleted)
	require.NoError(t, l.Close())

	l, contents, err := Open(vfs.OS, dir, &walpb.Snapshot{Index: proto.Uint64(60), Term: proto.Uint64(1)}, Options{SegmentBytes: 4096})
	require.NoError(t, err)
	require.Len(t, contents.Entries, 40)
	require.EqualValues(t, 61, contents.Entries[0].GetIndex())
	require.NoError(t, l.Close())
	_, _, err = Open(vfs.OS, dir, nil, Options{})
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt, "the beginning is gone")
	_, _, err = Open(vfs.OS, dir, &walpb.Snapshot{Index: proto.Uint64(61), Term: proto.Uint64(1)}, Options{})
	require.ErrorIs(t, err, ErrSnapshotNotFound)
	_, _, err = Open(vfs.OS, dir, &walpb.Snapshot{Index: proto.Uint64(60), Term: proto.Uint64(2)}, Options{})
	require.ErrorIs(t, err, ErrSnapshotMismatch)
}

func TestInUse(t *testing.T) {
	l, dir := create(t, 0)
	_, _, err := Open(vfs.OS, dir, nil, Options{})
	require.ErrorIs(t, err, ErrInUse)
	_, err = Create(vfs.OS, dir, nil, Options{})
	require.ErrorIs(t, err, ErrExists)
	require.NoError(t, l.Close())
	require.NoError(t, l.Close())
	require.ErrorIs(t, l.Save(state(1, 1), nil, true), ErrClosed)
}

func lastSegment(t *testing.T, dir string) string {
	names, err := segments(vfs.OS, dir)
	require.NoError(t, err)
	return filepath.Join(dir, names[len(names)-1])
}

// TestTorn cuts the last write short at every place, as a crash may: what was acknowledged before it stays.
func TestTorn(t *testing.T) {
	l, dir := create(t, 1<<20)
	require.NoError(t, l.Save(state(1, 0), []*raftpb.Entry{entry(1, 1, 100)}, true))
	start := l.size
	require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(2, 1, 3000), entry(3, 1, 10)}, true))
	end := l.size
	require.NoError(t, l.Close())
	whole, err := os.ReadFile(lastSegment(t, dir))
	require.NoError(t, err)
	for cut := start; cut < end; cut += 8 + (end-start)/200 {
		for _, truncated := range []bool{false, true} {
			torn := bytes.Clone(whole)
			clear(torn[cut-cut%sectorBytes+sectorBytes*int64(min(1, cut%sectorBytes)):]) // sectors are written as a whole
			if truncated {
				torn = bytes.Clone(whole[:cut])
			}
			copied := filepath.Join(t.TempDir(), "wal")
			require.NoError(t, os.Mkdir(copied, 0o700))
			path := filepath.Join(copied, filepath.Base(lastSegment(t, dir)))
			require.NoError(t, os.WriteFile(path, torn, 0o600))
			l, contents, err := Open(vfs.OS, copied, nil, Options{SegmentBytes: 1 << 20})
			require.NoError(t, err, "cut at %d (truncated %v)", cut, truncated)
			require.NotEmpty(t, contents.Entries)
			n := uint64(len(contents.Entries))
			require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(n+1, 2, 20)}, true))
			require.NoError(t, l.Close())
			_, err = ReadOnly(vfs.OS, copied, nil)
			require.NoError(t, err)
		}
	}
}

// TestCorrupt flips a byte in the middle: that is no torn write.
func TestCorrupt(t *testing.T) {
	l, dir := create(t, 1<<20)
	for i := uint64(1); i < 50; i++ {
		require.NoError(t, l.Save(state(1, i), []*raftpb.Entry{entry(i, 1, 1000)}, true))
	}
	require.NoError(t, l.Close())
	path := lastSegment(t, dir)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[20_000] ^= 1
	require.NoError(t, os.WriteFile(path, data, 0o600))
	_, _, err = Open(vfs.OS, dir, nil, Options{})
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Equal(t, path, corrupt.File)
	require.Less(t, corrupt.Offset, int64(20_000))
	require.Contains(t, err.Error(), "checksum")
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, data, after, "nothing was changed")
}

// TestEtcdWroteIt reads the beginning of a log of etcd 3.7.3.
func TestEtcdWroteIt(t *testing.T) {
	src, err := os.ReadFile("testdata/etcd.wal")
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "wal")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, segmentName(0, 0)), src, 0o600))
	contents, err := ReadOnly(vfs.OS, dir, nil)
	require.NoError(t, err)
	require.NotEmpty(t, contents.Metadata)
	require.Greater(t, len(contents.Entries), 3)
	for i, e := range contents.Entries {
		require.EqualValues(t, i+1, e.GetIndex())
	}
	// Written anew, it is the same, byte for byte.
	copied := filepath.Join(t.TempDir(), "wal")
	l, err := Create(vfs.OS, copied, contents.Metadata, Options{})
	require.NoError(t, err)
	defer l.Close()
	again, err := os.ReadFile(filepath.Join(copied, segmentName(0, 0)))
	require.NoError(t, err)
	require.Equal(t, src[:l.size], again[:l.size])
}

func FuzzDecode(f *testing.F) {
	enc := encoder{}
	enc.append(kindCRC, nil)
	enc.append(kindMetadata, []byte("meta"))
	f.Add(enc.buf)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0x87, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		d := newDecoder(bytes.NewReader(b), int64(len(b)), 0, true, 4096)
		for {
			rec, err := d.next()
			if err != nil {
				break
			}
			if d.valid > int64(len(b)) || len(rec.data) > len(b) {
				t.Fatalf("record of %d bytes up to %d in %d bytes", len(rec.data), d.valid, len(b))
			}
		}
	})
}

func BenchmarkSave(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l, _ := create(b, 0)
			defer l.Close()
			b.ReportAllocs()
			index := uint64(1)
			for range b.N {
				ents := make([]*raftpb.Entry, n)
				for j := range ents {
					ents[j] = &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: proto.Uint64(index), Term: proto.Uint64(1), Data: make([]byte, 256)}
					index++
				}
				if err := l.Save(nil, ents, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
