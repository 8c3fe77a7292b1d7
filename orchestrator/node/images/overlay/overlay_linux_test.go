package overlay

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/testkit"
)

// layers makes n layers, the top first, each with a file of its own and one that all have. Their paths are like a store's.
func layers(t testing.TB, n, pathLen int) []string {
	t.Helper()
	base := t.TempDir()
	for len(base) < pathLen {
		base = filepath.Join(base, strings.Repeat("x", min(200, pathLen-len(base))))
	}
	var all []string
	for i := range n {
		dir := filepath.Join(base, fmt.Sprintf("layer%d", i), "fs")
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("own%d", i)), nil, 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "all"), fmt.Append(nil, i), 0o644)) //nolint:gosec // others read it
		all = append(all, dir)
	}
	return all
}

// spec adds what a mount needs besides layers.
func spec(t testing.TB, lower []string, writable bool) Spec {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		require.NoError(t, os.Chmod(d, 0o755)) //nolint:gosec // others look into the mount
	}
	s := Spec{Lower: lower, Target: filepath.Join(dir, "target"), Empty: filepath.Join(dir, "empty")}
	dirs := []string{s.Target, s.Empty}
	if writable {
		s.Upper, s.Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
		dirs = append(dirs, s.Upper, s.Work)
	}
	for _, d := range dirs {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	t.Cleanup(func() { require.NoError(t, Unmount(s.Target)) })
	return s
}

func read(t testing.TB, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	require.NoError(t, err)
	return string(b)
}

func TestWritable(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	s := spec(t, layers(t, 3, 0), true)
	require.NoError(t, os.MkdirAll(filepath.Join(s.Lower[2], "d", "e"), 0o755))
	require.NoError(t, Mount(s))
	is, err := Mounted(s.Target)
	require.NoError(t, err)
	require.True(t, is)
	on, err := Source(s.Target)
	require.NoError(t, err)
	require.Equal(t, "overlay", on)
	link := s.Target + ".link"
	require.NoError(t, os.Symlink(s.Target, link))
	on, err = Source(link)
	require.NoError(t, err)
	require.Empty(t, on, "a link is not the root of a mount")
	require.Equal(t, "0", read(t, s.Target, "all"))
	require.NoError(t, os.WriteFile(filepath.Join(s.Target, "all"), []byte("new"), 0o600))
	require.NoError(t, os.Remove(filepath.Join(s.Target, "own2")))
	require.NoError(t, os.Rename(filepath.Join(s.Target, "d"), filepath.Join(s.Target, "f")), "a directory of the image is renamed")
	require.DirExists(t, filepath.Join(s.Target, "f", "e"))
	require.Equal(t, "0", read(t, s.Lower[0], "all"), "layers stay as they are")
	require.FileExists(t, filepath.Join(s.Lower[2], "own2"))

	// The kernel refuses a volatile layer that was in use, until its marker goes.
	require.DirExists(t, filepath.Join(s.Work, "work", "incompat", "volatile"))
	require.NoError(t, Unmount(s.Target))
	is, err = Mounted(s.Target)
	require.NoError(t, err)
	require.False(t, is)
	require.NoError(t, Mount(s))
	require.Equal(t, "new", read(t, s.Target, "all"))
	require.NoFileExists(t, filepath.Join(s.Target, "own2"))
	require.DirExists(t, filepath.Join(s.Target, "f", "e"))

	require.NoError(t, Unmount(s.Target))
	require.NoError(t, Unmount(s.Target), "a second time")
	require.NoError(t, Unmount(filepath.Join(s.Target, "nothing")))
}

func TestReadOnly(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	for _, n := range []int{1, 3} {
		s := spec(t, layers(t, n, 0), false)
		require.NoError(t, Mount(s))
		require.Equal(t, "0", read(t, s.Target, "all"))
		require.ErrorIs(t, os.WriteFile(filepath.Join(s.Target, "x"), nil, 0o600), unix.EROFS)
		require.NoError(t, Unmount(s.Target))
	}
}

// TestManyLayers: the number and the paths of layers are not bound by the size of a page, or of an option.
func TestManyLayers(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	for _, tc := range []struct{ n, path int }{{128, 0}, {499, 200}, {20, 600}} {
		s := spec(t, layers(t, tc.n, tc.path), true)
		require.NoError(t, Mount(s), "%d layers with paths of %d", tc.n, tc.path)
		require.Equal(t, "0", read(t, s.Target, "all"))
		require.FileExists(t, filepath.Join(s.Target, fmt.Sprintf("own%d", tc.n-1)))
		require.NoError(t, Unmount(s.Target))
	}
}

// TestOldKernel mounts the way that kernels without lowerdir+ know.
func TestOldKernel(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	before, err := os.Getwd()
	require.NoError(t, err)
	s := spec(t, layers(t, 50, 600), true)
	s.Source = "test:" + strings.Repeat("x y", 50)
	require.NoError(t, mountOld(s, nil))
	on, err := Source(s.Target)
	require.NoError(t, err)
	require.Equal(t, s.Source, on)
	require.Equal(t, "0", read(t, s.Target, "all"))
	require.FileExists(t, filepath.Join(s.Target, "own49"))
	require.NoError(t, os.WriteFile(filepath.Join(s.Target, "new"), nil, 0o600))
	after, err := os.Getwd()
	require.NoError(t, err)
	require.Equal(t, before, after, "the process stays where it was")
	require.NoError(t, Unmount(s.Target))

	s = spec(t, layers(t, 400, 0), false)
	require.ErrorContains(t, mountOld(s, nil), "too many for this kernel")
}

var mapping = []IDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}

// TestIDMapped: what belongs to root in a layer belongs to the namespace's root in the mount, and what its root makes is
// written with the id on the host.
func TestIDMapped(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	for name, mount := range map[string]func(Spec) error{
		"new": Mount,
		"old": func(s Spec) error {
			fds, release, err := mapped(&s)
			if err != nil {
				return err
			}
			defer release()
			return mountOld(s, fds)
		},
	} {
		t.Run(name, func(t *testing.T) {
			lower := layers(t, 3, 0)
			require.NoError(t, os.Chown(filepath.Join(lower[2], "own2"), 1000, 1001))
			s := spec(t, lower, true)
			s.UIDs, s.GIDs = mapping, mapping
			require.NoError(t, os.Chown(s.Upper, 200000, 200000))
			require.NoError(t, mount(s))
			owner := func(name string) string {
				info, err := os.Stat(filepath.Join(s.Target, name))
				require.NoError(t, err)
				st := info.Sys().(*syscall.Stat_t)
				return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
			}
			require.Equal(t, "200000:200000", owner("all"))
			require.Equal(t, "201000:201001", owner("own2"))

			cmd := exec.Command("/bin/sh", "-c", "id -u && stat -c %u:%g all own2 && echo changed > all && touch new && chown 1000:1001 new")
			cmd.Dir = s.Target
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags: syscall.CLONE_NEWUSER, UidMappings: toSys(mapping), GidMappings: toSys(mapping), GidMappingsEnableSetgroups: true,
				Credential: &syscall.Credential{},
			}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, string(out))
			require.Equal(t, "0\n0:0\n1000:1001\n", string(out))
			require.Equal(t, "201000:201001", owner("new"))
			require.Equal(t, "changed\n", read(t, s.Upper, "all"))
			require.Equal(t, "0", read(t, lower[0], "all"))
			info, err := os.Stat(filepath.Join(lower[0], "all"))
			require.NoError(t, err)
			require.Zero(t, info.Sys().(*syscall.Stat_t).Uid, "the layer on the disk stays root's")
			require.NoError(t, Unmount(s.Target))
			mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Dir(s.Target)))
			require.NoError(t, err)
			require.Empty(t, mounts)
			entries, err := os.ReadDir(filepath.Dir(s.Target))
			require.NoError(t, err)
			require.Len(t, entries, 4, "target, empty, upper, work")
		})
	}
}

func TestFaults(t *testing.T) {
	testkit.Root(t)
	testkit.NoLeaks(t, t.Name())
	fds := openFiles(t)
	require.ErrorContains(t, Mount(Spec{}), "no layers")
	s := spec(t, layers(t, 2, 0), true)
	s.Lower[0] += "x"
	require.ErrorIs(t, Mount(s), unix.ENOENT)
	s = spec(t, layers(t, 2, 0), true)
	s.Target += "x"
	require.ErrorIs(t, Mount(s), unix.ENOENT)
	s = spec(t, layers(t, 2, 0), true)
	s.UIDs, s.GIDs = mapping, mapping
	s.Lower[1] += "x"
	require.ErrorIs(t, Mount(s), unix.ENOENT)
	s = spec(t, layers(t, 2, 0), true)
	s.UIDs, s.GIDs = []IDMapping{{0, 5, 10}, {3, 50, 10}}, mapping // overlap
	require.Error(t, Mount(s))
	require.Equal(t, fds, openFiles(t), "files left open")
}

func openFiles(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

func TestToHost(t *testing.T) {
	maps := []IDMapping{{0, 1000, 1}, {10, 2000, 5}}
	for id, want := range map[int]int{0: 1000, 1: -1, 10: 2000, 14: 2004, 15: -1} {
		got, ok := ToHost(id, maps)
		require.Equal(t, want, got, id)
		require.Equal(t, want >= 0, ok, id)
	}
	got, ok := ToHost(7, nil)
	require.True(t, ok)
	require.Equal(t, 7, got)
}
