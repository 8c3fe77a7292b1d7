//go:build linux && cgo

package runtime_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/orchestrator/node/shim"
)

// TestRestart: a runtime that ends and is opened again finds all as it was, and what happened meanwhile.
func TestRestart(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	pod, stopped := n.pod(), n.pod()
	running, created, over := n.start(pod, ref, "tick", "5ms"), n.create(pod, ref, "pause"), n.start(pod, ref, "exit", "3")
	leaving := n.start(pod, ref, "serve", "9999")
	if _, err := n.StopPodSandbox(ctx(t), &runtimeapi.StopPodSandboxRequest{PodSandboxId: stopped}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is over", func() bool { return n.status(over).State == runtimeapi.ContainerState_CONTAINER_EXITED })
	eventually(t, "one ticks", func() bool { return len(n.ticks(running)) > 3 })
	before, pid := n.podStatus(pod), n.shimPid(pod)
	was := n.status(running)
	client, err := shim.Connect(ctx(t), filepath.Join(n.cfg.State, "shims", pod))
	if err != nil {
		t.Fatal(err)
	}
	n.stop()
	if err := client.Signal(ctx(t), leaving, unix.SIGKILL); err != nil { // while nobody looks
		t.Fatal(err)
	}
	eventually(t, "it has ended", func() bool {
		st, err := client.State(ctx(t), leaving)
		return err == nil && st.Status == shim.Stopped
	})
	n.open()
	equal(t, "shim", n.shimPid(pod), pid)
	after := n.podStatus(pod)
	equal(t, "state", after.State, runtimeapi.PodSandboxState_SANDBOX_READY)
	equal(t, "address", after.Network.Ip, before.Network.Ip)
	equal(t, "addresses", len(after.Network.AdditionalIps), 1)
	equal(t, "created at", after.CreatedAt, before.CreatedAt)
	equal(t, "state of the stopped", n.podStatus(stopped).State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	st := n.status(running)
	equal(t, "state of the running", st.State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	equal(t, "started at", st.StartedAt, was.StartedAt)
	equal(t, "image", st.ImageId, was.ImageId)
	equal(t, "state of the created", n.status(created).State, runtimeapi.ContainerState_CONTAINER_CREATED)
	equal(t, "exit code of the one that is over", n.status(over).ExitCode, 3)
	equal(t, "exit code of the one that left", n.status(leaving).ExitCode, 137)
	if _, err := n.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: created}); err != nil {
		t.Error(err)
	}
	out, err := n.ExecSync(ctx(t), &runtimeapi.ExecSyncRequest{ContainerId: running, Cmd: []string{"/box", "out", "hello"}})
	if err != nil || string(out.Stdout) != "hello\n" {
		t.Errorf("%v: %v", err, out)
	}
	seen := len(n.ticks(running))
	eventually(t, "it goes on", func() bool { return len(n.ticks(running)) > seen })
	for i, tick := range n.ticks(running) {
		equal(t, "line", tick, i)
	}
	if _, err := n.RunPodSandbox(ctx(t), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{Metadata: after.Metadata}}); err == nil || !strings.Contains(err.Error(), pod) {
		t.Errorf("the name of a pod is free after a restart: %v", err)
	}
	// What ends from now on is seen again.
	if _, err := n.StopContainer(ctx(t), &runtimeapi.StopContainerRequest{ContainerId: running, Timeout: 10}); err != nil {
		t.Fatal(err)
	}
	equal(t, "state", n.status(running).State, runtimeapi.ContainerState_CONTAINER_EXITED)
	n.remove(pod, stopped)
}

// TestShimKilled: when a shim dies its containers have died with it, and nothing is left of them.
func TestShimKilled(t *testing.T) {
	for name, away := range map[string]bool{"while the runtime runs": false, "while it does not": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			ref := n.withImage()
			pod, other := n.pod(), n.pod()
			running, created, over := n.start(pod, ref, "trap", "ignore"), n.create(pod, ref, "pause"), n.start(pod, ref, "exit", "3")
			eventually(t, "one is over", func() bool { return n.status(over).State == runtimeapi.ContainerState_CONTAINER_EXITED })
			n.killShim(pod)
			if away {
				n.stop()
				n.open()
			}
			eventually(t, "it is seen", func() bool { return n.podStatus(pod).State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY })
			eventually(t, "the container is over", func() bool { return n.status(running).State == runtimeapi.ContainerState_CONTAINER_EXITED })
			st := n.status(running)
			equal(t, "exit code", st.ExitCode, 137)
			if st.Reason == "" || st.FinishedAt < st.StartedAt {
				t.Errorf("reason %q, finished at %d, started at %d", st.Reason, st.FinishedAt, st.StartedAt)
			}
			equal(t, "exit code of what was over before", n.status(over).ExitCode, 3)
			if _, err := n.StartContainer(ctx(t), &runtimeapi.StartContainerRequest{ContainerId: created}); err == nil {
				t.Error("a container was started without a shim")
			}
			equal(t, "the other pod", n.podStatus(other).State, runtimeapi.PodSandboxState_SANDBOX_READY)
			eventually(t, "what it left is gone", func() bool { return len(n.network.left()) == 1 })
			eventually(t, "the other's shim is the only process", func() bool { return len(processes(n.dir)) == 1 })
			n.remove(pod, other)
		})
	}
}

// TestReboot: after the machine went down there are no processes and no State, and the records say what was.
func TestReboot(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	pod := n.pod()
	id := n.start(pod, ref, "pause")
	n.stop()
	// What a machine loses: processes, mounts and State.
	dir := filepath.Join(n.cfg.State, "shims", pod)
	client, err := shim.Connect(ctx(t), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(client.Pid(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := shim.Clean(dir); err != nil {
		t.Fatal(err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(n.cfg.State))
	if err != nil {
		t.Fatal(err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(n.cfg.State); err != nil {
		t.Fatal(err)
	}
	n.open()
	equal(t, "state", n.podStatus(pod).State, runtimeapi.PodSandboxState_SANDBOX_NOTREADY)
	st := n.status(id)
	equal(t, "container", st.State, runtimeapi.ContainerState_CONTAINER_EXITED)
	equal(t, "exit code", st.ExitCode, 137)
	n.remove(pod)
}

// TestDamagedRecord: a record that cannot be read costs the pod, and nothing else.
func TestDamagedRecord(t *testing.T) {
	n := newNode(t)
	ref := n.withImage()
	pod, other := n.pod(), n.pod()
	n.start(pod, ref, "pause")
	kept := n.start(other, ref, "pause")
	n.stop()
	path := filepath.Join(n.cfg.Root, "sandboxes", pod+".json")
	if err := os.WriteFile(path, []byte(`{"ID":"`), 0o600); err != nil {
		t.Fatal(err)
	}
	n.open()
	if _, err := n.PodSandboxStatus(ctx(t), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod}); err == nil {
		t.Error("a pod without a record is there")
	}
	equal(t, "the other's container", n.status(kept).State, runtimeapi.ContainerState_CONTAINER_RUNNING)
	if err := os.Remove(path + ".damaged"); err != nil { // kept for people to look at
		t.Error(err)
	}
	equal(t, "attached sandboxes", len(n.network.left()), 1)
	n.remove(other)
}
