package extension

import (
	"testing"

	"github.com/stretchr/testify/require"
	registration "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// connections are behaviours of admission webhooks with connections.
func connections() conformance.Behaviours {
	return conformance.Behaviours{
		"AdmissionWebhook should be able to deny attaching pod": denyAttach,
	}
}

func denyAttach(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	h.validate("", h.validating("deny-attaching-pod", "/pods/attach", rules("pods/attach", registration.Connect)))
	pods := e.Client.CoreV1().Pods(e.NS)
	_, err := pods.Create(e.Ctx, pod(attachPod, "container1", nil), metav1.CreateOptions{})
	require.NoError(t, err)
	poll(t, e.Ctx, func() (bool, error) {
		p, err := pods.Get(e.Ctx, attachPod, metav1.GetOptions{})
		return err == nil && p.Status.Phase == corev1.PodRunning, err
	})
	_, err = kubectl(t, e, "attach", attachPod, "-i", "-c=container1")
	require.ErrorContains(t, err, "attaching to pod '"+attachPod+"' is not allowed")
	_, err = kubectl(t, e, "attach", attachPod, "-c=container1")
	require.Error(t, err, "simulated nodes serve no streams")
	require.NotContains(t, err.Error(), "denied", "the webhook is about standard input")
}
