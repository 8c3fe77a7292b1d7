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

// deploymentLifecycle follows a deployment by a watch from its creation to its deletion.
func deploymentLifecycle(t *testing.T, e *conformance.Env) {
	deployments := e.Client.AppsV1().Deployments(e.NS)
	selector := "static=" + e.NS
	before, err := e.Client.AppsV1().Deployments("").List(e.Ctx, metav1.ListOptions{LabelSelector: selector})
	require.NoError(t, err)
	require.Empty(t, before.Items)
	w := conformance.Observe[*appsv1.Deployment](t, e, deployments.Watch, metav1.ListOptions{LabelSelector: selector, ResourceVersion: before.ResourceVersion})
	create(t, e, deployments, deployment("app", 2, map[string]string{"static": e.NS}))
	w.Until(watch.Added, "the deployment", nil)
	w.Until(watch.Modified, "both pods are ready", func(d *appsv1.Deployment) bool { return d.Status.ReadyReplicas == 2 })

	_, err = deployments.Patch(e.Ctx, "app", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}},"spec":{"replicas":1,"template":{"spec":{
		"terminationGracePeriodSeconds":2,"containers":[{"name":"app","image":"`+nextImage+`"}]}}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	w.Until(watch.Modified, "the patched deployment is rolled out", func(d *appsv1.Deployment) bool {
		return d.Labels["stage"] == "patched" && settled(d, 1, nextImage) && *d.Spec.Template.Spec.TerminationGracePeriodSeconds == 2
	})
	l, err := e.Client.AppsV1().Deployments("").List(e.Ctx, metav1.ListOptions{LabelSelector: selector})
	require.NoError(t, err)
	require.Len(t, l.Items, 1)

	conformance.Update(t, e, deployments, "app", func(d *appsv1.Deployment) {
		d.Labels["stage"] = "updated"
		d.Spec.Replicas, d.Spec.Template.Spec.Containers[0].Image = ptr.To(int32(2)), image
	})
	d := deploymentAtStatus(t, e, "app")
	require.Equal(t, image, d.Spec.Template.Spec.Containers[0].Image)
	require.Equal(t, "updated", d.Labels["stage"])
	w.Until(watch.Modified, "the updated deployment is rolled out", func(d *appsv1.Deployment) bool { return settled(d, 2, image) })

	_, err = deployments.Patch(e.Ctx, "app", types.StrategicMergePatchType, []byte(`{"status":{"readyReplicas":0,"availableReplicas":0}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	w.Until(watch.Modified, "the patched status", func(d *appsv1.Deployment) bool {
		return d.Status.ReadyReplicas == 0 && d.Status.AvailableReplicas == 0
	})
	require.Equal(t, image, deploymentAtStatus(t, e, "app").Spec.Template.Spec.Containers[0].Image)
	w.Until(watch.Modified, "the controller puts the status right", func(d *appsv1.Deployment) bool { return settled(d, 2, image) })

	require.NoError(t, deployments.DeleteCollection(e.Ctx, metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(1))}, metav1.ListOptions{LabelSelector: selector}))
	w.Until(watch.Deleted, "the deployment", nil)
}

// settled tells whether just so many pods run, all of an image.
func settled(d *appsv1.Deployment, replicas int32, image string) bool {
	return d.Status.ReadyReplicas == replicas && d.Status.UpdatedReplicas == replicas && d.Status.UnavailableReplicas == 0 &&
		d.Spec.Template.Spec.Containers[0].Image == image
}

// deploymentAtStatus gets a deployment by its status subresource.
func deploymentAtStatus(t *testing.T, e *conformance.Env, name string) *appsv1.Deployment {
	t.Helper()
	d := &appsv1.Deployment{}
	require.NoError(t, e.Client.AppsV1().RESTClient().Get().Namespace(e.NS).Resource("deployments").Name(name).SubResource("status").Do(e.Ctx).Into(d))
	return d
}
