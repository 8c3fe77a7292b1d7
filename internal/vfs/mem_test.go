package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func write(t testing.TB, f FS, name, data string, sync bool) {
	t.Helper()
	file, err := Create(f, name)
	require.NoError(t, err)
	_, err = file.Write([]byte(data))
	require.NoError(t, err)
	if sync {
		require.NoError(t, file.Sync())
	}
	require.NoError(t, file.Close())
}

func read(t testing.TB, f FS, name string) string {
	t.Helper()
	b, err := ReadFile(f, name)
	require.NoError(t, err)
	return string(b)
}

// both runs one operation on the real file system and on the one in memory and compares what they say.
func both(t *testing.T, what string, mem, real func() (any, error)) {
	t.Helper()
	got, gotErr := mem()
	want, wantErr := real()
	require.Equal(t, wantErr == nil, gotErr == nil, "%s: %v, the system says %v", what, gotErr, wantErr)
	if wantErr == nil {
		require.Equal(t, want, got, what)
		return
	}
	for _, kind := range []error{fs.ErrNotExist, fs.ErrExist, io.EOF, ErrLocked} {
		require.Equal(t, errors.Is(wantErr, kind), errors.Is(gotErr, kind), "%s: %v, the system says %v", what, gotErr, wantErr)
	}
}

// TestMemIsLikeTheSystem does the same random operations on a Mem and on the real file system.
func TestMemIsLikeTheSystem(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 0))
		mem, dir := NewMem(), t.TempDir()
		require.NoError(t, mem.MkdirAll(dir, 0o700))
		names := []string{"a", "b", "d/a", "d/b", "d/e/c", "d", "d/e", "missing/x", "a/x"}
		for range 300 {
			name := filepath.Join(dir, names[rng.IntN(len(names))])
			to := filepath.Join(dir, names[rng.IntN(len(names))])
			op, nonce := rng.IntN(9), rng.Uint64()
			do := func(f FS) func() (any, error) {
				return func() (any, error) { return operate(f, op, name, to, rand.New(rand.NewPCG(nonce, 1))) }
			}
			both(t, fmt.Sprint(seed, " ", op, " ", name, " ", to), do(mem), do(OS))
		}
	}
}

func operate(f FS, op int, name, to string, rng *rand.Rand) (any, error) {
	switch op {
	case 0:
		return nil, f.MkdirAll(name, 0o700)
	case 1:
		return nil, f.Remove(name)
	case 2:
		return nil, f.Rename(name, to)
	case 3:
		names, err := f.ReadDir(name)
		return fmt.Sprint(names), err
	case 4:
		info, err := f.Stat(name)
		if err != nil || info.IsDir() {
			return err == nil, err
		}
		return info.Size(), nil
	case 5:
		b, err := ReadFile(f, name)
		return string(b), err
	default:
		flags := []int{os.O_RDWR, os.O_RDWR | os.O_CREATE, os.O_RDWR | os.O_CREATE | os.O_TRUNC, os.O_RDWR | os.O_CREATE | os.O_EXCL, os.O_RDONLY, os.O_WRONLY}
		file, err := f.OpenFile(name, flags[rng.IntN(len(flags))], 0o600)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil || info.IsDir() { // the system opens directories, too
			return nil, fs.ErrInvalid
		}
		return shuffle(file, rng)
	}
}

// shuffle reads and writes an open file.
func shuffle(file File, rng *rand.Rand) (any, error) {
	var out []any
	for range 6 {
		b := make([]byte, rng.IntN(3*pageBytes))
		off := rng.Int64N(4 * pageBytes)
		var n any
		var err error
		switch rng.IntN(7) {
		case 0, 1:
			for i := range b {
				b[i] = byte(rng.Uint64())
			}
			n, err = file.WriteAt(b, off)
		case 2:
			n, err = file.ReadAt(b, off)
		case 3:
			err = file.Truncate(off)
		case 4:
			err = file.Preallocate(off + 1)
		case 5:
			n, err = file.Seek(off, io.SeekStart)
		default:
			n, err = io.ReadFull(file, b)
		}
		out = append(out, n, err == nil, errors.Is(err, io.EOF), string(b))
	}
	return fmt.Sprint(out...), nil
}

func TestMemLock(t *testing.T) {
	for _, f := range []FS{NewMem(), OS} {
		dir := t.TempDir()
		require.NoError(t, f.MkdirAll(dir, 0o700))
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		_, err := f.Lock(a)
		require.ErrorIs(t, err, fs.ErrNotExist)
		write(t, f, a, "", false)
		lock, err := f.Lock(a)
		require.NoError(t, err)
		require.NoError(t, f.Rename(a, b))
		_, err = f.Lock(b)
		require.ErrorIs(t, err, ErrLocked, "the lock goes with the file")
		require.NoError(t, lock.Close())
		require.Error(t, lock.Close())
		lock, err = f.Lock(b)
		require.NoError(t, err)
		require.NoError(t, lock.Close())
	}
}

func TestMemClosed(t *testing.T) {
	m := NewMem()
	f, err := Create(m, "a")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, fs.ErrClosed)
	require.ErrorIs(t, f.Sync(), fs.ErrClosed)
	require.ErrorIs(t, f.Close(), fs.ErrClosed)
	f, err = Open(m, "a")
	require.NoError(t, err)
	_, err = f.Write([]byte("x"))
	require.Error(t, err)
}

func TestCrashLosesWhatIsNotSynced(t *testing.T) {
	m := NewMem()
	require.NoError(t, m.MkdirAll("d", 0o700))
	write(t, m, "d/a", "one", true)
	require.False(t, Exists(m.CrashClone(nil), "d/a"), "its name is not durable")
	require.NoError(t, m.SyncDir("d"))
	require.Equal(t, "one", read(t, m.CrashClone(nil), "d/a"), "as changes of directories stay in order, d is there, too")

	write(t, m, "d/a", "three", false) // in place
	write(t, m, "d/b", "two", false)
	require.NoError(t, m.Rename("d/b", "d/c"))
	crashed := m.CrashClone(nil)
	require.Equal(t, "one", read(t, crashed, "d/a"))
	names, err := crashed.ReadDir("d")
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, names)
	require.NoError(t, m.SyncDir("d"))
	require.Empty(t, read(t, m.CrashClone(nil), "d/c"), "the name is durable, the data is not")

	// The copy is one of its own.
	write(t, crashed, "d/a", "other", true)
	require.Equal(t, "three", read(t, m, "d/a"))
	require.Equal(t, "other", read(t, crashed.CrashClone(nil), "d/a"))

	lock, err := m.Lock("d/a")
	require.NoError(t, err)
	_, err = m.CrashClone(nil).Lock("d/a")
	require.NoError(t, err, "nobody holds a lock after a crash")
	require.NoError(t, lock.Close())
}

// TestCrashKeepsSectors checks that a crash leaves every sector old or new, and that both happen.
func TestCrashKeepsSectors(t *testing.T) {
	m := NewMem()
	const size = 10 * pageBytes
	write(t, m, "a", string(bytes.Repeat([]byte{1}, size)), true)
	require.NoError(t, m.SyncDir("/"))
	f, err := m.OpenFile("a", os.O_RDWR, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{2}, size), sectorBytes)
	require.NoError(t, err)
	var old, present, mixed, sizes = 0, 0, 0, map[int]bool{}
	for seed := range uint64(200) {
		got := []byte(read(t, m.CrashClone(rand.New(rand.NewPCG(seed, 0))), "a"))
		again := []byte(read(t, m.CrashClone(rand.New(rand.NewPCG(seed, 0))), "a"))
		require.True(t, bytes.Equal(got, again), "the same for the same seed")
		require.GreaterOrEqual(t, len(got), size)
		require.LessOrEqual(t, len(got), size+sectorBytes)
		sizes[len(got)] = true
		counts := map[byte]int{}
		for i := 0; i < len(got); i += sectorBytes {
			require.Equal(t, bytes.Repeat(got[i:i+1], sectorBytes), got[i:i+sectorBytes])
			counts[got[i]]++
		}
		require.EqualValues(t, 1, got[0], "was not written")
		switch {
		case counts[2] == 0:
			old++
		case counts[1] == 1:
			present++
		default:
			mixed++
		}
	}
	require.Positive(t, old)
	require.Positive(t, present)
	require.Positive(t, mixed)
	require.Len(t, sizes, 2)
}

// TestCrashRename checks that a rename is never seen half, and that the file under the old name is replaced or not.
func TestCrashRename(t *testing.T) {
	m := NewMem()
	write(t, m, "a", "old", true)
	require.NoError(t, m.SyncDir("/"))
	write(t, m, "a.tmp", "new", true)
	require.NoError(t, m.Rename("a.tmp", "a"))
	seen := map[string]bool{}
	for seed := range uint64(100) {
		crashed := m.CrashClone(rand.New(rand.NewPCG(seed, 0)))
		names, err := crashed.ReadDir("/")
		require.NoError(t, err)
		seen[read(t, crashed, "a")+fmt.Sprint(names)] = true
	}
	require.Equal(t, map[string]bool{"old[a]": true, "old[a a.tmp]": true, "new[a]": true}, seen)
}

func TestFaulty(t *testing.T) {
	fail := map[Op]error{}
	var seen []Op
	m := NewMem()
	f := NewFaulty(m, func(op Op, name string) error {
		require.NotEmpty(t, name)
		seen = append(seen, op)
		return fail[op]
	})
	require.NoError(t, f.MkdirAll("d", 0o700))
	file, err := Create(f, "d/a")
	require.NoError(t, err)
	lock, err := f.Lock("d/a")
	require.NoError(t, err)
	require.NoError(t, lock.Close())
	b := make([]byte, 4)
	steps := map[Op]func() error{
		OpMkdir:       func() error { return f.MkdirAll("x", 0o700) },
		OpOpen:        func() error { _, err := Create(f, "d/x"); return err },
		OpRemove:      func() error { return f.Remove("d/x") },
		OpRename:      func() error { return f.Rename("d/a", "d/x") },
		OpReadDir:     func() error { _, err := f.ReadDir("d"); return err },
		OpStat:        func() error { _, err := f.Stat("d/a"); return err },
		OpSyncDir:     func() error { return f.SyncDir("d") },
		OpLock:        func() error { _, err := f.Lock("d/a"); return err },
		OpRead:        func() error { _, err := file.ReadAt(b, 0); return err },
		OpTruncate:    func() error { return file.Truncate(1) },
		OpPreallocate: func() error { return file.Preallocate(100) },
		OpSync:        func() error { return file.SyncData() },
		OpWrite:       func() error { _, err := file.WriteAt(bytes.Repeat([]byte("a"), 1200), 0); return err },
	}
	for op, step := range steps {
		fail[op] = errors.New(string(op))
		require.Equal(t, fail[op], step())
		require.Contains(t, seen, op)
		delete(fail, op)
	}
	require.Equal(t, strings.Repeat("a", 512), read(t, m, "d/a"), "a full sector of the write that failed, nothing else")
	require.Equal(t, strings.Repeat("a", 512), read(t, f, "d/a"))
	fail[OpWrite], fail[OpSync], fail[OpRead] = fs.ErrInvalid, fs.ErrInvalid, fs.ErrInvalid
	n, err := file.Write(make([]byte, 1023))
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.Zero(t, n)
	require.ErrorIs(t, file.Sync(), fs.ErrInvalid)
	_, err = file.Read(b)
	require.ErrorIs(t, err, fs.ErrInvalid)
	require.NoError(t, file.Close())
}
