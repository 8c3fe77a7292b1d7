package workers

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
	"github.com/keelson-io/keelson/orchestrator/node/environ"
	"github.com/keelson-io/keelson/orchestrator/node/probe"
	"github.com/keelson-io/keelson/orchestrator/node/shim"
	"github.com/keelson-io/keelson/orchestrator/node/volume"
)

// What stands in for others in these tests has the shape of the real ones.
var (
	_ Environ = (*environ.Environ)(nil)
	_ Prober  = (*probe.Prober)(nil)
	_ Volumes = (*volume.Volumes)(nil)
	_ Cgroups = (*cgroup.Tree)(nil)
)

func TestMain(m *testing.M) {
	if shim.Reexec() {
		return
	}
	goleak.VerifyTestMain(m)
}

func cloned[T proto.Message](m T) T { return proto.Clone(m).(T) }

// harness is a node with a runtime, an API server and an agent that can be restarted.
type harness struct {
	t       *testing.T
	rt      *fakeRuntime
	api     *fakeAPI
	volumes *fakeVolumes
	environ *fakeEnviron
	prober  *fakeProber
	cgroups *fakeCgroups
	events  *recorder
	node    *corev1.Node
	cfg     Config
	ws      *Workers
	stop    func()
}

func newHarness(t *testing.T) *harness {
	h := &harness{t: t, rt: newFakeRuntime(), volumes: &fakeVolumes{}, environ: &fakeEnviron{}, prober: newFakeProber(), cgroups: &fakeCgroups{pods: map[types.UID]bool{}}, events: &recorder{}}
	h.api = newFakeAPI(h)
	h.node = &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "node-uid", Labels: map[string]string{"zone": "a"}},
		Status: corev1.NodeStatus{
			Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.168.0.1"}},
			Allocatable: corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi"), "pods": resource.MustParse("10")},
		},
	}
	for _, i := range []string{"img:1", "img:2"} {
		h.rt.images[i] = &runtimeapi.Image{Id: i}
	}
	dir := t.TempDir()
	h.volumes.dir = dir + "/pods"
	h.cfg = Config{
		Runtime: h.rt, Images: h.rt, Client: h.api.client, NodeName: "node", Node: func() *corev1.Node { return h.node }, Volumes: h.volumes, Environ: h.environ,
		Prober: h.prober, Cgroups: h.cgroups, Events: h.events, Dir: dir + "/pods", Logs: dir + "/logs", Logger: zap.NewNop(),
	}
	return h
}

// start starts an agent over what there is.
func (h *harness) start() {
	ws, err := New(h.cfg)
	require.NoError(h.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	h.ws = ws
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
	synctest.Wait()
}

// restart ends the agent and starts another.
func (h *harness) restart() {
	h.stop()
	h.start()
}

// in runs a test on a node of its own, in simulated time.
func in(t *testing.T, f func(*harness)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		h.start()
		defer func() {
			h.stop()
			h.rt.end()
			synctest.Wait()
		}()
		f(h)
	})
}

// pass lets time pass.
func (h *harness) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// expect compares a pod with its summary.
func (h *harness) expect(want string) {
	h.t.Helper()
	synctest.Wait()
	require.Equal(h.t, want, summary(h.api.pod("p")))
}

// saw fails unless an event was recorded since the last time; all are forgotten.
func (h *harness) saw(want ...string) {
	h.t.Helper()
	synctest.Wait()
	require.Equal(h.t, want, h.events.take())
}

// summary is a pod's status in a line: phase[reason], containers as name=state[reason or exit code]*restarts, with + if ready.
func summary(p *corev1.Pod) string {
	if p == nil {
		return "gone"
	}
	s := string(p.Status.Phase)
	if p.Status.Reason != "" {
		s += "[" + p.Status.Reason + "]"
	}
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, c := range list {
			s += " " + c.Name + "=" + stateOf(c.State)
			if c.RestartCount > 0 {
				s += "*" + strconv.Itoa(int(c.RestartCount))
			}
			if c.Ready {
				s += "+"
			}
		}
	}
	return s
}

func stateOf(s corev1.ContainerState) string {
	switch {
	case s.Waiting != nil:
		return s.Waiting.Reason
	case s.Running != nil:
		return "running"
	case s.Terminated != nil && s.Terminated.Reason != "Completed" && s.Terminated.Reason != "Error":
		return s.Terminated.Reason
	case s.Terminated != nil:
		return "exit" + strconv.Itoa(int(s.Terminated.ExitCode))
	}
	return "none"
}

// conditions are the conditions of a pod that are not true, with their reasons.
func unmet(p *corev1.Pod) (all []string) {
	for _, c := range p.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			all = append(all, string(c.Type)+"="+c.Reason)
		}
	}
	slices.Sort(all)
	return all
}

// make builds a pod named p with containers of the names given: "a" is one proper, "i:a" an init container, "s:a" a sidecar.
func makePod(names ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "uid-p", Generation: 1, Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{NodeName: "node", RestartPolicy: corev1.RestartPolicyAlways, TerminationGracePeriodSeconds: ptr.To(int64(30))},
	}
	for _, n := range names {
		role, name, ok := strings.Cut(n, ":")
		if !ok {
			role, name = "", n
		}
		c := corev1.Container{Name: name, Image: "img:1", ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile}
		switch role {
		case "i":
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		case "s":
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	return p
}

// fakeAPI is the API server, as far as pods go.
type fakeAPI struct {
	h      *harness
	client *fake.Clientset

	mu      sync.Mutex
	rv      int
	stored  map[string]*corev1.Pod
	fail    error // of writes of statuses
	writes  int
	deletes []string
	news    []func(*Workers) // that the agent has not heard yet
}

func newFakeAPI(h *harness) *fakeAPI {
	a := &fakeAPI{h: h, client: fake.NewClientset(), stored: map[string]*corev1.Pod{}, rv: 100}
	a.client.PrependReactor("*", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		o, err := a.react(action)
		return true, o, err
	})
	return a
}

func (a *fakeAPI) react(action clienttesting.Action) (runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	gone := func(name string) error { return apierrors.NewNotFound(corev1.Resource("pods"), name) }
	switch x := action.(type) {
	case clienttesting.PatchAction:
		p := a.stored[x.GetName()]
		if p == nil {
			return nil, gone(x.GetName())
		}
		if a.fail != nil {
			return nil, a.fail
		}
		a.writes++
		from, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		to, err := strategicpatch.StrategicMergePatch(from, x.GetPatch(), corev1.Pod{})
		if err != nil {
			return nil, err
		}
		next := &corev1.Pod{}
		if err := json.Unmarshal(to, next); err != nil {
			return nil, err
		}
		if next.UID != p.UID {
			return nil, apierrors.NewConflict(corev1.Resource("pods"), p.Name, fmt.Errorf("uid %s", p.UID))
		}
		return a.put(next), nil
	case clienttesting.DeleteActionImpl:
		p := a.stored[x.Name]
		if p == nil {
			return nil, gone(x.Name)
		}
		if o := x.DeleteOptions; o.GracePeriodSeconds == nil || *o.GracePeriodSeconds != 0 || o.Preconditions == nil || *o.Preconditions.UID != p.UID {
			return nil, apierrors.NewConflict(corev1.Resource("pods"), p.Name, fmt.Errorf("options %+v", o))
		}
		a.deletes = append(a.deletes, x.Name)
		delete(a.stored, x.Name)
		a.tell(func(ws *Workers) { ws.Delete(p) })
		return p, nil
	case clienttesting.CreateAction:
		p := x.GetObject().(*corev1.Pod).DeepCopy()
		if a.stored[p.Name] != nil {
			return nil, apierrors.NewAlreadyExists(corev1.Resource("pods"), p.Name)
		}
		a.rv++
		p.UID = types.UID(fmt.Sprintf("api-%d", a.rv))
		return a.put(p), nil
	case clienttesting.GetAction:
		if p := a.stored[x.GetName()]; p != nil {
			return p, nil
		}
		return nil, gone(x.GetName())
	}
	return nil, fmt.Errorf("unexpected %v", action)
}

// put stores a pod and tells the agent. The caller holds mu.
func (a *fakeAPI) put(p *corev1.Pod) *corev1.Pod {
	a.rv++
	p.ResourceVersion = strconv.Itoa(a.rv)
	a.stored[p.Name] = p
	a.tell(func(ws *Workers) { ws.Set(p) })
	return p.DeepCopy()
}

// tell tells the agent of a change, in the order of changes. The caller holds mu.
func (a *fakeAPI) tell(f func(*Workers)) {
	a.news = append(a.news, f)
	if len(a.news) == 1 {
		go a.deliver()
	}
}

func (a *fakeAPI) deliver() {
	for {
		a.mu.Lock()
		f, ws := a.news[0], a.h.ws
		a.mu.Unlock()
		if ws != nil {
			f(ws)
		}
		a.mu.Lock()
		a.news = a.news[1:]
		done := len(a.news) == 0
		a.mu.Unlock()
		if done {
			return
		}
	}
}

// change changes a pod as a user would.
func (a *fakeAPI) change(name string, f func(*corev1.Pod)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.stored[name].DeepCopy()
	f(p)
	a.put(p)
}

func (a *fakeAPI) create(p *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.put(p)
}

// del asks for a pod to end.
func (a *fakeAPI) del(name string, grace int64) {
	a.change(name, func(p *corev1.Pod) {
		p.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(time.Duration(grace) * time.Second)}
		p.DeletionGracePeriodSeconds = &grace
	})
}

// force removes a pod at once.
func (a *fakeAPI) force(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.stored[name]
	delete(a.stored, name)
	a.tell(func(ws *Workers) { ws.Delete(p) })
}

func (a *fakeAPI) pod(name string) *corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stored[name]
}

func (a *fakeAPI) pods() (all []*corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, p := range a.stored {
		all = append(all, p)
	}
	return all
}

type fakeVolumes struct {
	dir   string
	mu    sync.Mutex
	err   error
	setup int
	torn  []types.UID
	clean int // how often orphans were removed
}

func (v *fakeVolumes) Setup(context.Context, *corev1.Pod) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.setup++
	return v.err
}

func (v *fakeVolumes) Mounts(_ *corev1.Pod, c *corev1.Container, _ map[string]string) (m []*runtimeapi.Mount, err error) {
	for _, vm := range c.VolumeMounts {
		m = append(m, &runtimeapi.Mount{HostPath: "/host/" + vm.Name, ContainerPath: vm.MountPath, Readonly: vm.ReadOnly})
	}
	return m, nil
}

func (v *fakeVolumes) Teardown(_ context.Context, uid types.UID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.torn = append(v.torn, uid)
	return nil
}

func (v *fakeVolumes) Remove(_ context.Context, uid types.UID) error {
	return os.RemoveAll(v.dir + "/" + string(uid))
}

func (v *fakeVolumes) Devices(_ *corev1.Pod, c *corev1.Container) (d []*runtimeapi.Device, err error) {
	for _, vd := range c.VolumeDevices {
		d = append(d, &runtimeapi.Device{HostPath: "/dev/of/" + vd.Name, ContainerPath: vd.DevicePath, Permissions: "mrw"})
	}
	return d, nil
}

func (v *fakeVolumes) CleanOrphans(_ context.Context, known func(types.UID) bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clean++
	entries, _ := os.ReadDir(v.dir)
	for _, e := range entries {
		if !known(types.UID(e.Name())) {
			return fmt.Errorf("%s is not known", e.Name())
		}
	}
	return v.err
}

type fakeEnviron struct {
	mu  sync.Mutex
	err error
}

func (e *fakeEnviron) Env(_ context.Context, _ *corev1.Pod, c *corev1.Container, ips []string) ([]corev1.EnvVar, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append(slices.Clone(c.Env), corev1.EnvVar{Name: "IPS", Value: strings.Join(ips, ",")}), e.err
}

func (e *fakeEnviron) DNS(*corev1.Pod) (*runtimeapi.DNSConfig, error) {
	return &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}}, nil
}
func (e *fakeEnviron) Hosts(*corev1.Pod, []string) (string, error) { return "/host/hosts", nil }

type fakeProber struct {
	mu      sync.Mutex
	changes chan probe.Change
	started map[string]bool
	ready   map[string]bool
	watched map[string]string // container IDs by name
}

func newFakeProber() *fakeProber {
	return &fakeProber{changes: make(chan probe.Change, 16), started: map[string]bool{}, ready: map[string]bool{}, watched: map[string]string{}}
}

func (p *fakeProber) Start(_ *corev1.Pod, c *corev1.Container, id, _ string, _ time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watched[c.Name] = id
}

func (p *fakeProber) Stop(_ types.UID, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.watched, name)
	if name == "" {
		clear(p.watched)
	}
}

func (p *fakeProber) Terminating(types.UID) {}

func (p *fakeProber) Result(id string) (bool, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started[id], p.ready[id]
}

func (p *fakeProber) Changes() <-chan probe.Change { return p.changes }

// says makes a result of a probe.
func (p *fakeProber) says(uid types.UID, name string, k probe.Kind, ok bool) {
	p.mu.Lock()
	id := p.watched[name]
	switch k {
	case probe.Startup:
		p.started[id] = ok
	case probe.Readiness:
		p.ready[id] = ok
	}
	p.mu.Unlock()
	p.changes <- probe.Change{UID: uid, Container: name, ContainerID: id, Kind: k, Ok: ok}
}

type fakeCgroups struct {
	mu      sync.Mutex
	pods    map[types.UID]bool
	updates []string
}

func (c *fakeCgroups) Ensure(p *corev1.Pod) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods[p.UID] = true
	return "/kubepods/pod" + string(p.UID), nil
}

func (c *fakeCgroups) Update(p *corev1.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.updates = append(c.updates, p.Spec.Containers[0].Resources.Limits.Cpu().String())
	return nil
}

func (c *fakeCgroups) Remove(uid types.UID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pods, uid)
	return nil
}

func (c *fakeCgroups) Resources(_ *corev1.Pod, k *corev1.Container) *runtimeapi.LinuxContainerResources {
	return resources(k)
}

func (c *fakeCgroups) Orphans(known func(types.UID) bool) (uids []types.UID, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uid := range c.pods {
		if !known(uid) {
			uids = append(uids, uid)
		}
	}
	return uids, nil
}

// recorder collects events.
type recorder struct {
	mu  sync.Mutex
	all []string
}

func (r *recorder) Event(o runtime.Object, kind, reason, message string) {
	r.Eventf(o, kind, reason, "%s", message)
}

func (r *recorder) Eventf(o runtime.Object, _, reason, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	who := ""
	if ref := o.(*corev1.ObjectReference); ref.FieldPath != "" {
		who = ref.FieldPath[strings.Index(ref.FieldPath, "{"):] + " "
	}
	r.all = append(r.all, who+reason+": "+fmt.Sprintf(format, args...))
}

func (r *recorder) AnnotatedEventf(o runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	r.Eventf(o, kind, reason, format, args...)
}

func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.all
	r.all = nil
	return all
}

// nothingLeft checks that a pod left nothing on its node.
func (h *harness) nothingLeft() {
	h.t.Helper()
	synctest.Wait()
	require.Empty(h.t, h.rt.left())
	require.Empty(h.t, h.cgroups.pods)
	require.Empty(h.t, h.ws.Pods())
	for _, dir := range []string{h.cfg.Dir, h.cfg.Logs} {
		entries, err := os.ReadDir(dir)
		if !os.IsNotExist(err) {
			require.NoError(h.t, err)
		}
		require.Empty(h.t, entries)
	}
}
