package utl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/server/servertest"
	"github.com/keelson-io/keelson/wal"
	"github.com/keelson-io/keelson/wal/snap"
)

// written lets a program of etcd's kind write a data directory, of a cluster of so many members, and stops it.
func written(t *testing.T, program string, size int) (*servertest.Cluster, *servertest.Member) {
	t.Helper()
	c := servertest.New(t, size, "--snapshot-count=20")
	for _, m := range c.Members {
		c.RunProgram(m, program)
	}
	c.WaitReady(c.Members...)
	m := c.Members[0]
	kv := pb.NewKVClient(c.Dial(m))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range 50 {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: []byte("v")})
		require.NoError(t, err)
	}
	return c, m
}

// sums are the contents of all files of a directory, hashed, with what can be told of them by their names.
func sums(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		require.NoError(t, err)
		all[path] = info.Mode().String() + info.ModTime().String()
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			all[path] += fmt.Sprintf("%x", sha256.Sum256(b))
		}
		return nil
	}))
	return all
}

// examine runs the command and requires that it leaves everything as it is.
func examine(t *testing.T, dir string, flags ...string) *Preflight {
	t.Helper()
	before := sums(t, dir)
	o := run(append([]string{"preflight", dir, "-w", "json"}, flags...)...)
	require.Empty(t, o.errs)
	require.Equal(t, before, sums(t, dir))
	p := &Preflight{}
	require.NoError(t, json.Unmarshal([]byte(o.out), p))
	require.Equal(t, p.Verdict.exit(), o.code)
	return p
}

// TestPreflightOfEtcd examines what the real etcd writes, while it runs and after it.
func TestPreflightOfEtcd(t *testing.T) {
	c, m := written(t, servertest.Oracle(t, "etcd"), 1)
	o := run("preflight", m.Dir)
	require.Equal(t, 1, o.code, o.out)
	require.Contains(t, o.out, "in use by another process")
	require.Contains(t, o.out, "stop the process that has")
	require.Contains(t, o.out, "revision ") // the last ones may not be in the file yet
	c.Stop(m)
	p := examine(t, m.Dir, "--deep")
	require.Equal(t, AsItIs, p.Verdict, p)
	require.Contains(t, found(p), "revision 51")
	require.Contains(t, p.Next[1], "keelson server --name "+m.Name+" --data-dir "+m.Dir)
	text := mustRun(t, "preflight", m.Dir)
	for _, want := range []string{"files of etcd 3.7", m.Name, "this one", "can be taken over as it is"} {
		require.Contains(t, text, want)
	}
	c.Run(m) // Keelson
	c.WaitReady(m)
	c.Stop(m)
	require.Equal(t, AsItIs, examine(t, m.Dir).Verdict)
}

// TestStressPreflightOf36 examines what etcd 3.6 writes.
func TestStressPreflightOf36(t *testing.T) {
	servertest.Stress(t)
	c, m := written(t, servertest.Oracle(t, "etcd36"), 3)
	for _, m := range c.Members {
		c.Stop(m)
	}
	p := examine(t, m.Dir)
	require.Equal(t, AsItIs, p.Verdict, p)
	require.Contains(t, found(p), "files of etcd 3.6")
	require.Len(t, p.Next, 3)
	for _, m := range c.Members {
		c.Run(m)
	}
	c.WaitReady(c.Members...)
}

// shrink takes the space away that is reserved in a log, so that copies of it cost less.
func shrink(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	for _, f := range files {
		if !strings.HasSuffix(f, ".wal") {
			require.NoError(t, os.Remove(f))
			continue
		}
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		require.NoError(t, os.Truncate(f, int64(len(bytes.TrimRight(b, "\x00"))+4096)&^7))
	}
}

// found is all that a preflight tells.
func found(p *Preflight) string {
	b, _ := json.Marshal(p) // it is made of strings
	return strings.ReplaceAll(string(b), `\"`, `"`)
}

// edit changes rows of a database: bucket, key, value; no value removes the row.
func edit(t *testing.T, dir string, rows ...[3]string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, "member/snap/db"), 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		for _, r := range rows {
			b, err := tx.CreateBucketIfNotExists([]byte(r[0]))
			require.NoError(t, err)
			if r[2] == "" {
				require.NoError(t, b.Delete([]byte(r[1])))
			} else {
				require.NoError(t, b.Put([]byte(r[1]), []byte(r[2])))
			}
		}
		return nil
	}))
	require.NoError(t, db.Close())
}

// appendEntry appends an entry to a log, as committed.
func appendEntry(t *testing.T, dir string, data []byte, typ raftpb.EntryType) {
	t.Helper()
	seen, err := readLog(filepath.Join(dir, "member/wal"))
	require.NoError(t, err)
	l, _, err := wal.Open(vfs.OS, filepath.Join(dir, "member/wal"), seen.marker, wal.Options{})
	require.NoError(t, err)
	hs := proto.Clone(seen.HardState).(*raftpb.HardState)
	hs.Commit = proto.Uint64(seen.last() + 1)
	require.NoError(t, l.Save(hs, []*raftpb.Entry{{Index: proto.Uint64(seen.last() + 1), Term: hs.Term, Type: &typ, Data: data}}, true))
	require.NoError(t, l.Close())
}

// v2Put is a request of the old store in a command, as etcd 3.5 writes it.
func v2Put(path string) []byte {
	var r, cmd []byte
	r = protowire.AppendString(protowire.AppendTag(r, 2, protowire.BytesType), "PUT")
	r = protowire.AppendString(protowire.AppendTag(r, 3, protowire.BytesType), path)
	cmd = protowire.AppendBytes(protowire.AppendTag(cmd, 2, protowire.BytesType), r)
	return cmd
}

// older are the rows that etcd 3.5 does not have, and those that 3.4 does not have either.
var (
	before36 = [][3]string{{"meta", "storageVersion", ""}, {"cluster", "clusterVersion", "3.5.0"}}
	before35 = append([][3]string{{"meta", "term", ""}, {"meta", "confState", ""}, {"cluster", "downgrade", ""}, {"cluster", "clusterVersion", "3.4.0"}}, before36[:1]...)
)

// TestPreflightFinds changes one thing of a data directory after another. What can be taken over is taken over.
func TestPreflightFinds(t *testing.T) {
	c, m := written(t, servertest.Oracle(t, "etcd"), 1)
	c.Stop(m)
	shrink(t, filepath.Join(m.Dir, "member/wal"))
	base := filepath.Join(t.TempDir(), "base")
	require.NoError(t, os.CopyFS(base, os.DirFS(m.Dir)))
	log, err := readLog(filepath.Join(base, "member/wal"))
	require.NoError(t, err)
	self := fmt.Sprintf("%x", log.node)
	other := `{"id":7,"peerURLs":["http://b:2380"],"name":"b","clientURLs":["http://b:2379"]}`
	db, wals := "member/snap/db", "member/wal"
	for _, x := range []struct {
		name    string
		verdict Verdict
		says    string
		change  func(t *testing.T, dir string)
	}{
		{"etcd 3.5", AsItIs, "files of etcd 3.5", func(t *testing.T, dir string) { edit(t, dir, before36...) }},
		{"etcd 3.4", AsItIs, "files of etcd 3.4", func(t *testing.T, dir string) { edit(t, dir, before35...) }},
		{"etcd 3.3", After, "upgrade to 3.4 first", func(t *testing.T, dir string) {
			edit(t, dir, append(before35, [3]string{"cluster", "clusterVersion", "3.3.0"})...)
		}},
		{"several of 3.5", After, "takes no member of version 3.7", func(t *testing.T, dir string) {
			edit(t, dir, append(before36, [3]string{"members", "7", other})...)
		}},
		{"newer", Not, "newer than 3.7", func(t *testing.T, dir string) { edit(t, dir, [3]string{"meta", "storageVersion", "3.8.0"}) }},
		{"downgrade", After, "a downgrade to 3.6.0 is under way", func(t *testing.T, dir string) {
			edit(t, dir, [3]string{"cluster", "downgrade", `{"target-version":"3.6.0","enabled":true}`})
		}},
		{"removed", Not, "was removed from its cluster", func(t *testing.T, dir string) {
			edit(t, dir, [3]string{"members", self, ""}, [3]string{"members_removed", self, "removed"})
		}},
		{"of another", Not, "is not among those of its cluster", func(t *testing.T, dir string) {
			edit(t, dir, [3]string{"members", self, ""}, [3]string{"members", "7", other})
		}},
		{"no members", Not, "names no members", func(t *testing.T, dir string) { edit(t, dir, [3]string{"members", self, ""}) }},
		{"ahead of the log", Not, "do not belong together", func(t *testing.T, dir string) {
			edit(t, dir, [3]string{"meta", "consistent_index", "\x00\x00\x00\x00\x00\x01\x00\x00"})
		}},
		{"behind the log", Not, "has applied up to 3 only", func(t *testing.T, dir string) {
			edit(t, dir, [3]string{"meta", "consistent_index", "\x00\x00\x00\x00\x00\x00\x00\x03"})
		}},
		{"corrupt cluster", Not, "data differ", func(t *testing.T, dir string) {
			alarm, err := proto.Marshal(&pb.AlarmMember{MemberID: log.node, Alarm: pb.AlarmType_CORRUPT})
			require.NoError(t, err)
			edit(t, dir, [3]string{"alarm", string(alarm), "x"})
		}},
		{"no database", Not, "there is no database", func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, db))) }},
		{"no database file", Not, "cannot be used", func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, db), []byte("nonsense"), 0o600))
		}},
		{"cut off", Not, "cannot be used", func(t *testing.T, dir string) {
			require.NoError(t, os.Truncate(filepath.Join(dir, db), 12<<10))
		}},
		{"damaged pages", Not, "is damaged", func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, db))
			require.NoError(t, err)
			for i := 8 << 10; i < len(b); i += 4 << 10 {
				copy(b[i:], strings.Repeat("\xff", 64))
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, db), b, 0o600))
		}},
		{"no log", Not, "there is no log", func(t *testing.T, dir string) { require.NoError(t, os.RemoveAll(filepath.Join(dir, wals))) }},
		{"damaged log", Not, "the log is damaged", func(t *testing.T, dir string) {
			files, err := filepath.Glob(filepath.Join(dir, wals, "*.wal"))
			require.NoError(t, err)
			b, err := os.ReadFile(files[0])
			require.NoError(t, err)
			b[600] ^= 0xff
			require.NoError(t, os.WriteFile(files[0], b, 0o600))
		}},
		{"unknown command", After, "not known here (a command of an unknown kind)", func(t *testing.T, dir string) {
			appendEntry(t, dir, protowire.AppendString(protowire.AppendTag(nil, 900, protowire.BytesType), "x"), raftpb.EntryNormal)
		}},
		{"unknown kind of entry", After, "EntryConfChangeV2", func(t *testing.T, dir string) { appendEntry(t, dir, []byte{}, raftpb.EntryConfChangeV2) }},
		{"a name not yet applied", After, "of the old kind", func(t *testing.T, dir string) {
			appendEntry(t, dir, v2Put("/0/members/1/attributes"), raftpb.EntryNormal)
		}},
		{"v2 data in the log", After, "of the v2 store", func(t *testing.T, dir string) { appendEntry(t, dir, v2Put("/1/users/key"), raftpb.EntryNormal) }},
		{"v2 data in a snapshot", After, "2 keys or requests of the v2 store", func(t *testing.T, dir string) {
			d, err := snap.Open(vfs.OS, filepath.Join(dir, "member/snap"), snap.Options{})
			require.NoError(t, err)
			require.NoError(t, d.Save(&raftpb.Snapshot{
				Metadata: &raftpb.SnapshotMetadata{Index: proto.Uint64(1000), Term: proto.Uint64(1000), ConfState: &raftpb.ConfState{Voters: []uint64{1}}},
				Data:     []byte(`{"Root":{"Children":{"0":{"Children":{}},"1":{"Children":{"a":{"Value":"x"},"dir":{"Children":{"b":{"Value":"y"}}}}}}}}`),
			}))
		}},
		{"open to others", AsItIs, "chmod 700", func(t *testing.T, dir string) { require.NoError(t, os.Chmod(dir, 0o755)) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			require.NoError(t, os.CopyFS(dir, os.DirFS(base)))
			require.NoError(t, os.Chmod(dir, 0o700))
			x.change(t, dir)
			p := examine(t, dir)
			require.Equal(t, x.verdict, p.Verdict, p)
			require.Contains(t, found(p), x.says)
			if p.Verdict == AsItIs {
				takeOver(t, c, m, dir)
			}
		})
	}
}

// takeOver starts Keelson on a directory and reads what is in it.
func takeOver(t *testing.T, c *servertest.Cluster, m *servertest.Member, dir string) {
	t.Helper()
	was := m.Dir
	m.Dir = dir
	defer func() { m.Dir = was }()
	c.Run(m)
	defer c.Stop(m)
	c.WaitReady(m)
	takeOverRunning(t, c, m)
}

// takeOverRunning reads what was written.
func takeOverRunning(t *testing.T, c *servertest.Cluster, m *servertest.Member) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	resp, err := pb.NewKVClient(c.Dial(m)).Range(ctx, &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), CountOnly: true})
	require.NoError(t, err)
	require.EqualValues(t, 50, resp.Count)
}

// TestPreflightRefuses what is no data directory.
func TestPreflightRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "snap"), 0o700))
	for _, x := range []struct {
		args []string
		code int
		says string
	}{
		{nil, ExitBadArgs, "exactly one argument"},
		{[]string{filepath.Join(dir, "none")}, ExitError, "no such file"},
		{[]string{file}, ExitError, "utl snapshot status"},
		{[]string{dir}, ExitError, "give the one above it"},
		{[]string{t.TempDir()}, ExitError, "no data directory of etcd"},
		{[]string{dir, "-w", "table"}, ExitBadFeature, "not supported"},
	} {
		o := run(append([]string{"preflight"}, x.args...)...)
		require.Equal(t, x.code, o.code)
		require.Contains(t, o.errs, x.says)
		require.Empty(t, o.out)
	}
}

// TestInUse compares what a walk through a file finds in use with what bbolt says, with a list of free pages in the file and without.
func TestInUse(t *testing.T) {
	for _, unlisted := range []bool{false, true} {
		db, err := bbolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, &bbolt.Options{NoFreelistSync: unlisted})
		require.NoError(t, err)
		for from := range 3 {
			require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
				b, err := tx.CreateBucketIfNotExists([]byte("key"))
				require.NoError(t, err)
				for i := range 3000 {
					if key := fmt.Appendf(nil, "k%d", i); i%3 < from {
						err = errors.Join(err, b.Delete(key))
					} else {
						err = errors.Join(err, b.Put(key, bytes.Repeat([]byte("v"), 100+i)))
					}
				}
				return err
			}))
		}
		require.NoError(t, db.View(func(tx *bbolt.Tx) error {
			got, err := inUse(tx)
			require.NoError(t, err)
			stats := db.Stats()
			require.Greater(t, stats.FreePageN+stats.PendingPageN, 100)
			require.Equal(t, tx.Size()-int64(stats.FreePageN+stats.PendingPageN)*int64(db.Info().PageSize), got)
			return nil
		}))
		require.NoError(t, db.Close())
	}
}

// FuzzV2Path: no entry of a log brings the reading of requests of the old store down.
func FuzzV2Path(f *testing.F) {
	f.Add(v2Put("/1/a"))
	f.Add([]byte{0x12, 0xff})
	f.Fuzz(func(t *testing.T, data []byte) {
		normal := raftpb.EntryNormal
		if path, ok := v2Path(&raftpb.Entry{Type: &normal, Data: data}); ok {
			require.NotEmpty(t, path)
		}
	})
}
