package plugins

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

const (
	affinityFilterKey framework.StateKey = "PreFilter" + config.NodeAffinity
	affinityScoreKey  framework.StateKey = "PreScore" + config.NodeAffinity
)

// nodeAffinity keeps pods to the nodes that they, or the profile, require, and prefers those that they prefer.
type nodeAffinity struct {
	added          *nodeaffinity.NodeSelector
	addedPreferred []nodeTerm
	enforced       *framework.Status
	unmatched      *framework.Status
	conflict       *framework.Status
}

func newNodeAffinity(a *config.NodeAffinityArgs) (*nodeAffinity, error) {
	p := &nodeAffinity{
		enforced:  reject(config.NodeAffinity, framework.UnschedulableAndUnresolvable, "node(s) didn't match scheduler-enforced node affinity"),
		unmatched: reject(config.NodeAffinity, framework.UnschedulableAndUnresolvable, "node(s) didn't match Pod's node affinity/selector"),
		conflict:  reject(config.NodeAffinity, framework.UnschedulableAndUnresolvable, "pod affinity terms conflict"),
	}
	if a.AddedAffinity == nil {
		return p, nil
	}
	var err error
	if s := a.AddedAffinity.RequiredDuringSchedulingIgnoredDuringExecution; s != nil {
		if p.added, err = nodeaffinity.NewNodeSelector(s); err != nil {
			return nil, fmt.Errorf("parsing addedAffinity.requiredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
	}
	if terms := a.AddedAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
		if _, err = nodeaffinity.NewPreferredSchedulingTerms(terms); err != nil {
			return nil, fmt.Errorf("parsing addedAffinity.preferredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
		p.addedPreferred = preferredTerms(terms)
	}
	return p, nil
}

func (*nodeAffinity) Name() string { return config.NodeAffinity }

// Clone returns the same, for it depends on no pod but one.
func (r *requiredNodes) Clone() framework.StateData { return r }

func (p *nodeAffinity) PreFilter(state *framework.CycleState, pod *framework.PodInfo, _ *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	required := newRequiredNodes(pod.Pod)
	if required.any() && p.added == nil {
		return nil, skip()
	}
	state.Write(affinityFilterKey, required)
	names, all := namedNodes(pod.Pod)
	switch {
	case all:
		return nil, nil
	case len(names) == 0:
		return nil, p.conflict
	}
	return names, nil
}

// namedNodes returns the names of nodes to which the pod's terms keep it; all is true if a term names none.
func namedNodes(pod *v1.Pod) (names map[string]struct{}, all bool) {
	a := requiredNodeAffinity(pod)
	if a == nil || len(a.NodeSelectorTerms) == 0 {
		return nil, true
	}
	names = map[string]struct{}{}
	for i := range a.NodeSelectorTerms {
		var of map[string]struct{}
		for _, r := range a.NodeSelectorTerms[i].MatchFields {
			if r.Key != metav1.ObjectNameField || r.Operator != v1.NodeSelectorOpIn {
				continue
			}
			both := map[string]struct{}{}
			for _, v := range r.Values {
				if _, ok := of[v]; ok || of == nil {
					both[v] = struct{}{}
				}
			}
			of = both
		}
		if of == nil {
			return nil, true
		}
		for n := range of {
			names[n] = struct{}{}
		}
	}
	return names, false
}

func (p *nodeAffinity) Filter(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	if p.added != nil && !p.added.Match(node.Node()) {
		return p.enforced
	}
	if !framework.Data[*requiredNodes](state, affinityFilterKey).matches(node.Node()) {
		return p.unmatched
	}
	return nil
}

type preferredNodes struct{ terms []nodeTerm }

func (s *preferredNodes) Clone() framework.StateData { return s }

func (p *nodeAffinity) PreScore(state *framework.CycleState, pod *framework.PodInfo, _ *framework.Snapshot, _ []*framework.NodeInfo) *framework.Status {
	var preferred []v1.PreferredSchedulingTerm
	if a := pod.Pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		preferred = a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	if preferred == nil && len(p.addedPreferred) == 0 {
		return skip()
	}
	if _, err := nodeaffinity.NewPreferredSchedulingTerms(preferred); err != nil {
		return framework.AsStatus(err)
	}
	state.Write(affinityScoreKey, &preferredNodes{terms: preferredTerms(preferred)})
	return nil
}

func preferredTerms(in []v1.PreferredSchedulingTerm) []nodeTerm {
	var out []nodeTerm
	for i := range in {
		if t, ok := newNodeTerm(&in[i].Preference, int64(in[i].Weight)); ok && t.weight != 0 {
			out = append(out, t)
		}
	}
	return out
}

// Score sums the weights of the terms that match.
func (p *nodeAffinity) Score(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) (int64, *framework.Status) {
	return weigh(p.addedPreferred, node.Node()) + weigh(framework.Data[*preferredNodes](state, affinityScoreKey).terms, node.Node()), nil
}

func weigh(terms []nodeTerm, node *v1.Node) int64 {
	var sum int64
	for i := range terms {
		if terms[i].matches(node) {
			sum += terms[i].weight
		}
	}
	return sum
}

func (*nodeAffinity) NormalizeScore(_ *framework.CycleState, _ *framework.PodInfo, scores []int64) *framework.Status {
	normalize(scores, false)
	return nil
}

func (p *nodeAffinity) Hints() []framework.Hint {
	return []framework.Hint{{Event: framework.Event{Resource: framework.Node, Action: framework.Add | framework.UpdateNodeLabel}, Helps: func(pod *framework.PodInfo, c framework.Change) bool {
		old, now := c.Nodes()
		if now == nil {
			return false
		}
		required := newRequiredNodes(pod.Pod)
		fits := func(n *v1.Node) bool { return (p.added == nil || p.added.Match(n)) && required.matches(n) }
		return fits(now) && (old == nil || !fits(old))
	}}}
}
