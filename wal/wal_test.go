package wal

import (
	"bytes"
	"fmt"
	"io"
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

// createMem makes a log in memory, in memDir.
func createMem(t testing.TB, segment int64) (*Log, *vfs.Mem) {
	t.Helper()
	mem := vfs.NewMem()
	l, err := Create(mem, memDir, []byte("meta"), Options{SegmentBytes: segment})
	require.NoError(t, err)
	return l, mem
}

const memDir = "/wal"

func readFile(t testing.TB, fs vfs.FS, path string) []byte {
	t.Helper()
	b, err := vfs.ReadFile(fs, path)
	require.NoError(t, err)
	return b
}

func writeFile(t testing.TB, fs vfs.FS, path string, b []byte) {
	t.Helper()
	f, err := vfs.Create(fs, path)
	require.NoError(t, err)
	_, err = f.Write(b)
	require.NoError(t, err)
	require.NoError(t, f.Close())
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
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 0))
		l, mem := createMem(t, 4096)
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
				l, contents, err = Open(mem, memDir, nil, Options{SegmentBytes: 4096})
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
		names, err := segments(mem, memDir)
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
	got, err := l.Entries(1, 2, 1<<20)
	require.NoError(t, err, "released, but still there")
	require.Len(t, got, 1)
	got, err = l.Entries(61, 70, 1<<20)
	require.NoError(t, err)
	require.Len(t, got, 9)
	deleted, err = Purge(vfs.OS, dir, suffix, 2, nil)
	require.NoError(t, err)
	require.NotEmpty(t, deleted)
	_, err = l.Entries(1, 2, 1<<20)
	require.ErrorIs(t, err, ErrReleased)
	got, err = l.Entries(61, 70, 1<<20)
	require.NoError(t, err)
	require.Len(t, got, 9)
	require.NoError(t, l.ReleaseTo(60))
	_, _, _, ok := l.regions.find(1)
	require.False(t, ok, "forgotten")
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

// TestEtcd15069TornTail cuts the last write short at every place, as a crash may: what was acknowledged before it stays. etcd did
// not repair a last record whose length reaches beyond the file. See docs/contributing/regressions.md.
func TestEtcd15069TornTail(t *testing.T) {
	for _, segment := range []int64{1 << 14, 1024} { // within the reserved space, and beyond it
		l, mem := createMem(t, segment)
		require.NoError(t, l.Save(state(1, 0), []*raftpb.Entry{entry(1, 1, 100)}, true))
		start := l.size
		require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(2, 1, 3000), entry(3, 1, 10)}, false))
		whole := readFile(t, mem, filepath.Join(memDir, segmentName(0, 0)))
		require.NoError(t, l.Close())
		end := int64(len(bytes.TrimRight(whole, "\x00")))
		for cut := start; cut < end; cut += 16 {
			sector := (cut + sectorBytes - 1) / sectorBytes * sectorBytes // sectors are written as a whole
			zeroed := bytes.Clone(whole)
			clear(zeroed[min(sector, int64(len(whole))):])
			hole := bytes.Clone(whole)
			clear(hole[min(sector, int64(len(whole))):min(sector+sectorBytes, int64(len(whole)))])
			cases := map[string][]byte{"zeroed": zeroed, "cut off": whole[:cut]}
			if sector < end-1024 { // else the last frame may be whole but for what is no full sector
				cases["hole"] = hole
			}
			for how, torn := range cases {
				fs := vfs.NewMem()
				require.NoError(t, fs.MkdirAll(memDir, 0o700))
				path := filepath.Join(memDir, segmentName(0, 0))
				writeFile(t, fs, path, torn)
				seen, err := ReadOnly(fs, memDir, nil)
				require.NoError(t, err, "%s at %d", how, cut)
				require.Equal(t, torn, readFile(t, fs, path), "nothing was changed")
				l, contents, err := Open(fs, memDir, nil, Options{SegmentBytes: segment})
				require.NoError(t, err, "%s at %d", how, cut)
				require.NotEmpty(t, contents.Entries)
				requireEntries(t, seen.Entries, contents.Entries)
				if vfs.Exists(fs, path+".broken") {
					require.Equal(t, torn, readFile(t, fs, path+".broken"))
				}
				n := uint64(len(contents.Entries))
				require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(n+1, 2, 20)}, true))
				require.NoError(t, l.Close())
				seen, err = ReadOnly(fs, memDir, nil)
				require.NoError(t, err)
				require.Len(t, seen.Entries, int(n)+1)
			}
		}
	}
}

// TestBehindTheEnd opens a log with the remains of a write behind its end, where the first sector of the write is missing.
func TestBehindTheEnd(t *testing.T) {
	l, mem := createMem(t, 1<<14)
	require.NoError(t, l.Save(state(1, 0), []*raftpb.Entry{entry(1, 1, 100)}, true))
	path, end := filepath.Join(memDir, segmentName(0, 0)), l.size
	require.NoError(t, l.Close())
	b := readFile(t, mem, path)
	for i := end + 8; i < end+1000; i++ {
		b[i] = 7
	}
	writeFile(t, mem, path, b)
	l, contents, err := Open(mem, memDir, nil, Options{SegmentBytes: 1 << 14})
	require.NoError(t, err)
	require.Len(t, contents.Entries, 1)
	for i := uint64(2); i < 20; i++ {
		require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(i, 1, 50)}, true))
		contents, err = ReadOnly(mem, memDir, nil)
		require.NoError(t, err)
		require.Len(t, contents.Entries, int(i))
	}
	require.NoError(t, l.Close())
}

// TestHeadLost opens a log whose last segment has its name and nothing in it.
func TestHeadLost(t *testing.T) {
	for _, keep := range []int{0, 16, 20, 30} {
		l, mem := createMem(t, 1024)
		for i := uint64(1); len(l.open) < 3; i++ {
			require.NoError(t, l.Save(state(1, i-1), []*raftpb.Entry{entry(i, 1, 100)}, true))
		}
		last, path := l.last, filepath.Join(memDir, l.open[2].name)
		require.NoError(t, l.SaveSnapshot(&walpb.Snapshot{Index: proto.Uint64(1), Term: proto.Uint64(1)}))
		require.NoError(t, l.Close())
		b := readFile(t, mem, path)
		clear(b[keep:])
		if keep > 16 {
			b = b[:keep]
		}
		writeFile(t, mem, path, b)
		l, contents, err := Open(mem, memDir, nil, Options{SegmentBytes: 1024})
		require.NoError(t, err)
		require.Len(t, contents.Entries, int(last))
		require.NoError(t, l.Save(state(1, last), []*raftpb.Entry{entry(last+1, 1, 100)}, true))
		marker := &walpb.Snapshot{Index: proto.Uint64(last + 1), Term: proto.Uint64(1)}
		require.NoError(t, l.Save(state(1, last+1), nil, true))
		require.NoError(t, l.SaveSnapshot(marker))
		require.NoError(t, l.Close())
		// The segment stands on its own.
		contents, err = ReadOnly(mem, memDir, marker)
		require.NoError(t, err)
		require.Equal(t, "meta", string(contents.Metadata))
		require.EqualValues(t, last+1, contents.HardState.GetCommit())
	}
}

// TestCorrupt changes a byte: that is no torn write.
func TestCorrupt(t *testing.T) {
	l, mem := createMem(t, 1<<20)
	var at int64 // of some frame
	for i := uint64(1); i < 50; i++ {
		if i == 20 {
			at = l.size
		}
		require.NoError(t, l.Save(state(1, i), []*raftpb.Entry{entry(i, 1, 1000)}, true))
	}
	require.NoError(t, l.Close())
	path := filepath.Join(memDir, segmentName(0, 0))
	good := readFile(t, mem, path)
	for what, change := range map[string]func(b []byte){
		"data":                           func(b []byte) { b[500] ^= 1 },
		"kind":                           func(b []byte) { b[frameHeader+1] = 6 },
		"length, a little":               func(b []byte) { b[0] ^= 8 },
		"length, within the file":        func(b []byte) { b[2] ^= 1 },
		"length, beyond the file":        func(b []byte) { b[4] ^= 1 },
		"length, far beyond":             func(b []byte) { b[6] ^= 0x80 },
		"padding":                        func(b []byte) { b[7] ^= 0x83 },
		"checksum":                       func(b []byte) { b[frameHeader+3] ^= 1 },
		"data, with an empty frame next": func(b []byte) { b[500] ^= 1; clear(b[1032:1048]) },
	} {
		bad := bytes.Clone(good)
		change(bad[at:])
		writeFile(t, mem, path, bad)
		_, _, err := Open(mem, memDir, nil, Options{})
		var corrupt *CorruptError
		require.ErrorAs(t, err, &corrupt, what)
		require.Equal(t, path, corrupt.File)
		require.GreaterOrEqual(t, corrupt.Offset, at)
		require.Less(t, corrupt.Offset, at+2000)
		require.NotEmpty(t, corrupt.Advice)
		_, err = ReadOnly(mem, memDir, nil)
		require.ErrorAs(t, err, &corrupt, what)
		_, err = SnapshotMarkers(mem, memDir)
		require.ErrorAs(t, err, &corrupt, what)
		require.Equal(t, bad, readFile(t, mem, path), "nothing was changed")
		names, err := mem.ReadDir(memDir)
		require.NoError(t, err)
		require.Len(t, names, 1)
	}
}

// TestIndexGap refuses entries that do not follow each other.
func TestIndexGap(t *testing.T) {
	l, mem := createMem(t, 0)
	require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(1, 1, 1), entry(3, 1, 1)}, true))
	require.NoError(t, l.Close())
	_, err := ReadOnly(mem, memDir, nil)
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
}

// TestMissingSegment refuses a log with a hole.
func TestMissingSegment(t *testing.T) {
	l, mem := createMem(t, 1024)
	for i := uint64(1); len(l.open) < 4; i++ {
		require.NoError(t, l.Save(nil, []*raftpb.Entry{entry(i, 1, 100)}, true))
	}
	middle := l.open[1].name
	require.NoError(t, l.Close())
	require.NoError(t, mem.Remove(filepath.Join(memDir, middle)))
	_, _, err := Open(mem, memDir, nil, Options{})
	var corrupt *CorruptError
	require.ErrorAs(t, err, &corrupt)
	require.Contains(t, err.Error(), "missing")
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
	require.EqualValues(t, 5, contents.HardState.GetCommit())

	// Written anew, it is the same, byte for byte.
	d := newDecoder(bytes.NewReader(src), int64(len(src)), 0, false, 4096)
	var enc encoder
	for {
		rec, err := d.next()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		m := map[int]proto.Message{kindEntry: &raftpb.Entry{}, kindState: &raftpb.HardState{}, kindSnapshot: &walpb.Snapshot{}}[rec.kind]
		if m == nil {
			enc.append(rec.kind, rec.data)
			continue
		}
		require.NoError(t, proto.Unmarshal(rec.data, m))
		require.NoError(t, enc.message(rec.kind, m))
	}
	require.Greater(t, d.valid, int64(600))
	require.Equal(t, src[:d.valid], enc.buf)
	fs := vfs.NewMem()
	l, err := Create(fs, memDir, contents.Metadata, Options{})
	require.NoError(t, err)
	require.Equal(t, src[:l.size], readFile(t, fs, filepath.Join(memDir, segmentName(0, 0)))[:l.size])
	require.NoError(t, l.Close())

	// It can be gone on with.
	l, contents, err = Open(vfs.OS, dir, nil, Options{SegmentBytes: 1 << 16})
	require.NoError(t, err)
	require.NoError(t, l.Save(state(3, 5), []*raftpb.Entry{entry(uint64(len(contents.Entries)+1), 3, 100)}, true))
	require.NoError(t, l.Close())
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

// TestSaveAllocations: a log in use does not allocate.
func TestSaveAllocations(t *testing.T) {
	l, _ := create(t, 0)
	defer l.Close()
	ents := []*raftpb.Entry{entry(1, 1, 300), entry(2, 1, 3000)}
	hs, index := state(1, 1), uint64(0)
	n := testing.AllocsPerRun(500, func() {
		index += 2
		*ents[0].Index, *ents[1].Index = index-1, index
		if err := l.Save(hs, ents, false); err != nil {
			t.Fatal(err)
		}
	})
	require.Less(t, n, 1.0)
}

func BenchmarkSave(b *testing.B) {
	for _, sync := range []bool{false, true} {
		for _, n := range []int{1, 100} {
			b.Run(fmt.Sprintf("entries=%d/sync=%v", n, sync), func(b *testing.B) {
				l, _ := create(b, 0)
				defer l.Close()
				ents := make([]*raftpb.Entry, n)
				for i := range ents {
					ents[i] = entry(0, 1, 256)
				}
				index := uint64(0)
				b.ReportAllocs()
				b.SetBytes(int64(n) * 256)
				for b.Loop() {
					for _, e := range ents {
						index++
						*e.Index = index
					}
					if err := l.Save(nil, ents, sync); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
