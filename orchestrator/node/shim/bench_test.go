//go:build linux && cgo

package shim_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// smallShim builds the program that the main binary embeds, as the Makefile does.
func smallShim(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keelson-shim")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "seccomp netgo osusergo runc_nocriu", "-ldflags", "-s -w -extldflags=-static",
		"-o", path, "./keelson-shim")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the static program cannot be built: %v: %s", err, out)
	}
	return path
}

// BenchmarkPod measures a pod of the small shim with one container: how long the shim and the container take to start, and
// what the shim and the pause process hold of the memory (Pss) when all is quiet.
//
//	go test -tags seccomp -run '^$' -bench Pod ./orchestrator/node/shim
func BenchmarkPod(b *testing.B) {
	program := smallShim(b)
	for _, spec := range []struct {
		name string
		shim.SandboxSpec
	}{{"own-pid", shim.SandboxSpec{IPC: true, UTS: true, Hostname: "bench"}}, {"shared-pid", shim.SandboxSpec{IPC: true, UTS: true, PID: true}}} {
		b.Run(spec.name, func(b *testing.B) {
			spec.NetNS = filepath.Join(b.TempDir(), mark+"-net")
			figures := map[string][]float64{}
			for range b.N {
				measurePod(b, program, spec.SandboxSpec, func(unit string, value float64) { figures[unit] = append(figures[unit], value) })
			}
			for unit, values := range figures {
				slices.Sort(values)
				b.ReportMetric(values[len(values)/2], unit)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func measurePod(b *testing.B, program string, spec shim.SandboxSpec, tell func(unit string, value float64)) {
	p := &pod{t: b, root: b.TempDir(), cgroup: "/" + mark + "bench"}
	p.dir = filepath.Join(p.root, "shim")
	began := time.Now()
	took := func(unit string, err error) {
		if err != nil {
			b.Fatal(err)
		}
		tell("ms/"+unit, float64(time.Since(began).Microseconds())/1000)
		began = time.Now()
	}
	client, err := shim.Start(ctx(b), shim.Config{Dir: p.dir, Command: []string{program}, Cgroup: p.cgroup + "/shim"})
	took("shim", err)
	p.Client = client
	p.sandbox, err = p.Sandbox(ctx(b), spec)
	took("sandbox", err)
	c := p.bundle("c", []string{"sleep"}, nil)
	began = time.Now()
	_, err = p.Create(ctx(b), c)
	took("create", err)
	took("start", p.Start(ctx(b), "c"))
	_, err = p.Exec(ctx(b), "c", shim.ExecSpec{Args: []string{"/shimbox", "exit", "0"}}, shim.Streams{})
	took("exec", err)
	time.Sleep(1500 * time.Millisecond) // until unused memory was given back
	pss, anon := pssOf(b, p.Pid())
	tell("kB-pss", pss)
	tell("kB-anon", anon)
	if p.sandbox.Pause != 0 {
		pss, _ := pssOf(b, p.sandbox.Pause)
		tell("kB-pause", pss)
	}
	began = time.Now()
	took("delete", p.Delete(ctx(b), "c"))
	took("shutdown", p.Shutdown(ctx(b)))
	p.dropCgroups()
}

// pssOf is what a process holds of the memory, its share of what it has in common with others counted, in kB; and what of it
// is its own alone however many shims there are.
func pssOf(t testing.TB, pid int) (all, anon float64) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		for name, to := range map[string]*float64{"Pss:": &all, "Pss_Anon:": &anon} {
			if rest, ok := strings.CutPrefix(lines.Text(), name); ok {
				_, _ = fmt.Sscan(rest, to)
			}
		}
	}
	return all, anon
}
