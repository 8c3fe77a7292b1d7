//go:build linux

package crisuite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite"
	real "github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite/containerd"
	"github.com/keelson-io/keelson/server/servertest"
)

// mark is in the name of everything that the test puts on the machine.
const mark = "ctrdtest"

// TestContainerd runs the suite on a real containerd.
func TestContainerd(t *testing.T) { crisuite.Run(t, containerd(t)) }

// BenchmarkContainerd starts pods on a real containerd.
func BenchmarkContainerd(b *testing.B) { crisuite.Bench(b, containerd(b)) }

// containerd starts a real containerd that ends with the test.
func containerd(t testing.TB) crisuite.Target {
	t.Helper()
	testkit.Root(t)
	program := servertest.Oracle(t, "containerd")
	testkit.NoLeaks(t, mark)
	dir, err := os.MkdirTemp("", mark)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tidy(t, dir) })
	registry := crisuite.Registry(t)
	write := func(name, text string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	box := string(crisuite.Program(t))
	write("cni/suite", box, 0o755)
	write("net.d/10-suite.conflist", `{"cniVersion":"1.0.0","name":"suite","plugins":[{"type":"suite"}]}`, 0o644)
	c := &real.Config{Dir: dir, Program: program, Runc: servertest.Oracle(t, "runc"), Pause: crisuite.Ref(registry, "pause"), Handlers: []string{"runc", "other"}}
	running, err := real.Start(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := running.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("containerd's log ends with\n%s", running.Tail())
		}
	})
	return crisuite.Target{
		Endpoint: "unix://" + c.Socket(), Registry: registry, Handler: "other", CgroupParent: "/" + filepath.Base(dir), CDIDir: c.CDI(), UserNS: true,
	}
}

// tidy removes what is the caller's, not containerd's, and fails the test for processes that are left.
func tidy(t testing.TB, dir string) {
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, c := range commands {
		if line, _ := os.ReadFile(c); strings.Contains(string(line), dir) {
			t.Errorf("left behind: process %s %s", filepath.Base(filepath.Dir(c)), strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir))
	for _, root := range append(roots, "/sys/fs/cgroup/"+filepath.Base(dir)) {
		if err := os.Remove(root); err != nil && !os.IsNotExist(err) {
			t.Error(fmt.Errorf("left behind: %w", err))
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}
