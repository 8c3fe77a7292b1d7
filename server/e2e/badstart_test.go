package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/server/servertest"
)

// startFails starts Keelson with some flags, requires that it ends by itself soon, unsuccessfully, and returns what it said.
func startFails(t *testing.T, flags ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, servertest.Keelson(t), append([]string{"server"}, flags...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	require.NoError(t, ctx.Err(), "it goes on: %s", out.String())
	require.Error(t, err, out.String())
	require.NotContains(t, out.String(), "goroutine ", "it ends with an error, not with a panic")
	return out.String()
}

// elsewhere are the flags of a member with other addresses.
func elsewhere(t *testing.T, c *cluster, m *member) []string {
	t.Helper()
	peer := "http://" + servertest.FreeAddr(t)
	flags := c.Args(m)
	for i, f := range flags {
		flags[i] = strings.ReplaceAll(strings.ReplaceAll(f, m.Client, servertest.FreeAddr(t)), m.PeerURL, peer)
	}
	return flags
}

// TestDirectoryInUse starts Keelson on the data directory of a running member of either kind.
func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{keelson, etcd} {
		c := startCluster(t, []kind{k})
		l := startLoad(t, c, 2)
		begin := time.Now()
		out := startFails(t, elsewhere(t, c, c.Members[0])...)
		require.Less(t, time.Since(begin), 5*time.Second, "it fails at once")
		require.Contains(t, out, "in use")
		require.Contains(t, out, c.Members[0].Dir)
		require.Contains(t, startFails(t, c.Args(c.Members[0])...), "address already in use")
		l.progress(20)
		l.stop(c)
		c.Stop(c.Members[0])
	}
}

// TestUnusableDirectory starts Keelson where it cannot write, and on what is not a data directory.
func TestUnusableDirectory(t *testing.T) {
	t.Parallel()
	c := newCluster(t, []kind{keelson})
	m := c.Members[0]
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	start := func(dir string) string {
		m.Dir = dir
		return startFails(t, c.Args(m)...)
	}
	require.Contains(t, start(file), "not a directory")
	require.Contains(t, start(filepath.Join(file, "below")), "not a directory")
	require.Contains(t, start("/proc/keelson"), "/proc/keelson")

	odd := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(odd, "member"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(odd, "member", "snap"), nil, 0o600))
	require.Contains(t, start(odd), "snap")
	if os.Geteuid() != 0 {
		locked := t.TempDir()
		require.NoError(t, os.Chmod(locked, 0o500))
		require.Contains(t, start(filepath.Join(locked, "data")), "permission denied")
	}
}

// TestDamagedDirectory starts Keelson on data directories whose files were damaged: it says so and does not serve.
func TestDamagedDirectory(t *testing.T) {
	t.Parallel()
	for _, writer := range []kind{keelson, etcd} {
		c := startCluster(t, []kind{writer}, "--snapshot-count=50", "--snapshot-catchup-entries=10")
		m := c.Members[0]
		populate(t, c.on[m], 1, 120)
		populate(t, c.on[m], 2, 120)
		c.Stop(m)
		whole := m.Dir
		for name, damage := range map[string]func(dir string){
			"log": func(dir string) { flip(t, last(t, dir, "wal", "*.wal"), 4000) },
			"db":  func(dir string) { require.NoError(t, os.Truncate(filepath.Join(dir, "member", "snap", "db"), 5000)) },
			"no log": func(dir string) {
				require.NoError(t, os.RemoveAll(filepath.Join(dir, "member", "wal")))
			},
		} {
			m.Dir = filepath.Join(t.TempDir(), "data")
			require.NoError(t, exec.Command("cp", "-r", whole, m.Dir).Run())
			damage(m.Dir)
			out := startFails(t, c.Args(m)...)
			t.Logf("%s of %s: %s", name, writer, lastLine(out))
		}
		m.Dir = whole
	}
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func last(t *testing.T, dir, sub, pattern string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "member", sub, pattern))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	return names[len(names)-1]
}

// flip changes bytes in a file.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	for i := range 8 {
		data[at+i] ^= 0x5a
	}
	require.NoError(t, os.WriteFile(path, data, 0o600))
}

// TestStrangerJoins starts members that do not belong to a running cluster. The cluster goes on.
func TestStrangerJoins(t *testing.T) {
	t.Parallel()
	c := startCluster(t, []kind{keelson, keelson, keelson})
	l := startLoad(t, c, 2)
	stranger := c.Add(c.Members[0].Flags...)
	c.kind[stranger] = keelson
	require.Contains(t, startFails(t, c.Args(stranger)...), "member count is unequal", "nobody added it")
	require.NoError(t, os.RemoveAll(stranger.Dir))

	// A cluster of its own, it believes, with another token: the others refuse what it sends.
	stranger.Flags = append(stranger.Flags, "--initial-cluster-state=new", "--initial-cluster-token=other")
	c.launch(stranger)
	eventually(t, func(context.Context) error { return logged(stranger, "cluster ID mismatch") }, "the stranger is told")
	l.progress(100)
	c.Kill(stranger)

	// A member that lost its data must not start as if the cluster were new.
	victim := c.Members[2]
	c.Kill(victim)
	c.Forget(stranger)
	kept := victim.Dir
	victim.Dir = filepath.Join(t.TempDir(), "data")
	require.Contains(t, startFails(t, c.Args(victim)...), "already been bootstrapped")
	victim.Dir = kept
	c.run(victim)
	l.progress(100)
	l.stop(c)
}

// logged says whether a member's log has a text.
func logged(m *member, text string) error {
	log, err := os.ReadFile(m.Dir + ".log")
	if err == nil && !bytes.Contains(log, []byte(text)) {
		err = os.ErrNotExist
	}
	return err
}
