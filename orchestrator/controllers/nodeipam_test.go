package controllers

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNodeRanges(t *testing.T) {
	node := func(name string, ranges ...string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDRs: ranges}}
	}
	w := newWorld(t, node("a", "10.42.0.0/24", "fd00::/64"), node("b"), node("c"))
	c, err := NewNodeIPAM(w.client, w.factory, w.events, nil,
		NodeRange{netip.MustParsePrefix("10.42.0.0/22"), 24}, NodeRange{netip.MustParsePrefix("fd00::/56"), 64})
	require.NoError(t, err)
	w.run(c)
	ranges := func(names ...string) (out []string) {
		t.Helper()
		eventually(t, func() error {
			out = nil
			for _, name := range names {
				n, err := w.client.CoreV1().Nodes().Get(w.ctx, name, metav1.GetOptions{})
				if err != nil || len(n.Spec.PodCIDRs) != 2 {
					return fmt.Errorf("%s: %v, %w", name, n.Spec.PodCIDRs, err)
				}
				out = append(out, n.Spec.PodCIDRs...)
			}
			return nil
		})
		slices.Sort(out)
		return out
	}
	require.Equal(t, []string{"10.42.0.0/24", "10.42.1.0/24", "10.42.2.0/24", "fd00:0:0:1::/64", "fd00:0:0:2::/64", "fd00::/64"}, ranges("a", "b", "c"))

	// The fifth node waits until one of four goes.
	for _, name := range []string{"d", "e"} {
		_, err := w.client.CoreV1().Nodes().Create(w.ctx, node(name), metav1.CreateOptions{})
		require.NoError(t, err)
		if name == "d" {
			ranges("d")
		}
	}
	require.Contains(t, <-w.events.Events, "CIDRNotAvailable")
	b := ranges("b")
	require.NoError(t, w.client.CoreV1().Nodes().Delete(w.ctx, "b", metav1.DeleteOptions{}))
	require.Equal(t, b[0], ranges("e")[0])

	_, err = NewNodeIPAM(w.client, w.factory, w.events, nil, NodeRange{netip.MustParsePrefix("10.0.0.0/24"), 22})
	require.Error(t, err)
}
