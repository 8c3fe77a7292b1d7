//go:build linux && cgo

package shim_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

func TestMain(m *testing.M) {
	if shim.Reexec() {
		return
	}
	readHostNamespaces()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if path, err := box(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
		os.Exit(code)
	}))
}

// mark is in the name of everything that the tests put on the machine.
const mark = "shimtest"

// box is the program of the containers, built once.
var box = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", mark)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "shimbox")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/shimbox")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// pod is a shim of a test.
type pod struct {
	*shim.Client
	t       testing.TB
	dir     string // of the shim
	root    string // of the bundles and logs
	sandbox shim.SandboxState
	cgroup  string
}

// newPod starts a shim, which is gone with all it made when the test ends.
func newPod(t testing.TB, spec shim.SandboxSpec) *pod {
	t.Helper()
	testkit.Root(t)
	testkit.NoLeaks(t, mark)
	noProcesses(t)
	root, err := os.MkdirTemp("", mark)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	p := &pod{t: t, dir: filepath.Join(root, "shim"), root: root, cgroup: "/" + filepath.Base(root)}
	p.start(shim.Config{Dir: p.dir, Cgroup: p.cgroup + "/shim"})
	if p.sandbox, err = p.Sandbox(ctx(t), spec); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *pod) start(cfg shim.Config) {
	p.t.Helper()
	client, err := shim.Start(ctx(p.t), cfg)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Client = client
	p.t.Cleanup(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			p.t.Error(err)
		}
		p.dropCgroups()
	})
}

// dropCgroups removes the pod's cgroup, which is the caller's, not the shim's.
func (p *pod) dropCgroups() {
	paths, _ := filepath.Glob("/sys/fs/cgroup/*" + p.cgroup)
	for _, path := range append(paths, "/sys/fs/cgroup"+p.cgroup) {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			p.t.Error(err)
		}
	}
}

// noProcesses fails a test that leaves processes of this program, or of box, behind.
func noProcesses(t testing.TB) {
	t.Cleanup(func() {
		var left []string
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if left = processes(); len(left) == 0 || time.Now().After(deadline) {
				break
			}
		}
		for _, p := range left {
			t.Errorf("left behind: process %s", p)
		}
	})
}

func processes() (all []string) {
	self, _ := os.Executable()
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		line, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if _, perr := strconv.Atoi(e.Name()); perr != nil || err != nil || e.Name() == strconv.Itoa(os.Getpid()) {
			continue
		}
		exe, _ := os.Readlink("/proc/" + e.Name() + "/exe")
		// What libcontainer starts, and the pause process, run a sealed copy of this program, which has its name.
		if strings.HasPrefix(string(line), "/shimbox\x00") || filepath.Base(exe) == filepath.Base(self) || strings.Contains(exe, mark) {
			all = append(all, e.Name()+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return all
}

// ctx bounds what a test may wait for.
func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return c
}

// bundle makes a container's folder, with box as its program.
func (p *pod) bundle(id string, args []string, edit func(*specs.Spec)) shim.Container {
	p.t.Helper()
	program, err := box()
	if err != nil {
		p.t.Fatal(err)
	}
	dir := filepath.Join(p.root, id)
	for _, sub := range []string{"rootfs/proc", "rootfs/dev", "rootfs/sys", "rootfs/tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := os.Link(program, filepath.Join(dir, "rootfs/shimbox")); err != nil {
		p.t.Fatal(err)
	}
	caps := []string{"CAP_KILL", "CAP_NET_BIND_SERVICE"}
	spec := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: append([]string{"/shimbox"}, args...), Env: []string{"PATH=/", "FACT=own"}, Cwd: "/", NoNewPrivileges: true,
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		},
		Linux: &specs.Linux{CgroupsPath: p.cgroup + "/" + id, Resources: &specs.LinuxResources{}},
	}
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}}
	if p.sandbox.Namespaces[specs.PIDNamespace] == "" {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	for kind, path := range p.sandbox.Namespaces {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: path})
	}
	if edit != nil {
		edit(spec)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644); err != nil {
		p.t.Fatal(err)
	}
	return shim.Container{ID: id, Bundle: dir, LogPath: filepath.Join(dir, "log")}
}

// create makes a container, run starts it too.
func (p *pod) create(c shim.Container) {
	p.t.Helper()
	pid, err := p.Create(ctx(p.t), c)
	if err != nil {
		p.t.Fatal(err)
	}
	if pid <= 0 {
		p.t.Fatalf("pid %d", pid)
	}
}

func (p *pod) run(c shim.Container) {
	p.t.Helper()
	p.create(c)
	if err := p.Start(ctx(p.t), c.ID); err != nil {
		p.t.Fatal(err)
	}
}

// wait returns the state of a container once it is as wanted.
func (p *pod) wait(id string, want func(shim.State) bool) shim.State {
	p.t.Helper()
	c, cancel := context.WithCancel(ctx(p.t))
	defer cancel()
	events, err := p.Events(c)
	if err != nil {
		p.t.Fatal(err)
	}
	for s := range events {
		if s.ID == id && want(s) {
			cancel()
			for range events { // until it is closed
			}
			return s
		}
	}
	p.t.Fatalf("container %s is not as wanted", id)
	return shim.State{}
}

func (p *pod) stopped(id string) shim.State {
	p.t.Helper()
	return p.wait(id, func(s shim.State) bool { return s.Status == shim.Stopped })
}

// exec runs box in a container.
func (p *pod) exec(id string, args ...string) (code int, stdout, stderr string) {
	p.t.Helper()
	var out, errs bytes.Buffer
	code, err := p.Exec(ctx(p.t), id, shim.ExecSpec{Args: append([]string{"/shimbox"}, args...)}, shim.Streams{Stdout: &out, Stderr: &errs})
	if err != nil {
		p.t.Fatal(err)
	}
	return code, out.String(), errs.String()
}

// entry is one of a log.
type entry struct {
	time             time.Time
	stream, tag, msg string
}

func (p *pod) logOf(id string) []entry { return readLog(p.t, filepath.Join(p.root, id, "log")) }

func readLog(t testing.TB, path string) (entries []entry) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 || !strings.HasSuffix(line, "\n") {
			t.Fatalf("entry %q", line)
		}
		at, err := time.Parse(time.RFC3339Nano, fields[0])
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{at, fields[1], fields[2], fields[3]})
	}
	return entries
}

// text is what a stream said.
func text(entries []entry, stream string) string {
	var b strings.Builder
	for _, e := range entries {
		if e.stream == stream {
			b.WriteString(e.msg)
			if e.tag == "F" {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}
