//go:build linux

package crisuite_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite"
	"github.com/keelson-io/keelson/server/servertest"
)

// mark is in the name of everything that the test puts on the machine.
const mark = "ctrdtest"

// config of a containerd that keeps everything in a folder.
var config = template.Must(template.New("").Parse(`version = 3
root = "{{.Dir}}/root"
state = "{{.Dir}}/state"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "{{.Dir}}/c.sock"
[ttrpc]
  address = "{{.Dir}}/c.sock.ttrpc"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  stats_collect_period = 1
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{{.Pause}}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{{.Dir}}/cni"]
    conf_dir = "{{.Dir}}/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    {{range .Handlers}}
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{{.}}]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.{{.}}.options]
        BinaryName = "{{$.Runc}}"
        SystemdCgroup = false
    {{end}}
`))

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
	write("cni/loopback", box, 0o755)
	write("cni/suite", box, 0o755)
	write("net.d/10-suite.conflist", `{"cniVersion":"1.0.0","name":"suite","plugins":[{"type":"suite"}]}`, 0o644)
	var text strings.Builder
	if err := config.Execute(&text, map[string]any{
		"Dir": dir, "Pause": crisuite.Ref(registry, "pause"), "Runc": servertest.Oracle(t, "runc"), "Handlers": []string{"runc", "other"},
	}); err != nil {
		t.Fatal(err)
	}
	write("config.toml", text.String(), 0o644)
	start(t, dir, program)
	parent := "/" + filepath.Base(dir)
	return crisuite.Target{Endpoint: "unix://" + dir + "/c.sock", Registry: registry, Handler: "other", CgroupParent: parent, UserNS: true}
}

// start runs containerd until the test ends.
func start(t testing.TB, dir, program string) {
	t.Helper()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config", filepath.Join(dir, "config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait()
		kill.Stop()
		_ = log.Close()
		if t.Failed() {
			data, _ := os.ReadFile(log.Name())
			t.Logf("containerd's log ends with\n%s", data[max(0, len(data)-8000):])
		}
	})
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
