package policy

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/network/nft"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

// BenchmarkPodComes is what one pod of another node costs a node of 110 pods, in a cluster of 5000 pods and 150 policies.
func BenchmarkPodComes(b *testing.B) {
	s := newState(dnsAddrs)
	c := chance{rand.New(rand.NewPCG(1, 1))}
	namespace := func(i int) string { return fmt.Sprint("ns", i%50) }
	pod := func(i int) *corev1.Pod {
		p := c.pod(0)
		p.ObjectMeta = metav1.ObjectMeta{Namespace: namespace(i), Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), Labels: c.labels("app", "tier")}
		p.Spec.HostNetwork, p.Status.Phase = false, corev1.PodRunning
		p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.%d.%d.2", i>>8, i&255)}, {IP: fmt.Sprintf("fd00::%x", i+1)}}
		return p
	}
	for i := range 50 {
		s.setNamespace(namespace(i), map[string]string{"team": c.of("1", "2")})
		for j := range 3 {
			s.setPolicy(c.policy(namespace(i), fmt.Sprint(j)))
		}
	}
	for i := range 5000 {
		p := pod(i)
		s.setPod(p)
		if i < 110 {
			x := sandboxOf(p)
			x.ID, x.Link = p.Name, fmt.Sprint("kpod", i)
			s.attach(x)
		}
	}
	ns := testkit.NewNetNS(b)
	f, err := os.Open(ns.Path())
	require.NoError(b, err)
	defer func() { _ = f.Close() }()
	w := nft.NewWriter(TableName, int(f.Fd()))
	require.NoError(b, w.Sync(s.table()))
	n := 5000
	t := s.table()
	elements := 0
	for _, x := range t.Sets {
		elements += len(x.Elements)
	}
	b.Logf("%d chains, %d sets, %d elements", len(t.Chains), len(t.Sets), elements)
	b.Run("table", func(b *testing.B) {
		for b.Loop() {
			n++
			s.setPod(pod(n))
			s.table()
		}
	})
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			n++
			s.setPod(pod(n))
			require.NoError(b, w.Sync(s.table()))
		}
	})
	b.Run("check", func(b *testing.B) {
		other := nft.NewWriter("other", int(f.Fd()))
		for b.Loop() {
			require.NoError(b, other.Remove())
			repaired, err := w.Check()
			require.NoError(b, err)
			require.False(b, repaired)
		}
	})
	b.Run("attach", func(b *testing.B) {
		for b.Loop() {
			n++
			p := podnet.Pod{ID: "new", Namespace: "ns1", Name: "new", UID: fmt.Sprint(n), Link: "kpodnew"}
			s.attach(p)
			require.NoError(b, w.Sync(s.table()))
			s.forget("new")
		}
	})
}
