//go:build linux && cgo

package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestNetworkFails: a sandbox that gets no network leaves nothing, not even its name.
func TestNetworkFails(t *testing.T) {
	n := newNode(t)
	broken := errors.New("no address is left")
	n.network.hook = func(what, _ string) error {
		if what == "attached" {
			return broken
		}
		return nil
	}
	config := podConfig(n.dir)
	_, err := n.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err == nil || !strings.Contains(err.Error(), broken.Error()) || !strings.Contains(err.Error(), config.Metadata.Name) {
		t.Fatalf("%v, want the network's error and the pod's name", err)
	}
	if ids := n.network.left(); len(ids) > 0 {
		t.Errorf("attached are %v", ids)
	}
	// If it cannot be undone either, the sandbox stays until it can.
	n.network.hook = func(what, _ string) error {
		if what == "attached" || what == "detach" {
			return broken
		}
		return nil
	}
	if _, err := n.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: config}); err == nil {
		t.Fatal("it runs")
	}
	list, err := n.ListPodSandbox(ctx(t), &runtimeapi.ListPodSandboxRequest{})
	if err != nil || len(list.Items) != 1 || list.Items[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("%v: %v, want one that is not ready", err, list)
	}
	id := list.Items[0].Id
	if _, err := n.StopPodSandbox(ctx(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err == nil || !strings.Contains(err.Error(), broken.Error()) {
		t.Errorf("stopping it: %v", err)
	}
	n.network.hook = func(string, string) error { return nil }
	n.remove(id)
	out, err := n.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	n.remove(out.PodSandboxId)
}

// TestStuck: what hangs for one pod holds up neither lists nor other pods.
func TestStuck(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	stuck, entered := make(chan struct{}), make(chan struct{})
	var once sync.Once
	n.network.hook = func(what, _ string) error {
		if what == "detach" {
			first := false
			once.Do(func() { first = true })
			if first {
				close(entered)
				<-stuck
			}
		}
		return nil
	}
	pod := n.pod()
	id := n.start(pod, ref, "pause")
	var work sync.WaitGroup
	work.Go(func() {
		if _, err := n.StopPodSandbox(context.Background(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
			t.Error(err)
		}
	})
	<-entered
	equal(t, "state of the stuck", n.podStatus(pod).State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	equal(t, "its container", n.status(id).State, runtimeapi.ContainerState_CONTAINER_EXITED)
	for _, list := range []func() error{
		func() error { _, err := n.ListPodSandbox(ctx(t), &runtimeapi.ListPodSandboxRequest{}); return err },
		func() error { _, err := n.ListContainers(ctx(t), &runtimeapi.ListContainersRequest{}); return err },
		func() error {
			_, err := n.ListContainerStats(ctx(t), &runtimeapi.ListContainerStatsRequest{})
			return err
		},
		func() error {
			_, err := n.ListPodSandboxStats(ctx(t), &runtimeapi.ListPodSandboxStatsRequest{})
			return err
		},
	} {
		if err := list(); err != nil {
			t.Error(err)
		}
	}
	other := n.pod()
	n.start(other, ref, "pause")
	n.remove(other)
	close(stuck)
	work.Wait()
	n.remove(pod)
}

// TestAtOnce runs 30 pods at the same time, and ends them at the same time, twice each.
func TestAtOnce(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	ids := make([]string, 30)
	var work sync.WaitGroup
	for i := range ids {
		work.Go(func() {
			pod, err := n.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: podConfig(n.dir)})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = pod.PodSandboxId
			c, err := n.CreateContainer(ctx(t), &runtimeapi.CreateContainerRequest{PodSandboxId: ids[i], Config: containerConfig(ref, "pause")})
			if err == nil {
				_, err = n.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	list, err := n.ListContainers(ctx(t), &runtimeapi.ListContainersRequest{
		Filter: &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}},
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "running containers", len(list.Containers), len(ids))
	addresses := map[string]bool{}
	for _, id := range ids {
		addresses[n.podStatus(id).Network.Ip] = true
		for range 2 {
			work.Go(func() {
				if _, err := n.StopPodSandbox(ctx(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
					t.Error(err)
				}
				if _, err := n.RemovePodSandbox(ctx(t), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	work.Wait()
	equal(t, "addresses", len(addresses), len(ids))
}

// TestRaces does everything at once to the containers of one pod, while that is stopped and removed.
func TestRaces(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	for range 3 {
		pod := n.pod()
		var work sync.WaitGroup
		var made atomic.Int32
		for range 4 {
			work.Go(func() {
				for {
					c, err := n.CreateContainer(ctx(t), &runtimeapi.CreateContainerRequest{PodSandboxId: pod, Config: containerConfig(ref, "exit", "0")})
					if err != nil {
						return // the pod is gone
					}
					made.Add(1)
					var both sync.WaitGroup
					for _, f := range []func(){
						func() {
							_, _ = n.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId})
						},
						func() {
							_, _ = n.StopContainer(ctx(t), &runtimeapi.StopContainerRequest{ContainerId: c.ContainerId})
						},
						func() {
							_, err := n.RemoveContainer(ctx(t), &runtimeapi.RemoveContainerRequest{ContainerId: c.ContainerId})
							if err != nil {
								t.Error(err)
							}
						},
						func() { _, _ = n.ContainerStats(ctx(t), &runtimeapi.ContainerStatsRequest{ContainerId: c.ContainerId}) },
					} {
						both.Go(f)
					}
					both.Wait()
				}
			})
		}
		eventually(t, "some were made", func() bool { return made.Load() > 8 })
		n.remove(pod)
		work.Wait()
	}
	list, err := n.ListContainers(ctx(t), &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "containers", len(list.Containers), 0)
}

// TestLongOutput: the output of a command is bounded.
func TestLongOutput(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	pod := n.pod()
	id := n.start(pod, ref, "pause")
	out, err := n.ExecSync(ctx(t), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/box", "spam", fmt.Sprint(20 << 20)}})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "bytes", len(out.Stdout), 16<<20)
	n.remove(pod)
}

// TestLeftOut: what is not there says so.
func TestLeftOut(t *testing.T) {
	n := newNode(t)
	_, err := n.CheckpointContainer(ctx(t), &runtimeapi.CheckpointContainerRequest{})
	equal(t, "code", status.Code(err), codes.Unimplemented)
	_, err = n.CheckpointPod(ctx(t), &runtimeapi.CheckpointPodRequest{})
	equal(t, "code", status.Code(err), codes.Unimplemented)
}

// TestGivenUp: a client that leaves while its sandbox is made leaves no sandbox.
func TestGivenUp(t *testing.T) {
	n := newNode(t)
	leaving, leave := context.WithCancel(context.Background())
	n.network.hook = func(what, _ string) error {
		if what == "attach" {
			leave()
			return leaving.Err()
		}
		return nil
	}
	if _, err := n.RunPodSandbox(leaving, &runtimeapi.RunPodSandboxRequest{Config: podConfig(n.dir)}); err == nil {
		t.Error("it runs")
	}
	list, err := n.ListPodSandbox(ctx(t), &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "sandboxes", len(list.Items), 0)
}
