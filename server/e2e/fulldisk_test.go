package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestFileLimit lets a member run into RLIMIT_FSIZE: its database cannot grow any more, but its log can go on in another
// segment. It must say so, and have lost nothing when it is back.
func TestFileLimit(t *testing.T) {
	t.Parallel()
	c := newCluster(t, []kind{keelson})
	m := c.Members[0]
	// 66 MB is enough for a segment of the log, which is 64 MB and a little.
	c.RunProgram(m, "/bin/bash", "-c", `ulimit -f $((66*1024)) && exec "$0" "$@"`, servertest.Keelson(t), "server")
	c.WaitReady(m)
	l := startLoad(t, c, 2)
	fillUpTo(t, c, m, 90)
	eventually(t, func(context.Context) error { return logged(m, "file too large") }, "it says that the database cannot be written")
	c.Kill(m)
	c.run(m)
	l.progress(50)
	l.stop(c)
}

// fillUp writes until the member refuses or is gone.
func fillUp(t *testing.T, c *cluster, m *member) {
	t.Helper()
	value := make([]byte, 1_000_000)
	for i := range 2000 {
		_, err := c.on[m].Put(within(t, 5*time.Second), &pb.PutRequest{Key: []byte("big/" + string(rune('a'+i))), Value: value})
		if err != nil {
			t.Logf("after %d MB: %v", i, err)
			return
		}
	}
	require.Fail(t, "the disk never fills")
}

// endsWith waits until a member has ended by itself, and requires a reason in its log.
func endsWith(t *testing.T, m *member, reason string) {
	t.Helper()
	select {
	case <-m.Done():
	case <-time.After(patience):
		require.Fail(t, "the member goes on")
	}
	require.NoError(t, logged(m, reason), "%q in the log", reason)
	require.Error(t, logged(m, "goroutine "), "a panic")
}

// TestFullDisk fills the file system of one member of three, and then of a member that is alone.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := mountSmall(t, "400m")
	filler := filepath.Join(dir, "filler")

	c := newCluster(t, []kind{keelson, keelson, keelson})
	full := c.Members[1]
	full.Dir = filepath.Join(dir, "three")
	c.run(c.Members...)
	l := startLoad(t, c, 2)
	c.moveLeader(full)
	fillDisk(t, filler)
	l.aim(c, c.Members[0], c.Members[2])
	fillUpTo(t, c, c.Members[0], 70)
	endsWith(t, full, "no space left on device")
	l.progress(100)
	require.NoError(t, os.Remove(filler))
	c.Kill(full)
	c.run(full)
	l.aim(c, c.Members...)
	l.progress(50)
	l.stop(c)
	for _, m := range c.Members {
		c.Stop(m)
	}
	require.NoError(t, os.RemoveAll(full.Dir))

	c = newCluster(t, []kind{keelson})
	alone := c.Members[0]
	alone.Dir = filepath.Join(dir, "alone")
	c.run(alone)
	l = startLoad(t, c, 2)
	fillDisk(t, filler)
	fillUp(t, c, alone)
	endsWith(t, alone, "no space left on device")
	startFails(t, c.Args(alone)...)
	require.NoError(t, os.Remove(filler))
	c.run(alone)
	l.progress(50)
	l.stop(c)
	c.Stop(alone)
}

// fillUpTo writes so many MB, with patience for elections.
func fillUpTo(t *testing.T, c *cluster, m *member, size int) {
	t.Helper()
	value := make([]byte, 1_000_000)
	for i, tries := 0, 0; i < size; {
		_, err := c.on[m].Put(within(t, 5*time.Second), &pb.PutRequest{Key: []byte("big/" + string(rune('a'+i%20))), Value: value})
		if err == nil {
			i++
			continue
		}
		tries++
		require.Less(t, tries, 50, err)
		time.Sleep(100 * time.Millisecond)
	}
}

// mountSmall mounts a small file system, and skips the test where that is not allowed.
func mountSmall(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).Run(); err != nil {
		t.Skipf("cannot mount a small file system here: %v", err)
	}
	t.Cleanup(func() {
		if err := exec.Command("umount", dir).Run(); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}

// fillDisk writes a file until the file system is full.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	block := make([]byte, 1<<16)
	for err == nil {
		_, err = f.Write(block)
	}
	require.True(t, errors.Is(err, syscall.ENOSPC), err)
}
