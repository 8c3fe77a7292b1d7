package controllers

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

func (w *world) node(name string) *corev1.Node {
	n, err := w.client.CoreV1().Nodes().Get(w.ctx, name, metav1.GetOptions{})
	require.NoError(w.t, err)
	return n.DeepCopy()
}

func taintNames(n *corev1.Node) (out []string) {
	for _, t := range n.Spec.Taints {
		out = append(out, t.Key+":"+string(t.Effect))
	}
	slices.Sort(out)
	return out
}

// TestSilentNode stops a node's heartbeats: it is tainted, its pods are not ready, and then go as their tolerations say. When
// the node is back, so is everything else.
func TestSilentNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := metav1.Now()
		node := &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: "1"},
			Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: start}}},
		}
		lease := &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "n", ResourceVersion: "1"},
			Spec:       coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: start.Time}},
		}
		pod := func(name string, tolerations ...corev1.Toleration) *corev1.Pod {
			return &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: "1"}, Spec: corev1.PodSpec{NodeName: "n", Tolerations: tolerations},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
			}
		}
		other := &corev1.Node{ // the cluster is not all dark
			ObjectMeta: metav1.ObjectMeta{Name: "other", ResourceVersion: "1"},
			Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: start}}},
		}
		leaseOfOther := lease.DeepCopy()
		leaseOfOther.Name = "other"
		w := newWorld(t, node, other, lease, leaseOfOther, pod("plain"), pod("patient", corev1.Toleration{
			Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(300)),
		}), pod("daemon", corev1.Toleration{Operator: corev1.TolerationOpExists}))
		lifecycle, err := NewNodeLifecycle(w.client, w.factory, w.events, clock.Real, nil, DefaultDisruption())
		require.NoError(t, err)
		eviction, err := NewTaintEviction(w.client, w.factory, w.events, clock.Real, nil)
		require.NoError(t, err)
		w.run(lifecycle, eviction)
		defer func() { w.stop(); w.factory.Shutdown() }()
		renewOf := func(name string) {
			l, err := w.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Get(w.ctx, name, metav1.GetOptions{})
			require.NoError(t, err)
			l = l.DeepCopy()
			l.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
			_, err = w.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(w.ctx, l, metav1.UpdateOptions{})
			require.NoError(t, err)
		}
		renew := func() { renewOf("n") }
		go func() {
			tick := time.NewTicker(10 * time.Second)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					renewOf("other")
				case <-w.ctx.Done():
					return
				}
			}
		}()
		names := func() (out []string) {
			for _, p := range w.pods() {
				out = append(out, p.Name)
			}
			return out
		}
		for range 20 {
			renew()
			time.Sleep(10 * time.Second)
		}
		require.Equal(t, []string{"mine:NoSchedule"}, taintNames(w.node("n")))
		require.Len(t, names(), 3)

		time.Sleep(nodeGrace + nodeMonitorPeriod)
		synctest.Wait()
		require.Equal(t, []string{"mine:NoSchedule", "node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"}, taintNames(w.node("n")))
		require.Equal(t, corev1.ConditionUnknown, nodeCondition(w.node("n"), corev1.NodeReady).Status)
		require.ElementsMatch(t, []string{"patient", "daemon"}, names())
		for _, p := range w.pods() {
			require.False(t, isReady(&p), p.Name)
		}
		time.Sleep(280 * time.Second)
		synctest.Wait()
		require.Len(t, names(), 2, "too early")
		time.Sleep(30 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{"daemon"}, names())

		renew()
		n := w.node("n")
		nodeCondition(n, corev1.NodeReady).Status = corev1.ConditionTrue
		nodeCondition(n, corev1.NodeReady).LastHeartbeatTime = metav1.Now()
		_, err = w.client.CoreV1().Nodes().UpdateStatus(w.ctx, n, metav1.UpdateOptions{})
		require.NoError(t, err)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []string{"mine:NoSchedule"}, taintNames(w.node("n")))

		n = w.node("n")
		n.Spec.Unschedulable = true
		_, err = w.client.CoreV1().Nodes().Update(w.ctx, n, metav1.UpdateOptions{})
		require.NoError(t, err)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []string{"mine:NoSchedule", "node.kubernetes.io/unschedulable:NoSchedule"}, taintNames(w.node("n")))
	})
}

// TestAllSilent stops the heartbeats of all nodes: it is rather this program that does not hear. When one is heard again, the
// others get their time.
func TestAllSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var objects []runtime.Object
		for _, name := range []string{"a", "b"} {
			objects = append(objects, &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"},
				Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}},
			})
		}
		w := newWorld(t, objects...)
		lifecycle, err := NewNodeLifecycle(w.client, w.factory, w.events, clock.Real, nil, DefaultDisruption())
		require.NoError(t, err)
		w.run(lifecycle)
		defer func() { w.stop(); w.factory.Shutdown() }()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		for _, name := range []string{"a", "b"} {
			require.Equal(t, []string{"node.kubernetes.io/unreachable:NoSchedule"}, taintNames(w.node(name)), "nothing is evicted")
		}
		n := w.node("a")
		nodeCondition(n, corev1.NodeReady).Status = corev1.ConditionTrue
		nodeCondition(n, corev1.NodeReady).LastHeartbeatTime = metav1.Now()
		_, err = w.client.CoreV1().Nodes().UpdateStatus(w.ctx, n, metav1.UpdateOptions{})
		require.NoError(t, err)
		time.Sleep(3 * nodeMonitorPeriod)
		synctest.Wait()
		require.Empty(t, taintNames(w.node("a")))
		require.Contains(t, taintNames(w.node("b")), "node.kubernetes.io/unreachable:NoExecute")
	})
}

func TestTolerated(t *testing.T) {
	now := time.Now()
	taint := corev1.Taint{Key: "k", Value: "v", Effect: corev1.TaintEffectNoExecute, TimeAdded: &metav1.Time{Time: now.Add(-10 * time.Second)}}
	toleration := func(key string, op corev1.TolerationOperator, value string, seconds int64) corev1.Toleration {
		o := corev1.Toleration{Key: key, Operator: op, Value: value}
		if seconds >= 0 {
			o.TolerationSeconds = &seconds
		}
		return o
	}
	for _, c := range []struct {
		tolerations []corev1.Toleration
		left        time.Duration // -1: for ever
	}{
		{nil, -10 * time.Second},
		{[]corev1.Toleration{toleration("k", "", "v", -1)}, -1},
		{[]corev1.Toleration{toleration("k", "Equal", "other", -1)}, -10 * time.Second},
		{[]corev1.Toleration{toleration("k", "Exists", "", 30)}, 20 * time.Second},
		{[]corev1.Toleration{toleration("", "Exists", "", -1), toleration("k", "Equal", "v", 15)}, 5 * time.Second},
		{[]corev1.Toleration{toleration("", "Equal", "v", -1)}, -10 * time.Second},
	} {
		at, ends := evictAt([]corev1.Taint{taint, {Key: "x", Effect: corev1.TaintEffectNoSchedule}}, c.tolerations, now)
		require.Equal(t, c.left != -1, ends)
		if ends {
			require.Equal(t, c.left, at.Sub(now), "%+v", c.tolerations)
		}
	}
}

// How long a node may be silent is a setting.
func TestNodeGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		heard := metav1.Now()
		node := func(name string) *corev1.Node {
			return &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "1"},
				Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: heard}}},
			}
		}
		w := newWorld(t, node("n"))
		d := DefaultDisruption()
		d.Period, d.Grace = time.Second, 20*time.Second
		lifecycle, err := NewNodeLifecycle(w.client, w.factory, w.events, clock.Real, nil, d)
		require.NoError(t, err)
		w.run(lifecycle)
		defer func() { w.stop(); w.factory.Shutdown() }()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		require.Equal(t, corev1.ConditionTrue, nodeCondition(w.node("n"), corev1.NodeReady).Status)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		require.Equal(t, corev1.ConditionUnknown, nodeCondition(w.node("n"), corev1.NodeReady).Status)
	})
}
