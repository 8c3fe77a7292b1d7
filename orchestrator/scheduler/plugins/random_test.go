package plugins

import (
	"fmt"
	"math/rand/v2"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
	"github.com/keelson-io/keelson/orchestrator/scheduler/storage"
)

// testCluster has namespaces with labels, one selector for the owners of all pods, and budgets.
type testCluster struct {
	namespaces map[string]labels.Set
	owner      labels.Selector
	budgets    []*policyv1.PodDisruptionBudget
	storage    *storage.Table
}

func (c *testCluster) NamespaceLabels(ns string) labels.Set { return c.namespaces[ns] }

func (c *testCluster) OwnerSelector(*v1.Pod) labels.Selector {
	if c.owner == nil {
		return labels.NewSelector()
	}
	return c.owner
}

func (c *testCluster) Budgets() []*policyv1.PodDisruptionBudget { return c.budgets }

func (c *testCluster) Storage() *storage.Table {
	if c.storage == nil {
		c.storage = storage.New()
	}
	return c.storage
}

const (
	zoneKey = v1.LabelTopologyZone
	rackKey = "rack"
)

// maker makes random objects of few different kinds, so that they often have to do with one another.
type maker struct{ *rand.Rand }

func newMaker(seed uint64) maker { return maker{rand.New(rand.NewPCG(seed, 7))} }

func (m maker) chance(percent int) bool { return m.IntN(100) < percent }

func pick[T any](m maker, of ...T) T { return of[m.IntN(len(of))] }

func (m maker) cluster() *testCluster {
	return &testCluster{namespaces: map[string]labels.Set{"default": {"team": "a"}, "other": {"team": "b"}, "bare": {}}}
}

func (m maker) namespace() string { return pick(m, "default", "default", "other", "bare", "ghost") }

// nodes makes nodes of which some lack labels, some have taints, and two may share a host name.
func (m maker) nodes(n int) []*v1.Node {
	out := make([]*v1.Node, n)
	for i := range out {
		node := newNode(fmt.Sprintf("n%d", i))
		if m.chance(90) {
			node.Labels[zoneKey] = pick(m, "z1", "z2", "z3")
		}
		if m.chance(80) {
			node.Labels[rackKey] = pick(m, "r1", "r2")
		}
		if m.chance(10) {
			node.Labels[v1.LabelHostname] = "n0"
		}
		if m.chance(5) {
			delete(node.Labels, v1.LabelHostname)
		}
		if m.chance(20) {
			node.Spec.Taints = []v1.Taint{{Key: "t", Effect: pick(m, v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute, v1.TaintEffectPreferNoSchedule)}}
		}
		out[i] = node
	}
	return out
}

func (m maker) labels() set {
	out := set{}
	for _, k := range []string{"app", "tier"} {
		if m.chance(75) {
			out[k] = pick(m, "x", "y")
		}
	}
	return out
}

func (m maker) selector(keys ...string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch m.IntN(8) {
	case 0:
		return nil
	case 1:
		return s
	}
	for _, k := range keys {
		switch m.IntN(5) {
		case 0, 1:
			s.MatchLabels = map[string]string{k: pick(m, "x", "y")}
		case 2:
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: pick(m, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)})
		case 3:
			s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"x"}})
		}
	}
	return s
}

func (m maker) topologyKey() string { return pick(m, zoneKey, rackKey, v1.LabelHostname, "nowhere") }

func (m maker) term() v1.PodAffinityTerm {
	t := v1.PodAffinityTerm{LabelSelector: m.selector("app", "tier"), TopologyKey: m.topologyKey()}
	if m.chance(30) {
		t.Namespaces = []string{m.namespace()}
	}
	if m.chance(30) {
		t.NamespaceSelector = pick(m, &metav1.LabelSelector{}, &metav1.LabelSelector{MatchLabels: set{"team": "b"}},
			&metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpExists}}})
	}
	return t
}

func (m maker) terms() (out []v1.PodAffinityTerm) {
	for m.chance(45) && len(out) < 3 {
		out = append(out, m.term())
	}
	return out
}

func (m maker) weightedTerms() (out []v1.WeightedPodAffinityTerm) {
	for m.chance(40) && len(out) < 3 {
		out = append(out, v1.WeightedPodAffinityTerm{Weight: int32(1 + m.IntN(100)), PodAffinityTerm: m.term()})
	}
	return out
}

func (m maker) affinity() *v1.Affinity {
	if m.chance(40) {
		return nil
	}
	return &v1.Affinity{
		PodAffinity:     &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: m.terms(), PreferredDuringSchedulingIgnoredDuringExecution: m.weightedTerms()},
		PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: m.terms(), PreferredDuringSchedulingIgnoredDuringExecution: m.weightedTerms()},
	}
}

func (m maker) constraints() (out []v1.TopologySpreadConstraint) {
	for m.chance(75) && len(out) < 3 {
		c := v1.TopologySpreadConstraint{
			MaxSkew: int32(1 + m.IntN(3)), TopologyKey: m.topologyKey(), LabelSelector: m.selector("app", "tier"),
			WhenUnsatisfiable: pick(m, v1.DoNotSchedule, v1.ScheduleAnyway),
		}
		if c.WhenUnsatisfiable == v1.DoNotSchedule && m.chance(25) {
			c.MinDomains = ptr.To(int32(1 + m.IntN(4)))
		}
		if m.chance(30) {
			c.NodeAffinityPolicy = ptr.To(pick(m, v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore))
		}
		if m.chance(30) {
			c.NodeTaintsPolicy = ptr.To(pick(m, v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore))
		}
		if m.chance(20) {
			c.MatchLabelKeys = []string{pick(m, "app", "tier", "none")}
		}
		out = append(out, c)
	}
	return out
}

// pod makes a pod; onto may be "".
func (m maker) pod(name, node string) *v1.Pod {
	p := newPod(name, onto(node), inNamespace(m.namespace()))
	p.Labels, p.Spec.Affinity = m.labels(), m.affinity()
	p.Spec.TopologySpreadConstraints = m.constraints()
	if m.chance(25) {
		p.Spec.NodeSelector = map[string]string{rackKey: pick(m, "r1", "r2")}
	}
	if m.chance(30) {
		p.Spec.Tolerations = []v1.Toleration{{Key: "t", Operator: v1.TolerationOpExists}}
	}
	if node != "" && m.chance(10) {
		p.DeletionTimestamp = ptr.To(metav1.Unix(1, 0))
	}
	return p
}

// pods makes pods on random nodes.
func (m maker) pods(n int, nodes []*v1.Node) []*v1.Pod {
	out := make([]*v1.Pod, n)
	for i := range out {
		out[i] = m.pod(fmt.Sprintf("p%d", i), pick(m, nodes...).Name)
	}
	return out
}

// change takes some pods from a node and puts some others on it, and tells the plugin.
func (m maker) change(p framework.PodChanges, state *framework.CycleState, pod *framework.PodInfo, node *framework.NodeInfo, more []*v1.Pod) *framework.NodeInfo {
	node = node.Clone()
	for _, victim := range append([]*framework.PodInfo(nil), node.Pods...) {
		if m.chance(50) {
			node.RemovePod(victim.UID())
			p.RemovePod(state, pod, victim, node)
			if m.chance(30) {
				node.AddPod(victim)
				p.AddPod(state, pod, victim, node)
			}
		}
	}
	for _, extra := range more {
		in := info(extra)
		node.AddPod(in)
		p.AddPod(state, pod, in, node)
	}
	return node
}
