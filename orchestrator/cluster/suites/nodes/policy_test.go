//go:build linux

package nodes

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// TestPolicy isolates a server on one node from clients on both: only those with a label reach it, wherever they are.
func TestPolicy(t *testing.T) {
	ns := cluster.Namespace(t)
	served := cluster.Started(t, ns, on("one", server("guarded")))
	url := "http://" + served.Status.PodIP + ":8080/"
	for _, node := range []string{"one", "two"} {
		for _, friend := range []string{"friend", "stranger"} {
			pod := on(node, nodetest.Pod(friend+"-"+node, "sleep", "infinity"))
			pod.Labels["is"] = friend
			cluster.Started(t, ns, pod)
		}
	}
	may := func(pod string) (bool, error) {
		out, err := cluster.TryExec(t.Context(), ns, pod, "main", "get", "-timeout", "1s", url)
		return out == "guarded\n", err
	}
	all := []string{"friend-one", "friend-two", "stranger-one", "stranger-two"}
	for _, pod := range all {
		ok, err := may(pod)
		require.True(t, ok, "%s: %v", pod, err)
	}
	_, err := cluster.Client.NetworkingV1().NetworkPolicies(ns).Create(t.Context(), &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "friends"},
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}},
			Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{
				PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"is": "friend"}},
			}}}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	for _, pod := range all {
		nodetest.Until(t, "the policy holds for "+pod, func() (bool, any) {
			ok, err := may(pod)
			return ok == strings.HasPrefix(pod, "friend"), err
		})
	}
	require.NoError(t, cluster.Client.NetworkingV1().NetworkPolicies(ns).Delete(t.Context(), "friends", metav1.DeleteOptions{}))
	for _, pod := range all {
		nodetest.Until(t, pod+" may again", func() (bool, any) { ok, err := may(pod); return ok, err })
	}
}
