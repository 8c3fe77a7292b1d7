package utl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) {
	cobra.EnablePrefixMatching = true
	goleak.VerifyTestMain(m)
}

// outcome is what a command wrote and how it ended.
type outcome struct {
	out, errs string // errs: with the error, as main prints it
	code      int
}

func run(args ...string) outcome {
	var out, errs bytes.Buffer
	cmd := &cobra.Command{Use: "keelson", SilenceErrors: true, SilenceUsage: true}
	cmd.AddCommand(Command())
	cmd.SetArgs(append([]string{"utl"}, args...))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	var o outcome
	if err := cmd.ExecuteContext(context.Background()); err != nil {
		var coded interface{ ExitCode() int }
		if o.code = -1; errors.As(err, &coded) {
			o.code = coded.ExitCode()
		}
		if err.Error() != "" {
			fmt.Fprintln(&errs, "Error:", err)
		}
	}
	o.out, o.errs = out.String(), errs.String()
	return o
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	o := run(args...)
	require.Zero(t, o.code, o.errs)
	return o.out
}

// runOracle runs etcdutl itself.
func runOracle(t *testing.T, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(servertest.Oracle(t, "etcdutl"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		require.ErrorAs(t, err, new(*exec.ExitError))
	}
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// writeDB makes a database with keys k00..k29 (k01 deleted, k02 written twice) at revision 33, compacted at compact, and
// rows that a restore is to remove or to leave alone.
func writeDB(t *testing.T, path string, compact int64) *backend.Backend {
	t.Helper()
	be, err := backend.Open(backend.Config{Path: path})
	require.NoError(t, err)
	st, err := mvcc.Open(be, mvcc.Config{}, func([]byte, int64) {})
	require.NoError(t, err)
	defer st.Close()
	write := func(do func(*mvcc.WriteTxn)) {
		w := st.Write()
		do(w)
		w.End()
	}
	for i := range 30 {
		write(func(w *mvcc.WriteTxn) { w.Put(fmt.Appendf(nil, "k%02d", i), fmt.Appendf(nil, "v%d", i), 0) })
	}
	write(func(w *mvcc.WriteTxn) { w.DeleteRange([]byte("k01"), nil) })
	write(func(w *mvcc.WriteTxn) { w.Put([]byte("k02"), []byte("new"), 0) })
	var done <-chan struct{}
	if compact > 0 {
		done, err = st.Compact(compact)
		require.NoError(t, err)
	}
	be.Put(backend.Members, []byte("1"), []byte(`{"id":1,"peerURLs":["http://old:1"],"name":"old"}`))
	be.Put(backend.MembersRemoved, []byte("2"), []byte("removed"))
	be.Put(backend.Cluster, []byte("clusterVersion"), []byte("3.7.0"))
	be.Put(backend.Meta, []byte("storageVersion"), []byte("3.7.0"))
	be.SetConsistentIndex(1000, 7)
	st.Publish()
	if done != nil {
		<-done
	}
	require.NoError(t, be.Commit())
	return be
}

// writeSnapshot makes a snapshot file of writeDB's database.
func writeSnapshot(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	be := writeDB(t, filepath.Join(dir, "db"), 10)
	defer be.Close()
	snap, err := be.Snapshot()
	require.NoError(t, err)
	defer snap.Close()
	path := filepath.Join(dir, "snapshot.db")
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	h := sha256.New()
	_, err = snap.WriteTo(io.MultiWriter(f, h))
	require.NoError(t, err)
	_, err = f.Write(h.Sum(nil))
	require.NoError(t, err)
	return path
}

// saveSnapshot takes a snapshot of a running member.
func saveSnapshot(t *testing.T, c *servertest.Cluster, m *servertest.Member) string {
	t.Helper()
	stream, err := pb.NewMaintenanceClient(c.Dial(m)).Snapshot(context.Background(), &pb.SnapshotRequest{})
	require.NoError(t, err)
	var b bytes.Buffer
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		b.Write(part.GetBlob())
	}
	path := filepath.Join(t.TempDir(), "snapshot.db")
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o600))
	return path
}

// tree maps all names below a directory to what is there.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			found[path] = "directory"
			return err
		}
		b, err := os.ReadFile(path)
		found[path] = string(b)
		return err
	}))
	return found
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		text string
	}{
		{"bogus", ExitError, `Error: unknown command "bogus" for "keelson utl"`},
		{"snapshot status", ExitBadArgs, "Error: snapshot status requires exactly one argument\n"},
		{"snapshot status a b", ExitBadArgs, "Error: snapshot status requires exactly one argument\n"},
		{"snapshot status /nowhere/at/all", ExitError, "Error: stat /nowhere/at/all: no such file or directory\n"},
		{"snapshot status / -w json", ExitError, "Error: open /: not a regular file\n"},
		{"snap stat doc.go -w xx", ExitBadFeature, "Error: unsupported output format\n"},
		{"snapshot status doc.go", ExitError, "Error: doc.go is not a database file: "},
		{"hashkv", ExitError, "Error: accepts 1 arg(s), received 0\nUsage:\n"},
		{"hashkv nofile -w xx", ExitBadFeature, "Error: unsupported output format\n"},
		{"hashkv nofile", ExitError, "Error: stat nofile: no such file or directory\n"},
		{"hashkv doc.go", ExitError, "Error: doc.go is not a database file: "},
		{"defrag", ExitError, `Error: required flag(s) "data-dir" not set`},
		{"defrag --data-dir nodir", ExitError, "Error: Failed to defragment etcd data[nodir] (stat nodir/member/snap/db: no such file or directory)\n"},
		{"defrag --bogus", ExitError, "Error: unknown flag: --bogus\nUsage:\n"},
		{"snapshot restore", ExitBadArgs, "Error: snapshot restore requires exactly one argument\n"},
		{"snapshot restore x --mark-compacted", ExitBadArgs, "Error: --mark-compacted required if --revision-bump > 0\n"},
		{"snapshot restore x --bump-revision 1", ExitBadArgs, "Error: --mark-compacted required if --revision-bump > 0\n"},
		{"completion tcsh", ExitError, `Error: invalid argument "tcsh" for "keelson utl completion"`},
	} {
		t.Run(c.args, func(t *testing.T) {
			o := run(strings.Fields(c.args)...)
			require.Equal(t, c.code, o.code, o.errs)
			require.Contains(t, o.errs, c.text)
			require.Empty(t, o.out)
			if want := runOracle(t, strings.Fields(c.args)...); c.args != "snapshot status / -w json" && !strings.Contains(c.args, "hashkv doc.go") {
				require.Equal(t, want.code, o.code, want.errs)
			}
		})
	}
}

func TestTexts(t *testing.T) {
	require.Equal(t, "etcdutl version: 3.7.3\nAPI version: 3.7\n", mustRun(t, "version"))
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		require.Contains(t, mustRun(t, "completion", shell), "etcdutl")
	}
	for _, args := range []string{"", "--help", "snapshot", "snapshot restore --help", "help defrag"} {
		require.Contains(t, mustRun(t, strings.Fields(args)...), "Usage:\n  keelson utl", args)
	}
	ours := mustRun(t, "snapshot", "restore", "--help")
	for _, line := range strings.Split(runOracle(t, "snapshot", "restore", "--help").out, "\n") {
		if flag := strings.Fields(line); len(flag) > 1 && strings.HasPrefix(flag[0], "--") {
			require.Contains(t, ours, "  "+flag[0]+" ")
		}
	}
}
