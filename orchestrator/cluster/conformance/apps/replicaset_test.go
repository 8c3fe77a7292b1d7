package apps

import (
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func replicaSets() conformance.Behaviours {
	return conformance.Behaviours{
		"ReplicaSet Replace and Patch tests":                                                    replicaSetChanges,
		"ReplicaSet Replicaset should have a working scale subresource":                         replicaSetScale,
		"ReplicaSet should adopt matching pods on creation and release no longer matching pods": replicaSetAdopts,
		"ReplicaSet should list and delete a collection of ReplicaSets":                         replicaSetCollection,
		"ReplicaSet should validate Replicaset Status endpoints":                                replicaSetStatus,
	}
}

func replicaSetChanges(t *testing.T, e *conformance.Env) {
	rsets := e.Client.AppsV1().ReplicaSets(e.NS)
	made := create(t, e, rsets, replicaSet("set", 1, map[string]string{"name": "app"}))
	conformance.Revision(t, made)
	conformance.PodsRunning(t, e, "name=app", 1)
	conformance.Update(t, e, rsets, "set", func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = ptr.To(int32(2)) })
	conformance.PodsRunning(t, e, "name=app", 2)
	patched, err := rsets.Patch(e.Ctx, "set", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}},"spec":{"replicas":3,
		"template":{"spec":{"terminationGracePeriodSeconds":0,"containers":[{"name":"app","image":"`+nextImage+`"}]}}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	conformance.Newer(t, patched, made)
	w := conformance.Observe[*appsv1.ReplicaSet](t, e, rsets.Watch, metav1.ListOptions{LabelSelector: "stage=patched"})
	is := func(rs *appsv1.ReplicaSet) bool {
		return rs.Status.ReadyReplicas == 3 && rs.Status.AvailableReplicas == 3 &&
			rs.Spec.Template.Spec.Containers[0].Image == nextImage && *rs.Spec.Template.Spec.TerminationGracePeriodSeconds == 0
	}
	if !is(w.Next(watch.Added)) {
		w.Until(watch.Modified, "three pods are ready", is)
	}
}

func replicaSetScale(t *testing.T, e *conformance.Env) {
	rsets := e.Client.AppsV1().ReplicaSets(e.NS)
	create(t, e, rsets, replicaSet("set", 1, map[string]string{"name": "app"}))
	conformance.Until(t, e, "the pod is available", func() (*appsv1.ReplicaSet, error) {
		return rsets.Get(e.Ctx, "set", metav1.GetOptions{})
	}, func(rs *appsv1.ReplicaSet) bool { return rs.Status.AvailableReplicas == 1 })
	scales(t, e, "replicasets", "set")
}

func replicaSetAdopts(t *testing.T, e *conformance.Env) {
	labels := map[string]string{"name": "app"}
	create(t, e, e.Client.CoreV1().Pods(e.NS), pod("orphan", labels))
	conformance.PodRunning(t, e, e.NS, "orphan")
	rs := create(t, e, e.Client.AppsV1().ReplicaSets(e.NS), replicaSet("set", 1, labels))
	adopted(t, e, "orphan", rs.UID)
	require.Len(t, conformance.PodsRunning(t, e, "name=app", 1), 1)
	released(t, e, "orphan")
	require.NotEqual(t, "orphan", conformance.PodsRunning(t, e, "name=app", 1)[0].Name)
}

func replicaSetCollection(t *testing.T, e *conformance.Env) {
	rsets, everywhere := e.Client.AppsV1().ReplicaSets(e.NS), e.Client.AppsV1().ReplicaSets("")
	selector := metav1.ListOptions{LabelSelector: "collection=" + e.NS}
	create(t, e, rsets, replicaSet("set", 3, map[string]string{"collection": e.NS}))
	conformance.PodsRunning(t, e, selector.LabelSelector, 3)
	l, err := everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.NoError(t, rsets.DeleteCollection(e.Ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(1))}, selector))
	l, err = everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	require.Empty(t, l.Items)
}

func replicaSetStatus(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.AppsV1().ReplicaSets(e.NS), replicaSet("set", 1, map[string]string{"name": "app"}))
	conformance.PodsRunning(t, e, "name=app", 1)
	statusConditions(t, e, "replicasets", "set")
}
