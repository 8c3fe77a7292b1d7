//go:build linux

package hardship

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// disrupted is the condition of a pod that its node has ended, nil if it has none.
func disrupted(p *corev1.Pod) *corev1.PodCondition {
	for i, c := range p.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// TestPressure: of a node that runs out of something the pod goes that takes it beyond what it asked for. The node says so, takes
// no such pods meanwhile, and recovers.
func TestPressure(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		node, takes, message string
		condition            corev1.NodeConditionType
		taint                string
	}{
		{"disk", "fill /scratch/much 400; exec sleep infinity", "The node was low on resource: ephemeral-storage. Threshold quantity: 128Mi, available: ", corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
		{"memory", "exec mem 300", "The node was low on resource: memory. Threshold quantity: 128Mi, available: ", corev1.NodeMemoryPressure, corev1.TaintNodeMemoryPressure},
	} {
		t.Run(c.node, func(t *testing.T) {
			t.Parallel()
			ns := cluster.Namespace(t)
			stays := cluster.Started(t, ns, on(c.node, guaranteed(nodetest.Pod("stays", "sleep", "infinity"))))
			modest := cluster.Started(t, ns, on(c.node, scratch(nodetest.Pod("modest", "sleep", "infinity"), "")))
			cluster.Create(t, ns, on(c.node, scratch(nodetest.Pod("greedy", "sh", "-c", c.takes), "")))
			nodeIs(t, c.node, "is under pressure", func(n *corev1.Node) bool { both, _ := has(n, c.condition, c.taint); return both })
			require.Contains(t, evicted(t, ns, "greedy"), c.message)
			greedy, err := cluster.Client.CoreV1().Pods(ns).Get(t.Context(), "greedy", metav1.GetOptions{})
			require.NoError(t, err)
			require.NotNil(t, disrupted(greedy), "%+v", greedy.Status)
			require.Equal(t, corev1.PodReasonTerminationByKubelet, disrupted(greedy).Reason)
			require.Equal(t, corev1.PodQOSBestEffort, greedy.Status.QOSClass)
			told(t, ns, "greedy", "Evicted")
			told(t, "default", c.node, "EvictionThresholdMet")

			nodeIs(t, c.node, "has recovered", func(n *corev1.Node) bool { _, neither := has(n, c.condition, c.taint); return neither })
			for _, before := range []*corev1.Pod{stays, modest} {
				now := cluster.Await(t, ns, before.Name, "is ready", nodetest.Ready)
				require.Equal(t, before.Status.ContainerStatuses[0].ContainerID, now.Status.ContainerStatuses[0].ContainerID, "it is as it was")
			}
			require.Equal(t, "welcome\n", cluster.Run(t, ns, on(c.node, nodetest.Pod("again", "echo", "welcome"))))
			m := cluster.Machine(c.node)
			require.NoFileExists(t, filepath.Join(m.Node(), "pods", string(greedy.UID), "volumes", "kubernetes.io~empty-dir", "scratch", "much"), "though the pod is there")
			cluster.Delete(t, ns, "greedy")
			nodetest.Until(t, "nothing is left of it", func() (bool, any) {
				left := m.Holds(string(greedy.UID))
				return len(left) == 0, left
			})
		})
	}
}

// TestAllocatable: what is reserved of a node, and what is kept free of it, is not given to pods.
func TestAllocatable(t *testing.T) {
	t.Parallel()
	n, err := cluster.Client.CoreV1().Nodes().Get(t.Context(), "memory", metav1.GetOptions{})
	require.NoError(t, err)
	left := n.Status.Allocatable.Memory().Value() >> 20
	require.InDelta(t, memory-memoryFree, left, 1, "what is reserved, and kept free, is not for pods: %+v", n.Status)
	ns := cluster.Namespace(t)
	pod := on("memory", nodetest.Pod("large", "true"))
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("300Mi")}
	cluster.Create(t, ns, pod)
	cluster.Await(t, ns, "large", "finds no room", func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled {
				return c.Reason == corev1.PodReasonUnschedulable
			}
		}
		return false
	})
}

// TestLimits: a pod that keeps more on the disk than its own limits allow goes, however much there is.
func TestLimits(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Create(t, ns, on("one", scratch(nodetest.Pod("volume", "sh", "-c", "fill /scratch/much 3; exec sleep infinity"), "1Mi")))
	layer := on("one", nodetest.Pod("layer", "sh", "-c", "fill /much 3; exec sleep infinity"))
	layer.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("2Mi")}
	cluster.Create(t, ns, layer)
	within := cluster.Started(t, ns, on("one", scratch(nodetest.Pod("within", "sh", "-c", "fill /scratch/some 3; exec sleep infinity"), "8Mi")))
	inMemory := on("one", scratch(nodetest.Pod("in-memory", "fill", "/scratch/much", "3"), "1Mi"))
	inMemory.Spec.Volumes[0].EmptyDir.Medium = corev1.StorageMediumMemory
	require.Equal(t, corev1.PodFailed, cluster.Finished(t, ns, inMemory).Status.Phase)
	require.Contains(t, cluster.Log(t, ns, "in-memory", "main"), "no space left on device", "in memory the limit is that of the file system")

	require.Equal(t, `Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". `, evicted(t, ns, "volume"))
	require.Contains(t, evicted(t, ns, "layer"), "exceeds the total limit of containers 2Mi")
	now := cluster.Await(t, ns, "within", "is ready", nodetest.Ready)
	require.Equal(t, within.Status.ContainerStatuses[0].ContainerID, now.Status.ContainerStatuses[0].ContainerID)
}
