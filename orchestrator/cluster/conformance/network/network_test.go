package network

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	// Nobody goes to the address, but it could be one of other machines' ways to the API server, which a loopback address is not.
	advertised := []clustertest.Option{clustertest.Advertise("192.0.2.1")}
	conformance.TestWith(t, advertised, apiServer(), endpoints(), endpointSlices(), services(), ingresses(), addresses(), latency())
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

func service(name string, selector map[string]string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Selector: selector, PublishNotReadyAddresses: true, Ports: ports},
	}
}

func serverPod(name string, labels map[string]string, ports ...corev1.ContainerPort) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: "registry.example/app:1", Ports: ports}}},
	}
}
