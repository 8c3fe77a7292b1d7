package apps

import (
	"context"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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

// scales reads, updates and patches the scale of an object with one replica. replicas gets what its spec says.
func scales(t *testing.T, e *conformance.Env, c interface {
	GetScale(ctx context.Context, name string, o metav1.GetOptions) (*autoscalingv1.Scale, error)
	UpdateScale(ctx context.Context, name string, s *autoscalingv1.Scale, o metav1.UpdateOptions) (*autoscalingv1.Scale, error)
}, name string, patch func(data []byte) error, replicas func() (int32, error)) {
	t.Helper()
	s, err := c.GetScale(e.Ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 1, s.Spec.Replicas)
	require.EqualValues(t, 1, s.Status.Replicas)
	s.ResourceVersion = "" // whatever has changed since
	s.Spec.Replicas = 2
	s, err = c.UpdateScale(e.Ctx, name, s, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 2, s.Spec.Replicas)
	n, err := replicas()
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	require.NoError(t, patch([]byte(`{"spec":{"replicas":4}}`)))
	n, err = replicas()
	require.NoError(t, err)
	require.EqualValues(t, 4, n)
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
