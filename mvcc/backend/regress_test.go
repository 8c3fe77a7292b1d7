package backend

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// The tests named after etcd's issues are listed in docs/contributing/regressions.md.

// left is what a kill leaves of a directory at this moment.
func left(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(to, e.Name()), data, 0o600))
	}
	return to
}

// TestEtcd14685KillInDefrag kills the process after each step of a defragmentation, with writes between the steps. In etcd
// the copy had an older consistent index than its keys, so that entries were applied twice after the restart. Here entry n
// writes revision n, so the file must end with the revision that its index says.
func TestEtcd14685KillInDefrag(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	b := open(t, path, func(c *Config) { c.BatchInterval = time.Hour })
	defer b.Close()
	applied := int64(1)
	apply := func(commit bool) {
		t.Helper()
		for range 10 {
			applied++
			b.AppendRev(Rev{applied, 0}, false, value(Rev{applied, 0}))
			b.Put(Lease, []byte("row"), value(Rev{applied, 0}))
			b.SetConsistentIndex(uint64(applied), 1)
			b.Publish(nil)
		}
		if commit {
			require.NoError(t, b.Commit())
		}
	}
	steps := 0
	step := func() {
		t.Helper()
		steps++
		dir := left(t, filepath.Dir(path))
		c := open(t, filepath.Join(dir, "db"))
		defer c.Close()
		index, _ := c.ConsistentIndex()
		v := view(t, c)
		defer v.Release()
		last := Rev{}
		require.NoError(t, v.ForEachRev(Rev{}, func(r Rev, _ bool, kv []byte) error {
			require.Equal(t, value(r), kv)
			last = r
			return nil
		}))
		require.EqualValues(t, index, last.Main, "after step %d the file would be applied to from entry %d on", steps, index+1)
		require.LessOrEqual(t, last.Main, applied)
		if last.Main > 0 {
			require.Equal(t, value(last), c.Get(Lease, []byte("row")))
		}
	}
	apply(true)
	step()

	b.fileMu.Lock()
	tx, err := b.flushedTx()
	mine := &journal{}
	b.journal = mine
	b.fileMu.Unlock()
	require.NoError(t, err)
	apply(true)
	step()
	dst, err := b.copyFile(t.Context(), tx)
	require.NoError(t, err)
	step()
	for range 2 {
		apply(true)
		b.fileMu.Lock()
		tx, delta, err := b.delta(mine)
		b.fileMu.Unlock()
		require.NoError(t, err)
		require.NoError(t, dst.catchUp(tx, delta))
		step()
	}
	apply(false)
	require.NoError(t, b.finish(dst, mine, nil))
	step()
	apply(true)
	step()
	require.Equal(t, 7, steps)
}

// TestEtcd20650And20271DefragOfAReplacedFile lets a snapshot from the leader take the place of the file while it is being
// defragmented. In etcd the defragmented old file then took the place of the new one, whose pages did not fit what was
// known of them ("Page expected to be: 5"), and data was lost.
func TestEtcd20650And20271DefragOfAReplacedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	old := open(t, path)
	defer old.Close()
	for main := int64(2); main < 2000; main++ {
		old.AppendRev(Rev{main, 0}, false, value(Rev{main, 0}))
	}
	old.Publish(nil)
	require.NoError(t, old.Commit())

	// Defragmentations of every kind begin before the replacement and end after it, or begin after it.
	old.fileMu.Lock()
	tx, err := old.flushedTx()
	mine := &journal{}
	old.journal = mine
	old.fileMu.Unlock()
	require.NoError(t, err)
	dst, err := old.copyFile(t.Context(), tx)
	require.NoError(t, err)

	received := filepath.Join(t.TempDir(), "received")
	made := open(t, received)
	made.AppendRev(Rev{5000, 0}, false, value(Rev{5000, 0}))
	made.SetConsistentIndex(5000, 3)
	made.Publish(nil)
	require.NoError(t, made.Close())
	old.Retire()
	require.NoError(t, os.Rename(received, path))
	be := open(t, path)

	require.ErrorIs(t, old.finish(dst, mine, nil), ErrRetired)
	require.ErrorIs(t, old.Defrag(context.Background()), ErrRetired)
	old.fileMu.Lock()
	require.ErrorIs(t, old.rewriteNow(), ErrRetired)
	old.fileMu.Unlock()
	v := view(t, old)
	require.NotNil(t, v.Get(Rev{1999, 0}, false), "who still reads the old state may")
	v.Release()

	for main := int64(5001); main < 7000; main++ {
		be.AppendRev(Rev{main, 0}, false, value(Rev{main, 0}))
		be.SetConsistentIndex(uint64(main), 3)
	}
	be.Publish(nil)
	require.NoError(t, be.Close())
	be = open(t, path)
	defer be.Close()
	index, _ := be.ConsistentIndex()
	require.EqualValues(t, 6999, index, "the file is the snapshot's, with what came after it")
	require.NoError(t, be.db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return nil
	}))
	files, err := filepath.Glob(path + "*")
	require.NoError(t, err)
	require.Equal(t, []string{path}, files, "no copy is left")
}
