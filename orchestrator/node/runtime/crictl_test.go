//go:build linux && cgo

package runtime_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestCrictl drives the runtime as people do.
func TestCrictl(t *testing.T) {
	testkit.Root(t)
	program := servertest.Oracle(t, "crictl")
	registry := crisuite.Registry(t)
	n := newNode(t)
	settings := filepath.Join(n.dir, "crictl.yaml")
	if err := os.WriteFile(settings, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	try := func(args ...string) (string, error) {
		cmd := exec.Command(program, append([]string{"--runtime-endpoint", "unix://" + n.cfg.Socket, "--image-endpoint", "unix://" + n.cfg.Socket, "--timeout", "30s"}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+n.dir, "CRI_CONFIG_FILE="+settings)
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			out = append(out, said.String()...)
		}
		return string(out), err
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := try(args...)
		if err != nil {
			t.Fatalf("crictl %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(out)
	}
	has := func(what, want string) {
		t.Helper()
		if !strings.Contains(what, want) {
			t.Errorf("%q is not in\n%s", want, what)
		}
	}
	write := func(name string, v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(n.dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	type m = map[string]any
	ref := crisuite.Ref(registry, "box")
	podConfig := write("pod.json", m{
		"metadata": m{"name": "shell", "namespace": "default", "uid": "u-1", "attempt": 1}, "hostname": "shell", "log_directory": n.dir + "/logs",
		"labels": m{"app": "x"}, "linux": m{},
	})
	config := write("container.json", m{
		"metadata": m{"name": "ticker", "attempt": 0}, "image": m{"image": ref}, "args": []string{"tick", "1s"}, "log_path": "ticker.log", "linux": m{},
	})
	has(run("version"), "RuntimeName:  keelson")
	has(run("info"), `"status": true`)
	has(run("pull", ref), "Image is up to date")
	has(run("images"), "suite/box")
	pod := run("runp", podConfig)
	has(run("pods"), pod[:13])
	id := run("create", pod, config, podConfig)
	has(run("ps", "-a"), "Created")
	run("start", id)
	has(run("ps"), "ticker")
	has(run("exec", id[:13], "/box", "out", "by exec"), "by exec")
	has(run("exec", "--sync", id, "/box", "out", "by sync"), "by sync")
	if out, err := try("exec", id, "/box", "exit", "3"); err == nil {
		t.Errorf("a command that fails is one that does not: %s", out)
	}
	has(run("logs", id), "tick 0")
	has(run("inspect", id), `"state": "CONTAINER_RUNNING"`)
	has(run("inspectp", pod), `"state": "SANDBOX_READY"`)
	has(run("stats", id), id[:13])
	has(run("statsp", pod), pod[:13])
	run("update", "--memory", "100000000", id)
	has(run("inspect", id), `100000000`)
	run("stop", "--timeout", "1", id)
	has(run("ps", "-a"), "Exited")
	run("rm", id)
	run("stopp", pod)
	has(run("pods"), "NotReady")
	run("rmp", pod)
	run("rmi", ref)
	if out := run("images", "-q"); strings.Contains(out, "sha256") {
		t.Errorf("images are left: %s", out)
	}
	if out, err := try("inspect", id); err == nil || !strings.Contains(out, "no container") {
		t.Errorf("a container that is gone: %s", out)
	}
}
