package apps

import (
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func replicationControllers() conformance.Behaviours {
	return conformance.Behaviours{
		"ReplicationController should adopt matching pods on creation":              controllerAdopts,
		"ReplicationController should get and update a ReplicationController scale": controllerScale,
		"ReplicationController should release no longer matching pods":              controllerReleases,
		// 		"ReplicationController should surface a failure condition on a common issue like exceeded quota": controllerFails,
		"ReplicationController should surface a failure condition on a common issue like exceeded quota": controllerFails,
		"ReplicationController should test the lifecycle of a ReplicationController":                     controllerLifecycle,
	}
}

func controller(name string, replicas int32, labels map[string]string) *corev1.ReplicationController {
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(labels)},
		Spec:       corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: maps.Clone(labels), Template: ptr.To(template(labels, image))},
	}
}

func controllerAdopts(t *testing.T, e *conformance.Env) {
	labels := map[string]string{"name": "app"}
	create(t, e, e.Client.CoreV1().Pods(e.NS), pod("orphan", labels))
	conformance.PodRunning(t, e, e.NS, "orphan")
	rc := create(t, e, e.Client.CoreV1().ReplicationControllers(e.NS), controller("rc", 1, labels))
	adopted(t, e, "orphan", rc.UID)
}

func controllerReleases(t *testing.T, e *conformance.Env) {
	rc := create(t, e, e.Client.CoreV1().ReplicationControllers(e.NS), controller("rc", 1, map[string]string{"name": "app"}))
	p := conformance.PodsRunning(t, e, "name=app", 1)[0]
	require.True(t, metav1.IsControlledBy(&p, rc))
	released(t, e, p.Name)
	require.NotEqual(t, p.Name, conformance.PodsRunning(t, e, "name=app", 1)[0].Name)
}

func controllerScale(t *testing.T, e *conformance.Env) {
	rcs := e.Client.CoreV1().ReplicationControllers(e.NS)
	create(t, e, rcs, controller("rc", 1, map[string]string{"name": "app"}))
	has := func(n int32) {
		conformance.Until(t, e, "the status says how many", func() (*corev1.ReplicationController, error) {
			return rcs.Get(e.Ctx, "rc", metav1.GetOptions{})
		}, func(rc *corev1.ReplicationController) bool { return rc.Status.Replicas == n })
	}
	has(1)
	s, err := rcs.GetScale(e.Ctx, "rc", metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 1, s.Status.Replicas)
	s.ResourceVersion, s.Spec.Replicas = "", 2
	_, err = rcs.UpdateScale(e.Ctx, "rc", s, metav1.UpdateOptions{})
	require.NoError(t, err)
	has(2)
}

// controllerFails asks for more pods than a quota allows, and then for fewer.
func controllerFails(t *testing.T, e *conformance.Env) {
	quotas := e.Client.CoreV1().ResourceQuotas(e.NS)
	two := resource.MustParse("2")
	create(t, e, quotas, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "two"}, Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{corev1.ResourcePods: two}},
	})
	conformance.Until(t, e, "the quota's status is calculated", func() (*corev1.ResourceQuota, error) {
		return quotas.Get(e.Ctx, "two", metav1.GetOptions{})
	}, func(q *corev1.ResourceQuota) bool { return q.Status.Hard.Pods().Cmp(two) == 0 })
	rcs := e.Client.CoreV1().ReplicationControllers(e.NS)
	create(t, e, rcs, controller("rc", 3, map[string]string{"name": "app"}))
	fails := func(yes bool) {
		conformance.Until(t, e, "the failure condition", func() (*corev1.ReplicationController, error) {
			return rcs.Get(e.Ctx, "rc", metav1.GetOptions{})
		}, func(rc *corev1.ReplicationController) bool {
			found := false
			for _, c := range rc.Status.Conditions {
				found = found || c.Type == corev1.ReplicationControllerReplicaFailure && c.Status == corev1.ConditionTrue
			}
			return rc.Status.ObservedGeneration >= rc.Generation && found == yes
		})
	}
	fails(true)
	conformance.PodsRunning(t, e, "name=app", 2)
	conformance.Update(t, e, rcs, "rc", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To(int32(2)) })
	fails(false)
}

// controllerLifecycle follows a replication controller by a watch from its creation to its deletion.
func controllerLifecycle(t *testing.T, e *conformance.Env) {
	rcs := e.Client.CoreV1().ReplicationControllers(e.NS)
	selector := metav1.ListOptions{LabelSelector: "static=" + e.NS}
	before, err := rcs.List(e.Ctx, selector)
	require.NoError(t, err)
	w := conformance.Observe[*corev1.ReplicationController](t, e, rcs.Watch, metav1.ListOptions{
		LabelSelector: selector.LabelSelector, ResourceVersion: before.ResourceVersion,
	})
	made := create(t, e, rcs, controller("rc", 1, map[string]string{"static": e.NS}))
	conformance.Revision(t, made)
	w.Next(watch.Added)
	ready := func(n int32) func(*corev1.ReplicationController) bool {
		return func(rc *corev1.ReplicationController) bool {
			return rc.Status.Replicas == n && rc.Status.ReadyReplicas == n
		}
	}
	w.Until(watch.Modified, "one pod is ready", ready(1))

	patch := func(data string, sub ...string) *corev1.ReplicationController {
		rc, err := rcs.Patch(e.Ctx, "rc", types.StrategicMergePatchType, []byte(data), metav1.PatchOptions{}, sub...)
		require.NoError(t, err)
		return rc
	}
	patched := patch(`{"metadata":{"labels":{"stage":"patched"}}}`)
	require.Equal(t, "patched", patched.Labels["stage"])
	conformance.Newer(t, patched, made)
	w.Until(watch.Modified, "the label", func(rc *corev1.ReplicationController) bool { return rc.Labels["stage"] == "patched" })

	require.Zero(t, patch(`{"status":{"readyReplicas":0,"availableReplicas":0}}`, "status").Status.ReadyReplicas)
	w.Until(watch.Modified, "the patched status", func(rc *corev1.ReplicationController) bool { return rc.Status.ReadyReplicas == 0 })
	w.Until(watch.Modified, "the controller puts the status right", ready(1))
	rc := &corev1.ReplicationController{}
	require.NoError(t, e.Client.CoreV1().RESTClient().Get().Namespace(e.NS).Resource("replicationcontrollers").Name("rc").SubResource("status").Do(e.Ctx).Into(rc))
	require.EqualValues(t, 1, rc.Status.Replicas)

	_, err = rcs.Patch(e.Ctx, "rc", types.StrategicMergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}, "scale")
	require.NoError(t, err)
	w.Until(watch.Modified, "two pods are ready", ready(2))
	rc, err = rcs.Get(e.Ctx, "rc", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", rc.Labels["stage"])
	conformance.UpdateStatus(t, e, rcs, "rc", func(rc *corev1.ReplicationController) { rc.Status.AvailableReplicas, rc.Status.ReadyReplicas = 1, 1 })
	w.Until(watch.Modified, "the updated status", func(rc *corev1.ReplicationController) bool { return rc.Status.ReadyReplicas == 1 })

	l, err := e.Client.CoreV1().ReplicationControllers("").List(e.Ctx, selector)
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.Equal(t, map[string]string{"static": e.NS, "stage": "patched"}, l.Items[0].Labels)
	require.NoError(t, rcs.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, selector))
	w.Until(watch.Deleted, "the replication controller", nil)
}
