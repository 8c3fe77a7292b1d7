//go:build linux

package nodes

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// atOnce are the tolerations of a pod that is to leave a node at once when nobody hears of the node.
func atOnce() (all []corev1.Toleration) {
	for _, key := range []string{corev1.TaintNodeUnreachable, corev1.TaintNodeNotReady} {
		all = append(all, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: new(int64)})
	}
	return all
}

// stateful makes a StatefulSet of two pods, one on each node, with a volume each.
func stateful(t *testing.T, ns string) {
	t.Helper()
	labels, two := map[string]string{"app": "data"}, int32(2)
	pod := server("data")
	pod.Spec.Tolerations = atOnce()
	pod.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		LabelSelector: &metav1.LabelSelector{MatchLabels: labels}, TopologyKey: corev1.LabelHostname,
	}}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	_, err := cluster.Client.AppsV1().StatefulSets(ns).Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &two, ServiceName: "data", Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("16Mi")}},
			}}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// renewed waits for a ready pod of a name that is not the one with the UID.
func renewed(t *testing.T, ns, name string, not types.UID) *corev1.Pod {
	t.Helper()
	return cluster.Await(t, ns, name, "is there anew", func(p *corev1.Pod) bool { return p.UID != not && nodetest.Ready(p) && p.DeletionTimestamp == nil })
}

// TestStateful: pods of a StatefulSet keep their names, their nodes and what they have written, when they are deleted and when
// their node is lost for a while.
func TestStateful(t *testing.T) {
	ns := cluster.Namespace(t)
	stateful(t, ns)
	pods := map[string]*corev1.Pod{}
	for _, name := range []string{"data-0", "data-1"} {
		pods[name] = renewed(t, ns, name, "")
		cluster.Exec(t, ns, name, "main", "sh", "-c", "hostname > /data/name && sync")
	}
	require.NotEqual(t, pods["data-0"].Spec.NodeName, pods["data-1"].Spec.NodeName)
	require.NoError(t, cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "data-0", metav1.DeleteOptions{}))
	again := renewed(t, ns, "data-0", pods["data-0"].UID)
	require.Equal(t, pods["data-0"].Spec.NodeName, again.Spec.NodeName, "where its volume is")
	require.Equal(t, "data-0\n", cluster.Exec(t, ns, "data-0", "main", "cat", "/data/name"))

	far, two := "data-0", cluster.Machine("two")
	if pods["data-1"].Spec.NodeName == "two" {
		far = "data-1"
	}
	lost := cluster.Await(t, ns, far, "is ready", nodetest.Ready)
	require.NoError(t, cluster.SetWire(two, false))
	cluster.Await(t, ns, far, "is to go", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	require.NoError(t, cluster.SetWire(two, true))
	back := renewed(t, ns, far, lost.UID)
	require.Equal(t, "two", back.Spec.NodeName)
	require.Equal(t, far+"\n", cluster.Exec(t, ns, far, "main", "cat", "/data/name"))

	require.NoError(t, cluster.Client.AppsV1().StatefulSets(ns).Delete(t.Context(), "data", metav1.DeleteOptions{}))
	nodetest.Until(t, "the pods are gone", func() (bool, any) { n := len(list(t, ns, "app=data")); return n == 0, n })
	volumes := func() (left []string) {
		all, err := cluster.Client.CoreV1().PersistentVolumes().List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
		for _, v := range all.Items {
			if v.Spec.ClaimRef != nil && v.Spec.ClaimRef.Namespace == ns {
				left = append(left, v.Name)
			}
		}
		return left
	}
	require.Len(t, volumes(), 2, "claims stay when their set goes")
	require.NoError(t, cluster.Client.CoreV1().PersistentVolumeClaims(ns).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	nodetest.Until(t, "the volumes are gone", func() (bool, any) { left := volumes(); return len(left) == 0, left })
}

// TestDaemonSet has a pod on every node, and follows a label of nodes.
func TestDaemonSet(t *testing.T) {
	ns := cluster.Namespace(t)
	labels := map[string]string{"app": "each"}
	pod := server("each")
	pod.Spec.NodeSelector = map[string]string{ns: "yes"}
	_, err := cluster.Client.AppsV1().DaemonSets(ns).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "each"},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	label := func(node, value string) {
		patch := `{"metadata":{"labels":{"` + ns + `":` + value + `}}}`
		_, err := cluster.Client.CoreV1().Nodes().Patch(t.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		require.NoError(t, err)
	}
	for _, node := range []string{"one", "two"} {
		label(node, `"yes"`)
		t.Cleanup(func() {
			_, _ = cluster.Client.CoreV1().Nodes().Patch(context.Background(), node, types.MergePatchType, []byte(`{"metadata":{"labels":{"`+ns+`":null}}}`), metav1.PatchOptions{})
		})
		ready(t, ns, "app=each", node)
	}
	require.Len(t, list(t, ns, "app=each"), 2)
	label("two", "null")
	nodetest.Until(t, "the pod has left", func() (bool, any) {
		all := list(t, ns, "app=each")
		return len(all) == 1 && all[0].Spec.NodeName == "one", len(all)
	})
}
