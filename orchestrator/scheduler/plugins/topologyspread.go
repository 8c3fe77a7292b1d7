package plugins

import (
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

const (
	spreadFilterKey framework.StateKey = "PreFilter" + config.PodTopologySpread
	spreadScoreKey  framework.StateKey = "PreScore" + config.PodTopologySpread
)

// podTopologySpread keeps the numbers of a pod's like even over the domains of topologies: those of hard constraints
// may not exceed the smallest by more than the constraint's skew, soft ones make scores. Pods without constraints of
// their own get the default ones, for the pods of the same owner.
type podTopologySpread struct {
	defaults []v1.TopologySpreadConstraint
	// system is true for Kubernetes' own defaults, which put up with nodes without the labels.
	system    bool
	uneven    *framework.Status
	unlabeled *framework.Status
}

func newPodTopologySpread(a *config.PodTopologySpreadArgs) *podTopologySpread {
	const uneven = "node(s) didn't match pod topology spread constraints"
	p := &podTopologySpread{
		defaults:  a.DefaultConstraints,
		uneven:    reject(config.PodTopologySpread, framework.Unschedulable, uneven),
		unlabeled: reject(config.PodTopologySpread, framework.UnschedulableAndUnresolvable, uneven+" (missing required label)"),
	}
	if a.DefaultingType == config.SystemDefaulting {
		p.system = true
		p.defaults = []v1.TopologySpreadConstraint{
			{TopologyKey: v1.LabelHostname, WhenUnsatisfiable: v1.ScheduleAnyway, MaxSkew: 3},
			{TopologyKey: v1.LabelTopologyZone, WhenUnsatisfiable: v1.ScheduleAnyway, MaxSkew: 5},
		}
	}
	return p
}

func (*podTopologySpread) Name() string { return config.PodTopologySpread }

// spreadConstraint is a parsed constraint of one pod.
type spreadConstraint struct {
	maxSkew, minDomains int32
	key                 string
	selector            labels.Selector
	honorAffinity       bool
	honorTaints         bool
	// self is 1 if the pod itself matches the selector.
	self int32
}

// counts tells whether a pod with the labels is one of those that are spread. An empty selector finds none.
func (c *spreadConstraint) counts(of labels.Set) bool {
	return !c.selector.Empty() && c.selector.Matches(of)
}

// constraints returns those of one kind: the pod's own, or the defaults.
func (p *podTopologySpread) constraints(pod *v1.Pod, cluster framework.Cluster, kind v1.UnsatisfiableConstraintAction) ([]spreadConstraint, error) {
	if own := pod.Spec.TopologySpreadConstraints; len(own) > 0 {
		out, err := parseConstraints(own, pod, kind)
		if err != nil {
			return nil, fmt.Errorf("obtaining pod's %s topology spread constraints: %w", hardness(kind), err)
		}
		return out, nil
	}
	out, err := parseConstraints(p.defaults, pod, kind)
	if err != nil {
		return nil, fmt.Errorf("setting default %s topology spread constraints: %w", hardness(kind), err)
	}
	if len(out) == 0 {
		return nil, nil
	}
	owner := cluster.OwnerSelector(pod)
	if owner.Empty() {
		return nil, nil
	}
	for i := range out {
		out[i].setSelector(owner, pod)
	}
	return out, nil
}

func hardness(kind v1.UnsatisfiableConstraintAction) string {
	if kind == v1.DoNotSchedule {
		return "hard"
	}
	return "soft"
}

func (c *spreadConstraint) setSelector(s labels.Selector, pod *v1.Pod) {
	c.selector, c.self = s, 0
	if s.Matches(labels.Set(pod.Labels)) {
		c.self = 1
	}
}

func parseConstraints(in []v1.TopologySpreadConstraint, pod *v1.Pod, kind v1.UnsatisfiableConstraintAction) ([]spreadConstraint, error) {
	var out []spreadConstraint
	for i := range in {
		c := &in[i]
		if c.WhenUnsatisfiable != kind {
			continue
		}
		s, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			return nil, err
		}
		one := spreadConstraint{
			maxSkew: c.MaxSkew, minDomains: ptr.Deref(c.MinDomains, 1), key: c.TopologyKey,
			honorAffinity: ptr.Deref(c.NodeAffinityPolicy, v1.NodeInclusionPolicyHonor) == v1.NodeInclusionPolicyHonor,
			honorTaints:   ptr.Deref(c.NodeTaintsPolicy, v1.NodeInclusionPolicyIgnore) == v1.NodeInclusionPolicyHonor,
		}
		one.setSelector(withKeys(s, c.MatchLabelKeys, pod.Labels), pod)
		out = append(out, one)
	}
	return out, nil
}

// withKeys narrows a selector to pods that have the same values of some labels. One that selects nothing stays so.
func withKeys(s labels.Selector, keys []string, of map[string]string) labels.Selector {
	same := labels.Set{}
	for _, k := range keys {
		if v, ok := of[k]; ok {
			same[k] = v
		}
	}
	requirements, selectable := s.Requirements()
	if len(same) == 0 || !selectable {
		return s
	}
	return labels.SelectorFromSet(same).Add(requirements...)
}

// spreadState counts the pods that each constraint is about, in the domains of nodes that it takes into account.
type spreadState struct {
	pod         *framework.PodInfo
	constraints []spreadConstraint
	tallies     []spreadTally
	required    *requiredNodes
}

// spreadTally knows which domains there are, and the smallest count.
type spreadTally struct {
	tally
	present []bool
	domains int32
	// least is the smallest count before any changes, and leastDomains have it.
	least        int32
	leastDomains int
}

func (s *spreadState) Clone() framework.StateData {
	c := *s
	c.tallies = make([]spreadTally, len(s.tallies))
	for i := range s.tallies {
		c.tallies[i] = s.tallies[i]
		c.tallies[i].tally = s.tallies[i].clone()
	}
	return &c
}

// PreFilter counts. It skips pods without hard constraints.
func (p *podTopologySpread) PreFilter(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	constraints, err := p.constraints(pod.Pod, s.Cluster, v1.DoNotSchedule)
	if err != nil {
		return nil, framework.AsStatus(fmt.Errorf("get constraints from pod: %w", err))
	}
	if len(constraints) == 0 {
		return nil, skip()
	}
	d := &spreadState{pod: pod, constraints: constraints, required: newRequiredNodes(pod.Pod)}
	d.count(s, true)
	for i := range d.tallies {
		d.tallies[i].findLeast()
	}
	state.Write(spreadFilterKey, d)
	return nil, nil
}

func (t *spreadTally) findLeast() {
	t.least = math.MaxInt32
	for d, n := range t.counts {
		switch {
		case !t.present[d]:
			continue
		case n < t.least:
			t.least, t.leastDomains = n, 1
		case n == t.least:
			t.leastDomains++
		}
		t.domains++
	}
}

// minimum is the smallest count, changes included; 0 as long as there are too few domains.
func (t *spreadTally) minimum(minDomains int32) int32 {
	if t.domains < minDomains {
		return 0
	}
	if len(t.changes) == 0 {
		return t.least
	}
	low, lifted := int32(math.MaxInt32), 0
	for _, c := range t.changes {
		low = min(low, t.at(c.domain))
		if t.counts[c.domain] == t.least {
			lifted++
		}
	}
	if lifted < t.leastDomains {
		return min(low, t.least)
	}
	for d := range t.counts {
		if t.present[d] {
			low = min(low, t.at(int32(d)))
		}
	}
	return low
}

func (*podTopologySpread) AddPod(state *framework.CycleState, _, added *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	framework.Data[*spreadState](state, spreadFilterKey).change(added, node, 1)
	return nil
}

func (*podTopologySpread) RemovePod(state *framework.CycleState, _, removed *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	framework.Data[*spreadState](state, spreadFilterKey).change(removed, node, -1)
	return nil
}

// change counts a pod that came to, or left, a node.
func (s *spreadState) change(p *framework.PodInfo, node *framework.NodeInfo, by int32) {
	if s == nil || p.Pod.Namespace != s.pod.Pod.Namespace || p.Pod.DeletionTimestamp != nil {
		return
	}
	for i := range s.tallies {
		if s.tallies[i].topology.Domain(node.Slot) == framework.NoDomain {
			return
		}
	}
	for i := range s.constraints {
		if c := &s.constraints[i]; c.counts(p.Pod.Labels) && s.included(c, node.Node()) {
			t := &s.tallies[i]
			t.change(t.topology.Domain(node.Slot), by)
		}
	}
}

// included tells whether a constraint takes a node into account.
func (s *spreadState) included(c *spreadConstraint, node *v1.Node) bool {
	return (!c.honorAffinity || s.required.matches(node)) && (!c.honorTaints || !hasUntoleratedTaint(node, s.pod.Pod))
}

func (p *podTopologySpread) Filter(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := framework.Data[*spreadState](state, spreadFilterKey)
	for i := range s.constraints {
		c, t := &s.constraints[i], &s.tallies[i]
		d := t.topology.Domain(node.Slot)
		if d == framework.NoDomain {
			return p.unlabeled
		}
		if t.at(d)+c.self-t.minimum(c.minDomains) > c.maxSkew {
			return p.uneven
		}
	}
	return nil
}

// count makes the tallies. With all, only nodes that have all labels are taken into account.
func (s *spreadState) count(in *framework.Snapshot, all bool) {
	x := in.Index()
	complete := true
	for i := range s.constraints {
		t := x.Topology(s.constraints[i].key)
		s.tallies = append(s.tallies, spreadTally{tally: newTally(t), present: make([]bool, t.Len())})
		complete = complete && t.Complete()
	}
	for i := range s.constraints {
		c, t := &s.constraints[i], &s.tallies[i]
		if (complete || !all) && (!c.honorAffinity || s.required.any()) && !c.honorTaints {
			for d := range t.present {
				t.present[d] = t.topology.Nodes(int32(d)) > 0
			}
			s.classes(x, c, func(counter *framework.Counter) { t.count(counter) })
			continue
		}
		nodes := s.nodes(in, c, all && !complete)
		for slot, is := range nodes {
			if d := t.topology.Domain(int32(slot)); is && d != framework.NoDomain {
				t.present[d] = true
			}
		}
		s.classes(x, c, func(counter *framework.Counter) {
			for slot, n := range counter.Slots() {
				if d := t.topology.Domain(slot); nodes[slot] && d != framework.NoDomain {
					t.counts[d] += n
				}
			}
		})
	}
}

// nodes tells for each slot whether a constraint takes the node into account.
func (s *spreadState) nodes(in *framework.Snapshot, c *spreadConstraint, all bool) []bool {
	out := make([]bool, in.Index().Slots())
nodes:
	for _, n := range in.Nodes() {
		if all {
			for i := range s.tallies {
				if s.tallies[i].topology.Domain(n.Slot) == framework.NoDomain {
					continue nodes
				}
			}
		}
		out[n.Slot] = s.included(c, n.Node())
	}
	return out
}

// classes calls f for the pods that a constraint is about.
func (s *spreadState) classes(x *framework.Index, c *spreadConstraint, f func(*framework.Counter)) {
	x.Classes(s.pod.Pod.Namespace, func(class *framework.Class) {
		if !class.Terminating && c.counts(class.Labels) {
			f(&class.Counter)
		}
	})
}
