package utl

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
)

func TestStatus(t *testing.T) {
	path := writeSnapshot(t)
	before, err := os.ReadFile(path)
	require.NoError(t, err)
	simple := strings.Split(strings.TrimSpace(mustRun(t, "snapshot", "status", path)), ", ")
	require.Len(t, simple, 5)
	require.Equal(t, []string{"33", "29"}, simple[1:3])
	require.Equal(t, "3.7.0", simple[4])
	hash, err := strconv.ParseUint(simple[0], 16, 32)
	require.NoError(t, err)
	size := len(before) - 32
	require.JSONEq(t, `{"hash":`+strconv.FormatUint(hash, 10)+`,"revision":33,"totalKey":29,"totalSize":`+strconv.Itoa(size)+`,"version":"3.7.0"}`,
		mustRun(t, "snapshot", "status", path, "-w", "json"))
	require.Equal(t, "\"Hash\" : "+strconv.FormatUint(hash, 10)+"\n\"Revision\" : 33\n\"Keys\" : 29\n\"Size\" : "+strconv.Itoa(size)+"\n\"Version\" : 3.7.0\n",
		mustRun(t, "snapshot", "status", path, "-w", "fields"))
	require.Contains(t, mustRun(t, "snapshot", "status", path, "-w", "table"), "│   HASH   │ REVISION │ TOTAL KEYS │ TOTAL SIZE │ VERSION │")
	require.Equal(t, ExitBadFeature, run("snapshot", "status", path, "-w", "protobuf").code)
	for _, format := range formats() {
		o, want := run("snapshot", "status", path, "-w", format), runOracle(t, "snapshot", "status", path, "-w", format)
		require.Equal(t, want.code, o.code)
		require.Equal(t, want.out, o.out)
	}
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestStatusOfEmptyAndForeign(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	be, err := backend.Open(backend.Config{Path: path})
	require.NoError(t, err)
	require.NoError(t, be.Close())
	require.Regexp(t, `^[0-9a-f]+, 0, 0, \d+ kB, \n$`, mustRun(t, "snapshot", "status", path))
	require.Regexp(t, `^\d+, 1, -1\n$`, mustRun(t, "hashkv", path))

	foreign := filepath.Join(t.TempDir(), "other")
	db, err := bbolt.Open(foreign, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("outer"))
		require.NoError(t, err)
		_, err = b.CreateBucket([]byte("inner"))
		require.NoError(t, err)
		return b.Put([]byte("a"), make([]byte, 20000))
	}))
	require.NoError(t, db.Close())
	require.Regexp(t, `^[0-9a-f]+, 0, 0, `, mustRun(t, "snapshot", "status", foreign))
	require.Contains(t, run("hashkv", foreign).errs, "has no key space")
}

func TestHashKV(t *testing.T) {
	for _, compact := range []int64{0, 1, 10, 31, 33} {
		path := filepath.Join(t.TempDir(), "db")
		be := writeDB(t, path, compact)
		st, err := mvcc.Open(be, mvcc.Config{}, func([]byte, int64) {})
		require.NoError(t, err)
		want := map[int64]string{}
		for rev := int64(0); rev <= 34; rev++ {
			if h, _, err := st.HashKV(rev); err == nil {
				want[rev] = strings.Join([]string{strconv.FormatUint(uint64(h.Hash), 10), strconv.FormatInt(h.Rev, 10), strconv.FormatInt(h.CompactRev, 10)}, ", ") + "\n"
			} else {
				want[rev] = "Error: " + err.Error() + "\n"
			}
		}
		st.Close()
		require.NoError(t, be.Close())
		before, err := os.ReadFile(path)
		require.NoError(t, err)
		for rev, w := range want {
			o := run("hashkv", path, "--rev", strconv.FormatInt(rev, 10))
			require.Equal(t, w, o.out+o.errs, "compacted %d, revision %d", compact, rev)
		}
		after, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, before, after, "hashkv must not write")
		for _, format := range formats() {
			o, want := run("hashkv", path, "-w", format), runOracle(t, "hashkv", path, "-w", format)
			require.Equal(t, want.code, o.code)
			require.Equal(t, want.out, o.out)
		}
	}
}

// A compaction that was recorded but not done counts as done.
func TestHashKVInterruptedCompaction(t *testing.T) {
	done, interrupted := filepath.Join(t.TempDir(), "db"), filepath.Join(t.TempDir(), "db")
	require.NoError(t, writeDB(t, done, 32).Close())
	be := writeDB(t, interrupted, 0)
	be.Put(backend.Meta, []byte("scheduledCompactRev"), backend.AppendKey(nil, backend.Rev{Main: 32}, false))
	be.Publish(nil)
	require.NoError(t, be.Close())
	require.Equal(t, mustRun(t, "hashkv", done), mustRun(t, "hashkv", interrupted))
}

func TestFileInUse(t *testing.T) {
	member := filepath.Join(t.TempDir(), "member")
	require.NoError(t, os.MkdirAll(filepath.Dir(dbPath(member)), 0o700))
	be := writeDB(t, dbPath(member), 0)
	for _, args := range [][]string{
		{"snapshot", "status", dbPath(member)}, {"hashkv", dbPath(member)}, {"defrag", "--data-dir", filepath.Dir(member)},
	} {
		o := run(append(args, "--timeout=60ms")...)
		require.Equal(t, ExitError, o.code)
		require.Contains(t, o.errs, "is in use by another process")
	}
	require.NoError(t, be.Close())
}

func TestDefrag(t *testing.T) {
	dir := t.TempDir()
	path := dbPath(filepath.Join(dir, "member"))
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	be := writeDB(t, path, 0)
	for i := range 300 {
		be.Put(backend.Auth, []byte(strconv.Itoa(i)), make([]byte, 4096))
	}
	be.Publish(nil)
	require.NoError(t, be.Commit())
	for i := range 300 {
		be.Delete(backend.Auth, []byte(strconv.Itoa(i)))
	}
	be.Publish(nil)
	require.NoError(t, be.Close())
	before := mustRun(t, "hashkv", path)
	large, err := os.Stat(path)
	require.NoError(t, err)

	o := run("defrag", "--data-dir", dir)
	require.Zero(t, o.code, o.errs)
	require.Empty(t, o.out)
	require.Contains(t, o.errs, "finished defragmenting directory", "as etcdutl says it")
	small, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, small.Size(), large.Size()/4)
	require.Equal(t, before, mustRun(t, "hashkv", path))
	names, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, names, 1)
}

// probe reads a file that may be damaged in all ways there are. It must end with a result or an error.
func probe(t testing.TB, b []byte) {
	path := filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.WriteFile(path, b, 0o600))
	u := &utl{}
	_ = u.readFile(path, func(tx *bbolt.Tx) error {
		_, _ = statusOf(tx)
		_, _ = kvHashOf(tx, 0)
		return nil
	})
}

func TestDamagedFiles(t *testing.T) {
	sound, err := os.ReadFile(writeSnapshot(t))
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		b := append([]byte(nil), sound...)
		for range 1 + rng.IntN(4) {
			// The beginnings of pages are where the structure is.
			at := rng.IntN(len(b)/4096)*4096 + rng.IntN(200)
			b[min(at, len(b)-1)] = byte(rng.Uint32())
		}
		probe(t, b)
	}
	for size := 0; size < len(sound); size += 1000 {
		probe(t, sound[:size])
	}
}

func TestDamageIsFound(t *testing.T) {
	sound, err := os.ReadFile(writeSnapshot(t))
	require.NoError(t, err)
	for _, c := range []struct {
		name, text string
		damage     func([]byte) []byte
	}{
		{"cut off", "is cut off", func(b []byte) []byte { return b[:len(b)/2] }},
		{"not a database", "is not a database file", func(b []byte) []byte { return make([]byte, len(b)) }},
		{"empty", "is not a database file", func([]byte) []byte { return nil }},
		{"overwritten", "is damaged: page", func(b []byte) []byte {
			clear(b[8192:])
			return b
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			require.NoError(t, os.WriteFile(path, c.damage(append([]byte(nil), sound...)), 0o600))
			for _, args := range [][]string{{"snapshot", "status", path}, {"hashkv", path}} {
				o := run(args...)
				require.Equal(t, ExitError, o.code)
				require.Contains(t, o.errs, c.text)
			}
		})
	}
}

func FuzzReadFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{PageSize: 1024})
	require.NoError(f, err)
	require.NoError(f, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"key", "meta"} {
			b, err := tx.CreateBucket([]byte(name))
			require.NoError(f, err)
			for i := range 40 {
				k := backend.AppendKey(nil, backend.Rev{Main: int64(i)}, false)
				require.NoError(f, b.Put(k, (&mvcc.Fields{Key: k}).Marshal()))
			}
		}
		return nil
	}))
	require.NoError(f, db.Close())
	b, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { probe(t, b) })
}
