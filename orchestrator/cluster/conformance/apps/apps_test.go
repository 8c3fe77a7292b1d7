package apps

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

const (
	image, nextImage = "registry.example/app:1", "registry.example/app:2"
	// neverReady is the annotation of pods of hollow nodes that keeps them from becoming ready, as a missing image would.
	neverReady = "hollow.keelson.io/never-ready"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, deployments(), replicaSets(), replicationControllers(), disruptionBudgets(), cronJobs(), jobs(), statefulSets(), daemonSets())
}

func template(labels map[string]string, image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(labels)},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To(int64(0)), Containers: []corev1.Container{{Name: "app", Image: image}},
		},
	}
}

func replicaSet(name string, replicas int32, labels map[string]string) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(labels)},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: maps.Clone(labels)}, Template: template(labels, image),
		},
	}
}

func deployment(name string, replicas int32, labels map[string]string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: maps.Clone(labels)},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: maps.Clone(labels)}, Template: template(labels, image),
		},
	}
}

func pod(name string, labels map[string]string) *corev1.Pod {
	t := template(labels, image)
	p := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
	p.Name = name
	return p
}

// create makes an object and requires that it could be made.
func create[T any](t *testing.T, e *conformance.Env, c interface {
	Create(ctx context.Context, x T, o metav1.CreateOptions) (T, error)
}, x T) T {
	t.Helper()
	x, err := c.Create(e.Ctx, x, metav1.CreateOptions{})
	require.NoError(t, err)
	return x
}

// scales reads, updates and patches the scale of an object of group apps with one replica.
func scales(t *testing.T, e *conformance.Env, resource, name string) {
	t.Helper()
	c := e.Dynamic(t).Resource(appsv1.SchemeGroupVersion.WithResource(resource)).Namespace(e.NS)
	number := func(u *unstructured.Unstructured, fields ...string) int64 {
		n, _, err := unstructured.NestedInt64(u.Object, fields...)
		require.NoError(t, err)
		return n
	}
	wanted := func(want int64) {
		t.Helper()
		u, err := c.Get(e.Ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, want, number(u, "spec", "replicas"))
	}
	s, err := c.Get(e.Ctx, name, metav1.GetOptions{}, "scale")
	require.NoError(t, err)
	require.Equal(t, autoscalingv1.SchemeGroupVersion.WithKind("Scale"), s.GroupVersionKind())
	require.EqualValues(t, 1, number(s, "spec", "replicas"))
	require.EqualValues(t, 1, number(s, "status", "replicas"))
	s.SetResourceVersion("") // whatever has changed since
	require.NoError(t, unstructured.SetNestedField(s.Object, int64(2), "spec", "replicas"))
	s, err = c.Update(e.Ctx, s, metav1.UpdateOptions{}, "scale")
	require.NoError(t, err)
	require.EqualValues(t, 2, number(s, "spec", "replicas"))
	wanted(2)
	_, err = c.Patch(e.Ctx, name, types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}, "scale")
	require.NoError(t, err)
	wanted(4)
}

// statusConditions reads the status of an object of group apps, gives it conditions by an update and by a patch, and sees both
// by a watch.
func statusConditions(t *testing.T, e *conformance.Env, resource, name string) {
	t.Helper()
	c := e.Dynamic(t).Resource(appsv1.SchemeGroupVersion.WithResource(resource)).Namespace(e.NS)
	u, err := c.Get(e.Ctx, name, metav1.GetOptions{}, "status")
	require.NoError(t, err)
	require.NotNil(t, u.Object["status"])
	w := conformance.Observe[*unstructured.Unstructured](t, e, c.Watch, metav1.ListOptions{FieldSelector: "metadata.name=" + name, ResourceVersion: u.GetResourceVersion()})
	seen := func(u *unstructured.Unstructured, want string) {
		t.Helper()
		has := func(u *unstructured.Unstructured) bool {
			all, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
			require.NoError(t, err)
			return slices.ContainsFunc(all, func(c any) bool { return c.(map[string]any)["type"] == want })
		}
		require.True(t, has(u))
		w.Until(watch.Modified, want, has)
	}
	require.NoError(t, retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if u, err = c.Get(e.Ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		all, _, err := unstructured.NestedSlice(u.Object, "status", "conditions")
		require.NoError(t, err)
		all = append(all, map[string]any{"type": "StatusUpdate", "status": "True", "reason": "Test", "message": "set by the test"})
		require.NoError(t, unstructured.SetNestedSlice(u.Object, all, "status", "conditions"))
		u, err = c.Update(e.Ctx, u, metav1.UpdateOptions{}, "status")
		return err
	}))
	seen(u, "StatusUpdate")
	u, err = c.Patch(e.Ctx, name, types.MergePatchType, []byte(`{"status":{"conditions":[{"type":"StatusPatched","status":"True"}]}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	seen(u, "StatusPatched")
}

// adopted waits until a pod has a controller, or is gone.
func adopted(t *testing.T, e *conformance.Env, name string, uid types.UID) {
	t.Helper()
	conformance.Eventually(t, e, "pod "+name+" is adopted", func() (bool, error) {
		p, err := e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return metav1.IsControlledBy(p, &metav1.ObjectMeta{UID: uid}), nil
	})
}

// released changes the labels of a pod, and waits until the pod has no controller.
func released(t *testing.T, e *conformance.Env, name string) {
	t.Helper()
	pods := e.Client.CoreV1().Pods(e.NS)
	conformance.Update(t, e, pods, name, func(p *corev1.Pod) { p.Labels = map[string]string{"name": "not-matching"} })
	conformance.Eventually(t, e, "pod "+name+" is released", func() (bool, error) {
		p, err := pods.Get(e.Ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return metav1.GetControllerOfNoCopy(p) == nil && p.DeletionTimestamp == nil, nil
	})
}
