package backup

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/backup/archive"
	"github.com/keelson-io/keelson/server/servertest"
)

// execute runs a command and returns what it printed.
func execute(args ...string) (string, error) {
	cmd := Command()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage = true
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(context.Background())
	return out.String(), err
}

// TestRestoredForEtcd restores a data directory and a snapshot, on which the real etcd and its etcdutl work.
func TestRestoredForEtcd(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	stop := w.agent(w.store, nil)
	kv := pb.NewKVClient(w.conns[0])
	put := func(from, to int) {
		for i := from; i < to; i++ {
			_, err := kv.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i%5), Value: fmt.Append(nil, i)})
			require.NoError(t, err)
		}
	}
	put(0, 10)
	_, err := kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 5})
	require.NoError(t, err)
	cat := w.archived(w.now())
	require.NotEmpty(t, cat.Latest().Bases)
	put(10, 30)
	rev := w.now()
	h, err := pb.NewMaintenanceClient(w.conns[0]).HashKV(t.Context(), &pb.HashKVRequest{})
	require.NoError(t, err)
	require.Equal(t, rev, h.HashRevision)
	w.archived(rev)
	between := time.Now()
	put(30, 40)
	w.archived(w.now())
	require.NoError(t, stop())

	restored := servertest.New(t, 1)
	m := restored.Members[0]
	out, err := execute("restore", "--from", w.dir, "--revision", fmt.Sprint(rev), "--data-dir", m.Dir, "--name", m.Name,
		"--initial-cluster", m.Name+"="+m.PeerURL, "--initial-advertise-peer-urls", m.PeerURL)
	require.NoError(t, err, out)
	require.Contains(t, out, fmt.Sprintf("Restored revision %d", rev))
	require.Contains(t, out, fmt.Sprintf("hash %d)", h.Hash))
	snapshot := filepath.Join(t.TempDir(), "snapshot.db")
	out, err = execute("restore", "--from", w.dir, "--time", between.UTC().Format(time.RFC3339Nano), "--to-snapshot", snapshot)
	require.NoError(t, err, out)
	require.Contains(t, out, fmt.Sprintf("Restored revision %d", rev), "nothing of later")

	etcdutl := servertest.Oracle(t, "etcdutl")
	again := filepath.Join(t.TempDir(), "again")
	printed, err := exec.Command(etcdutl, "snapshot", "restore", snapshot, "--data-dir", again).CombinedOutput()
	require.NoError(t, err, "%s", printed)
	// Last, because it writes to the file.
	printed, err = exec.Command(etcdutl, "hashkv", snapshot, "-w", "fields").CombinedOutput()
	require.NoError(t, err, "%s", printed)
	require.Contains(t, string(printed), fmt.Sprintf(`"Hash" : %d`, h.Hash))

	restored.RunProgram(m, servertest.Oracle(t, "etcd"))
	restored.WaitReady(m)
	conn := restored.Dial(m)
	got, err := pb.NewMaintenanceClient(conn).HashKV(t.Context(), &pb.HashKVRequest{})
	require.NoError(t, err)
	require.Equal(t, []any{h.Hash, rev, h.CompactRevision}, []any{got.Hash, got.HashRevision, got.CompactRevision})
}

// TestRefusals is about what cannot be done, and what is said then.
func TestRefusals(t *testing.T) {
	t.Parallel()
	empty, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for args, want := range map[string]string{
		"list --from " + empty:          "there is no archive",
		"list":                          "no archive was named",
		"verify --from " + file:         "is not a directory",
		"prune --from " + empty:         "--keep-for or --keep-bases",
		"prune --from x --keep-for -1h": "not to be negative",
		"restore --from " + empty + " --time yesterday":                 "is no time such as",
		"restore --from " + empty + " --time 1h --revision 3":           "exclude each other",
		"restore --from " + empty + " --to-snapshot " + file:            "exists",
		"restore --from " + empty + " --data-dir " + filepath.Dir(file): "not empty",
		"restore --from " + empty + " --to-snapshot " + file + "x":      "there is no archive",
		"run --to " + empty + " --user root":                            "--user has no password",
		"run --to " + empty + " --segment-age 0s":                       "a segment has to have",
		"run --to " + empty + " --endpoints=":                           "no endpoints",
		"run --to " + empty + " --cacert " + file:                       "there is no certificate in",
		"run --to s3://bucket/x --s3-endpoint host:9000":                "is not a URL",
	} {
		_, err := execute(strings.Fields(args)...)
		require.ErrorContains(t, err, want, args)
	}
}

// TestDamageIsRefused restores from an archive with a damaged object: nothing is left behind.
func TestDamageIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	stop := w.agent(w.store, nil)
	kv := pb.NewKVClient(w.conns[0])
	for i := range 20 {
		_, err := kv.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i)})
		require.NoError(t, err)
	}
	w.archived(w.now())
	require.Eventually(t, func() bool {
		cat, err := archive.Read(t.Context(), w.store)
		return err == nil && len(cat.Latest().Bases) > 0
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, stop())
	cat, err := archive.Read(t.Context(), w.store)
	require.NoError(t, err)
	c := cat.Latest()
	segments, _ := c.From(c.Bases[0].Index)
	require.NotEmpty(t, segments)
	for _, name := range []string{segments[0].Name(), c.Bases[0].Name()} {
		path := filepath.Join(w.dir, name)
		good, err := os.ReadFile(path)
		require.NoError(t, err)
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 1
		for what, b := range map[string][]byte{"a bit": bad, "the end": good[:len(good)-3]} {
			require.NoError(t, os.WriteFile(path, b, 0o600))
			dir := t.TempDir()
			_, err = execute("restore", "--from", w.dir, "--data-dir", filepath.Join(dir, "new"))
			require.ErrorContains(t, err, "damaged", what)
			require.ErrorContains(t, err, filepath.Base(name), what)
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
			out, err := execute("verify", "--from", w.dir)
			require.ErrorContains(t, err, "1 fault")
			require.Contains(t, out, name)
		}
		require.NoError(t, os.WriteFile(path, good, 0o600))
	}
	require.NoError(t, os.Remove(filepath.Join(w.dir, segments[0].Name())))
	_, err = execute("restore", "--from", w.dir, "--revision", fmt.Sprint(w.now()), "--to-snapshot", filepath.Join(t.TempDir(), "s"))
	require.ErrorContains(t, err, "is not in the archive")
}
