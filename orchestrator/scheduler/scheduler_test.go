package scheduler_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/keelson-io/keelson/orchestrator/scheduler"
	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sorter, fit and binder are the least that a profile needs.
type sorter struct{}

func (sorter) Name() string                        { return config.PrioritySort }
func (sorter) Less(a, b *framework.QueuedPod) bool { return a.Priority > b.Priority }

type fit struct{}

func (fit) Name() string { return config.NodeResourcesFit }

func (fit) Filter(_ *framework.CycleState, pod *framework.PodInfo, n *framework.NodeInfo) *framework.Status {
	if n.Requested.MilliCPU+pod.Requests.MilliCPU > n.Allocatable.MilliCPU {
		return framework.NewStatus(framework.Unschedulable, "Insufficient cpu")
	}
	return nil
}

func (fit) Hints() []framework.Hint {
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}},
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add | framework.UpdateNodeAllocatable}},
	}
}

type binder struct{ client kubernetes.Interface }

func (binder) Name() string { return config.DefaultBinder }

func (b binder) Bind(ctx context.Context, _ *framework.CycleState, pod *v1.Pod, node string) *framework.Status {
	return framework.AsStatus(b.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{}))
}

// world is a fake API server with a scheduler.
type world struct {
	*testing.T
	client *fake.Clientset
	// failBinds is the number of bindings that fail.
	failBinds atomic.Int32
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	w := &world{T: t, client: fake.NewClientset(objects...)}
	w.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		if w.failBinds.Add(-1) >= 0 {
			return true, nil, fmt.Errorf("the binding failed")
		}
		b := a.(clienttesting.CreateAction).GetObject().(*v1.Binding)
		obj, err := w.client.Tracker().Get(a.GetResource(), b.Namespace, b.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*v1.Pod).DeepCopy()
		pod.Spec.NodeName = b.Target.Name
		return true, b, w.client.Tracker().Update(a.GetResource(), pod, b.Namespace)
	})
	return w
}

func (w *world) start(c *config.Configuration, more ...framework.Plugin) *scheduler.Scheduler {
	known := map[string]framework.Plugin{}
	for _, p := range append([]framework.Plugin{sorter{}, fit{}, binder{w.client}}, more...) {
		known[p.Name()] = p
	}
	s, err := scheduler.New(scheduler.Config{
		Client: w.client, Informers: informers.NewSharedInformerFactory(w.client, 0), Configuration: c,
		Logger: zaptest.NewLogger(w.T),
		Plugin: func(_ *config.Profile, name string) (framework.Plugin, error) {
			p, ok := known[name]
			if !ok {
				return nil, fmt.Errorf("no plugin %q", name)
			}
			return p, nil
		},
	})
	require.NoError(w, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		require.NoError(w, <-done)
	})
	return s
}

// plain is a configuration with these plugins only.
func plain(t *testing.T, names ...string) *config.Configuration {
	text := "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nprofiles:\n- plugins:\n    multiPoint:\n      disabled: [{name: '*'}]\n      enabled:\n"
	for _, n := range append([]string{config.PrioritySort, config.NodeResourcesFit, config.DefaultBinder}, names...) {
		text += "      - {name: " + n + "}\n"
	}
	c, err := config.Parse([]byte(text))
	require.NoError(t, err)
	return c
}

func newNode(name, cpu string) *v1.Node {
	r := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourcePods: resource.MustParse("110")}
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"}, Status: v1.NodeStatus{Capacity: r, Allocatable: r}}
}

func newPod(name, cpu string) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: v1.PodSpec{
			SchedulerName: config.DefaultSchedulerName,
			Containers:    []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}}},
		},
	}
}

func (w *world) create(pods ...*v1.Pod) {
	for _, p := range pods {
		_, err := w.client.CoreV1().Pods(p.Namespace).Create(w.Context(), p, metav1.CreateOptions{})
		require.NoError(w, err)
	}
}

func (w *world) pod(name string) *v1.Pod {
	p, err := w.client.CoreV1().Pods("default").Get(w.Context(), name, metav1.GetOptions{})
	require.NoError(w, err)
	return p
}

func (w *world) eventually(f func() bool, message string) {
	require.Eventually(w, f, 10*time.Second, 2*time.Millisecond, message)
}

func (w *world) boundTo(name, node string) {
	w.eventually(func() bool { return w.pod(name).Spec.NodeName == node }, name+" is not on "+node)
}

func condition(p *v1.Pod, t v1.PodConditionType) *v1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func (w *world) event(reason string) string {
	var note string
	w.eventually(func() bool {
		list, err := w.client.EventsV1().Events("default").List(w.Context(), metav1.ListOptions{})
		require.NoError(w, err)
		for _, e := range list.Items {
			if e.Reason == reason {
				note = e.Note
				return true
			}
		}
		return false
	}, "no event "+reason)
	return note
}

func TestPlacesPods(t *testing.T) {
	w := newWorld(t, newNode("n1", "1"), newPod("before", "500m"))
	w.start(plain(t))
	w.boundTo("before", "n1")
	w.create(newPod("after", "500m"))
	w.boundTo("after", "n1")
	require.Contains(t, w.event("Scheduled"), "Successfully assigned default/")
}

func TestUnschedulableUntilRoom(t *testing.T) {
	w := newWorld(t, newNode("n1", "1"), newNode("n2", "1"))
	w.start(plain(t))
	w.create(newPod("big", "1500m"))
	const message = "0/2 nodes are available: 2 Insufficient cpu."
	w.eventually(func() bool {
		c := condition(w.pod("big"), v1.PodScheduled)
		return c != nil && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable && c.Message == message
	}, "no condition")
	require.Equal(t, message, w.event("FailedScheduling"))
	_, err := w.client.CoreV1().Nodes().Create(t.Context(), newNode("n3", "2"), metav1.CreateOptions{})
	require.NoError(t, err)
	w.boundTo("big", "n3")
}

func TestFailedBindingIsTriedAgain(t *testing.T) {
	w := newWorld(t, newNode("n1", "1"))
	w.failBinds.Store(1)
	w.start(plain(t))
	w.create(newPod("p", "800m"))
	w.eventually(func() bool {
		c := condition(w.pod("p"), v1.PodScheduled)
		return c != nil && c.Reason == v1.PodReasonSchedulerError
	}, "no condition")
	w.boundTo("p", "n1")
}
