package cache

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

func nodeOf(name, zone string, cpu int64, images ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelTopologyZone: zone, v1.LabelHostname: name}}}
	n.Status.Allocatable = v1.ResourceList{v1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI)}
	for _, image := range images {
		n.Status.Images = append(n.Status.Images, v1.ContainerImage{Names: []string{image}, SizeBytes: 1})
	}
	return n
}

func podOf(name, app string, cpu int64, anti bool) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}}}
	p.Spec.Containers = []v1.Container{{
		Name:  "c",
		Ports: []v1.ContainerPort{{HostPort: int32(cpu)}},
		Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
			v1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI), "example.com/thing": *resource.NewQuantity(cpu%3, resource.DecimalSI),
		}},
	}}
	if anti {
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
			TopologyKey: v1.LabelTopologyZone, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		}}}}
	}
	return p
}

// view is what can be seen of a snapshot, without the numbers that depend on history.
func view(s *framework.Snapshot) map[string]any {
	out := map[string]any{}
	x := s.Index()
	count := func(key string, c *framework.Counter) {
		perNode := map[string]int32{}
		for _, n := range s.Nodes() {
			if k := c.Slots()[n.Slot]; k != 0 {
				perNode[n.Name()] = k
			}
		}
		out[key] = perNode
		if len(perNode) != len(c.Slots()) {
			out[key] = "counts for nodes that are gone"
		}
		for _, label := range []string{v1.LabelTopologyZone, v1.LabelHostname} {
			topology := x.Topology(label)
			domains := map[string]int32{}
			for _, n := range s.Nodes() {
				if d := topology.Domain(n.Slot); d != framework.NoDomain {
					domains[n.Node().Labels[label]] = c.Domains(topology)[d]
				}
			}
			out[key+" by "+label] = domains
		}
	}
	x.Classes("", func(c *framework.Class) { count("class "+c.Labels.String(), &c.Counter) })
	x.Terms(framework.RequiredAntiAffinity, func(g *framework.TermGroup) { count("terms "+g.Term.Selector.String(), &g.Counter) })
	for _, image := range []string{"a", "b"} {
		out["image "+image] = x.ImageNodes(image)
	}
	for _, n := range s.Nodes() {
		ports := slices.SortedFunc(slices.Values(n.Ports), func(a, b framework.HostPort) int { return int(a.Port - b.Port) })
		uids := slices.Sorted(slices.Values(framework.UIDs(n.Pods)))
		out["node "+n.Name()] = []any{n.Node(), fmt.Sprint(n.Requested), fmt.Sprint(n.Allocatable), n.NonZeroCPU, n.NonZeroMemory, ports, uids, len(n.PodsWithAntiAffinity), len(n.PodsWithAffinity)}
	}
	return out
}

func TestSnapshotEqualsOneFromScratch(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { fromScratch(t, rand.New(rand.NewPCG(seed, 2))) })
	}
}

func fromScratch(t *testing.T, r *rand.Rand) {
	c, s := New(), framework.NewSnapshot(nil)
	nodes, pods := map[string]*v1.Node{}, map[types.UID]*v1.Pod{}
	assumed := map[types.UID]bool{}
	for range 400 {
		node := fmt.Sprint("n", r.IntN(8))
		pod := podOf(fmt.Sprint("p", r.IntN(30)), fmt.Sprint("app", r.IntN(3)), int64(1+r.IntN(100)), r.IntN(2) == 0)
		switch r.IntN(7) {
		case 0, 1:
			n := nodeOf(node, fmt.Sprint("z", r.IntN(3)), int64(r.IntN(5)*1000), []string{"a", "b"}[:r.IntN(3)]...)
			nodes[node] = n
			c.SetNode(n)
		case 2:
			if r.IntN(3) == 0 {
				delete(nodes, node)
				c.RemoveNode(node)
			}
		case 3, 4:
			pod.Spec.NodeName = node
			pods[pod.UID] = pod
			delete(assumed, pod.UID)
			c.SetPod(pod)
		case 5:
			bound, err := c.Assume(framework.NewPodInfo(pod), node)
			require.Equal(t, pods[pod.UID] != nil, err != nil)
			if err == nil {
				require.Empty(t, pod.Spec.NodeName)
				pods[pod.UID], assumed[pod.UID] = bound, true
			}
		case 6:
			gone := c.RemovePod
			if r.IntN(2) == 0 {
				gone = c.Forget
				require.Equal(t, assumed[pod.UID], c.IsAssumed(pod.UID))
			}
			if gone(pod.UID) {
				delete(pods, pod.UID)
				delete(assumed, pod.UID)
			}
		}
		if r.IntN(3) > 0 {
			continue
		}
		c.Update(s)
		fresh := New()
		for _, n := range nodes {
			fresh.SetNode(n)
		}
		for _, p := range pods {
			fresh.SetPod(p)
		}
		want := framework.NewSnapshot(nil)
		fresh.Update(want)
		require.Equal(t, view(want), view(s))
		numNodes, numPods, numAssumed := c.Sizes()
		require.Equal(t, []int{len(nodes), len(pods), len(assumed)}, []int{numNodes, numPods, numAssumed})
	}
	for uid := range maps.Clone(pods) {
		c.RemovePod(uid)
	}
	for name := range nodes {
		c.RemoveNode(name)
	}
	require.Empty(t, c.nodes)
	require.Empty(t, c.zones.names)
}

func TestOnlyChangedNodesAreCopied(t *testing.T) {
	c, s := New(), framework.NewSnapshot(nil)
	for i := range 6 {
		c.SetNode(nodeOf(fmt.Sprint("n", i), fmt.Sprint("z", i/3), 1000))
	}
	c.Update(s)
	names := func() (out []string) {
		for _, n := range s.Nodes() {
			out = append(out, n.Name())
		}
		return out
	}
	require.Equal(t, []string{"n0", "n3", "n1", "n4", "n2", "n5"}, names(), "zone by zone")
	before := slices.Clone(s.Nodes())
	_, err := c.Assume(framework.NewPodInfo(podOf("p", "a", 1, false)), "n4")
	require.NoError(t, err)
	require.Equal(t, before, s.Nodes())
	c.Update(s)
	for i, n := range s.Nodes() {
		require.Equal(t, n.Name() != "n4", n == before[i], n.Name())
	}
	require.Len(t, s.Node("n4").Pods, 1)
	require.Empty(t, before[3].Pods, "old information is left alone")
	info, node := c.Pod("p")
	require.Equal(t, "n4", node)
	require.Equal(t, "n4", info.Pod.Spec.NodeName)
}

func TestPodsOfMissingNode(t *testing.T) {
	c, s := New(), framework.NewSnapshot(nil)
	p := podOf("p", "a", 5, false)
	p.Spec.NodeName = "n"
	c.SetPod(p)
	c.Update(s)
	require.Empty(t, s.Nodes())
	c.SetNode(nodeOf("n", "z", 1000))
	c.Update(s)
	require.Equal(t, int64(5), s.Node("n").Requested.MilliCPU)
	c.RemoveNode("n")
	c.Update(s)
	require.Nil(t, s.Node("n"))
	c.SetNode(nodeOf("n", "z2", 1000))
	c.Update(s)
	require.Len(t, s.Node("n").Pods, 1)
}
