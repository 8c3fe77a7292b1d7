package plugins

import (
	"fmt"
	"maps"
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// podAffinityScore are the sums of weights by domain.
type podAffinityScore struct {
	sums []weighted
	// any is true if a term matched some pod, be it with sums of zero.
	any bool
}

type weighted struct {
	topology *framework.Topology
	sums     []int64
}

func (s *podAffinityScore) Clone() framework.StateData { return s }

// count adds the weight for each pod of a counter.
func (s *podAffinityScore) count(t *framework.Topology, c *framework.Counter, weight int64) {
	w := s.of(t)
	if len(c.Slots()) <= len(w.sums)/sparseShare {
		for slot, n := range c.Slots() {
			if d := t.Domain(slot); d != framework.NoDomain {
				w.sums[d] += weight * int64(n)
				s.any = true
			}
		}
		return
	}
	for d, n := range c.Domains(t) {
		w.sums[d] += weight * int64(n)
		s.any = s.any || n != 0
	}
}

func (s *podAffinityScore) of(t *framework.Topology) *weighted {
	for i := range s.sums {
		if s.sums[i].topology == t {
			return &s.sums[i]
		}
	}
	s.sums = append(s.sums, weighted{t, make([]int64, t.Len())})
	return &s.sums[len(s.sums)-1]
}

// PreScore adds up the weights of the pod's preferred terms for the pods that they match, and of the terms of other
// pods that match the pod. It skips if none matches.
func (p *interPodAffinity) PreScore(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot, _ []*framework.NodeInfo) *framework.Status {
	own := len(pod.Terms.PreferredAffinity)+len(pod.Terms.PreferredAntiAffinity) > 0
	if p.ignorePreferred && !own {
		return skip()
	}
	if pod.Err != nil {
		return framework.AsStatus(fmt.Errorf("failed to parse pod: %w", pod.Err))
	}
	d := &podAffinityScore{}
	d.countOwn(s, pod.Terms.PreferredAffinity, 1)
	d.countOwn(s, pod.Terms.PreferredAntiAffinity, -1)
	if p.hardWeight > 0 {
		d.countOthers(s, pod, framework.RequiredAffinity, func(*framework.Term) int64 { return p.hardWeight })
	}
	d.countOthers(s, pod, framework.PreferredAffinity, func(t *framework.Term) int64 { return int64(t.Weight) })
	d.countOthers(s, pod, framework.PreferredAntiAffinity, func(t *framework.Term) int64 { return -int64(t.Weight) })
	if !d.any {
		return skip()
	}
	state.Write(podAffinityScoreKey, d)
	return nil
}

func (s *podAffinityScore) countOwn(in *framework.Snapshot, terms []framework.Term, sign int64) {
	x, sc := in.Index(), scope{in.Cluster}
	for i := range terms {
		t := &terms[i]
		sc.classes(x, t, func(c *framework.Class) {
			if t.Selector.Matches(c.Labels) {
				s.count(x.Topology(t.TopologyKey), &c.Counter, sign*int64(t.Weight))
			}
		})
	}
}

func (s *podAffinityScore) countOthers(in *framework.Snapshot, pod *framework.PodInfo, kind framework.TermKind, weight func(*framework.Term) int64) {
	x := in.Index()
	if !x.HasTerms(kind) {
		return
	}
	nsLabels := in.Cluster.NamespaceLabels(pod.Pod.Namespace)
	x.Terms(kind, func(g *framework.TermGroup) {
		if g.Term.Matches(pod.Pod.Namespace, pod.Pod.Labels, nsLabels) {
			s.count(x.Topology(g.Term.TopologyKey), &g.Counter, weight(&g.Term))
		}
	})
}

// Score is the sum over the node's domains; it may be negative.
func (*interPodAffinity) Score(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) (int64, *framework.Status) {
	s := framework.Data[*podAffinityScore](state, podAffinityScoreKey)
	var sum int64
	for i := range s.sums {
		if d := s.sums[i].topology.Domain(node.Slot); d != framework.NoDomain {
			sum += s.sums[i].sums[d]
		}
	}
	return sum, nil
}

// NormalizeScore stretches the scores to the whole range.
func (*interPodAffinity) NormalizeScore(_ *framework.CycleState, _ *framework.PodInfo, scores []int64) *framework.Status {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range scores {
		least, most = min(least, s), max(most, s)
	}
	for i, s := range scores {
		scores[i] = 0
		if most > least {
			scores[i] = int64(float64(framework.MaxScore) * (float64(s-least) / float64(most-least)))
		}
	}
	return nil
}

// Hints are generous where Kubernetes' are not: a pod without terms of its own that others hate is tried again, and
// selectors of namespaces, whose labels are not at hand, are taken to match.
func (p *interPodAffinity) Hints() []framework.Hint {
	const labelled = framework.Add | framework.UpdatePodLabel | framework.Delete
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.AssignedPod, Action: labelled}, Helps: podAffinityPodHelps},
		{Event: framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodLabel}},
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add | framework.UpdateNodeLabel}, Helps: podAffinityNodeHelps},
	}
}

func podAffinityPodHelps(pod *framework.PodInfo, c framework.Change) bool {
	old, now := c.Pods()
	if old != nil && !onNode(old) || now != nil && !onNode(now) {
		return false
	}
	wasFriend, isFriend := mayMatchAll(pod.Terms.RequiredAffinity, old), mayMatchAll(pod.Terms.RequiredAffinity, now)
	if wasFriend != isFriend {
		// A new friend helps, and so does the departure of the last one, if the pod may be the first.
		return isFriend || mayMatchAll(pod.Terms.RequiredAffinity, pod.Pod)
	}
	if mayMatchAny(pod.Terms.RequiredAntiAffinity, old) && !mayMatchAny(pod.Terms.RequiredAntiAffinity, now) {
		return true
	}
	return old != nil && now == nil && mayMatchAny(framework.NewPodInfo(old).Terms.RequiredAntiAffinity, pod.Pod)
}

func mayMatch(t *framework.Term, pod *v1.Pod) bool {
	return (!namesOnly(t.NamespaceSelector) || t.MatchesNamespace(pod.Namespace, nil)) && t.Selector.Matches(labels.Set(pod.Labels))
}

func mayMatchAll(terms []framework.Term, pod *v1.Pod) bool {
	if pod == nil || len(terms) == 0 {
		return false
	}
	for i := range terms {
		if !mayMatch(&terms[i], pod) {
			return false
		}
	}
	return true
}

func mayMatchAny(terms []framework.Term, pod *v1.Pod) bool {
	if pod == nil {
		return false
	}
	for i := range terms {
		if mayMatch(&terms[i], pod) {
			return true
		}
	}
	return false
}

func podAffinityNodeHelps(pod *framework.PodInfo, c framework.Change) bool {
	old, now := c.Nodes()
	if now == nil {
		return false
	}
	if old != nil {
		return !maps.Equal(old.Labels, now.Labels)
	}
	terms := pod.Terms.RequiredAffinity
	for i := range terms {
		if _, ok := now.Labels[terms[i].TopologyKey]; ok {
			return true
		}
	}
	return len(terms) == 0
}
