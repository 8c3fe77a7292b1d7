package scheduler_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

func (w *world) remove(name string) {
	require.NoError(w, w.client.CoreV1().Pods("default").Delete(w.Context(), name, metav1.DeleteOptions{}))
}

func (w *world) update(name string, change func(*v1.Pod)) {
	p := w.pod(name).DeepCopy()
	change(p)
	_, err := w.client.CoreV1().Pods("default").Update(w.Context(), p, metav1.UpdateOptions{})
	require.NoError(w, err)
}

// settled waits, in a bubble, until nothing happens any more, and then some time.
func settled(d time.Duration) {
	synctest.Wait()
	time.Sleep(d)
	synctest.Wait()
}

// bubble runs a test under simulated time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestErrorsBackOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newNode("n1", "1"))
		var mu sync.Mutex
		var at []time.Time
		w.failBinds.Store(6)
		w.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.GetSubresource() == "binding" {
				mu.Lock()
				defer mu.Unlock()
				at = append(at, time.Now())
			}
			return false, nil, nil
		})
		w.start(plain(t))
		w.create(newPod("p", "1"))
		settled(time.Minute)
		require.Equal(t, "n1", w.pod("p").Spec.NodeName)
		var pauses []time.Duration
		for i := range len(at) - 1 {
			pauses = append(pauses, at[i+1].Sub(at[i]).Round(time.Second))
		}
		// Ends of back-offs are rounded to the full second after.
		require.Equal(t, []time.Duration{2 * time.Second, 3 * time.Second, 5 * time.Second, 9 * time.Second, 11 * time.Second, 11 * time.Second}, pauses)
	})
}

func TestPreemption(t *testing.T) {
	bubble(t, func(t *testing.T) {
		low := newPod("low", "800m")
		low.Spec.NodeName = "n1"
		w := newWorld(t, newNode("n1", "1"), low)
		w.start(plain(t, config.DefaultPreemption), evict{})
		high := newPod("high", "800m")
		high.Spec.Priority = ptr.To[int32](10)
		var marked *v1.PodCondition
		w.client.PrependReactor("delete", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			low, err := w.client.Tracker().Get(a.GetResource(), "default", "low")
			require.NoError(t, err)
			marked = condition(low.(*v1.Pod), v1.DisruptionTarget)
			return false, nil, nil
		})
		w.create(high)
		settled(5 * time.Second)
		require.Equal(t, "n1", w.pod("high").Spec.NodeName)
		require.NotNil(t, marked)
		require.Equal(t, v1.PodReasonPreemptionByScheduler, marked.Reason)
		require.Equal(t, "default-scheduler: preempting to accommodate a higher priority pod", marked.Message)
		_, err := w.client.CoreV1().Pods("default").Get(t.Context(), "low", metav1.GetOptions{})
		require.Error(t, err)
		require.Equal(t, "Preempted by pod uid-high on node n1", w.event("Preempted"))
	})
}

// gated keeps pods with gates back.
type gated struct{}

func (gated) Name() string { return config.SchedulingGates }

func (gated) PreEnqueue(_ context.Context, pod *v1.Pod) *framework.Status {
	if len(pod.Spec.SchedulingGates) > 0 {
		return framework.NewStatus(framework.UnschedulableAndUnresolvable, "gated")
	}
	return nil
}

func (gated) Hints() []framework.Hint {
	return []framework.Hint{{Event: framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodGatesEliminated}}}
}

func TestGatedPodWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newNode("n1", "1"))
		w.start(plain(t, config.SchedulingGates), gated{})
		p := newPod("p", "1")
		p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "quota"}}
		w.create(p)
		settled(time.Hour)
		require.Empty(t, w.pod("p").Spec.NodeName)
		require.Empty(t, w.pod("p").Status.Conditions)
		w.update("p", func(p *v1.Pod) { p.Spec.SchedulingGates = nil })
		settled(time.Second)
		require.Equal(t, "n1", w.pod("p").Spec.NodeName)
	})
}

// consent lets pods wait.
type consent struct{}

func (consent) Name() string { return "Consent" }

func (consent) Permit(context.Context, *framework.CycleState, *v1.Pod, string) (*framework.Status, time.Duration) {
	return framework.NewStatus(framework.Wait), time.Minute
}

func (consent) Hints() []framework.Hint { return nil }

func TestPermit(t *testing.T) {
	for name, c := range map[string]struct {
		do    func(w *world, allow func(), reject func())
		bound bool
		// room tells whether another pod gets the room.
		room    bool
		message string
	}{
		"allowed":  {do: func(_ *world, allow, _ func()) { allow() }, bound: true},
		"rejected": {do: func(_ *world, _, reject func()) { reject() }, room: true, message: "0/1 nodes are available: 1 not today."},
		"timeout": {do: func(*world, func(), func()) { time.Sleep(time.Minute) }, room: true,
			message: "0/1 nodes are available: 1 rejected due to timeout after waiting 1m0s at plugin Consent."},
		"deleted": {do: func(w *world, _, _ func()) { w.remove("p") }, room: true},
		"forever": {do: func(*world, func(), func()) {}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, newNode("n1", "1"))
				// The other pod is of a profile whose pods need no consent.
				configuration := plain(t, "Consent")
				other := plain(t).Profiles[0]
				other.SchedulerName = "other"
				configuration.Profiles = append(configuration.Profiles, other)
				s := w.start(configuration, consent{})
				w.create(newPod("p", "1"))
				settled(time.Second)
				require.Len(t, s.Waiting(), 1)
				require.Empty(t, w.pod("p").Spec.NodeName)
				c.do(w, func() { require.True(t, s.Allow("uid-p", "Consent")) }, func() { require.True(t, s.Reject("uid-p", "Consent", "not today")) })
				settled(time.Second)
				if c.message != "" {
					require.Equal(t, c.message, condition(w.pod("p"), v1.PodScheduled).Message)
				}
				if c.bound {
					require.Equal(t, "n1", w.pod("p").Spec.NodeName)
					require.Empty(t, s.Waiting())
				}
				require.False(t, s.Allow("uid-other", "Consent"))
				q := newPod("q", "1")
				q.Spec.SchedulerName = "other"
				w.create(q)
				settled(5 * time.Second)
				require.Equal(t, c.room, w.pod("q").Spec.NodeName != "")
			})
		})
	}
}

func TestRoomComesFree(t *testing.T) {
	for name, free := range map[string]func(w *world){
		"deleted":   func(w *world) { w.remove("a") },
		"succeeded": func(w *world) { w.update("a", func(p *v1.Pod) { p.Status.Phase = v1.PodSucceeded }) },
		"failed":    func(w *world) { w.update("a", func(p *v1.Pod) { p.Status.Phase = v1.PodFailed }) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, newNode("n1", "1"))
				w.start(plain(t))
				w.create(newPod("a", "1"))
				settled(time.Second)
				w.create(newPod("b", "1"))
				settled(time.Minute)
				require.Equal(t, "n1", w.pod("a").Spec.NodeName)
				require.Empty(t, w.pod("b").Spec.NodeName)
				free(w)
				settled(time.Second)
				require.Equal(t, "n1", w.pod("b").Spec.NodeName)
			})
		})
	}
}

func TestOthersPodsAreLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, newNode("n1", "1"))
		w.start(plain(t))
		theirs, deleting := newPod("theirs", "1"), newPod("deleting", "1")
		theirs.Spec.SchedulerName = "theirs"
		deleting.DeletionTimestamp = &metav1.Time{Time: time.Now()}
		deleting.Finalizers = []string{"example.com/f"}
		w.create(theirs, deleting)
		settled(time.Second)
		require.Equal(t, "skip schedule deleting pod: default/deleting", w.event("FailedScheduling"))
		w.update("theirs", func(p *v1.Pod) { p.Spec.NodeName = "n1" })
		w.create(newPod("mine", "1"))
		settled(time.Minute)
		require.Empty(t, w.pod("mine").Spec.NodeName, "theirs takes room all the same")
		require.Empty(t, w.pod("deleting").Spec.NodeName)
	})
}

// TestStatusIsNotWrittenAfterBinding has a slow write of a failure, during which room comes free.
func TestStatusIsNotWrittenAfterBinding(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		var mu sync.Mutex
		var order []string
		log := func(s string) {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, s)
		}
		w.client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			log("patch")
			return false, nil, nil
		})
		w.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.GetSubresource() == "binding" {
				log("bind")
			}
			return false, nil, nil
		})
		w.start(plain(t))
		w.create(newPod("p", "1"))
		for i := range 3 { // the message changes with the number of nodes
			_, err := w.client.CoreV1().Nodes().Create(t.Context(), newNode(fmt.Sprint("small", i), "100m"), metav1.CreateOptions{})
			require.NoError(t, err)
		}
		_, err := w.client.CoreV1().Nodes().Create(t.Context(), newNode("n1", "1"), metav1.CreateOptions{})
		require.NoError(t, err)
		settled(time.Minute)
		require.Equal(t, "n1", w.pod("p").Spec.NodeName)
		require.Equal(t, "bind", order[len(order)-1])
	})
}

// needsBudget rejects pods until there is a disruption budget.
type needsBudget struct{}

func (needsBudget) Name() string { return "NeedsBudget" }

func (needsBudget) PreFilter(_ *framework.CycleState, _ *framework.PodInfo, s *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	if len(s.Cluster.Budgets()) == 0 || s.Cluster.NamespaceLabels("default")["team"] != "a" {
		return nil, framework.NewStatus(framework.UnschedulableAndUnresolvable, "no budget")
	}
	return nil, nil
}

func TestClusterIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		ns := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "a"}}}
		budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"}}
		w := newWorld(t, newNode("n1", "1"), ns, budget)
		w.client.Resources = []*metav1.APIResourceList{{GroupVersion: "policy/v1", APIResources: []metav1.APIResource{{Name: "poddisruptionbudgets"}}}}
		w.start(plain(t, "NeedsBudget"), needsBudget{})
		w.create(newPod("p", "1"))
		settled(time.Second)
		require.Equal(t, "n1", w.pod("p").Spec.NodeName)
	})
}
