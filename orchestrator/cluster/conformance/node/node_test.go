package node

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, configMaps(), secrets(), leases(), podTemplates(), runtimeClasses(), pods(), generations(), nodes(), taints())
}

const image, nextImage = "registry.example/app:1", "registry.example/app:2"

// stopFor is the annotation of pods of hollow nodes that says how long they take to stop.
const stopFor = "hollow.keelson.io/stop-for"

// create makes an object and requires that it could be made.
func create[T any](t *testing.T, e *conformance.Env, c interface {
	Create(ctx context.Context, x T, o metav1.CreateOptions) (T, error)
}, x T) T {
	t.Helper()
	x, err := c.Create(e.Ctx, x, metav1.CreateOptions{})
	require.NoError(t, err)
	return x
}

func pod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}},
	}
}

// start makes a pod and waits until it runs.
func start(t *testing.T, e *conformance.Env, p *corev1.Pod) *corev1.Pod {
	t.Helper()
	create(t, e, e.Client.CoreV1().Pods(e.NS), p)
	return conformance.PodRunning(t, e, e.NS, p.Name)
}
