package mvcc

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/index"
)

// TestRestBeforeTheEnd stops a compaction in the rest after its last revisions: it is not finished, and goes on after a restart.
func TestRestBeforeTheEnd(t *testing.T) {
	be, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db"), NoSync: true, InitialMmapBytes: 1 << 30})
	require.NoError(t, err)
	defer be.Close()
	open := func(rest time.Duration) *Store {
		s, err := Open(be, Config{CompactionBatchLimit: 1, CompactionSleep: rest, EventLogBytes: 1 << 20}, func([]byte, int64) {})
		require.NoError(t, err)
		return s
	}
	finished := func() []byte { return be.Get(backend.Meta, finishedCompactKey) }

	s := open(time.Hour)
	for range 10 {
		w := s.Write()
		w.Put([]byte("key"), []byte("value"), 0)
		w.End()
		s.Publish()
	}
	_, err = s.Compact(5)
	require.NoError(t, err)
	s.Publish()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		kept := 0
		s.tree.Root().AscendStale("", func(e *index.Entry) bool { kept = len(e.Since(nil, 0, 100)); return true })
		return kept == 7 // revisions 5 to 11
	}, 10*time.Second, time.Millisecond)
	require.Nil(t, finished())
	s.Close()

	s = open(time.Nanosecond)
	defer s.Close()
	require.Eventually(t, func() bool { return finished() != nil }, 10*time.Second, time.Millisecond)
}

// TestHashOutlivesCompaction asks for the hash of a deletion, and again when it is compacted.
func TestHashOutlivesCompaction(t *testing.T) {
	be, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db"), NoSync: true, InitialMmapBytes: 1 << 30})
	require.NoError(t, err)
	defer be.Close()
	s, err := Open(be, Config{EventLogBytes: 1 << 20}, func([]byte, int64) {})
	require.NoError(t, err)
	defer s.Close()
	for i := range 10 {
		w := s.Write()
		if i%5 == 4 {
			w.DeleteRange([]byte("key"), nil)
		} else {
			w.Put([]byte("key"), []byte("value"), 0)
		}
		w.End()
		s.Publish()
	}
	before, _, err := s.HashKV(6)
	require.NoError(t, err)
	done, err := s.Compact(6)
	require.NoError(t, err)
	s.Publish()
	<-done
	after, _, err := s.HashKV(6)
	require.NoError(t, err)
	require.Equal(t, before.Hash, after.Hash)
}
