package architecture

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Behaviours{
		"Conformance Tests should have at least two untainted nodes": twoNodes,
	})
}

func twoNodes(t *testing.T, e *conformance.Env) {
	conformance.Eventually(t, e, "two nodes are ready for any pod", func() (bool, error) {
		l, err := e.Client.CoreV1().Nodes().List(e.Ctx, metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		ready := 0
		for _, n := range l.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue && !n.Spec.Unschedulable && len(n.Spec.Taints) == 0 {
					ready++
				}
			}
		}
		return ready >= 2, nil
	})
}
