package node

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func nodes() conformance.Behaviours {
	return conformance.Behaviours{
		"Node Lifecycle should run through the lifecycle of a node": nodeLifecycle,
	}
}

func taints() conformance.Behaviours {
	return conformance.Behaviours{
		"NoExecuteTaintManager Multiple Pods evicts pods with minTolerationSeconds [Disruptive] [Serial]": taintEvicts,
		"NoExecuteTaintManager Single Pod removing taint cancels eviction [Disruptive] [Serial]":          taintCancelled,
	}
}

func nodeLifecycle(t *testing.T, e *conformance.Env) {
	all := e.Client.CoreV1().Nodes()
	name := "fake-" + e.NS
	t.Cleanup(func() { _ = all.Delete(e.Outlive().Ctx, name, metav1.DeleteOptions{}) }) // what a failure left behind
	made := create(t, e, all, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Unschedulable: true},
		Status: corev1.NodeStatus{Phase: corev1.NodeRunning, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Test", Message: "set by the test"}}},
	})
	require.Equal(t, name, made.Name)
	conformance.Revision(t, made)
	got, err := all.Get(e.Ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, made.UID, got.UID)
	patched, err := all.Patch(e.Ctx, name, types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"`+name+`":"patched"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", patched.Labels[name])
	conformance.Newer(t, patched, made)
	l, err := all.List(e.Ctx, metav1.ListOptions{LabelSelector: name + "=patched"})
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	updated := conformance.Update(t, e, all, name, func(n *corev1.Node) { n.Labels[name] = "updated" })
	require.Equal(t, "updated", updated.Labels[name])
	require.NoError(t, all.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	conformance.Eventually(t, e, "the node is gone", func() (bool, error) {
		_, err := all.Get(e.Ctx, name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

const taintKey = "node.example.com/evict"

// taint taints a node until the function that it returns is called, or the test ends.
func taint(t *testing.T, e *conformance.Env, node string) (remove func()) {
	t.Helper()
	all := e.Client.CoreV1().Nodes()
	conformance.Update(t, e, all, node, func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: taintKey, Value: "evictTaintVal", Effect: corev1.TaintEffectNoExecute})
	})
	remove = func() {
		conformance.Update(t, e.Outlive(), all, node, func(n *corev1.Node) {
			var left []corev1.Taint
			for _, x := range n.Spec.Taints {
				if x.Key != taintKey {
					left = append(left, x)
				}
			}
			n.Spec.Taints = left
		})
	}
	t.Cleanup(remove)
	return remove
}

// tolerant is a pod that tolerates the taint for some seconds. It is on a node, if that is given.
func tolerant(name, node string, seconds int64) *corev1.Pod {
	p := pod(name, map[string]string{"group": "taints"})
	p.Spec.Tolerations = []corev1.Toleration{{
		Key: taintKey, Value: "evictTaintVal", Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
	}}
	if node != "" {
		p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	}
	return p
}

func taintEvicts(t *testing.T, e *conformance.Env) {
	w := conformance.Observe[*corev1.Pod](t, e, e.Client.CoreV1().Pods(e.NS).Watch, metav1.ListOptions{LabelSelector: "group=taints"})
	node := start(t, e, tolerant("short", "", 1)).Spec.NodeName
	require.Equal(t, node, start(t, e, tolerant("long", node, 3)).Spec.NodeName)
	taint(t, e, node)
	var gone []string
	for range 2 {
		gone = append(gone, w.Until(watch.Deleted, "both pods are evicted", nil).Name)
	}
	require.Equal(t, []string{"short", "long"}, gone)
}

// taintCancelled removes a taint before a pod's time is over. A pod on another node, which is tainted after that and tolerates
// it for as long, says when the time is over.
func taintCancelled(t *testing.T, e *conformance.Env) {
	const seconds = 3
	mine := e.Client.CoreV1().Pods(e.NS)
	w := conformance.Observe[*corev1.Pod](t, e, mine.Watch, metav1.ListOptions{LabelSelector: "group=taints"})
	node := start(t, e, tolerant("stays", "", seconds)).Spec.NodeName
	l, err := e.Client.CoreV1().Nodes().List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	other := ""
	for _, n := range l.Items {
		if n.Name != node {
			other = n.Name
		}
	}
	require.Equal(t, other, start(t, e, tolerant("goes", other, seconds)).Spec.NodeName)
	remove := taint(t, e, node)
	remove()
	taint(t, e, other)
	require.Equal(t, "goes", w.Until(watch.Deleted, "one pod is evicted", nil).Name)
	p, err := mine.Get(e.Ctx, "stays", metav1.GetOptions{})
	require.NoError(t, err)
	require.Nil(t, p.DeletionTimestamp)
}
