//go:build linux && cgo

package runtime_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite"
)

// patience bounds whatever is waited for.
const patience = time.Minute

// serial makes names differ.
var serial atomic.Int64

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return c
}

// withImage brings the suite's image to the node and answers its reference.
func (n *node) withImage() string {
	n.t.Helper()
	ref := crisuite.Ref(crisuite.Registry(n.t), "box")
	if _, err := n.cfg.ImageService.PullImage(ctx(n.t), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}); err != nil {
		n.t.Fatal(err)
	}
	return ref
}

func podConfig(dir string) *runtimeapi.PodSandboxConfig {
	name := fmt.Sprintf("pod-%d", serial.Add(1))
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "ns", Uid: name}, Hostname: name, LogDirectory: filepath.Join(dir, "logs", name),
		Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

func containerConfig(ref string, args ...string) *runtimeapi.ContainerConfig {
	name := fmt.Sprintf("c-%d", serial.Add(1))
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: ref}, Args: args, LogPath: name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
		}},
	}
}

// pod runs a sandbox.
func (n *node) pod() string {
	n.t.Helper()
	out, err := n.RunPodSandbox(ctx(n.t), &runtimeapi.RunPodSandboxRequest{Config: podConfig(n.dir)})
	if err != nil {
		n.t.Fatal(err)
	}
	return out.PodSandboxId
}

// create makes a container.
func (n *node) create(pod, ref string, args ...string) string {
	n.t.Helper()
	out, err := n.CreateContainer(ctx(n.t), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig(ref, args...)})
	if err != nil {
		n.t.Fatal(err)
	}
	return out.ContainerId
}

// start makes a container and starts it.
func (n *node) start(pod, ref string, args ...string) string {
	n.t.Helper()
	id := n.create(pod, ref, args...)
	if _, err := n.StartContainer(ctx(n.t), &runtimeapi.StartContainerRequest{ContainerId: id}); err != nil {
		n.t.Fatal(err)
	}
	return id
}

func (n *node) status(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	out, err := n.ContainerStatus(ctx(n.t), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		n.t.Fatal(err)
	}
	return out.Status
}

func (n *node) podStatus(id string) *runtimeapi.PodSandboxStatus {
	n.t.Helper()
	out, err := n.PodSandboxStatus(ctx(n.t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		n.t.Fatal(err)
	}
	return out.Status
}

// remove removes sandboxes.
func (n *node) remove(ids ...string) {
	n.t.Helper()
	for _, id := range ids {
		if _, err := n.RemovePodSandbox(ctx(n.t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
			n.t.Error(err)
		}
	}
}

// shimPid is the process of a sandbox's shim.
func (n *node) shimPid(pod string) int {
	n.t.Helper()
	out, err := n.PodSandboxStatus(ctx(n.t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
	if err != nil {
		n.t.Fatal(err)
	}
	var info struct{ Pid *int }
	if err := json.Unmarshal([]byte(out.Info["info"]), &info); err != nil || info.Pid == nil {
		n.t.Fatalf("%v: %s", err, out.Info["info"])
	}
	return ptr.Deref(info.Pid, 0)
}

// killShim kills the shim of a sandbox.
func (n *node) killShim(pod string) {
	n.t.Helper()
	if err := syscall.Kill(n.shimPid(pod), syscall.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

// ticks are the numbers that a container has written so far.
func (n *node) ticks(id string) (all []int) {
	data, _ := os.ReadFile(n.status(id).LogPath)
	for line := range strings.Lines(string(data)) {
		var i int
		if _, text, ok := strings.Cut(line, " F "); ok {
			if _, err := fmt.Sscanf(text, "tick %d", &i); err == nil {
				all = append(all, i)
			}
		}
	}
	return all
}
