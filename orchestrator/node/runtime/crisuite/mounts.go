//go:build linux

package crisuite

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/facts"
)

var mountCases = map[string]func(*testing.T, *suite){
	"mount-bind":        mountBind,
	"mount-over":        mountOver,
	"mount-recursive":   mountRecursive,
	"mount-propagation": mountPropagation,
	"mount-image":       mountImage,
	"mount-options":     mountOptions,
}

// tempDir is a folder that goes with the test.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "crisuite")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// ownerOf is the user that a file belongs to.
func ownerOf(info os.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// parseFacts reads what box has told.
func parseFacts(t testing.TB, data []byte) *facts.Facts {
	t.Helper()
	f := &facts.Facts{}
	if err := json.Unmarshal(data, f); err != nil {
		t.Fatalf("%v: %q", err, data)
	}
	return f
}

func mountWith(mounts ...*runtimeapi.Mount) edit {
	return func(c *runtimeapi.ContainerConfig) { c.Mounts = mounts }
}

// tmpfs mounts one at a path of the host until the test ends.
func tmpfs(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
}

func mountBind(t *testing.T, s *suite) {
	p := s.pod(t)
	dir := tempDir(t)
	if err := os.WriteFile(dir+"/file", []byte("of the host"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	id := s.start(t, p, []string{"pause"}, mountWith(
		&runtimeapi.Mount{HostPath: dir, ContainerPath: "/rw"},
		&runtimeapi.Mount{HostPath: dir, ContainerPath: "/made/deep/ro", Readonly: true},
		&runtimeapi.Mount{HostPath: dir + "/file", ContainerPath: "/etc/one"},
		&runtimeapi.Mount{HostPath: dir + "/link", ContainerPath: "/link"},
		&runtimeapi.Mount{HostPath: dir, ContainerPath: "/nested"},
		&runtimeapi.Mount{HostPath: dir + "/file", ContainerPath: "/nested/file"},
	))
	for _, path := range []string{"/rw/file", "/made/deep/ro/file", "/etc/one", "/link/file", "/nested/file"} {
		equal(t, path, string(s.exec(t, id, "read", path).Stdout), "of the host")
	}
	equal(t, "writing", s.exec(t, id, "write", "/rw/new", "of the container").ExitCode, 0)
	data, _ := os.ReadFile(dir + "/new")
	equal(t, "what was written", string(data), "of the container")
	equal(t, "writing to read-only", s.exec(t, id, "write", "/made/deep/ro/new", "x").ExitCode, 1)
	if mounts := s.status(t, id).Mounts; len(mounts) != 6 {
		t.Errorf("the status has the mounts %v", mounts)
	}
}

// mountOver: a mount of the config takes the place of a file of the sandbox.
func mountOver(t *testing.T, s *suite) {
	p := s.pod(t)
	dir := tempDir(t)
	if err := os.WriteFile(dir+"/hosts", []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	id := s.start(t, p, []string{"pause"}, mountWith(
		&runtimeapi.Mount{HostPath: dir + "/hosts", ContainerPath: "/etc/hosts"},
		&runtimeapi.Mount{HostPath: dir, ContainerPath: "/dev/shm"},
	))
	equal(t, "hosts", string(s.exec(t, id, "read", "/etc/hosts").Stdout), "mine")
	equal(t, "shm", string(s.exec(t, id, "read", "/dev/shm/hosts").Stdout), "mine")
}

func mountRecursive(t *testing.T, s *suite) {
	p := s.pod(t)
	dir := tempDir(t)
	tmpfs(t, dir+"/below")
	id := s.start(t, p, []string{"pause"}, mountWith(
		&runtimeapi.Mount{HostPath: dir, ContainerPath: "/ro", Readonly: true},
		&runtimeapi.Mount{HostPath: dir, ContainerPath: "/rro", Readonly: true, RecursiveReadOnly: true},
	))
	equal(t, "below read-only", s.exec(t, id, "write", "/ro/below/x", "y").ExitCode, 0)
	equal(t, "below recursively read-only", s.exec(t, id, "write", "/rro/below/x", "y").ExitCode, 1)
	for _, m := range []*runtimeapi.Mount{
		{HostPath: dir, ContainerPath: "/x", RecursiveReadOnly: true},
		{HostPath: dir, ContainerPath: "/x", RecursiveReadOnly: true, Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
	} {
		if _, err := s.create(t, p, s.config([]string{"pause"}, mountWith(m))); err == nil {
			t.Errorf("%v was taken", m)
		}
	}
}

func mountPropagation(t *testing.T, s *suite) {
	p := s.pod(t, func(c *runtimeapi.PodSandboxConfig) { c.Linux.SecurityContext.Privileged = true })
	dir := tempDir(t)
	tmpfs(t, dir)
	mount := func(to string, propagation runtimeapi.MountPropagation) edit {
		return func(c *runtimeapi.ContainerConfig) {
			c.Mounts = append(c.Mounts, &runtimeapi.Mount{HostPath: dir, ContainerPath: to, Propagation: propagation})
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for _, propagation := range []runtimeapi.MountPropagation{runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL} {
		if _, err := s.create(t, p, s.config([]string{"pause"}, mount("/x", propagation))); err == nil || !strings.Contains(err.Error(), "mount") {
			t.Errorf("%v of a private mount: %v", propagation, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	private := s.start(t, p, []string{"pause"}, mount("/x", runtimeapi.MountPropagation_PROPAGATION_PRIVATE))
	slave := s.start(t, p, []string{"pause"}, mount("/x", runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER))
	privileged := func(c *runtimeapi.ContainerConfig) { sc(c).Privileged = true }
	shared := s.start(t, p, []string{"pause"}, mount("/x", runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL), mount("/tmp", runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL), privileged)
	tmpfs(t, dir+"/later")
	for id, want := range map[string]bool{private: false, slave: true, shared: true} {
		_, got := s.factsOf(t, id).Mount("/x/later")
		equal(t, "what the host mounts is seen", got, want)
	}
	// What the container mounts at its /tmp appears on the host where propagation goes both ways.
	if out := string(s.exec(t, shared, "try", "mount").Stdout); !strings.Contains(out, "mount true") {
		t.Fatalf("mounting in the container: %s", out)
	}
	own := facts.Gather()
	count := 0
	for _, m := range own.Mounts {
		if m.Path == dir && m.Source == "none" {
			count++
		}
	}
	equal(t, "mounts of the container on the host", count, 1)
	for range count {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
}

func mountImage(t *testing.T, s *suite) {
	p := s.pod(t)
	image := func() *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: s.ref("bare")} }
	id := s.start(t, p, []string{"pause"}, mountWith(
		&runtimeapi.Mount{ContainerPath: "/whole", Image: image(), Readonly: true},
		&runtimeapi.Mount{ContainerPath: "/part", Image: image(), ImageSubPath: "data/sub", Readonly: true},
	))
	equal(t, "the whole", string(s.exec(t, id, "read", "/whole/data/sub/file").Stdout), "from the image\n")
	equal(t, "a part", string(s.exec(t, id, "read", "/part/file").Stdout), "from the image\n")
	equal(t, "writing", s.exec(t, id, "write", "/part/x", "y").ExitCode, 1)
	for name, m := range map[string]*runtimeapi.Mount{
		"no such path":  {ContainerPath: "/x", Image: image(), ImageSubPath: "none/such"},
		"no such image": {ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: s.Registry + "/suite/none:1"}},
	} {
		if _, err := s.create(t, p, s.config([]string{"pause"}, mountWith(m))); err == nil {
			t.Errorf("%s was mounted", name)
		}
	}
}

func mountOptions(t *testing.T, s *suite) {
	p := s.pod(t)
	dir := tempDir(t)
	st, err := s.rt.Status(ctx(t), &runtimeapi.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if !st.Features.GetMountOptions() {
		return // a runtime that tells that it has none is let be
	}
	f := s.facts(t, p, mountWith(&runtimeapi.Mount{HostPath: dir, ContainerPath: "/x", MountOptions: []string{"noexec", "nosuid"}}))
	if m, _ := f.Mount("/x"); !m.Has("noexec") || !m.Has("nosuid") || m.Has("nodev") {
		t.Errorf("the mount is %v", m)
	}
	if _, err := s.create(t, p, s.config([]string{"pause"}, mountWith(&runtimeapi.Mount{HostPath: filepath.Dir(dir), ContainerPath: "/x", MountOptions: []string{"none-such"}}))); err == nil {
		t.Error("an option that is none was taken")
	}
}
