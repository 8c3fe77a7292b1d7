//go:build linux

package runtimes

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// BenchmarkNodes starts and ends pods by way of the API server, in turns on a node with the embedded runtime and on one with a real
// containerd, which are alike otherwise: each is a keelson node, on Keelson's network. docs/benchmarks.md has the command.
func BenchmarkNodes(b *testing.B) {
	for round := range 2 {
		for _, node := range []string{ownParts, foreignRuntime} {
			b.Run(fmt.Sprintf("%s-%d", node, round+1), func(b *testing.B) {
				only(b, node)
				for b.Loop() {
					out, err := cluster.Keelson(cluster.One, "bench", "pods", "--kubeconfig", cluster.Kubeconfig,
						"--image", nodetest.Image, "--command", "sleep,infinity", "--patience", "5m")
					require.NoError(b, err)
					b.Logf("on %s\n%s", node, out)
				}
			})
		}
	}
	only(b, "")
}

// only lets new pods onto one node; "": onto all.
func only(b *testing.B, node string) {
	b.Helper()
	nodes := cluster.Client.CoreV1().Nodes()
	all, err := nodes.List(b.Context(), metav1.ListOptions{})
	require.NoError(b, err)
	for _, n := range all.Items {
		patch := fmt.Sprintf(`{"spec":{"unschedulable":%t}}`, node != "" && n.Name != node)
		_, err := nodes.Patch(b.Context(), n.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		require.NoError(b, err)
	}
}
