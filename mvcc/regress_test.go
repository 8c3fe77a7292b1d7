package mvcc

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/mvcc/backend"
)

// The tests named after etcd's issues are listed in docs/contributing/regressions.md.

// openAt opens a store whose compactions rest for an hour after every revision that they remove.
func openAt(t *testing.T, path string) (*backend.Backend, *Store) {
	t.Helper()
	be, err := backend.Open(backend.Config{Path: path, BatchInterval: time.Hour, NoSync: true, InitialMmapBytes: 1 << 30})
	require.NoError(t, err)
	s, err := Open(be, Config{CompactionBatchLimit: 1, CompactionSleep: time.Hour}, func([]byte, int64) {})
	require.NoError(t, err)
	return be, s
}

// revAfterKill is the revision of a store that is opened on what a kill leaves now.
func revAfterKill(t *testing.T, be *backend.Backend) int64 {
	t.Helper()
	require.NoError(t, be.Commit())
	data, err := os.ReadFile(be.Path())
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "db")
	require.NoError(t, os.WriteFile(path, data, 0o600))
	be, s := openAt(t, path)
	defer be.Close()
	defer s.Close()
	return s.Rev()
}

// TestEtcd17780KillInCompaction kills the process at every step of compactions whose last revisions are deletions. In etcd
// the store then began at the highest revision that was left in the file, lower than before: revisions were given twice.
func TestEtcd17780KillInCompaction(t *testing.T) {
	be, s := openAt(t, filepath.Join(t.TempDir(), "db"))
	write := func(change func(w *WriteTxn)) int64 {
		w := s.Write()
		change(w)
		w.End()
		s.Publish()
		return w.Rev()
	}
	for _, key := range []string{"a", "b", "c"} {
		write(func(w *WriteTxn) { w.Put([]byte(key), []byte("v"), 0) })
		write(func(w *WriteTxn) { w.DeleteRange([]byte(key), nil) })
	}
	write(func(w *WriteTxn) { w.Put([]byte("d"), []byte("v"), 0); w.Put([]byte("e"), []byte("v"), 0) })
	rev := write(func(w *WriteTxn) { w.DeleteRange([]byte("d"), []byte("f")) })
	for _, at := range []int64{rev - 1, rev} {
		_, err := s.Compact(at)
		require.NoError(t, err)
		s.Publish()
		require.Equal(t, rev, revAfterKill(t, be))
		for next, more := "", true; more; {
			next, _, more = s.compactStep(be, next, at)
			require.Equal(t, rev, revAfterKill(t, be), "compaction at %d, up to %q", at, next)
		}
	}

	// A compaction of etcd may have removed the very last revision before it was killed. What it was to compact tells.
	var all []backend.Rev
	v, ok := be.View()
	require.True(t, ok)
	require.NoError(t, v.ForEachRev(backend.Rev{}, func(r backend.Rev, tombstone bool, _ []byte) error {
		require.True(t, tombstone)
		all = append(all, r)
		return nil
	}))
	v.Release()
	be.DeleteRevs(all, func(int) bool { return true })
	be.Put(backend.Meta, finishedCompactKey, backend.AppendKey(nil, backend.Rev{Main: rev - 1}, false))
	be.Publish(nil)
	require.Equal(t, rev, revAfterKill(t, be))
	s.Close()
	require.NoError(t, be.Close())
}
