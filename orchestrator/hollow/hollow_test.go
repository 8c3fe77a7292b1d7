package hollow

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pod(name, node string, policy corev1.RestartPolicy, annotations map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Annotations: annotations},
		Spec: corev1.PodSpec{
			NodeName: node, RestartPolicy: policy, InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "c", Image: "x"}},
		},
	}
}

func TestLives(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	client := fake.NewClientset(
		pod("forever", "hollow-0", corev1.RestartPolicyAlways, map[string]string{runForAnnotation: "1ms"}),
		pod("once", "hollow-1", corev1.RestartPolicyNever, map[string]string{runForAnnotation: "10ms"}),
		pod("fails", "hollow-1", corev1.RestartPolicyNever, map[string]string{runForAnnotation: "10ms", exitCodeAnnotation: "3"}),
		pod("sick", "hollow-2", corev1.RestartPolicyAlways, map[string]string{neverReadyAnnotation: "true"}),
		pod("elsewhere", "hollow-3", corev1.RestartPolicyAlways, nil), pod("nowhere", "", corev1.RestartPolicyAlways, nil),
	)
	f := informers.NewSharedInformerFactory(client, 0)
	n, err := New(client, f, Config{Count: 3, Version: "v1.37.0"})
	require.NoError(t, err)
	f.StartWithContext(ctx)
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx, func() {}) }()
	defer func() { cancel(); require.NoError(t, <-done); f.Shutdown() }()

	addresses := map[string]bool{}
	for name, want := range map[string]string{
		"forever": "Running true 0", "once": "Succeeded false 0", "fails": "Failed false 3", "sick": "Running false 0", "elsewhere": " false 0", "nowhere": " false 0",
	} {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			p, err := client.CoreV1().Pods("ns").Get(ctx, name, metav1.GetOptions{})
			require.NoError(c, err)
			ready, code := false, int32(0)
			for _, cond := range p.Status.Conditions {
				ready = ready || cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue
			}
			for _, s := range p.Status.ContainerStatuses {
				if s.State.Terminated != nil {
					code = s.State.Terminated.ExitCode
				}
			}
			require.Equal(c, want, fmt.Sprintf("%s %t %d", p.Status.Phase, ready, code), name)
			if p.Status.PodIP != "" {
				addresses[p.Status.PodIP] = true
			}
		}, 10*time.Second, 5*time.Millisecond)
	}
	require.Len(t, addresses, 4, "addresses are used once")

	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, nodes.Items, 3)
	once, err := client.CoreV1().Pods("ns").Get(ctx, "once", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, nodes.Items[1].Status.Addresses[0].Address, once.Status.HostIP, "a pod is at its node's address")
	leases, err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, leases.Items, 3)

	// One that is being deleted goes.
	p, err := client.CoreV1().Pods("ns").Get(ctx, "forever", metav1.GetOptions{})
	require.NoError(t, err)
	p = p.DeepCopy()
	p.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	_, err = client.CoreV1().Pods("ns").Update(ctx, p, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := client.CoreV1().Pods("ns").Get(ctx, "forever", metav1.GetOptions{})
		return err != nil
	}, 10*time.Second, 5*time.Millisecond)
}

// TestSteps takes pods through what time and changes of their spec do to them.
func TestSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Nodes{cfg: Config{Clock: clock.Real, Prefix: "hollow-", Count: 1}, addresses: map[string]netip.Addr{}}
		p := pod("p", "hollow-0", corev1.RestartPolicyAlways, nil)
		p.Generation = 1
		step := func() time.Duration {
			s, again := n.step(p)
			require.NotNil(t, s)
			p.Status = *s
			return again
		}
		require.Zero(t, step())
		require.EqualValues(t, 1, p.Status.ObservedGeneration)
		s, again := n.step(p)
		require.Nil(t, s)
		require.Zero(t, again)

		p.Generation, p.Spec.Containers[0].Image = 2, "y"
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e"}}}
		step()
		require.EqualValues(t, 2, p.Status.ObservedGeneration)
		require.Equal(t, "y", p.Status.ContainerStatuses[0].Image)
		require.EqualValues(t, 1, p.Status.ContainerStatuses[0].RestartCount)
		require.NotNil(t, p.Status.EphemeralContainerStatuses[0].State.Running)
		for _, c := range p.Status.Conditions {
			require.EqualValues(t, 2, c.ObservedGeneration)
		}

		p.Generation, p.Spec.ActiveDeadlineSeconds = 3, ptr.To(int64(5))
		require.Equal(t, 5*time.Second, step())
		time.Sleep(5 * time.Second)
		step()
		require.Equal(t, corev1.PodFailed, p.Status.Phase)
		require.Equal(t, "DeadlineExceeded", p.Status.Reason)

		p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now().Add(30 * time.Second)}, ptr.To(int64(30))
		require.Zero(t, n.stopping(p))
		p.Annotations = map[string]string{stopForAnnotation: "10s"}
		require.Equal(t, 10*time.Second, n.stopping(p))
		p.Annotations[stopForAnnotation] = "1h"
		require.Equal(t, 30*time.Second, n.stopping(p))
	})
}

// TestRestarts has containers fail that are restarted: at once, and then later and later.
func TestRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		n, err := New(client, informers.NewSharedInformerFactory(client, 0), Config{Count: 1})
		require.NoError(t, err)
		defer n.queue.ShutDown()
		p := pod("p", "hollow-0", corev1.RestartPolicyOnFailure, map[string]string{
			runForAnnotation: "1s", exitCodeAnnotation: "3", failFirstAnnotation: "2",
			runForAnnotation + ".7": "2s", batchv1.JobCompletionIndexAnnotation: "7", failFirstAnnotation + ".8": "0",
		})
		var seen []string
		begin := time.Now()
		for {
			s, again := n.step(p)
			if s != nil {
				p.Status = *s
				c := s.ContainerStatuses[0]
				seen = append(seen, fmt.Sprintf("%s %s ready=%t restarts=%d failed=%t", time.Since(begin), s.Phase, c.Ready, c.RestartCount, c.LastTerminationState.Terminated != nil))
			} else if again == 0 {
				break
			}
			time.Sleep(again)
		}
		require.Equal(t, []string{
			"0s Running ready=true restarts=0 failed=false",
			"2s Running ready=false restarts=0 failed=true", "2s Running ready=true restarts=1 failed=true",
			"4s Running ready=false restarts=1 failed=true", "14s Running ready=true restarts=2 failed=true",
			"16s Succeeded ready=false restarts=2 failed=true",
		}, seen)
		require.EqualValues(t, 3, p.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode)
	})
}

// TestStopsHeld has a pod that is being deleted and held back by a finalizer: it has failed.
func TestStopsHeld(t *testing.T) {
	p := pod("p", "hollow-0", corev1.RestartPolicyNever, nil)
	p.Finalizers, p.DeletionTimestamp = []string{"example.com/hold"}, &metav1.Time{Time: time.Now()}
	client := fake.NewClientset(p)
	n, err := New(client, informers.NewSharedInformerFactory(client, 0), Config{Count: 1})
	require.NoError(t, err)
	defer n.queue.ShutDown()
	status, _ := n.step(p)
	p.Status = *status
	for range 2 {
		require.NoError(t, n.pods.GetIndexer().Update(p))
		_, err = n.sync(t.Context(), "ns/p")
		require.NoError(t, err)
		if got, err := client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{}); err == nil {
			p = got
		}
		require.Equal(t, corev1.PodFailed, p.Status.Phase)
		require.EqualValues(t, killed, p.Status.ContainerStatuses[0].State.Terminated.ExitCode)
	}
	_, err = client.CoreV1().Pods("ns").Get(t.Context(), "p", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "then it is deleted: %v", err)
}

// TestTurnsUnready follows the annotation of a pod that runs.
func TestTurnsUnready(t *testing.T) {
	client := fake.NewClientset()
	n, err := New(client, informers.NewSharedInformerFactory(client, 0), Config{Count: 1})
	require.NoError(t, err)
	defer n.queue.ShutDown()
	p := pod("p", "hollow-0", corev1.RestartPolicyAlways, nil)
	for _, ready := range []bool{true, false, true} {
		if p.Annotations = nil; !ready {
			p.Annotations = map[string]string{neverReadyAnnotation: "true"}
		}
		s, _ := n.step(p)
		require.NotNil(t, s)
		p.Status = *s
		require.Equal(t, ready, s.ContainerStatuses[0].Ready)
		for _, c := range s.Conditions {
			if c.Type == corev1.PodReady {
				require.Equal(t, ready, c.Status == corev1.ConditionTrue)
			}
		}
		s, _ = n.step(p)
		require.Nil(t, s)
	}
}

// TestHostPorts rejects a pod that wants the port of another one on its node.
func TestHostPorts(t *testing.T) {
	client := fake.NewClientset()
	n, err := New(client, informers.NewSharedInformerFactory(client, 0), Config{Count: 2})
	require.NoError(t, err)
	defer n.queue.ShutDown()
	on := func(name, node string, port int32, address string) *corev1.Pod {
		p := pod(name, node, corev1.RestartPolicyAlways, nil)
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: port, HostIP: address, Protocol: corev1.ProtocolTCP}}
		return p
	}
	first := on("first", "hollow-0", 8080, "")
	s, _ := n.step(first)
	first.Status = *s
	require.NoError(t, n.pods.GetIndexer().Add(first))
	for _, c := range []struct {
		pod  *corev1.Pod
		want corev1.PodPhase
	}{
		{on("same", "hollow-0", 8080, "10.0.0.1"), corev1.PodFailed}, {on("other port", "hollow-0", 8081, ""), corev1.PodRunning},
		{on("other node", "hollow-1", 8080, ""), corev1.PodRunning}, {on("none", "hollow-0", 0, ""), corev1.PodRunning},
	} {
		s, _ := n.step(c.pod)
		require.Equal(t, c.want, s.Phase, c.pod.Name)
	}
}

// TestRenews renews leases without reading them, and goes on when somebody else changed one.
func TestRenews(t *testing.T) {
	client := fake.NewClientset()
	f := informers.NewSharedInformerFactory(client, 0)
	n, err := New(client, f, Config{Count: 2, Zones: 2, Version: "v1.37.0"})
	require.NoError(t, err)
	defer n.queue.ShutDown()
	ctx := context.Background()
	require.NoError(t, n.register(ctx))
	verbs := func() (out []string) {
		for _, a := range client.Actions() {
			if a.GetResource().Resource == "leases" {
				out = append(out, a.GetVerb())
			}
		}
		client.ClearActions()
		return out
	}
	require.ElementsMatch(t, []string{"get", "get", "create", "create"}, verbs())
	leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	before, err := leases.Get(ctx, "hollow-1", metav1.GetOptions{})
	require.NoError(t, err)
	client.ClearActions()
	require.NoError(t, n.renew(ctx, 1))
	require.Equal(t, []string{"update"}, verbs())
	after, err := leases.Get(ctx, "hollow-1", metav1.GetOptions{})
	require.NoError(t, err)
	require.True(t, after.Spec.RenewTime.After(before.Spec.RenewTime.Time))

	require.NoError(t, leases.Delete(ctx, "hollow-1", metav1.DeleteOptions{}))
	require.Error(t, n.renew(ctx, 1))
	client.ClearActions()
	require.NoError(t, n.renew(ctx, 1))
	require.Equal(t, []string{"get", "create"}, verbs())

	node, err := client.CoreV1().Nodes().Get(ctx, "hollow-1", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "zone-1", node.Labels[corev1.LabelTopologyZone])
}

// TestUnstarted leaves pods pending, but lets those go that are being deleted.
func TestUnstarted(t *testing.T) {
	dying := pod("dying", "hollow-0", corev1.RestartPolicyAlways, nil)
	dying.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	client := fake.NewClientset(pod("stays", "hollow-0", corev1.RestartPolicyAlways, nil), dying)
	f := informers.NewSharedInformerFactory(client, 0)
	n, err := New(client, f, Config{Count: 1, Unstarted: true})
	require.NoError(t, err)
	defer n.queue.ShutDown()
	ctx, cancel := context.WithCancel(context.Background())
	f.StartWithContext(ctx)
	defer f.Shutdown()
	defer cancel()
	require.True(t, f.WaitForCacheSyncWithContext(ctx).Err == nil)
	for _, name := range []string{"stays", "dying"} {
		_, err := n.sync(ctx, "ns/"+name)
		require.NoError(t, err)
	}
	left, err := client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, left.Items, 1)
	require.Empty(t, left.Items[0].Status.Phase)
}

// TestRegistersAmongControllers registers a node whose object somebody changes between its creation and its status.
func TestRegistersAmongControllers(t *testing.T) {
	client := fake.NewClientset()
	conflicts := 0
	client.PrependReactor("update", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if conflicts++; conflicts > 2 {
			return false, nil, nil
		}
		return true, nil, apierrors.NewConflict(corev1.Resource("nodes"), "hollow-0", errors.New("changed"))
	})
	n, err := New(client, informers.NewSharedInformerFactory(client, 0), Config{Count: 1})
	require.NoError(t, err)
	defer n.queue.ShutDown()
	require.NoError(t, n.register(context.Background()))
	require.Equal(t, 3, conflicts)
}
