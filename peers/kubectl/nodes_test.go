package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNodes does to a node what is done before its maintenance. Pods of other tests are left alone.
func TestNodes(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	const name = "hollow-2"
	node := func() *corev1.Node {
		t.Helper()
		n, err := k.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		return n
	}
	k.says("node/hollow-2 cordoned", "cordon hollow-2")
	require.True(t, node().Spec.Unschedulable)
	k.says("node/hollow-2 already cordoned", "cordon hollow-2")
	require.Equal(t, "Ready,SchedulingDisabled", cells(k.ok("get node hollow-2"))[1][1])
	k.holds("describe node hollow-2", "Taints: node.kubernetes.io/unschedulable:NoSchedule", "Unschedulable: true")
	k.says("node/hollow-2 uncordoned", "uncordon hollow-2")
	require.Equal(t, []string{name, "Ready", "<none>"}, cells(k.ok("get node hollow-2"))[1][:3])

	k.says("node/hollow-2 tainted", "taint node hollow-2 k=v:NoSchedule")
	k.fails("error: node hollow-2 already has k taint(s) with same effect(s) and --overwrite is false", "taint node hollow-2 k=w:NoSchedule")
	k.says("node/hollow-2 modified", "taint node hollow-2 k=w:NoSchedule --overwrite")
	require.Contains(t, node().Spec.Taints, corev1.Taint{Key: "k", Value: "w", Effect: corev1.TaintEffectNoSchedule})
	k.okInput(strings.ReplaceAll(onNode, "nodeName: hollow-2", "nodeSelector: {kubernetes.io/hostname: hollow-2}"), "create -f -")
	k.ok("wait pod/alone --for=condition=PodScheduled=False --timeout=60s")
	k.holds("describe pod alone", "Status: Pending", "Events:", "Warning FailedScheduling", "default-scheduler 0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 node(s) didn't match Pod's node affinity/selector.")
	k.says("node/hollow-2 untainted", "taint node hollow-2 k-")
	require.NotContains(t, node().Spec.Taints, corev1.Taint{Key: "k", Value: "w", Effect: corev1.TaintEffectNoSchedule})
	k.ok("wait pod/alone --for=condition=Ready --timeout=60s")
	k.says("node/hollow-2 labeled", "label node hollow-2 node-role.kubernetes.io/worker=")
	require.Equal(t, "worker", cells(k.ok("get node hollow-2"))[1][2])

	// A pod without an owner is not thrown away, unless one says so.
	k.okInput(strings.ReplaceAll(onNode, "alone", "owned"), "create -f -")
	k.ok("wait pod/owned --for=condition=Ready --timeout=60s")
	selected := "drain hollow-2 --pod-selector=drain=" + k.ns + " --timeout=50s"
	k.ok("label pod alone owned drain=" + k.ns)
	_, errs, code := k.run("", selected)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "cannot delete Pods that declare no controller (use --force to override): "+k.ns+"/alone, "+k.ns+"/owned")
	require.True(t, node().Spec.Unschedulable)
	out := k.ok(selected + " --force")
	require.Contains(t, out, "evicting pod "+k.ns+"/alone")
	require.Contains(t, out, "pod/owned evicted")
	require.Contains(t, out, "node/hollow-2 drained")
	k.says("", "get pods -o name")
	k.says("node/hollow-2 uncordoned", "uncordon hollow-2")
}

const onNode = `
apiVersion: v1
kind: Pod
metadata: {name: alone}
spec:
  nodeName: hollow-2
  containers: [{name: x, image: x}]
`
