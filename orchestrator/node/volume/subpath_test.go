package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/internal/testkit"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return "error"
	}
	return string(b)
}

func TestSubPaths(t *testing.T) {
	f := newFixture(t, configMap("settings", "k", "v"))
	pod := podWith("web", volume("dir", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}), volume("cm", fromConfigMap("settings", false)))
	f.setup(t, pod)
	dir := f.path(t, pod, "dir")
	secretFile := filepath.Join(f.dir, "of-the-node")
	must(t, os.WriteFile(secretFile, []byte("secret"), 0o600), os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755), os.WriteFile(filepath.Join(dir, "a", "b", "file"), []byte("inside"), 0o644),
		os.Symlink("a/b", filepath.Join(dir, "within")), os.Symlink("../../../../../of-the-node", filepath.Join(dir, "relative")), os.Symlink(secretFile, filepath.Join(dir, "absolute")),
		os.Symlink("/", filepath.Join(dir, "root")), os.Symlink("loop", filepath.Join(dir, "loop")), os.Symlink("/proc/self/root", filepath.Join(dir, "magic")))
	mount := func(volume, sub, expr string) (string, error) {
		c := pod.Spec.Containers[0]
		c.VolumeMounts = []corev1.VolumeMount{{Name: volume, MountPath: "/x", SubPath: sub, SubPathExpr: expr}}
		m, err := f.Mounts(pod, &c, map[string]string{"POD": "a", "UP": ".."})
		if err != nil {
			return "", err
		}
		return m[0].HostPath, nil
	}
	for _, sub := range []string{"a/b/file", "within/file", "./a//b/./file"} {
		if path, err := mount("dir", sub, ""); err != nil || read(t, path) != "inside" {
			t.Errorf("%s: %q, %v", sub, path, err)
		}
	}
	if path, err := mount("dir", "", "$(POD)/b/file"); err != nil || read(t, path) != "inside" {
		t.Errorf("an expression: %q, %v", path, err)
	}
	if path, err := mount("dir", ".", ""); err != nil || path != dir {
		t.Errorf("the volume itself: %q, %v", path, err)
	}
	path, err := mount("dir", "new/deep/dir", "")
	if err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(filepath.Join(path, "made"), []byte("x"), 0o644))
	var st unix.Stat_t
	if got := read(t, filepath.Join(dir, "new/deep/dir/made")); got != "x" || unix.Stat(path, &st) != nil || st.Mode&0o7777 != 0o777 {
		t.Errorf("what was missing: %q, %o", got, st.Mode)
	}
	for _, sub := range []string{"relative", "absolute", "root/etc", "root", "loop", "magic/etc", "absolute/new", "root/made/by/us"} {
		if path, err := mount("dir", sub, ""); err == nil || !strings.Contains(err.Error(), `failed to prepare subPath for volumeMount "dir" of container "main"`) {
			t.Errorf("%s led to %q, %v", sub, path, err)
		}
	}
	for sub, want := range map[string]string{"/abs": "must not be an absolute path", "a/../../x": "must not contain '..'", "..": "must not contain '..'"} {
		if _, err := mount("dir", sub, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", sub, err)
		}
	}
	for expr, want := range map[string]string{"$(GONE)": `missing value for "GONE"`, "$(UP)/x": "must not contain '..'"} {
		if _, err := mount("dir", "", expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", expr, err)
		}
	}
	// a file of a ConfigMap is the one of when the container started
	path, err = mount("cm", "k", "")
	if err != nil || read(t, path) != "v" {
		t.Fatalf("%q, %v", path, err)
	}
	w := newWriter(f.path(t, pod, "cm"))
	if _, err := w.write(files("k", "newer")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path); got != "v" {
		t.Errorf("it changed to %q", got)
	}
	if path, err = mount("cm", "k", ""); err != nil || read(t, path) != "newer" {
		t.Errorf("after a restart: %q, %v", read(t, path), err)
	}
	if n, _ := mountsBelow(filepath.Join(f.podDir(pod.UID), "volume-subpaths")); len(n) != 2 {
		t.Errorf("mounts pile up: %v", n)
	}
}

// TestSubPathRaces has a container exchange a directory for a link to the node's files while subPaths are mounted.
func TestSubPathRaces(t *testing.T) {
	testkit.Root(t)
	top := t.TempDir()
	testkit.NoLeaks(t, top)
	volume, node := filepath.Join(top, "volume"), filepath.Join(top, "node")
	must(t, os.MkdirAll(filepath.Join(volume, "d", "sub"), 0o755), os.MkdirAll(filepath.Join(node, "sub"), 0o755), os.WriteFile(filepath.Join(node, "sub", "secret"), nil, 0o600),
		os.Symlink(node, filepath.Join(volume, "evil")))
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() { // exchanges the two, atomically, all the time
		for !stop.Load() {
			_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(volume, "d"), unix.AT_FDCWD, filepath.Join(volume, "evil"), unix.RENAME_EXCHANGE)
		}
	})
	good, refused := 0, 0
	target := filepath.Join(top, "target")
	for i := 0; i < 2000 || (i < 200000 && (good == 0 || refused == 0)); i++ {
		sub := "d/sub"
		if i%4 == 3 {
			sub = fmt.Sprintf("d/new%d/deep", i)
		}
		err := bindSubPath(volume, sub, target)
		if err != nil {
			refused++
			continue
		}
		good++
		if _, err := os.Stat(filepath.Join(target, "secret")); err == nil {
			t.Error("the node's files are mounted")
		}
		must(t, unmountBelow(target))
	}
	stop.Store(true)
	wg.Wait()
	if good == 0 || refused == 0 {
		t.Errorf("%d good, %d refused: there was no race", good, refused)
	}
	entries, err := os.ReadDir(node)
	if err != nil || len(entries) != 1 {
		t.Errorf("directories were made among the node's files: %v, %v", entries, err)
	}
}

// TestOwnershipFollowsNoLinks gives a tree with links to a group.
func TestOwnershipFollowsNoLinks(t *testing.T) {
	testkit.Root(t)
	top := t.TempDir()
	dir, node := filepath.Join(top, "volume"), filepath.Join(top, "node")
	must(t, os.MkdirAll(filepath.Join(dir, "d"), 0o700), os.WriteFile(filepath.Join(dir, "d", "f"), nil, 0o600), os.WriteFile(node, nil, 0o600), os.Symlink(node, filepath.Join(dir, "link")), os.Symlink(top, filepath.Join(dir, "dirlink")))
	group := int64(4321)
	must(t, giveTo(dir, &group, false, nil))
	for path, want := range map[string][2]uint32{dir: {4321, 0o2770}, filepath.Join(dir, "d"): {4321, 0o2770}, filepath.Join(dir, "d", "f"): {4321, 0o660}, filepath.Join(dir, "link"): {4321, 0o777}, node: {0, 0o600}} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil || st.Gid != want[0] || st.Mode&0o7777 != want[1] {
			t.Errorf("%s: group %d, mode %o, want %d, %o", path, st.Gid, st.Mode&0o7777, want[0], want[1])
		}
	}
	late := filepath.Join(dir, "d", "late")
	must(t, os.WriteFile(late, nil, 0o600), os.Chown(late, 0, 0))
	policy := corev1.FSGroupChangeOnRootMismatch
	must(t, giveTo(dir, &group, false, &policy))
	if info, _ := os.Stat(late); info.Mode() != 0o600 {
		t.Error("the top was right, but the rest was changed")
	}
	other := int64(4322)
	must(t, giveTo(dir, &other, false, &policy))
	if info, _ := os.Stat(late); info.Mode() != 0o660 {
		t.Error("the top was wrong, but the rest was left")
	}
}

func FuzzSubPath(f *testing.F) {
	for _, s := range []string{"a", "a/b/../c", "link/x", "abs/etc", "./a//b", "\x00", "up", "a\n/b"} {
		f.Add(s)
	}
	top := f.TempDir()
	volume := filepath.Join(top, "volume")
	must(f, os.MkdirAll(filepath.Join(volume, "a", "b"), 0o755), os.Symlink("a", filepath.Join(volume, "link")), os.Symlink("/", filepath.Join(volume, "abs")), os.Symlink("..", filepath.Join(volume, "up")))
	f.Fuzz(func(t *testing.T, path string) {
		clean, err := checkSubPath(path)
		if err != nil || len(clean) > 200 {
			return
		}
		fd, err := openSubPath(volume, clean)
		if err != nil {
			return
		}
		defer func() { _ = unix.Close(fd) }()
		where, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil || (where != volume && !strings.HasPrefix(where, volume+"/")) {
			t.Errorf("%q led to %q, %v", path, where, err)
		}
		if entries, _ := os.ReadDir(top); len(entries) != 1 {
			t.Errorf("%q made something outside: %v", path, entries)
		}
	})
}
