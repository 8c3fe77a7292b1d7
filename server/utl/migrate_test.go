package utl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/wal"
)

// writeMember makes a data directory whose log holds some commands. version is that of the storage, "" for none;
// term says whether one is recorded.
func writeMember(t *testing.T, version string, term bool, commands ...*pb.InternalRaftRequest) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "member", "snap"), 0o700))
	be := writeDB(t, dbPath(filepath.Join(dir, "member")), 0)
	be.Delete(backend.Meta, storageVersionKey)
	if version != "" {
		be.Put(backend.Meta, storageVersionKey, []byte(version))
	}
	be.SetConsistentIndex(1, 1)
	be.Publish(nil)
	require.NoError(t, be.Commit())
	if !term {
		be.Delete(backend.Meta, []byte("term"))
		be.Publish(nil)
	}
	require.NoError(t, be.Close())
	meta, err := proto.Marshal(&pb.Metadata{NodeID: proto.Uint64(1), ClusterID: proto.Uint64(2)})
	require.NoError(t, err)
	log, err := wal.Create(vfs.OS, filepath.Join(dir, "member", "wal"), meta, wal.Options{})
	require.NoError(t, err)
	var entries []*raftpb.Entry
	for i, c := range commands {
		data, err := proto.Marshal(c)
		require.NoError(t, err)
		entries = append(entries, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: proto.Uint64(1), Index: proto.Uint64(uint64(i + 1)), Data: data})
	}
	hs := &raftpb.HardState{Term: proto.Uint64(1), Vote: proto.Uint64(1), Commit: proto.Uint64(uint64(len(entries)))}
	require.NoError(t, log.Save(hs, entries, true))
	require.NoError(t, log.Close())
	return dir
}

func TestMigrate(t *testing.T) {
	put := &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte("a"), Lease: 1}}
	set := &pb.InternalRaftRequest{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: "3.7.0"}}
	test := &pb.InternalRaftRequest{DowngradeVersionTest: &pb.DowngradeVersionTestRequest{Ver: "3.7.0"}}
	txn := &pb.InternalRaftRequest{Txn: &pb.TxnRequest{Compare: []*pb.Compare{{Target: pb.Compare_LEASE}}}}
	for name, c := range map[string]struct {
		from    string
		noTerm  bool
		log     []*pb.InternalRaftRequest
		args    []string
		want    string // the version afterwards
		failure string
	}{
		"down":              {from: "3.7.0", log: []*pb.InternalRaftRequest{put, set, txn}, args: []string{"3.6"}, want: "3.6.0"},
		"down twice":        {from: "3.7.0", log: []*pb.InternalRaftRequest{put}, args: []string{"3.5"}},
		"up":                {from: "3.6.0", args: []string{"3.7"}, want: "3.7.0"},
		"up twice":          {args: []string{"3.7"}, want: "3.7.0"},
		"already":           {from: "3.7.0", args: []string{"3.7"}, want: "3.7.0"},
		"the log is newer":  {from: "3.7.0", log: []*pb.InternalRaftRequest{put, test}, args: []string{"3.6"}, want: "3.7.0", failure: "WAL contains newer entries"},
		"newer, forced":     {from: "3.7.0", log: []*pb.InternalRaftRequest{put, test}, args: []string{"3.6", "--force"}, want: "3.6.0"},
		"unknown":           {from: "3.7.0", args: []string{"3.9"}, want: "3.7.0", failure: `version "3.8.0" is not supported`},
		"unknown, forced":   {from: "3.7.0", args: []string{"3.9", "--force"}, want: "3.9.0"},
		"from the unknown":  {from: "3.9.0", args: []string{"3.6"}, want: "3.9.0", failure: `version "3.9.0" is not supported`},
		"another major one": {from: "3.7.0", args: []string{"4.0"}, want: "3.7.0", failure: "changing major storage version is not supported"},
		"too old":           {from: "3.7.0", args: []string{"3.4"}, want: "3.7.0", failure: `target version "3.4" not supported. Minimal "3.5"`},
		"no version":        {from: "3.7.0", args: []string{"3"}, want: "3.7.0", failure: "wrong target version format"},
		"three numbers":     {from: "3.7.0", args: []string{"3.6.0"}, want: "3.7.0", failure: "wrong target version format"},
		"letters":           {from: "3.7.0", args: []string{"3.x"}, want: "3.7.0", failure: "failed to parse target version"},
		"nothing to go by":  {noTerm: true, args: []string{"3.6"}, failure: "missing term information"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, theirs := writeMember(t, c.from, !c.noTerm, c.log...), writeMember(t, c.from, !c.noTerm, c.log...)
			args := func(dir string) []string {
				return append([]string{"migrate", "--data-dir", dir, "--target-version"}, c.args...)
			}
			o, oracle := run(args(dir)...), runOracle(t, args(theirs)...)
			require.Equal(t, oracle.code, o.code, "%s\n%s", o.errs, oracle.errs)
			require.Equal(t, oracle.out, o.out)
			require.Equal(t, c.want, recorded(t, theirs), "etcdutl's")
			require.Equal(t, c.want, recorded(t, dir))
			if c.failure == "" {
				require.Zero(t, o.code, o.errs)
				return
			}
			require.Contains(t, o.errs, c.failure)
			require.Equal(t, errorLine(oracle.errs), errorLine(o.errs))
		})
	}
	require.Contains(t, run("migrate", "--data-dir", t.TempDir(), "--target-version=3.6").errs, "no such file")
	require.Contains(t, run("migrate").errs, `required flag(s) "data-dir", "target-version" not set`)
}

// errorLine is what a failed command said last.
func errorLine(s string) string {
	_, line, _ := strings.Cut("\n"+s, "\nError: ")
	return strings.TrimSpace(line)
}

// recorded is the version in a directory's database.
func recorded(t *testing.T, dir string) (v string) {
	t.Helper()
	db, err := bbolt.Open(dbPath(filepath.Join(dir, "member")), 0o600, &bbolt.Options{ReadOnly: true})
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.View(func(tx *bbolt.Tx) error {
		v = string(tx.Bucket(metaBucket).Get(storageVersionKey))
		return nil
	}))
	return v
}
