package plugins

import (
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

const (
	podAffinityFilterKey framework.StateKey = "PreFilter" + config.InterPodAffinity
	podAffinityScoreKey  framework.StateKey = "PreScore" + config.InterPodAffinity
)

// interPodAffinity keeps pods near to, and away from, other pods. A domain is good for a pod if it has, for every
// term of its required affinity, a pod that matches all of them, or if no such pod exists and the pod would be the
// first; if it has no pod that matches a term of its required anti-affinity; and if no pod in it has such a term
// that matches the pod.
type interPodAffinity struct {
	hardWeight      int64
	ignorePreferred bool
	far             *framework.Status
	near            *framework.Status
	unwelcome       *framework.Status
}

func newInterPodAffinity(a *config.InterPodAffinityArgs) *interPodAffinity {
	return &interPodAffinity{
		hardWeight:      int64(*a.HardPodAffinityWeight),
		ignorePreferred: a.IgnorePreferredTermsOfExistingPods,
		far:             reject(config.InterPodAffinity, framework.UnschedulableAndUnresolvable, "node(s) didn't match pod affinity rules"),
		near:            reject(config.InterPodAffinity, framework.Unschedulable, "node(s) didn't match pod anti-affinity rules"),
		unwelcome:       reject(config.InterPodAffinity, framework.Unschedulable, "node(s) didn't satisfy existing pods anti-affinity rules"),
	}
}

func (*interPodAffinity) Name() string { return config.InterPodAffinity }

// podAffinityState counts, for the topologies of the terms, the pods that the terms match.
type podAffinityState struct {
	scope           scope
	pod             *framework.PodInfo
	namespaceLabels labels.Set
	// friends match all terms of required affinity; total is the sum over all their topologies.
	friends []tally
	total   int32
	// first is true if the pod matches its own affinity.
	first bool
	// foes match a term of required anti-affinity, haters have such a term that matches the pod.
	foes   []tally
	haters []tally
	// unknown are haters by topologies that the index did not count when the attempt began.
	unknown []labelCount
}

type labelCount struct {
	key, value string
	n          int32
}

func (s *podAffinityState) Clone() framework.StateData {
	c := *s
	c.friends, c.foes, c.haters = cloneTallies(s.friends), cloneTallies(s.foes), cloneTallies(s.haters)
	c.unknown = slices.Clone(s.unknown)
	return &c
}

// PreFilter counts. It skips pods that have no required terms and that no pod hates.
func (*interPodAffinity) PreFilter(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	if pod.Err != nil {
		return nil, reject(config.InterPodAffinity, framework.UnschedulableAndUnresolvable, fmt.Sprintf("parsing pod: %+v", pod.Err))
	}
	terms := &pod.Terms
	x := s.Index()
	if len(terms.RequiredAffinity)+len(terms.RequiredAntiAffinity) == 0 && !x.HasTerms(framework.RequiredAntiAffinity) {
		return nil, skip()
	}
	d := &podAffinityState{scope: scope{s.Cluster}, pod: pod, namespaceLabels: s.Cluster.NamespaceLabels(pod.Pod.Namespace)}
	x.Terms(framework.RequiredAntiAffinity, func(g *framework.TermGroup) {
		if g.Term.Matches(pod.Pod.Namespace, pod.Pod.Labels, d.namespaceLabels) {
			tallyOf(&d.haters, x.Topology(g.Term.TopologyKey)).count(&g.Counter)
		}
	})
	if len(terms.RequiredAffinity)+len(terms.RequiredAntiAffinity)+len(d.haters) == 0 {
		return nil, skip()
	}
	d.countFoes(x)
	d.countFriends(x)
	state.Write(podAffinityFilterKey, d)
	return nil, nil
}

func (s *podAffinityState) countFoes(x *framework.Index) {
	terms := s.pod.Terms.RequiredAntiAffinity
	for i := range terms {
		t := tallyOf(&s.foes, x.Topology(terms[i].TopologyKey))
		s.scope.classes(x, &terms[i], func(c *framework.Class) {
			if terms[i].Selector.Matches(c.Labels) {
				t.count(&c.Counter)
			}
		})
	}
}

func (s *podAffinityState) countFriends(x *framework.Index) {
	terms := s.pod.Terms.RequiredAffinity
	if len(terms) == 0 {
		return
	}
	for i := range terms {
		tallyOf(&s.friends, x.Topology(terms[i].TopologyKey))
	}
	s.first = s.scope.matchesAll(terms, s.pod.Pod.Namespace, s.pod.Pod.Labels)
	s.scope.classes(x, &terms[0], func(c *framework.Class) {
		if s.scope.matchesAll(terms, c.Namespace, c.Labels) {
			for i := range s.friends {
				s.friends[i].count(&c.Counter)
			}
		}
	})
	for i := range s.friends {
		for _, n := range s.friends[i].counts {
			s.total += n
		}
	}
}

func (*interPodAffinity) AddPod(state *framework.CycleState, _, added *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	framework.Data[*podAffinityState](state, podAffinityFilterKey).change(added, node, 1)
	return nil
}

func (*interPodAffinity) RemovePod(state *framework.CycleState, _, removed *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	framework.Data[*podAffinityState](state, podAffinityFilterKey).change(removed, node, -1)
	return nil
}

// change counts a pod that came to, or left, a node.
func (s *podAffinityState) change(p *framework.PodInfo, node *framework.NodeInfo, by int32) {
	if s == nil {
		return
	}
	for i := range p.Terms.RequiredAntiAffinity {
		if t := &p.Terms.RequiredAntiAffinity[i]; t.Matches(s.pod.Pod.Namespace, s.pod.Pod.Labels, s.namespaceLabels) {
			s.changeHater(t.TopologyKey, node, by)
		}
	}
	terms := s.pod.Terms.RequiredAntiAffinity
	for i := range terms {
		if s.scope.matches(&terms[i], p.Pod.Namespace, p.Pod.Labels) {
			changeTally(s.foes, terms[i].TopologyKey, node, by)
		}
	}
	if s.scope.matchesAll(s.pod.Terms.RequiredAffinity, p.Pod.Namespace, p.Pod.Labels) {
		for i := range s.friends {
			if d := s.friends[i].topology.Domain(node.Slot); d != framework.NoDomain {
				s.friends[i].change(d, by)
				s.total += by
			}
		}
	}
}

// changeTally returns false if there is no tally for the key.
func changeTally(tallies []tally, key string, node *framework.NodeInfo, by int32) bool {
	for i := range tallies {
		if t := &tallies[i]; t.topology.Key == key {
			if d := t.topology.Domain(node.Slot); d != framework.NoDomain {
				t.change(d, by)
			}
			return true
		}
	}
	return false
}

func (s *podAffinityState) changeHater(key string, node *framework.NodeInfo, by int32) {
	if changeTally(s.haters, key, node, by) {
		return
	}
	value, ok := node.Node().Labels[key]
	if !ok {
		return
	}
	for i := range s.unknown {
		if s.unknown[i].key == key && s.unknown[i].value == value {
			s.unknown[i].n += by
			return
		}
	}
	s.unknown = append(s.unknown, labelCount{key, value, by})
}

func (p *interPodAffinity) Filter(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := framework.Data[*podAffinityState](state, podAffinityFilterKey)
	switch {
	case len(s.friends) > 0 && !s.hasFriends(node):
		return p.far
	case anyAt(s.foes, node.Slot):
		return p.near
	case anyAt(s.haters, node.Slot):
		return p.unwelcome
	}
	for i := range s.unknown {
		if v, ok := node.Node().Labels[s.unknown[i].key]; ok && v == s.unknown[i].value && s.unknown[i].n > 0 {
			return p.unwelcome
		}
	}
	return nil
}

func (s *podAffinityState) hasFriends(node *framework.NodeInfo) bool {
	everywhere := true
	for i := range s.friends {
		d := s.friends[i].topology.Domain(node.Slot)
		if d == framework.NoDomain {
			return false
		}
		everywhere = everywhere && s.friends[i].at(d) > 0
	}
	return everywhere || s.total == 0 && s.first
}

func anyAt(tallies []tally, slot int32) bool {
	for i := range tallies {
		if d := tallies[i].topology.Domain(slot); d != framework.NoDomain && tallies[i].at(d) > 0 {
			return true
		}
	}
	return false
}
