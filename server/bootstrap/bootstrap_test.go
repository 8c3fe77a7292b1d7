package bootstrap

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/wal/snap"
)

// TestDefragmentAtStart has a database most of whose pages are free.
func TestDefragmentAtStart(t *testing.T) {
	core, logged := observer.New(zap.InfoLevel)
	e := env()
	e.FS, e.Clock, e.Logger = vfs.OS, clock.Real, zap.New(core)
	cfg := config.Default()
	cfg.DataDir, cfg.Unsafe.NoFsync = t.TempDir(), true
	require.NoError(t, os.MkdirAll(cfg.SnapDir(), 0o700))
	be, err := OpenBackend(cfg, e)
	require.NoError(t, err)
	r := &Result{Backend: be}
	defer r.Close()
	row := func(i int) []byte { return fmt.Appendf(nil, "row%03d", i) }
	for i := range 200 {
		be.Put(backend.Meta, row(i), make([]byte, 16<<10))
	}
	be.Publish(nil)
	require.NoError(t, be.Commit())
	for i := range 200 {
		be.Delete(backend.Meta, row(i))
	}
	be.Publish(nil)
	require.NoError(t, be.Commit())
	full := be.Size()

	for _, c := range []struct {
		megabytes uint
		smaller   bool
		says      string
	}{
		{0, false, ""}, {1000, false, "Skipping defragmentation"}, {1, true, "defragmenting before the start"}, {1, true, "Skipping defragmentation"},
	} {
		cfg.Backend.DefragAtStartMB = c.megabytes
		require.NoError(t, r.defragment(context.Background(), cfg, e.Logger))
		require.Equal(t, c.smaller, be.Size() < full/2, "%+v", c)
		if says := logged.TakeAll(); c.says == "" {
			require.Empty(t, says)
		} else {
			require.Equal(t, c.says, says[0].Message)
		}
	}
}

// TestDatabaseOlderThanSnapshot starts on a database that was put in the place of a newer one.
func TestDatabaseOlderThanSnapshot(t *testing.T) {
	e := env()
	e.FS, e.Clock = vfs.OS, clock.Real
	cfg, err := config.Parse([]string{"--data-dir", t.TempDir(), "--unsafe-no-fsync"}, nil)
	require.NoError(t, err)
	boot, err := Run(context.Background(), cfg, e)
	require.NoError(t, err)
	require.NoError(t, boot.Log.Save(&raftpb.HardState{Term: proto.Uint64(2), Vote: proto.Uint64(0), Commit: proto.Uint64(77)}, nil, true))
	require.NoError(t, boot.Log.SaveSnapshot(&walpb.Snapshot{Index: proto.Uint64(77), Term: proto.Uint64(2), ConfState: &raftpb.ConfState{Voters: []uint64{boot.MemberID}}}))
	require.NoError(t, boot.Close())
	_, err = Run(context.Background(), cfg, e)
	require.ErrorIs(t, err, snap.ErrNoDBSnapshot)
	require.ErrorContains(t, err, "failed to find database snapshot file (snap: snapshot file doesn't exist)")
	require.ErrorContains(t, err, filepath.Join(cfg.DataDir, "member", "snap", "db")+" (index 0) is older than the snapshot at index 77")
}
