//go:build linux && cgo

package shim_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// TestKill ends containers whose processes are deaf to SIGTERM and have sessions of their own: nothing survives.
func TestKill(t *testing.T) {
	for _, tc := range []struct {
		name string
		spec shim.SandboxSpec
		host bool
	}{{"own pid namespace", shim.SandboxSpec{}, false}, {"shared", shim.SandboxSpec{PID: true}, false}, {"the host's", shim.SandboxSpec{}, true}} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPod(t, tc.spec)
			p.run(p.bundle("c", []string{"hang", "3"}, func(s *specs.Spec) {
				if tc.host {
					s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
				}
			}))
			eventually(t, "all of them hang", func() bool { return strings.Count(text(p.logOf("c"), "stdout"), "hanging") == 4 })
			if err := p.Signal(ctx(t), "c", syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if s, err := p.State(ctx(t), "c"); err != nil || s.Status != shim.Running {
				t.Fatalf("%+v %v", s, err)
			}
			if err := p.Signal(ctx(t), "c", syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if s := p.stopped("c"); s.ExitCode != 137 || s.OOMKilled {
				t.Errorf("%+v", s)
			}
			if left := boxes(); len(left) > 0 {
				t.Errorf("processes survive: %v", left)
			}
		})
	}
}

// boxes are the processes of containers.
func boxes() (all []string) {
	for _, p := range processes() {
		if strings.Contains(p, " /shimbox ") {
			all = append(all, p)
		}
	}
	return all
}

// TestFirstProcessEnds takes what it leaves in a shared PID namespace along.
func TestFirstProcessEnds(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{PID: true})
	p.run(p.bundle("c", []string{"daemon"}, nil))
	if s := p.stopped("c"); s.ExitCode != 0 {
		t.Errorf("%+v", s)
	}
	if left := boxes(); len(left) > 0 {
		t.Errorf("processes survive: %v", left)
	}
}

func TestOOM(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	limit := int64(20 << 20)
	p.run(p.bundle("c", []string{"alloc", "100"}, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	}))
	if s := p.stopped("c"); s.ExitCode != 137 || !s.OOMKilled || s.Reason != "OOMKilled" {
		t.Errorf("%+v", s)
	}
}

func TestUpdateAndStats(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	limit, quota, period := int64(64<<20), int64(20000), uint64(100000)
	p.run(p.bundle("c", []string{"sleep"}, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}))
	stats, err := p.Stats(ctx(t), "c")
	if err != nil || stats.MemoryStats.Usage.Limit != uint64(limit) || stats.MemoryStats.Usage.Usage == 0 {
		t.Fatalf("%+v %v", stats, err)
	}
	smaller := int64(20 << 20)
	if err := p.Update(ctx(t), "c", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &smaller}}); err != nil {
		t.Fatal(err)
	}
	if stats, err = p.Stats(ctx(t), "c"); err != nil || stats.MemoryStats.Usage.Limit != uint64(smaller) {
		t.Errorf("%+v %v", stats, err)
	}
	for _, path := range []string{"/sys/fs/cgroup/cpu" + p.cgroup + "/c/cpu.cfs_quota_us", "/sys/fs/cgroup" + p.cgroup + "/c/cpu.max"} {
		if data, err := os.ReadFile(path); err == nil && !strings.HasPrefix(string(data), "20000") {
			t.Errorf("the quota is %s: an update of memory changed it", data)
		}
	}
	if code, _, _ := p.exec("c", "alloc", "100"); code != 137 {
		t.Errorf("the new limit does not hold: exit %d", code)
	}
	tiny := int64(1)
	if err := p.Update(ctx(t), "c", &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &tiny}}); err == nil {
		t.Log("the kernel took a limit of one byte")
	}
}

// TestConnect finds a shim whose client has gone, with what happened meanwhile.
func TestConnect(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	p.run(p.bundle("ends", []string{"exit", "5"}, nil))
	p.run(p.bundle("lives", []string{"sleep"}, nil))
	p.create(p.bundle("waits", []string{"exit", "0"}, nil))
	p.stopped("ends")
	c, err := shim.Connect(ctx(t), p.dir)
	if err != nil {
		t.Fatal(err)
	}
	if c.Pid() != p.Pid() {
		t.Errorf("pid %d, not %d", c.Pid(), p.Pid())
	}
	states, err := c.States(ctx(t))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range states {
		all = append(all, fmt.Sprint(s.ID, " ", s.Status, " ", s.ExitCode))
	}
	if got := strings.Join(all, ", "); got != "ends stopped 5, lives running 0, waits created 0" {
		t.Error(got)
	}
	if err := c.Start(ctx(t), "waits"); err != nil {
		t.Error(err)
	}
	if s := p.stopped("waits"); s.Reason != "Completed" {
		t.Errorf("%+v", s)
	}
	if err := c.Start(ctx(t), "waits"); !errors.Is(err, shim.ErrState) {
		t.Errorf("a second start: %v", err)
	}
}

// TestEvents sees every state of a container.
func TestEvents(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	c, cancel := context.WithCancel(ctx(t))
	defer cancel()
	events, err := p.Events(c)
	if err != nil {
		t.Fatal(err)
	}
	p.run(p.bundle("c", []string{"exit", "4"}, nil))
	var seen []string
	for s := range events {
		seen = append(seen, string(s.Status))
		if s.Status == shim.Stopped {
			cancel()
		}
	}
	if got := strings.Join(seen, " "); got != "created running stopped" {
		t.Error(got)
	}
}

// TestShimKilled kills shims with everything they can hold. What is left is found and removed.
func TestShimKilled(t *testing.T) {
	for _, tc := range []struct {
		name string
		spec shim.SandboxSpec
	}{{"plain", shim.SandboxSpec{IPC: true, UTS: true}}, {"shared pid", shim.SandboxSpec{IPC: true, PID: true}}} {
		t.Run(tc.name, func(t *testing.T) {
			tc.spec.NetNS = filepath.Join(t.TempDir(), mark+"-net")
			p := newPod(t, tc.spec)
			p.run(p.bundle("ends", []string{"exit", "5"}, nil))
			p.stopped("ends")
			p.run(p.bundle("hangs", []string{"hang", "2"}, nil))
			p.create(p.bundle("waits", []string{"exit", "0"}, nil))
			events, err := p.Events(ctx(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			for range events { // is closed
			}
			if _, err := shim.Connect(ctx(t), p.dir); !errors.Is(err, shim.ErrGone) {
				t.Errorf("connect to it: %v", err)
			}
			if _, err := p.States(ctx(t)); !errors.Is(err, shim.ErrGone) {
				t.Errorf("ask it: %v", err)
			}
			if _, err := shim.Start(ctx(t), shim.Config{Dir: p.dir}); !errors.Is(err, shim.ErrExists) {
				t.Errorf("start another where it was: %v", err)
			}
			states, err := shim.LastStates(p.dir)
			if err != nil || len(states) != 3 || states[0].ExitCode != 5 || states[1].Status != shim.Running || states[2].Status != shim.Created {
				t.Errorf("%+v %v", states, err)
			}
			for range 2 { // and once more, where nothing is
				if err := shim.Clean(p.dir); err != nil {
					t.Fatal(err)
				}
			}
			if left := processes(); len(left) > 0 {
				t.Errorf("processes survive: %v", left)
			}
			for _, path := range []string{p.dir, tc.spec.NetNS} {
				if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is left: %v", path, err)
				}
			}
			if _, err := shim.Connect(ctx(t), p.dir); !errors.Is(err, shim.ErrGone) {
				t.Errorf("connect to nothing: %v", err)
			}
		})
	}
}

func TestCreateErrors(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	for _, tc := range []struct {
		name, want string
		args       []string
		edit       func(*specs.Spec)
	}{
		{"missing", "/none", nil, func(s *specs.Spec) { s.Process.Args = []string{"/none"} }},
		{"mount", "/no/such/source", []string{"sleep"}, func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/no/such/source", Options: []string{"bind"}})
		}},
		{"namespace", "/no/such/ns", []string{"sleep"}, func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/no/such/ns"})
		}},
		{"limit", "RLIMIT_NONE", []string{"sleep"}, func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NONE"}}
		}},
		{"root", "names no root", []string{"sleep"}, func(s *specs.Spec) { s.Root = nil }},
		{"process", "names no process", []string{"sleep"}, func(s *specs.Spec) { s.Process = nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := p.bundle(tc.name, tc.args, tc.edit)
			if _, err := p.Create(ctx(t), c); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v", err)
			}
			if _, err := p.State(ctx(t), tc.name); !errors.Is(err, shim.ErrNotFound) {
				t.Errorf("its state: %v", err)
			}
			if err := p.Delete(ctx(t), tc.name); err != nil {
				t.Error(err)
			}
		})
	}
	c := p.bundle("c", []string{"sleep"}, nil)
	p.create(c)
	if _, err := p.Create(ctx(t), c); !errors.Is(err, shim.ErrExists) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := p.Exec(ctx(t), "c", shim.ExecSpec{Args: []string{"/shimbox"}}, shim.Streams{}); !errors.Is(err, shim.ErrState) {
		t.Errorf("exec before its start: %v", err)
	}
	if _, err := p.Create(ctx(t), shim.Container{ID: "none", Bundle: "/no/such/bundle"}); err == nil || !strings.Contains(err.Error(), "/no/such/bundle") {
		t.Errorf("%v", err)
	}
	// Is freed of what is not permitted here rather than refused.
	low := -999
	p.run(p.bundle("low", []string{"sleep"}, func(s *specs.Spec) {
		s.Process.OOMScoreAdj = &low
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1 << 30, Soft: 1 << 30}}
	}))
}

func TestSeccomp(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	c := p.bundle("c", []string{"echo", "hello"}, func(s *specs.Spec) {
		one := uint(1)
		s.Linux.Seccomp = &specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: &one}},
		}
	})
	if !shim.Seccomp() {
		if _, err := p.Create(ctx(t), c); err == nil || !strings.Contains(err.Error(), "seccomp") {
			t.Errorf("%v", err)
		}
		return
	}
	p.run(c)
	if s := p.stopped("c"); s.ExitCode != 0 {
		t.Errorf("%+v", s)
	}
}

// TestManyAtOnce makes, runs, enters and deletes containers from many goroutines.
func TestManyAtOnce(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{IPC: true, UTS: true})
	var all sync.WaitGroup
	for i := range 12 {
		id := fmt.Sprint("c", i)
		c := p.bundle(id, []string{"both", "200"}, nil)
		sleeper := p.bundle("s"+id, []string{"sleep"}, nil)
		all.Go(func() {
			for _, c := range []shim.Container{c, sleeper} {
				if _, err := p.Create(ctx(t), c); err != nil {
					t.Error(err)
					return
				}
				if err := p.Start(ctx(t), c.ID); err != nil {
					t.Error(err)
					return
				}
			}
			var inner sync.WaitGroup
			for n := range 3 {
				inner.Go(func() {
					if code, err := p.Exec(ctx(t), sleeper.ID, shim.ExecSpec{Args: []string{"/shimbox", "exit", fmt.Sprint(n)}}, shim.Streams{}); err != nil || code != n {
						t.Errorf("exit %d %v", code, err)
					}
				})
			}
			inner.Wait()
			if s := p.stopped(id); s.ExitCode != 0 {
				t.Errorf("%+v", s)
			}
			if err := errors.Join(p.Delete(ctx(t), id), p.Delete(ctx(t), sleeper.ID)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if states, err := p.States(ctx(t)); err != nil || len(states) != 0 {
		t.Errorf("%v %v", states, err)
	}
	for i := range 12 {
		if n := len(p.logOf(fmt.Sprint("c", i))); n != 400 {
			t.Errorf("%d entries", n)
		}
	}
}

// TestLongFolder has a path that no socket's address can hold.
func TestLongFolder(t *testing.T) {
	p := newPod(t, shim.SandboxSpec{})
	dir := filepath.Join(p.root, strings.Repeat("long", 20), strings.Repeat("path", 20))
	if _, err := shim.Start(ctx(t), shim.Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	c, err := shim.Connect(ctx(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Shutdown(ctx(t)); err != nil {
		t.Error(err)
	}
}

// TestShimKilledAnytime kills shims in the midst of what they do: whatever that was, it is all found again.
func TestShimKilledAnytime(t *testing.T) {
	for i := range 12 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			spec := shim.SandboxSpec{IPC: true, UTS: true, PID: i%2 == 0, NetNS: filepath.Join(t.TempDir(), mark+"-net")}
			p := newPod(t, spec)
			first, second := p.bundle("a", []string{"hang", "1"}, nil), p.bundle("b", []string{"exit", "0"}, nil)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for _, c := range []shim.Container{first, second} {
					if _, err := p.Create(ctx(t), c); err != nil {
						return
					}
					if p.Start(ctx(t), c.ID) != nil {
						return
					}
				}
				_ = p.Delete(ctx(t), "a")
			}()
			time.Sleep(time.Duration(i) * 7 * time.Millisecond)
			if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			<-done
			if err := shim.Clean(p.dir); err != nil {
				t.Fatal(err)
			}
			if left := boxes(); len(left) > 0 {
				t.Errorf("processes survive: %v", left)
			}
		})
	}
}
