package devices

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/node/workers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var _ workers.Devices = (*Manager)(nil)

const gpu = "vendor.example/gpu"

// hand is a clock that is set by hand.
type hand struct {
	clock.Clock
	ahead atomic.Int64
}

func (h *hand) Now() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }

// agent is a Manager that runs.
type agent struct {
	*Manager
	t     *testing.T
	dir   string
	clock *hand
	known sync.Map // UIDs of pods that are gone
	stop  func()
}

func newAgent(t *testing.T) *agent {
	dir, err := os.MkdirTemp("", "devices") // short, as sockets are in it
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	a := &agent{t: t, dir: dir, clock: &hand{Clock: clock.Real}}
	a.start()
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *agent) start() {
	m, err := New(Config{Dir: a.dir, Clock: a.clock, Known: func(uid types.UID) bool { _, gone := a.known.Load(uid); return !gone }})
	require.NoError(a.t, err)
	a.Manager = m
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	a.stop = func() {
		cancel()
		require.NoError(a.t, <-done)
		a.stop = func() {}
	}
	require.Eventually(a.t, func() bool { _, err := os.Stat(filepath.Join(a.dir, socketName)); return err == nil }, 10*time.Second, time.Millisecond)
}

// counts are the node's devices: all, and those that are healthy.
func (a *agent) counts(r string) string {
	all, healthy := a.Resources()
	has, is := all[corev1.ResourceName(r)], healthy[corev1.ResourceName(r)]
	return fmt.Sprintf("%d/%d", is.Value(), has.Value())
}

func (a *agent) until(r, want string) {
	a.t.Helper()
	require.Eventually(a.t, func() bool { return a.counts(r) == want }, 10*time.Second, time.Millisecond, want)
}

// ids are the devices of a container.
func (a *agent) ids(pod *corev1.Pod, c string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.records[pod.UID][c][gpu].IDs
}

// testPlugin is a plugin that serves devices of names.
type testPlugin struct {
	api.UnimplementedDevicePluginServer
	options api.DevicePluginOptions
	prefer  func(available, must []string, n int) []string
	updates chan []*api.Device
	ended   chan struct{}

	mu        sync.Mutex
	fail      error
	allocated [][]string
	started   [][]string
	server    *grpc.Server
}

func devices(healthy bool, ids ...string) (out []*api.Device) {
	for _, id := range ids {
		out = append(out, &api.Device{ID: id, Health: map[bool]string{true: api.Healthy, false: api.Unhealthy}[healthy]})
	}
	return out
}

// plug starts a plugin and registers it.
func (a *agent) plug(p *testPlugin, r, endpoint string, ids ...string) {
	a.t.Helper()
	p.updates, p.ended = make(chan []*api.Device, 8), make(chan struct{})
	p.updates <- devices(true, ids...)
	l, err := net.Listen("unix", filepath.Join(a.dir, endpoint))
	require.NoError(a.t, err)
	p.server = grpc.NewServer()
	api.RegisterDevicePluginServer(p.server, p)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = p.server.Serve(l)
	}()
	ended := p.ended
	a.t.Cleanup(func() {
		select {
		case <-ended:
		default:
			close(ended)
		}
		p.server.Stop()
		<-served
	})
	require.NoError(a.t, a.register(&api.RegisterRequest{Version: api.Version, Endpoint: endpoint, ResourceName: r}))
}

// register tells the agent of a plugin, as plugins do.
func (a *agent) register(req *api.RegisterRequest) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(a.dir, socketName), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(a.t, err)
	defer func() { require.NoError(a.t, conn.Close()) }()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_, err = api.NewRegistrationClient(conn).Register(ctx, req)
	return err
}

func (p *testPlugin) unplug() {
	close(p.ended)
	p.server.Stop()
}

func (p *testPlugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &api.DevicePluginOptions{PreStartRequired: p.options.PreStartRequired, GetPreferredAllocationAvailable: p.prefer != nil}, nil
}

func (p *testPlugin) ListAndWatch(_ *api.Empty, to grpc.ServerStreamingServer[api.ListAndWatchResponse]) error {
	for {
		select {
		case list := <-p.updates:
			if err := to.Send(&api.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
		case <-p.ended:
			return nil
		case <-to.Context().Done():
			return nil
		}
	}
}

func (p *testPlugin) GetPreferredAllocation(_ context.Context, in *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	r := in.ContainerRequests[0]
	ids := p.prefer(r.AvailableDeviceIDs, r.MustIncludeDeviceIDs, int(r.AllocationSize))
	return &api.PreferredAllocationResponse{ContainerResponses: []*api.ContainerPreferredAllocationResponse{{DeviceIDs: ids}}}, nil
}

func (p *testPlugin) Allocate(_ context.Context, in *api.AllocateRequest) (*api.AllocateResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return nil, p.fail
	}
	ids := in.ContainerRequests[0].DevicesIds
	p.allocated = append(p.allocated, ids)
	r := &api.ContainerAllocateResponse{
		Envs: map[string]string{"GPUS": strings.Join(ids, ",")}, Annotations: map[string]string{"vendor.example/gpus": strings.Join(ids, ",")},
		Mounts: []*api.Mount{{ContainerPath: "/lib/gpu", HostPath: "/host/gpu", ReadOnly: true}}, CdiDevices: []*api.CDIDevice{{Name: "vendor.example/gpu=all"}},
	}
	for _, id := range ids {
		r.Devices = append(r.Devices, &api.DeviceSpec{ContainerPath: "/dev/" + id, HostPath: "/dev/host-" + id, Permissions: "rw"})
	}
	return &api.AllocateResponse{ContainerResponses: []*api.ContainerAllocateResponse{r}}, nil
}

func (p *testPlugin) PreStartContainer(_ context.Context, in *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = append(p.started, in.DevicesIds)
	return &api.PreStartContainerResponse{}, p.fail
}

func (p *testPlugin) breaks(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

// asking makes a pod whose containers ask for so many GPUs: "a=2" proper, "i:a=2" an init container, "s:a=2" a sidecar.
func asking(name string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	for _, text := range containers {
		role, rest, ok := strings.Cut(text, ":")
		if !ok {
			role, rest = "", text
		}
		c, n, _ := strings.Cut(rest, "=")
		k := corev1.Container{Name: c, Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{gpu: resource.MustParse(n), "cpu": resource.MustParse("1")}}}
		switch role {
		case "":
			p.Spec.Containers = append(p.Spec.Containers, k)
			continue
		case "s":
			k.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
		}
		p.Spec.InitContainers = append(p.Spec.InitContainers, k)
	}
	return p
}

var bg = context.Background()

// TestLife: a pod gets devices and what belongs to them, another gets others, and there are no more; what is freed can be had again.
func TestLife(t *testing.T) {
	a := newAgent(t)
	require.Equal(t, "0/0", a.counts(gpu))
	p := &testPlugin{options: api.DevicePluginOptions{PreStartRequired: true}}
	a.plug(p, gpu, "gpu.sock", "g0", "g1", "g2")
	a.until(gpu, "3/3")
	one, two, three, none := asking("one", "a=2"), asking("two", "a=1"), asking("three", "a=1"), asking("none", "a=0")
	require.NoError(t, a.Allocate(bg, one))
	require.NoError(t, a.Allocate(bg, one), "what it has already is no error")
	require.NoError(t, a.Allocate(bg, two))
	require.NoError(t, a.Allocate(bg, none))
	require.EqualError(t, a.Allocate(bg, three), "requested number of devices unavailable for vendor.example/gpu. Requested: 1, Available: 0")
	require.Equal(t, [][]string{{"g0", "g1"}, {"g2"}}, p.allocated)
	require.Equal(t, "3/3", a.counts(gpu), "what is in use is allocatable nevertheless")

	o, err := a.Options(bg, one, &one.Spec.Containers[0])
	require.NoError(t, err)
	require.Equal(t, []corev1.EnvVar{{Name: "GPUS", Value: "g0,g1"}}, o.Env)
	require.Equal(t, map[string]string{"vendor.example/gpus": "g0,g1"}, o.Annotations)
	require.Equal(t, "/host/gpu", o.Mounts[0].HostPath)
	require.True(t, o.Mounts[0].Readonly)
	require.Equal(t, "/dev/host-g1", o.Devices[1].HostPath)
	require.Equal(t, "rw", o.Devices[1].Permissions)
	require.Equal(t, "vendor.example/gpu=all", o.CDI[0].Name)
	require.Equal(t, [][]string{{"g0", "g1"}}, p.started)
	p.breaks(errors.New("it is hot"))
	_, err = a.Options(bg, one, &one.Spec.Containers[0])
	require.ErrorContains(t, err, "it is hot")
	o, err = a.Options(bg, none, &none.Spec.Containers[0])
	require.NoError(t, err)
	require.Empty(t, o.Devices)

	a.Free(one.UID)
	a.Free(one.UID)
	require.ErrorContains(t, a.Allocate(bg, three), "it is hot")
	p.breaks(nil)
	require.NoError(t, a.Allocate(bg, three))
	require.Equal(t, []string{"g0"}, a.ids(three, "a"), "a failure holds nothing")
}

// TestInitContainers hand on what they have, sidecars do not.
func TestInitContainers(t *testing.T) {
	a := newAgent(t)
	p := &testPlugin{}
	a.plug(p, gpu, "gpu.sock", "g0", "g1", "g2", "g3")
	a.until(gpu, "4/4")
	pod := asking("p", "i:i=2", "s:s=1", "i:j=3", "a=1", "b=1")
	require.NoError(t, a.Allocate(bg, pod))
	require.Equal(t, []string{"g0", "g1"}, a.ids(pod, "i"))
	require.Equal(t, []string{"g0"}, a.ids(pod, "s"), "it takes over what has ended, and keeps it")
	require.Equal(t, []string{"g1", "g2", "g3"}, a.ids(pod, "j"))
	require.Equal(t, []string{"g1"}, a.ids(pod, "a"))
	require.Equal(t, []string{"g2"}, a.ids(pod, "b"))
	require.ErrorContains(t, a.Allocate(bg, asking("q", "i:i=1")), "Available: 0")
	require.ErrorContains(t, a.Allocate(bg, asking("r", "a=5")), "Requested: 5")
}

// TestAllOrNothing: a pod of which one container cannot be served has nothing.
func TestAllOrNothing(t *testing.T) {
	a := newAgent(t)
	a.plug(&testPlugin{}, gpu, "gpu.sock", "g0", "g1")
	a.until(gpu, "2/2")
	require.ErrorContains(t, a.Allocate(bg, asking("p", "a=1", "b=2")), "Requested: 2, Available: 1")
	require.NoError(t, a.Allocate(bg, asking("q", "a=2")))
}

func TestPreferences(t *testing.T) {
	a := newAgent(t)
	var asked []string
	p := &testPlugin{prefer: func(available, must []string, n int) []string {
		asked = append(asked, fmt.Sprint(available, must, n))
		return append(slices.Clone(must), available[len(available)-(n-len(must)):]...)
	}}
	a.plug(p, gpu, "gpu.sock", "g0", "g1", "g2", "g3")
	a.until(gpu, "4/4")
	pod := asking("p", "i:i=1", "a=2")
	require.NoError(t, a.Allocate(bg, pod))
	require.Equal(t, []string{"[g0 g1 g2 g3] [] 1", "[g3 g0 g1 g2] [g3] 2"}, asked)
	require.Equal(t, []string{"g2", "g3"}, a.ids(pod, "a"))
	for i, wrong := range [][]string{{"g2"}, {"g0", "g0"}, {"g0"}, nil, {}} { // taken, doubled, too few
		p.prefer = func([]string, []string, int) []string { return wrong }
		q := asking(fmt.Sprint("q", i), "a=2")
		require.NoError(t, a.Allocate(bg, q))
		require.Equal(t, []string{"g0", "g1"}, a.ids(q, "a"), "%v", wrong)
		a.Free(q.UID)
	}
}

// TestHealth: a device that is ill is capacity, but nobody gets it; who has it keeps it.
func TestHealth(t *testing.T) {
	a := newAgent(t)
	p := &testPlugin{}
	a.plug(p, gpu, "gpu.sock", "g0", "g1")
	a.until(gpu, "2/2")
	pod := asking("p", "a=1")
	require.NoError(t, a.Allocate(bg, pod))
	p.updates <- devices(false, "g0", "g1")
	a.until(gpu, "0/2")
	require.ErrorContains(t, a.Allocate(bg, asking("q", "a=1")), "Available: 0")
	require.Equal(t, []string{"g0"}, a.ids(pod, "a"))
	p.updates <- append(devices(false, "g0"), devices(true, "g1", "g2")...)
	a.until(gpu, "2/3")
	require.ErrorContains(t, a.Allocate(bg, asking("r", "a=3")), "Available: 2")
	require.NoError(t, a.Allocate(bg, asking("s", "a=2")))
}

// TestPluginGoes: its devices are not healthy any more, and are none after a while; it may come back, and another may take its place.
func TestPluginGoes(t *testing.T) {
	a := newAgent(t)
	p := &testPlugin{}
	a.plug(p, gpu, "gpu.sock", "g0", "g1")
	a.until(gpu, "2/2")
	pod := asking("p", "a=1")
	require.NoError(t, a.Allocate(bg, pod))
	p.unplug()
	a.until(gpu, "0/2")
	require.ErrorContains(t, a.Allocate(bg, asking("q", "a=1")), "Available: 0")
	a.clock.ahead.Store(int64(absence - time.Minute))
	require.Equal(t, "0/2", a.counts(gpu))
	a.clock.ahead.Store(int64(absence + time.Minute))
	require.Equal(t, "0/0", a.counts(gpu))
	o, err := a.Options(bg, pod, &pod.Spec.Containers[0])
	require.NoError(t, err)
	require.Equal(t, "g0", o.Env[0].Value, "a container that restarts needs no plugin")

	next := &testPlugin{}
	a.plug(next, gpu, "gpu2.sock", "g0", "g1", "g2")
	a.until(gpu, "3/3")
	third := &testPlugin{}
	a.plug(third, gpu, "gpu3.sock", "g0", "g1", "g2", "g3")
	a.until(gpu, "4/4")
	next.unplug()
	require.NoError(t, a.Allocate(bg, asking("r", "a=3")))
	require.Equal(t, [][]string{{"g1", "g2", "g3"}}, third.allocated)
	require.Equal(t, "4/4", a.counts(gpu), "the end of one that was replaced changes nothing")
}

// TestAgentRestarts: what was allocated stays so, even while the plugin is away.
func TestAgentRestarts(t *testing.T) {
	a := newAgent(t)
	p := &testPlugin{}
	a.plug(p, gpu, "gpu.sock", "g0", "g1")
	a.until(gpu, "2/2")
	pod, lost := asking("p", "a=1"), asking("lost", "a=1")
	require.NoError(t, a.Allocate(bg, pod))
	require.NoError(t, a.Allocate(bg, lost))
	a.stop()
	a.start()
	require.NoFileExists(t, filepath.Join(a.dir, "gpu.sock"), "by that plugins notice")
	require.NoError(t, a.Allocate(bg, pod))
	o, err := a.Options(bg, pod, &pod.Spec.Containers[0])
	require.NoError(t, err)
	require.Equal(t, "g0", o.Env[0].Value)
	require.ErrorContains(t, a.Allocate(bg, asking("q", "a=1")), "Available: 0", "the resource is known, its devices are not yet")
	a.plug(&testPlugin{}, gpu, "gpu.sock", "g0", "g1")
	a.until(gpu, "2/2")
	require.ErrorContains(t, a.Allocate(bg, asking("q", "a=1")), "Available: 0")
	a.known.Store(lost.UID, true) // it went while the agent was away
	q := asking("q", "a=1")
	require.NoError(t, a.Allocate(bg, q))
	require.Equal(t, []string{"g1"}, a.ids(q, "a"))
}

func TestRefusedRegistrations(t *testing.T) {
	a := newAgent(t)
	for _, req := range []*api.RegisterRequest{
		{Version: "v1alpha1", Endpoint: "x.sock", ResourceName: gpu}, {Version: api.Version, Endpoint: "x.sock", ResourceName: "gpu"},
		{Version: api.Version, Endpoint: "x.sock", ResourceName: "kubernetes.io/gpu"}, {Version: api.Version, Endpoint: "../x.sock", ResourceName: gpu},
		{Version: api.Version, Endpoint: "x.sock", ResourceName: "vendor.example/a b"}, {Version: api.Version, ResourceName: gpu},
		{Version: api.Version, Endpoint: "x.sock", ResourceName: "requests.vendor.example/gpu"},
	} {
		require.Equal(t, codes.InvalidArgument, status.Code(a.register(req)), "%v", req)
	}
	_, err := New(Config{Dir: "relative"})
	require.Error(t, err)
	_, err = New(Config{Dir: "/tmp/" + strings.Repeat("x", 100)})
	require.ErrorIs(t, err, ErrTooLong)
	a.stop()
	require.NoError(t, os.WriteFile(filepath.Join(a.dir, recordsName), []byte("{"), 0o600))
	_, err = New(Config{Dir: a.dir})
	require.ErrorContains(t, err, "does not say what was allocated")
}

// TestAtOnce: pods that come together never share a device.
func TestAtOnce(t *testing.T) {
	a := newAgent(t)
	var ids []string
	for i := range 10 {
		ids = append(ids, fmt.Sprint("g", i))
	}
	a.plug(&testPlugin{}, gpu, "gpu.sock", ids...)
	a.until(gpu, "10/10")
	var wg sync.WaitGroup
	var got atomic.Int32
	for i := range 20 {
		wg.Go(func() {
			if a.Allocate(bg, asking(fmt.Sprint("p", i), "a=1")) == nil {
				got.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 10, got.Load())
	seen := map[string]bool{}
	for i := range 20 {
		for _, id := range a.ids(asking(fmt.Sprint("p", i)), "a") {
			require.False(t, seen[id], id)
			seen[id] = true
		}
	}
	require.Len(t, seen, 10)
}
