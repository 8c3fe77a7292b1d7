package snap

import (
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/vfs"
)

// TestEtcd22401Crash cuts the power before every operation of Save and SaveDB, and fails it: a file is there whole, or not at all,
// and it is there once the call has succeeded. etcd did not sync the directory. See docs/contributing/regressions.md.
func TestEtcd22401Crash(t *testing.T) {
	broken := errors.New("broken")
	for n := 1; ; n++ {
		mem := vfs.NewMem()
		require.NoError(t, mem.MkdirAll("/snap", 0o700))
		require.NoError(t, mem.SyncDir("/"))
		d, err := Open(mem, "/snap", Options{})
		require.NoError(t, err)
		require.NoError(t, d.Save(snapshot(1, 10)))
		data := strings.Repeat("0123456789", 1000)
		left, saved, crashes := n, 0, []*vfs.Mem(nil)
		d.fs = vfs.NewFaulty(mem, func(op vfs.Op, _ string) error {
			if left--; left == 0 {
				for seed := range uint64(20) {
					crashes = append(crashes, mem.CrashClone(rand.New(rand.NewPCG(seed, uint64(n)))))
				}
				return broken
			}
			return nil
		})
		if err = d.Save(snapshot(2, 20)); err == nil {
			saved++
			_, err = d.SaveDB(iotest.OneByteReader(strings.NewReader(data[:50])), 20)
		}
		if err == nil {
			saved++
			_, err = d.SaveDB(strings.NewReader(data), 21)
		}
		if err == nil {
			saved++
			crashes = append(crashes, mem.CrashClone(nil))
		} else {
			require.ErrorIs(t, err, broken)
		}
		for _, fs := range crashes {
			check(t, fs, saved, data)
		}
		if left > 0 {
			require.Equal(t, 3, saved)
			return
		}
	}
}

func check(t *testing.T, fs vfs.FS, saved int, data string) {
	t.Helper()
	d, err := Open(fs, "/snap", Options{})
	require.NoError(t, err)
	s, err := d.Load()
	require.NoError(t, err)
	if saved > 0 {
		require.True(t, proto.Equal(snapshot(2, 20), s))
	}
	for i, want := range []string{data[:50], data} {
		path, err := d.DBPath(uint64(20 + i))
		if saved > i+1 {
			require.NoError(t, err)
		}
		if err == nil {
			got, err := vfs.ReadFile(fs, path)
			require.NoError(t, err)
			require.Equal(t, want, string(got))
		}
	}
	names, err := fs.ReadDir("/snap")
	require.NoError(t, err)
	for _, n := range names {
		require.NotContains(t, n, "tmp")
		require.NotContains(t, n, "broken", "no file is ever seen half")
	}
}

// TestSaveDBTwiceAtOnce receives the same database from two senders at a time.
func TestSaveDBTwiceAtOnce(t *testing.T) {
	mem := vfs.NewMem()
	d, err := Open(mem, "/", Options{})
	require.NoError(t, err)
	data := strings.Repeat("0123456789abcdef", 10000)
	r, w := io.Pipe()
	done := make(chan error)
	go func() {
		_, err := d.SaveDB(r, 7)
		done <- err
	}()
	_, err = io.WriteString(w, data[:5000])
	require.NoError(t, err)
	n, err := d.SaveDB(strings.NewReader(data), 7)
	require.NoError(t, err)
	require.EqualValues(t, len(data), n)
	_, err = io.WriteString(w, data[5000:])
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.NoError(t, <-done)
	got, err := vfs.ReadFile(mem, "/0000000000000007.snap.db")
	require.NoError(t, err)
	require.True(t, data == string(got))
	names, err := mem.ReadDir("/")
	require.NoError(t, err)
	require.Len(t, names, 1)
}

func TestEmpty(t *testing.T) {
	mem := vfs.NewMem()
	d, err := Open(mem, "/", Options{})
	require.NoError(t, err)
	require.NoError(t, d.Save(nil))
	_, err = d.LoadMatching([]*walpb.Snapshot{{}})
	require.ErrorIs(t, err, ErrNoSnapshot)
	f, err := vfs.Create(mem, fileName(1, 1))
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = Read(mem, fileName(1, 1))
	require.ErrorIs(t, err, ErrEmpty)
	_, err = d.Load()
	require.ErrorIs(t, err, ErrNoSnapshot)
	require.True(t, vfs.Exists(mem, fileName(1, 1)+".broken"))
	_, err = Open(mem, "/nowhere", Options{})
	require.Error(t, err)
}
