//go:build linux && cgo

package shim_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never holds that %s", what)
		}
	}
}

// factsOf runs box facts in a container of the pod: the first line, and the namespaces by name.
func factsOf(t *testing.T, p *pod, id string) (string, map[string]string) {
	t.Helper()
	_, out, _ := p.exec(id, "facts")
	spaces := map[string]string{}
	all := strings.Split(out, "\n")
	for _, line := range all[1:] {
		if name, _, ok := strings.Cut(line, ":["); ok {
			spaces[name] = line
		}
	}
	return out, spaces
}

// hostNamespaces are read before a test may have left the main thread in others.
var hostNamespaces = map[string]string{}

func readHostNamespaces() {
	for _, name := range []string{"net", "ipc", "uts", "pid", "user"} {
		hostNamespaces[name], _ = os.Readlink("/proc/self/ns/" + name)
	}
}

// TestHostNamespaces has a pod that shares nothing of its own.
func TestHostNamespaces(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	if len(p.sandbox.Namespaces) != 0 || p.sandbox.Pause != 0 {
		t.Errorf("%+v", p.sandbox)
	}
	p.run(p.bundle("c", []string{"sleep"}, nil))
	_, spaces := factsOf(t, p, "c")
	for _, name := range []string{"net", "ipc", "uts", "user"} {
		if spaces[name] != hostNamespaces[name] {
			t.Errorf("%s is %s", name, spaces[name])
		}
	}
}

func TestSharedNamespaces(t *testing.T) {
	for _, tc := range []struct {
		name   string
		spec   shim.SandboxSpec
		facts  []string
		shared []string
		host   []string
	}{
		{
			"ordinary",
			shim.SandboxSpec{IPC: true, UTS: true, Hostname: "web-0", Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel/shm_rmid_forced": "1"}},
			[]string{"host=web-0 ", "ip_unprivileged_port_start=80", "shm_rmid_forced=1", "pid1=shimbox", "uid=0 "},
			[]string{"net", "ipc", "uts"}, []string{"user"},
		},
		{
			"shared pid", shim.SandboxSpec{IPC: true, UTS: true, Hostname: "p", PID: true},
			[]string{"pid1=pause"}, []string{"net", "ipc", "uts", "pid"}, []string{"user"},
		},
		{
			"user namespace",
			shim.SandboxSpec{
				IPC: true, UTS: true, Hostname: "u", UserNS: userNS(), PID: true,
				Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "81", "kernel.shm_rmid_forced": "1"},
			},
			[]string{"host=u ", "uidmap=0,100000,65536", "uid=0 ", "ip_unprivileged_port_start=81", "shm_rmid_forced=1"},
			[]string{"net", "ipc", "uts", "user", "pid"}, nil,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			tc.spec.NetNS = filepath.Join(dir, mark+"-net")
			p := newPod(t, tc.spec)
			opened := func(s *specs.Spec) {
				if tc.spec.UserNS != nil {
					openTo(t, p, s)
				}
			}
			p.run(p.bundle("a", []string{"sleep"}, opened))
			p.run(p.bundle("b", []string{"sleep"}, opened))
			text, a := factsOf(t, p, "a")
			_, b := factsOf(t, p, "b")
			for _, want := range tc.facts {
				if !strings.Contains(text, want) {
					t.Errorf("no %q in %s", want, text)
				}
			}
			for _, name := range tc.shared {
				if a[name] != b[name] || a[name] == hostNamespaces[name] {
					t.Errorf("%s: %s and %s", name, a[name], b[name])
				}
			}
			for _, name := range tc.host {
				if a[name] != hostNamespaces[name] {
					t.Errorf("%s is not the host's", name)
				}
			}
			if len(tc.shared) == 3 && a["pid"] == b["pid"] {
				t.Error("the pid namespace is shared")
			}
			var pinned unix.Stat_t
			if err := unix.Stat(tc.spec.NetNS, &pinned); err != nil || fmt.Sprintf("net:[%d]", pinned.Ino) != a["net"] {
				t.Errorf("%s is not the pod's network namespace %s: %v", tc.spec.NetNS, a["net"], err)
			}
		})
	}
}

func userNS() *shim.UserNS {
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	return &shim.UserNS{UIDs: ids, GIDs: ids}
}

// openTo gives a root filesystem to the root of the pod's user namespace, and lets it reach there.
func openTo(t *testing.T, p *pod, s *specs.Spec) {
	t.Helper()
	for _, dir := range []string{p.root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	matches, err := filepath.Glob(p.root + "/*/rootfs/*")
	if err != nil {
		t.Fatal(err)
	}
	roots, _ := filepath.Glob(p.root + "/*/rootfs")
	for _, path := range append(matches, roots...) {
		if filepath.Base(path) == "shimbox" {
			continue
		}
		if err := os.Chown(path, 100000, 100000); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNetNSOfCaller joins a network namespace that was there before, and leaves it there.
func TestNetNSOfCaller(t *testing.T) {
	testkit.Root(t)
	ns := testkit.NewNetNS(t)
	p := newPod(t, shim.SandboxSpec{NetNS: ns.Path()})
	p.run(p.bundle("c", []string{"sleep"}, nil))
	_, spaces := factsOf(t, p, "c")
	var st unix.Stat_t
	if err := unix.Stat(ns.Path(), &st); err != nil || fmt.Sprintf("net:[%d]", st.Ino) != spaces["net"] {
		t.Errorf("%v %s", err, spaces["net"])
	}
	if err := p.Shutdown(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return nil }); err != nil {
		t.Errorf("the namespace of the caller is gone: %v", err)
	}
}

// TestPauseReaps has processes orphaned in a shared PID namespace: pid 1 there reaps them.
func TestPauseReaps(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{PID: true})
	p.run(p.bundle("c", []string{"orphans", "5"}, nil))
	p.run(p.bundle("other", []string{"sleep"}, nil))
	eventually(t, "the orphans were made", func() bool { return strings.Contains(text(p.logOf("c"), "stdout"), "left 5") })
	eventually(t, "no zombie is left", func() bool {
		_, out, _ := p.exec("other", "zombies")
		return out == "0\n"
	})
	if err := p.Delete(ctx(t), "c"); err != nil {
		t.Fatal(err)
	}
	if s, err := p.State(ctx(t), "other"); err != nil || s.Status != shim.Running {
		t.Errorf("the other container: %+v %v", s, err)
	}
}

// TestShimReaps has processes orphaned in the host's PID namespace, which fall to the shim.
func TestShimReaps(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	host := func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	}
	p.run(p.bundle("c", []string{"orphans", "5"}, host))
	eventually(t, "the orphans were made", func() bool { return strings.Contains(text(p.logOf("c"), "stdout"), "left 5") })
	eventually(t, "no zombie of the shim is left", func() bool {
		children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Pid()))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, path := range children {
			data, _ := os.ReadFile(path)
			n += len(strings.Fields(string(data)))
		}
		return n == 1
	})
}

func TestSandboxErrors(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{UTS: true})
	if _, err := p.Sandbox(ctx(t), shim.SandboxSpec{}); !errors.Is(err, shim.ErrExists) {
		t.Errorf("a second sandbox: %v", err)
	}
	if _, err := shim.Start(ctx(t), shim.Config{Dir: p.dir}); !errors.Is(err, shim.ErrExists) {
		t.Errorf("a second shim: %v", err)
	}
	if _, err := shim.Start(ctx(t), shim.Config{Dir: filepath.Join(p.root, "x"), Command: []string{"/bin/true"}}); err == nil {
		t.Error("a program that is no shim was started")
	}
	if _, err := shim.Start(ctx(t), shim.Config{Dir: filepath.Join(p.root, "y"), Command: []string{"/not/there"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that is not there: %v", err)
	}
	for _, spec := range []shim.SandboxSpec{
		{Hostname: "h"},
		{UTS: true, Sysctls: map[string]string{"net.no.such": "1"}},
		{NetNS: "/proc/no/such"},
	} {
		dir := filepath.Join(p.root, "other")
		c, err := shim.Start(ctx(t), shim.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Sandbox(ctx(t), spec); err == nil {
			t.Errorf("%+v was made", spec)
		}
		if _, err := c.Sandbox(ctx(t), shim.SandboxSpec{IPC: true}); err != nil {
			t.Errorf("a sandbox after one that failed: %v", err)
		}
		if err := c.Shutdown(ctx(t)); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
}
