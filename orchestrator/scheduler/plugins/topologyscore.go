package plugins

import (
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// outside is the raw score of a node that lacks a label that a constraint needs.
const outside = -1

// spreadScore is the state for Score. For host names, counts are those of the node whatever it is like.
type spreadScore struct {
	spreadState
	// weights keep topologies of few domains from being drowned by those of many.
	weights []float64
	// all is true if nodes must have the labels of all constraints.
	all bool
}

func (s *spreadScore) Clone() framework.StateData { return s }

// PreScore counts, for soft constraints. It skips pods without such.
func (p *podTopologySpread) PreScore(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot, nodes []*framework.NodeInfo) *framework.Status {
	if len(s.Nodes()) == 0 {
		return skip()
	}
	constraints, err := p.constraints(pod.Pod, s.Cluster, v1.ScheduleAnyway)
	if err != nil {
		return framework.AsStatus(fmt.Errorf("calculating preScoreState: %w", err))
	}
	if len(constraints) == 0 {
		return skip()
	}
	d := &spreadScore{all: len(pod.Pod.Spec.TopologySpreadConstraints) > 0 || !p.system}
	d.pod, d.constraints, d.required = pod, constraints, newRequiredNodes(pod.Pod)
	for i := range d.constraints {
		if c := &d.constraints[i]; c.key == v1.LabelHostname {
			c.honorAffinity, c.honorTaints = false, false
		}
	}
	d.count(s, d.all)
	d.weigh(nodes)
	state.Write(spreadScoreKey, d)
	return nil
}

// weigh counts the domains among the nodes that fit. That of the nodes without the label is one, too.
func (s *spreadScore) weigh(nodes []*framework.NodeInfo) {
	qualified := 0
	sizes := make([]int, len(s.constraints))
	seen := make([][]bool, len(s.constraints))
	for i := range seen {
		seen[i] = make([]bool, s.tallies[i].topology.Len()+1)
	}
	for _, n := range nodes {
		if s.outside(n) {
			continue
		}
		qualified++
		for i := range seen {
			d := s.tallies[i].topology.Domain(n.Slot) + 1
			if !seen[i][d] {
				seen[i][d] = true
				sizes[i]++
			}
		}
	}
	s.weights = make([]float64, len(s.constraints))
	for i := range s.constraints {
		if s.constraints[i].key == v1.LabelHostname {
			sizes[i] = qualified
		}
		s.weights[i] = math.Log(float64(sizes[i] + 2))
	}
}

func (s *spreadScore) outside(n *framework.NodeInfo) bool {
	if !s.all {
		return false
	}
	for i := range s.tallies {
		if s.tallies[i].topology.Domain(n.Slot) == framework.NoDomain {
			return true
		}
	}
	return false
}

// Score is high where many pods are; nodes that lack a label have a negative one.
func (*podTopologySpread) Score(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) (int64, *framework.Status) {
	s := framework.Data[*spreadScore](state, spreadScoreKey)
	if s.outside(node) {
		return outside, nil
	}
	var score float64
	for i := range s.constraints {
		if d := s.tallies[i].topology.Domain(node.Slot); d != framework.NoDomain {
			score += float64(s.countOn(i, d, node))*s.weights[i] + float64(s.constraints[i].maxSkew-1)
		}
	}
	return int64(math.Round(score)), nil
}

func (s *spreadScore) countOn(i int, domain int32, node *framework.NodeInfo) int32 {
	t := &s.tallies[i]
	if t.topology.Key != v1.LabelHostname || t.topology.Nodes(domain) == 1 {
		return t.counts[domain]
	}
	// Several nodes have the same host name.
	var n int32
	for _, p := range node.Pods {
		if p.Pod.Namespace == s.pod.Pod.Namespace && p.Pod.DeletionTimestamp == nil && s.constraints[i].counts(p.Pod.Labels) {
			n++
		}
	}
	return n
}

// NormalizeScore turns the scores round: the fewest pods are the best.
func (*podTopologySpread) NormalizeScore(_ *framework.CycleState, _ *framework.PodInfo, scores []int64) *framework.Status {
	least, most := int64(math.MaxInt64), int64(0)
	for _, s := range scores {
		if s != outside {
			least, most = min(least, s), max(most, s)
		}
	}
	for i, s := range scores {
		switch {
		case s == outside:
			scores[i] = 0
		case most == 0:
			scores[i] = framework.MaxScore
		default:
			scores[i] = framework.MaxScore * (most + least - s) / most
		}
	}
	return nil
}

func (p *podTopologySpread) Hints() []framework.Hint {
	const nodes = framework.Add | framework.Delete | framework.UpdateNodeLabel | framework.UpdateNodeTaint
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.AssignedPod, Action: framework.Add | framework.UpdatePodLabel | framework.Delete}, Helps: p.podHelps},
		{Event: framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodToleration | framework.UpdatePodLabel}, Helps: p.targetHelps},
		{Event: framework.Event{Resource: framework.Node, Action: nodes}, Helps: p.nodeHelps},
	}
}

// hinted returns the hard constraints of a pod as far as hints know them: of the defaults, the selector is that of
// everything, for whose pods they are is not at hand. With unsure, they could not be read.
func (p *podTopologySpread) hinted(pod *v1.Pod) (constraints []spreadConstraint, unsure bool) {
	in := pod.Spec.TopologySpreadConstraints
	if len(in) == 0 {
		in = p.defaults
	}
	constraints, err := parseConstraints(in, pod, v1.DoNotSchedule)
	if len(pod.Spec.TopologySpreadConstraints) == 0 {
		for i := range constraints {
			constraints[i].selector = labels.Everything()
		}
	}
	return constraints, err != nil
}

func (p *podTopologySpread) podHelps(pod *framework.PodInfo, c framework.Change) bool {
	old, now := c.Pods()
	for _, other := range []*v1.Pod{old, now} {
		if other != nil && (!onNode(other) || other.Namespace != pod.Pod.Namespace) {
			return false
		}
	}
	constraints, unsure := p.hinted(pod.Pod)
	return unsure || changesMatch(constraints, old, now)
}

// changesMatch tells whether a pod begins or ceases to match a constraint.
func changesMatch(constraints []spreadConstraint, old, now *v1.Pod) bool {
	for i := range constraints {
		s := constraints[i].selector
		was, is := old != nil && s.Matches(labels.Set(old.Labels)), now != nil && s.Matches(labels.Set(now.Labels))
		if was != is || s.Empty() && old != nil && now != nil && !equality.Semantic.DeepEqual(old.Labels, now.Labels) {
			return true
		}
	}
	return false
}

func (p *podTopologySpread) targetHelps(pod *framework.PodInfo, c framework.Change) bool {
	old, now := c.Pods()
	constraints, unsure := p.hinted(pod.Pod)
	if unsure || old == nil || now == nil {
		return true
	}
	if !equality.Semantic.DeepEqual(old.Spec.Tolerations, now.Spec.Tolerations) {
		for i := range constraints {
			if constraints[i].honorTaints {
				return true
			}
		}
	}
	return changesMatch(constraints, old, now)
}

func (p *podTopologySpread) nodeHelps(pod *framework.PodInfo, c framework.Change) bool {
	old, now := c.Nodes()
	constraints, unsure := p.hinted(pod.Pod)
	was, is := old != nil && hasKeys(old, constraints), now != nil && hasKeys(now, constraints)
	if unsure || was != is {
		return true
	}
	if !is {
		return false
	}
	for i := range constraints {
		if key := constraints[i].key; old.Labels[key] != now.Labels[key] {
			return true
		}
	}
	return !equality.Semantic.DeepEqual(old.Spec.Taints, now.Spec.Taints)
}

func hasKeys(node *v1.Node, constraints []spreadConstraint) bool {
	for i := range constraints {
		if _, ok := node.Labels[constraints[i].key]; !ok {
			return false
		}
	}
	return true
}
