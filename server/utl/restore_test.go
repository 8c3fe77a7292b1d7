package utl

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/servertest"
	"github.com/keelson-io/keelson/wal"
	"github.com/keelson-io/keelson/wal/snap"
)

// restoreArgs are the arguments for one member of a cluster.
func restoreArgs(c *servertest.Cluster, m *servertest.Member, snapshot string, more ...string) []string {
	var initial []string
	for _, m := range c.Members {
		initial = append(initial, m.Name+"="+m.PeerURL)
	}
	return append([]string{
		"snapshot", "restore", snapshot, "--data-dir", m.Dir, "--name", m.Name,
		"--initial-cluster", strings.Join(initial, ","), "--initial-advertise-peer-urls", m.PeerURL,
	}, more...)
}

func get(t *testing.T, c *servertest.Cluster, m *servertest.Member, key string) *pb.RangeResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := pb.NewKVClient(c.Dial(m)).Range(ctx, &pb.RangeRequest{Key: []byte(key)})
	require.NoError(t, err)
	return r
}

func put(t *testing.T, c *servertest.Cluster, m *servertest.Member, key, value string) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := pb.NewKVClient(c.Dial(m)).Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	require.NoError(t, err)
	return r.GetHeader().GetRevision()
}

// requireRestored checks that a member serves what writeSnapshot wrote, at a revision.
func requireRestored(t *testing.T, c *servertest.Cluster, m *servertest.Member, rev int64) {
	t.Helper()
	r := get(t, c, m, "k02")
	require.Equal(t, rev, r.GetHeader().GetRevision())
	require.Len(t, r.GetKvs(), 1)
	require.Equal(t, "new", string(r.GetKvs()[0].GetValue()))
	require.Equal(t, []int64{4, 33, 2}, []int64{r.GetKvs()[0].GetCreateRevision(), r.GetKvs()[0].GetModRevision(), r.GetKvs()[0].GetVersion()})
	require.Empty(t, get(t, c, m, "k01").GetKvs())
	list, err := pb.NewClusterClient(c.Dial(m)).MemberList(context.Background(), &pb.MemberListRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetMembers(), len(c.Members))
	for i, peer := range c.Members {
		require.True(t, slices.ContainsFunc(list.GetMembers(), func(m *pb.Member) bool {
			return m.GetName() == peer.Name && slices.Equal(m.GetPeerURLs(), []string{peer.PeerURL})
		}), "member %d", i)
	}
	require.Equal(t, rev+1, put(t, c, m, "after", "x"))
}

func TestRestoreOneMember(t *testing.T) {
	snapshot := writeSnapshot(t)
	for name, more := range map[string][]string{
		"plain":     nil,
		"token":     {"--initial-cluster-token", "other"},
		"skipped":   {"--skip-hash-check"},
		"small map": {"--initial-memory-map-size", "65536"},
		"default":   {"--initial-memory-map-size", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			c := servertest.New(t, 1)
			m := c.Members[0]
			o := run(restoreArgs(c, m, snapshot, more...)...)
			require.Zero(t, o.code, o.errs)
			require.Empty(t, o.out)
			require.Contains(t, o.errs, "restored snapshot")
			c.Run(m)
			c.WaitReady(m)
			requireRestored(t, c, m, 33)
			c.Stop(m)
			c.Run(m)
			c.WaitReady(m)
			require.Len(t, get(t, c, m, "after").GetKvs(), 1)
		})
	}
}

func TestRestoreBumped(t *testing.T) {
	c := servertest.New(t, 1)
	m := c.Members[0]
	mustRun(t, restoreArgs(c, m, writeSnapshot(t), "--bump-revision", "1000", "--mark-compacted")...)
	require.Equal(t, "1033, 1033", strings.SplitN(strings.TrimSpace(mustRun(t, "hashkv", dbPath(filepath.Join(m.Dir, "member")))), ", ", 2)[1])
	c.Run(m)
	c.WaitReady(m)
	requireRestored(t, c, m, 1033)
	_, err := pb.NewKVClient(c.Dial(m)).Range(context.Background(), &pb.RangeRequest{Key: []byte("k02"), Revision: 33})
	require.ErrorContains(t, err, "compacted")
	all, err := pb.NewKVClient(c.Dial(m)).Range(context.Background(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
	require.NoError(t, err)
	require.Equal(t, int64(30), all.GetCount())
}

func TestRestoreWALDir(t *testing.T) {
	snapshot := writeSnapshot(t)
	for _, place := range []string{"elsewhere/wal", "data/wal", "data/member/wal", "data/member/a/b/wal"} {
		t.Run(place, func(t *testing.T) {
			base := t.TempDir()
			c := servertest.New(t, 1)
			m := c.Members[0]
			m.Dir = filepath.Join(base, "data")
			require.NoError(t, os.Mkdir(m.Dir, 0o700)) // an empty one will do
			dir := filepath.Join(base, place)
			mustRun(t, restoreArgs(c, m, snapshot, "--wal-dir", dir)...)
			require.True(t, wal.Exist(vfs.OS, dir))
			m.Flags = []string{"--wal-dir", dir}
			c.Run(m)
			c.WaitReady(m)
			requireRestored(t, c, m, 33)
		})
	}
}

// restoreAll restores all members of a cluster, by a program that is called as ours.
func restoreAll(t *testing.T, size int, snapshot string, restore func(args ...string) outcome) *servertest.Cluster {
	t.Helper()
	c := servertest.New(t, size, servertest.Quick()...)
	for _, m := range c.Members {
		o := restore(restoreArgs(c, m, snapshot)...)
		require.Zero(t, o.code, o.errs)
	}
	return c
}

// requireOneState checks that three members hold the same, and go on together.
func requireOneState(t *testing.T, c *servertest.Cluster) {
	t.Helper()
	c.WaitReady(c.Members...)
	requireRestored(t, c, c.Members[0], 33)
	var hashes []uint32
	for _, m := range c.Members {
		require.Equal(t, "x", string(get(t, c, m, "after").GetKvs()[0].GetValue()))
		h, err := pb.NewMaintenanceClient(c.Dial(m)).HashKV(context.Background(), &pb.HashKVRequest{})
		require.NoError(t, err)
		hashes = append(hashes, h.GetHash())
	}
	require.Equal(t, []uint32{hashes[0], hashes[0], hashes[0]}, hashes)
}

func TestRestoreThreeMembers(t *testing.T) {
	c := restoreAll(t, 3, writeSnapshot(t), run)
	for _, m := range c.Members {
		c.Run(m)
	}
	requireOneState(t, c)
}

// A snapshot of a running member, and both tools and both servers on what comes of it.
func TestRestoreWithEtcd(t *testing.T) {
	etcd := servertest.Oracle(t, "etcd")
	src := servertest.Start(t, 1)
	for i := range 20 {
		put(t, src, src.Members[0], string(rune('a'+i)), "value")
	}
	snapshot := saveSnapshot(t, src, src.Members[0])
	require.Equal(t, runOracle(t, "snapshot", "status", snapshot), run("snapshot", "status", snapshot))

	oracle := func(args ...string) outcome { return runOracle(t, args...) }
	for name, restore := range map[string]func(...string) outcome{"etcdutl": oracle, "keelson": run} {
		for _, server := range []string{"etcd", "keelson"} {
			t.Run(name+" for "+server, func(t *testing.T) {
				c := restoreAll(t, 1, snapshot, restore)
				m := c.Members[0]
				if server == "etcd" {
					c.RunProgram(m, etcd)
				} else {
					c.Run(m)
				}
				c.WaitReady(m)
				require.Equal(t, int64(22), put(t, c, m, "after", "x"))
				require.Equal(t, "value", string(get(t, c, m, "c").GetKvs()[0].GetValue()))
				c.Stop(m)
			})
		}
	}
}

func TestRestoreThreeMembersForEtcd(t *testing.T) {
	etcd := servertest.Oracle(t, "etcd")
	c := restoreAll(t, 3, writeSnapshot(t), run)
	c.Run(c.Members[0]) // one of ours among two of etcd's
	c.RunProgram(c.Members[1], etcd)
	c.RunProgram(c.Members[2], etcd)
	requireOneState(t, c)
}

// What restore writes is what etcdutl writes.
func TestRestoredFiles(t *testing.T) {
	snapshot := writeSnapshot(t)
	for _, more := range [][]string{nil, {"--bump-revision", "1000", "--mark-compacted"}} {
		c := servertest.New(t, 3)
		ours, theirs := c.Members[1].Dir, filepath.Join(t.TempDir(), "data")
		mustRun(t, restoreArgs(c, c.Members[1], snapshot, more...)...)
		o := runOracle(t, append(restoreArgs(c, c.Members[1], snapshot, more...), "--data-dir", theirs)...)
		require.Zero(t, o.code, o.errs)

		require.Equal(t, mustRun(t, "snapshot", "status", dbPath(theirs+"/member")), mustRun(t, "snapshot", "status", dbPath(ours+"/member")))
		require.Equal(t, names(t, theirs), names(t, ours))
		a, b := contents(t, theirs), contents(t, ours)
		require.True(t, proto.Equal(a.snapshot.GetMetadata(), b.snapshot.GetMetadata()))
		require.JSONEq(t, v2Nodes(t, a.snapshot), v2Nodes(t, b.snapshot))
		require.Equal(t, a.log.Metadata, b.log.Metadata)
		require.True(t, proto.Equal(a.log.HardState, b.log.HardState))
		require.Len(t, b.log.Entries, 3)
		for i := range a.log.Entries {
			require.True(t, proto.Equal(a.log.Entries[i], b.log.Entries[i]), "%v\n%v", a.log.Entries[i], b.log.Entries[i])
		}
		require.Equal(t, a.markers, b.markers)
	}
}

// names lists the files of a data directory that a restore is to make.
func names(t *testing.T, dir string) []string {
	var found []string
	for path := range tree(t, dir) {
		if rel, _ := filepath.Rel(dir, path); !strings.HasSuffix(rel, ".tmp") {
			found = append(found, rel)
		}
	}
	slices.Sort(found)
	return found
}

// files are a data directory's log and snapshot.
type files struct {
	snapshot *raftpb.Snapshot
	log      *wal.Contents
	markers  []string
}

func contents(t *testing.T, dir string) files {
	t.Helper()
	var f files
	var err error
	f.log, err = wal.ReadOnly(vfs.OS, filepath.Join(dir, "member", "wal"), nil)
	require.NoError(t, err)
	markers, err := wal.SnapshotMarkers(vfs.OS, filepath.Join(dir, "member", "wal"))
	require.NoError(t, err)
	for _, m := range markers {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		require.NoError(t, err)
		f.markers = append(f.markers, string(b))
	}
	paths, err := filepath.Glob(filepath.Join(dir, "member", "snap", "*.snap"))
	require.NoError(t, err)
	require.Len(t, paths, 1)
	f.snapshot, err = snap.Read(vfs.OS, paths[0])
	require.NoError(t, err)
	return f
}

// v2Nodes is the tree of members in a snapshot, without the numbers of writes, whose order etcd leaves to chance.
func v2Nodes(t *testing.T, s *raftpb.Snapshot) string {
	t.Helper()
	var store struct{ Root map[string]any }
	require.NoError(t, json.Unmarshal(s.GetData(), &store))
	var strip func(any)
	strip = func(n any) {
		node, _ := n.(map[string]any)
		delete(node, "CreatedIndex")
		delete(node, "ModifiedIndex")
		children, _ := node["Children"].(map[string]any)
		for _, child := range children {
			strip(child)
		}
	}
	strip(store.Root)
	b, err := json.Marshal(store.Root)
	require.NoError(t, err)
	return string(b)
}

func TestRestoreRefuses(t *testing.T) {
	snapshot := writeSnapshot(t)
	sound, err := os.ReadFile(snapshot)
	require.NoError(t, err)
	base := t.TempDir()
	file := func(name string, b []byte) string {
		path := filepath.Join(base, name)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	at := func(i int) []byte {
		b := bytes.Clone(sound)
		b[i] ^= 1
		return b
	}
	require.NoError(t, os.MkdirAll(filepath.Join(base, "taken", "x"), 0o700))
	require.NoError(t, os.MkdirAll(filepath.Join(base, "empty"), 0o700))
	overwritten := bytes.Clone(sound[:len(sound)-32])
	clear(overwritten[8192:])
	huge := []string{"--bump-revision", "9223372036854775807", "--mark-compacted"}
	for _, c := range []struct {
		name, snapshot string
		args           []string
		text           string
	}{
		{"damaged", file("damaged", at(len(sound)/2)), nil, "expected sha256 "},
		{"wrong hash", file("hash", at(len(sound)-1)), nil, "expected sha256 "},
		{"cut off", file("cut", sound[:len(sound)-512]), nil, "expected sha256 "},
		{"no hash", file("nohash", sound[:len(sound)-32]), nil, "snapshot missing hash but --skip-hash-check=false"},
		{"only a hash", file("short", sound[:32]), []string{"--skip-hash-check"}, "is not a database file"},
		{"empty", file("nothing", nil), []string{"--skip-hash-check"}, "is not a database file"},
		{"damaged, unchecked", file("pages", overwritten), []string{"--skip-hash-check"}, "is damaged: page"},
		{"missing", filepath.Join(base, "missing"), nil, "missing: no such file or directory"},
		{"a directory", base, nil, "not a regular file"},
		{"data dir taken", snapshot, []string{"--data-dir", filepath.Join(base, "taken")}, "not empty or could not be read"},
		{"data dir a file", snapshot, []string{"--data-dir", snapshot}, "not empty or could not be read"},
		{"data dir empty", file("damaged", at(9999)), []string{"--data-dir", filepath.Join(base, "empty")}, "expected sha256 "},
		{"data dir deep", file("damaged", at(9999)), []string{"--data-dir", filepath.Join(base, "d", "e", "f")}, "expected sha256 "},
		{"wal dir taken", snapshot, []string{"--wal-dir", filepath.Join(base, "empty")}, "exists"},
		{"wal dir deep", file("damaged", at(9999)), []string{"--wal-dir", filepath.Join(base, "d", "wal")}, "expected sha256 "},
		{"wal dir in a file", snapshot, []string{"--wal-dir", filepath.Join(snapshot, "wal")}, "not a directory"},
		{"no such member", snapshot, []string{"--name", "x"}, `couldn't find local name "x" in the initial cluster configuration`},
		{"other URL", snapshot, []string{"--initial-advertise-peer-urls", "http://127.0.0.1:1"}, "missing from --initial-advertise-peer-urls"},
		{"URL twice", snapshot, []string{"--initial-cluster", "default=http://localhost:2380,b=http://localhost:2380"}, ""},
		{"nonsense", snapshot, []string{"--initial-cluster", "default"}, ""},
		{"past all revisions", snapshot, huge, "past the highest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := tree(t, base)
			args := append([]string{"snapshot", "restore", c.snapshot, "--data-dir", filepath.Join(base, "new")}, c.args...)
			o := run(args...)
			require.Equal(t, ExitError, o.code)
			require.Contains(t, o.errs, c.text)
			require.NotContains(t, o.errs, "panic")
			require.True(t, maps.Equal(before, tree(t, base)), "something was left")
		})
	}
}

// Learners, removed members and a downgrade of the old cluster are none of the new one's.
func TestRestoreForgetsTheOldCluster(t *testing.T) {
	c := servertest.New(t, 1)
	mustRun(t, restoreArgs(c, c.Members[0], writeSnapshot(t))...)
	be, err := backend.Open(backend.Config{Path: dbPath(filepath.Join(c.Members[0].Dir, "member"))})
	require.NoError(t, err)
	defer be.Close()
	require.Nil(t, be.Get(backend.Members, []byte("1")))
	require.Nil(t, be.Get(backend.MembersRemoved, []byte("2")))
	require.Equal(t, "3.7.0", string(be.Get(backend.Cluster, []byte("clusterVersion"))), "etcdutl leaves it, too")
	index, term := be.ConsistentIndex()
	require.Equal(t, []uint64{1, 1}, []uint64{index, term})
}
