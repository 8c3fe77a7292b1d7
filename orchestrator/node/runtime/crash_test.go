//go:build linux && cgo

package runtime_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/runtime"
)

// What the tests tell a process that serves a runtime and is to be killed.
const (
	crashDir = "KEELSON_TEST_RUNTIME" // where it is
	crashAt  = "KEELSON_TEST_CRASH"   // the step at which it kills itself, "" for none
)

// crashing serves a runtime that kills its process at a step.
func crashing(dir string) error {
	network, store, cfg, err := configure(dir, zap.NewNop())
	if err != nil {
		return err
	}
	at := os.Getenv(crashAt)
	step := func(what string) error {
		if what == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}
	network.hook = func(what, _ string) error { return step(what) }
	cfg.Images = steps{runtime.FromStore(store), step}
	rt, err := runtime.Open(cfg)
	if err != nil {
		return err
	}
	return rt.Serve(context.Background())
}

// steps tells of each step of an image store.
type steps struct {
	runtime.Images
	step func(string) error
}

func (s steps) Mount(ctx context.Context, m runtime.MountRequest) error {
	_ = s.step("mount")
	err := s.Images.Mount(ctx, m)
	_ = s.step("mounted")
	return err
}

func (s steps) Unmount(key string) error {
	_ = s.step("unmount")
	err := s.Images.Unmount(key)
	_ = s.step("unmounted")
	return err
}

// serve starts a process that serves the runtime of a node, which is stopped, and answers a client of it.
func (n *node) serve(at string) (runtimeapi.RuntimeServiceClient, *exec.Cmd) {
	n.t.Helper()
	self, err := os.Executable()
	if err != nil {
		n.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crashDir+"="+n.dir, crashAt+"="+at)
	cmd.Stderr = os.Stderr
	_ = os.Remove(n.cfg.Socket)
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = cmd.Process.Kill() })
	eventually(n.t, "it listens", func() bool { _, err := os.Stat(n.cfg.Socket); return err == nil })
	conn, err := grpc.NewClient("unix://"+n.cfg.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = conn.Close() })
	client := runtimeapi.NewRuntimeServiceClient(conn)
	if _, err := client.Version(ctx(n.t), &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		n.t.Fatal(err)
	}
	return client, cmd
}

// life takes a pod through all operations, until one fails.
func life(ctx context.Context, c runtimeapi.RuntimeServiceClient, dir, ref string) error {
	pod, err := c.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: podConfig(dir)})
	if err != nil {
		return err
	}
	container, err := c.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: pod.PodSandboxId, Config: containerConfig(ref, "pause")})
	if err != nil {
		return err
	}
	if _, err := c.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: container.ContainerId}); err != nil {
		return err
	}
	if _, err := c.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: container.ContainerId}); err != nil {
		return err
	}
	if _, err := c.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod.PodSandboxId}); err != nil {
		return err
	}
	_, err = c.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: pod.PodSandboxId})
	return err
}

// settled checks what a runtime found after a crash: nothing is half made, and all that is listed can be removed.
func (n *node) settled() {
	n.t.Helper()
	pods, err := n.ListPodSandbox(ctx(n.t), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	containers, err := n.ListContainers(ctx(n.t), &runtimeapi.ListContainersRequest{})
	if err != nil {
		n.t.Fatal(err)
	}
	known := map[string]bool{}
	for _, p := range pods.Items {
		known[p.Id] = true
	}
	for _, c := range containers.Containers {
		if !known[c.PodSandboxId] {
			n.t.Errorf("container %s has no sandbox", c.Id)
		}
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			if _, err := n.ExecSync(ctx(n.t), &runtimeapi.ExecSyncRequest{ContainerId: c.Id, Cmd: []string{"/box", "out", "alive"}}); err != nil {
				n.t.Errorf("a container that runs: %v", err)
			}
		}
	}
	for _, p := range pods.Items {
		n.remove(p.Id)
	}
}

// TestCrash kills a runtime at every step that it takes outside of its own process, and opens it again.
func TestCrash(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	for _, at := range []string{"attach", "attached", "mount", "mounted", "unmount", "unmounted", "detach", "detached"} {
		n.stop()
		client, cmd := n.serve(at)
		err := life(ctx(t), client, n.dir, ref)
		if err == nil {
			t.Errorf("%s was not reached", at)
		}
		if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
			t.Errorf("%s: the process ended with %v", at, err)
		}
		n.open()
		n.settled()
		if ids := n.network.left(); len(ids) > 0 {
			t.Errorf("%s: attached are %v", at, ids)
		}
		if keys := n.store.Mounted(); len(keys) > 0 {
			t.Errorf("%s: file systems %v", at, keys)
		}
	}
}

// TestCrashAnywhere kills a runtime under load, wherever it is, a few times.
func TestCrashAnywhere(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	for round := range 4 {
		n.stop()
		client, cmd := n.serve("")
		var lives sync.WaitGroup
		reached := make(chan int, 1000)
		for range 4 {
			lives.Go(func() {
				for i := 0; life(context.Background(), client, n.dir, ref) == nil; i++ {
					reached <- i
				}
			})
		}
		for range 3 + round { // so many pods have lived when it is killed
			<-reached
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		lives.Wait()
		n.open()
		n.settled()
		if ids := n.network.left(); len(ids) > 0 {
			t.Errorf("attached are %v", ids)
		}
	}
	if entries, _ := os.ReadDir(n.cfg.State + "/shims"); len(entries) > 0 {
		t.Error(fmt.Errorf("shims are left: %v", entries))
	}
}
