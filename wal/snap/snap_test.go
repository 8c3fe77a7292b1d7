package snap

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/walpb"
	"github.com/keelson-io/keelson/internal/vfs"
)

func snapshot(term, index uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{
		Data:     []byte("members"),
		Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(index), Term: proto.Uint64(term), ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}},
	}
}

func open(t *testing.T) (*Dir, string) {
	dir := t.TempDir()
	d, err := Open(vfs.OS, dir, Options{})
	require.NoError(t, err)
	return d, dir
}

func TestSaveAndLoad(t *testing.T) {
	d, dir := open(t)
	_, err := d.Load()
	require.ErrorIs(t, err, ErrNoSnapshot)
	for _, s := range []*raftpb.Snapshot{snapshot(1, 10), snapshot(2, 20), snapshot(2, 300)} {
		require.NoError(t, d.Save(s))
	}
	got, err := d.Load()
	require.NoError(t, err)
	require.True(t, proto.Equal(snapshot(2, 300), got))
	got, err = d.LoadMatching([]*walpb.Snapshot{{Index: proto.Uint64(10), Term: proto.Uint64(1)}, {Index: proto.Uint64(20), Term: proto.Uint64(2)}})
	require.NoError(t, err)
	require.EqualValues(t, 20, got.GetMetadata().GetIndex())

	newest := filepath.Join(dir, "0000000000000002-000000000000012c.snap")
	data, err := os.ReadFile(newest)
	require.NoError(t, err)
	data[len(data)-1] ^= 1
	require.NoError(t, os.WriteFile(newest, data, 0o600))
	got, err = d.Load()
	require.NoError(t, err)
	require.EqualValues(t, 20, got.GetMetadata().GetIndex(), "an older one is better than a broken one")
	require.FileExists(t, newest+".broken")
}

func TestDatabases(t *testing.T) {
	d, dir := open(t)
	_, err := d.DBPath(5)
	require.ErrorIs(t, err, ErrNoDBSnapshot)
	for _, index := range []uint64{5, 6, 17} {
		n, err := d.SaveDB(strings.NewReader("database"), index)
		require.NoError(t, err)
		require.EqualValues(t, 8, n)
	}
	path, err := d.DBPath(17)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "0000000000000011.snap.db"), path)
	require.NoError(t, d.ReleaseDBs(6))
	_, err = d.DBPath(5)
	require.ErrorIs(t, err, ErrNoDBSnapshot)
	_, err = d.DBPath(6)
	require.NoError(t, err)

	broken := errors.New("connection lost")
	_, err = d.SaveDB(iotest.ErrReader(broken), 20)
	require.ErrorIs(t, err, broken)
	names, err := vfs.OS.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, names, 2, "nothing is left of it")
}

func TestLeftoversAreRemoved(t *testing.T) {
	_, dir := open(t)
	for _, name := range []string{"0000000000000001.snap.db.tmp", "db.tmp.123", "tmp99", "db", "0000000000000001-0000000000000001.snap"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	_, err := Open(vfs.OS, dir, Options{})
	require.NoError(t, err)
	names, err := vfs.OS.ReadDir(dir)
	require.NoError(t, err)
	require.Equal(t, []string{"0000000000000001-0000000000000001.snap", "db"}, names)
}

func FuzzDecodeSnapshot(f *testing.F) {
	dir := f.TempDir()
	d, err := Open(vfs.OS, dir, Options{})
	require.NoError(f, err)
	require.NoError(f, d.Save(snapshot(1, 2)))
	seed, err := os.ReadFile(filepath.Join(dir, fileName(1, 2)))
	require.NoError(f, err)
	f.Add(seed)
	f.Add(bytes.Repeat([]byte{0xff}, 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decode(b); err == nil {
			require.NotNil(t, s)
		}
	})
}
