//go:build linux && cgo

package workers

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
	"github.com/keelson-io/keelson/orchestrator/node/environ"
	"github.com/keelson-io/keelson/orchestrator/node/images"
	"github.com/keelson-io/keelson/orchestrator/node/probe"
	"github.com/keelson-io/keelson/orchestrator/node/runtime"
	"github.com/keelson-io/keelson/orchestrator/node/runtime/crisuite"
	"github.com/keelson-io/keelson/orchestrator/node/volume"
)

// realMark is in the name of everything that these tests put on the machine.
const realMark = "workerstest"

// island is a network without links: pods have addresses, and nothing to reach.
type island struct{}

func (island) Attach(context.Context, string, string, *runtimeapi.PodSandboxConfig) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("10.99.0.2")}, nil
}
func (island) Detach(context.Context, string, string, *runtimeapi.PodSandboxConfig) error { return nil }

// realNode is a node with the embedded runtime and all that the workers stand on, before an API server that is not real.
func realNode(t *testing.T) (h *harness, image string) {
	testkit.Root(t)
	testkit.NoLeaks(t, realMark)
	dir, err := os.MkdirTemp("", realMark)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o711))
	t.Cleanup(func() {
		for range 50 { // what is unmounted lazily goes when its last user does
			if err = os.RemoveAll(dir); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		require.NoError(t, err)
	})
	store, err := images.Open(filepath.Join(dir, "images"), images.Config{})
	require.NoError(t, err)
	t.Cleanup(func() {
		require.Empty(t, store.Mounted())
		require.NoError(t, store.Close())
	})
	socket := filepath.Join(dir, "cri.sock")
	rt, err := runtime.Open(runtime.Config{
		Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), Socket: socket, Network: island{}, Images: runtime.FromStore(store),
		ImageService: images.NewService(store), CgroupParent: "/" + filepath.Base(dir), Version: "1.2.3", Logger: zaptest.NewLogger(t),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { _ = rt.Serve(ctx) })
	t.Cleanup(func() {
		cancel()
		served.Wait()
		require.NoError(t, rt.Close())
	})
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })

	h = newHarness(t)
	h.cfg.Runtime, h.cfg.Images = runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	h.cfg.Dir, h.cfg.Logs, h.cfg.Logger = filepath.Join(dir, "pods"), filepath.Join(dir, "logs"), zaptest.NewLogger(t)
	node := func() *corev1.Node { return h.node }
	h.cfg.Volumes, err = volume.New(volume.Config{Dir: h.cfg.Dir, Client: h.api.client, Node: node, Images: h.cfg.Images})
	require.NoError(t, err)
	h.cfg.Environ, err = environ.New(environ.Config{Client: h.api.client, Node: node, Dir: h.cfg.Dir, ClusterDomain: "cluster.local"})
	require.NoError(t, err)
	prober := probe.New(probe.Config{Runtime: h.cfg.Runtime})
	probeCtx, stopProbes := context.WithCancel(context.Background())
	var probing sync.WaitGroup
	probing.Go(func() { _ = prober.Run(probeCtx) })
	t.Cleanup(func() {
		stopProbes()
		probing.Wait()
	})
	h.cfg.Prober = prober
	tree, err := cgroup.New(cgroup.Config{Driver: cgroup.Cgroupfs, Root: "/", Name: filepath.Base(dir), Logger: zaptest.NewLogger(t)})
	require.NoError(t, err)
	h.cfg.Cgroups = tree
	t.Cleanup(func() { removeCgroups(t, filepath.Base(dir)) })
	return h, crisuite.Ref(crisuite.Registry(t), "box")
}

// removeCgroups removes the tree of a test, in which nothing may be any more.
func removeCgroups(t *testing.T, name string) {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + name)
	for _, top := range append(tops, "/sys/fs/cgroup/"+name) {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			if err := os.Remove(dirs[i]); err != nil && !os.IsNotExist(err) {
				t.Errorf("left behind: %v", err)
			}
		}
	}
}

// run starts an agent in real time.
func (h *harness) run() {
	ws, err := New(h.cfg)
	require.NoError(h.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	h.api.mu.Lock()
	h.ws = ws
	h.api.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { _ = ws.Run(ctx) })
	for _, p := range h.api.pods() {
		ws.Set(p)
	}
	ws.Synced()
	h.stop = func() {
		cancel()
		wg.Wait()
	}
}

// until waits for a pod to be as wanted.
func (h *harness) until(want string) {
	h.t.Helper()
	require.Eventually(h.t, func() bool { return summary(h.api.pod("p")) == want }, time.Minute, 20*time.Millisecond, "%s: %v", want, &lazy{h})
}

// lazy tells of the pod when a test fails.
type lazy struct{ h *harness }

func (l *lazy) String() string {
	return summary(l.h.api.pod("p")) + "\n" + strings.Join(l.h.events.take(), "\n")
}

func TestRealPod(t *testing.T) {
	h, image := realNode(t)
	h.run()
	defer func() { h.stop() }()
	p := makePod("i:first", "main", "helper")
	p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	mounts := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	first, main, helper := &p.Spec.InitContainers[0], &p.Spec.Containers[0], &p.Spec.Containers[1]
	for _, c := range []*corev1.Container{first, main, helper} {
		c.Image, c.VolumeMounts = image, mounts
	}
	first.Args = []string{"write", "/shared/word", "hello"}
	main.Args = []string{"all", "read", "/shared/word", "then", "write", "/dev/termination-log", "bye", "then", "trap", "0"}
	helper.Args = []string{"pause"}
	h.api.create(p)
	h.until("Running first=exit0+ main=running+ helper=running+")
	log, err := os.ReadFile(filepath.Join(h.cfg.Logs, "ns_p_uid-p", "main", "0.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "hello", "what one container wrote another reads")
	was := h.api.pod("p").Status

	h.stop()
	h.run() // another agent finds the pod as it is
	h.api.change("p", func(p *corev1.Pod) { p.Labels["new"] = "label"; p.Generation++ })
	require.Eventually(t, func() bool { return h.api.pod("p").Status.ObservedGeneration == 2 }, time.Minute, 20*time.Millisecond)
	is := h.api.pod("p").Status
	for i := range was.ContainerStatuses {
		require.Equal(t, was.ContainerStatuses[i].ContainerID, is.ContainerStatuses[i].ContainerID)
		require.Zero(t, is.ContainerStatuses[i].RestartCount)
	}
	require.Equal(t, "10.99.0.2", is.PodIP)
	values := h.values()
	require.EqualValues(t, 1, values["kubelet_running_pods{}"])
	require.EqualValues(t, 2, values["kubelet_running_containers{container_state=running}"])

	h.api.del("p", 5)
	h.until("gone")
	require.Eventually(t, func() bool { return len(h.ws.Pods()) == 0 }, time.Minute, 20*time.Millisecond)
	for _, dir := range []string{h.cfg.Dir, h.cfg.Logs} {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, entries, dir)
	}
}

func TestRealPodThatFails(t *testing.T) {
	h, image := realNode(t)
	h.cfg.Options.BackOff = 100 * time.Millisecond
	h.run()
	defer func() { h.stop() }()
	p := makePod("a")
	p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	c := &p.Spec.Containers[0]
	c.Image = image
	// Only its second run finds the file.
	c.Args = []string{"all", "write", "/shared/copy", "x", "then", "read", "/shared/dir/file"}
	p.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	h.api.create(p)
	require.Eventually(t, func() bool {
		return len(h.api.pod("p").Status.ContainerStatuses) == 1 && h.api.pod("p").Status.ContainerStatuses[0].RestartCount > 0
	}, time.Minute, 20*time.Millisecond)
	shared := filepath.Join(h.cfg.Dir, "uid-p", "volumes", "kubernetes.io~empty-dir", "shared")
	require.NoError(t, os.Mkdir(filepath.Join(shared, "dir"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(shared, "dir", "file"), []byte("y"), 0o644))
	require.Eventually(t, func() bool { return h.api.pod("p").Status.Phase == corev1.PodSucceeded }, time.Minute, 20*time.Millisecond)
	s := h.api.pod("p").Status.ContainerStatuses[0]
	require.Equal(t, "Completed", s.State.Terminated.Reason)
	require.NotZero(t, s.RestartCount)
	h.api.force("p")
	require.Eventually(t, func() bool { return len(h.ws.all()) == 0 }, time.Minute, 20*time.Millisecond)
}
