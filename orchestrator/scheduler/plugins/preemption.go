package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// defaultPreemption looks for a node where a pod would fit if some pods of lower priority went away. It tries out
// many nodes, and proposes the one on which the least is lost.
type defaultPreemption struct {
	percentage, absolute int
	offset               func(n int) int
	noVictims            *framework.Status
}

func newDefaultPreemption(a *config.DefaultPreemptionArgs, offset func(n int) int) *defaultPreemption {
	if offset == nil {
		offset = func(int) int { return 0 }
	}
	return &defaultPreemption{
		percentage: int(*a.MinCandidateNodesPercentage), absolute: int(*a.MinCandidateNodesAbsolute), offset: offset,
		noVictims: reject(config.DefaultPreemption, framework.UnschedulableAndUnresolvable, "No preemption victims found for incoming pod"),
	}
}

func (*defaultPreemption) Name() string { return config.DefaultPreemption }

// Hints are empty-handed: the plugin never rejects a pod by itself.
func (*defaultPreemption) Hints() []framework.Hint {
	never := func(*framework.PodInfo, framework.Change) bool { return false }
	return []framework.Hint{{Event: framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}, Helps: never}}
}

// trial is one search for a node.
type trial struct {
	framework.Runner
	state    *framework.CycleState
	pod      *framework.PodInfo
	snapshot *framework.Snapshot
	budgets  budgets
}

// candidate is a node with the pods that would have to go.
type candidate struct {
	node string
	framework.Victims
}

// PostFilter proposes a node. It proposes to give up the pod's nomination if no node can be made to fit.
func (p *defaultPreemption) PostFilter(ctx context.Context, r framework.Runner, state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot, statuses []*framework.Status) (*framework.Preemption, *framework.Status) {
	proposal, status := p.preempt(ctx, &trial{Runner: r, state: state, pod: pod, snapshot: s}, statuses)
	if text := status.Message(); text != "" {
		return proposal, reject(p.Name(), status.Code(), "preemption: "+text)
	}
	return proposal, status
}

func (p *defaultPreemption) preempt(ctx context.Context, t *trial, statuses []*framework.Status) (*framework.Preemption, *framework.Status) {
	if why := ineligible(t, statuses); why != "" {
		return nil, framework.NewStatus(framework.Unschedulable, why)
	}
	nodes := t.snapshot.Nodes()
	if len(nodes) == 0 {
		return nil, framework.AsStatus(errors.New("no nodes available"))
	}
	var promising []*framework.NodeInfo
	for i, st := range statuses {
		if st.Code() == framework.Unschedulable {
			promising = append(promising, nodes[i])
		}
	}
	candidates, failed, err := p.try(ctx, t, promising)
	if len(candidates) == 0 {
		if err != nil {
			return nil, framework.AsStatus(err)
		}
		return &framework.Preemption{}, framework.NewStatus(framework.Unschedulable, whyNot(len(nodes), failed))
	}
	if candidates, err = consult(ctx, t, candidates); err != nil {
		return nil, framework.AsStatus(err)
	}
	best := leastLoss(candidates)
	if best == nil {
		return nil, framework.NewStatus(framework.Unschedulable, "no candidate node for preemption")
	}
	text := fmt.Sprintf("found a potential placement for pod on node %v, preempting %d victims", best.node, len(best.Pods))
	return &framework.Preemption{Node: best.node, Victims: best.Victims}, framework.NewStatus(framework.Success, text)
}

// ineligible says why a pod may not preempt others: it does not want to, or pods that it preempted are still about to
// go from the node that it was promised.
func ineligible(t *trial, statuses []*framework.Status) string {
	pod := t.pod.Pod
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == v1.PreemptNever {
		return "not eligible due to preemptionPolicy=Never."
	}
	at := t.snapshot.Position(nominatedNode(t))
	if at < 0 || statuses[at] == nil || statuses[at].Code() == framework.UnschedulableAndUnresolvable {
		return ""
	}
	for _, p := range t.snapshot.Nodes()[at].Pods {
		if p.Priority < t.pod.Priority && isPreempted(p.Pod) {
			return "not eligible due to a terminating pod on the nominated node."
		}
	}
	return ""
}

// nominatedNode is the node that the pod was promised, as far as this process or else the API knows.
func nominatedNode(t *trial) string {
	for node, pods := range t.snapshot.Nominated {
		if slices.ContainsFunc(pods, func(p *framework.PodInfo) bool { return p.UID() == t.pod.UID() }) {
			return node
		}
	}
	return t.pod.Pod.Status.NominatedNodeName
}

// isPreempted tells whether a pod is on its way out because of a preemption.
func isPreempted(p *v1.Pod) bool {
	if p.DeletionTimestamp == nil {
		return false
	}
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == v1.DisruptionTarget {
			return c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler
		}
	}
	return false
}

// enough is the number of candidates out of n nodes with which the search may end.
func (p *defaultPreemption) enough(n int) int { return min(max(n*p.percentage/100, p.absolute), n) }

// attemptOn is the outcome on one node.
type attemptOn struct {
	victims framework.Victims
	status  *framework.Status
}

// try works out the victims on the nodes, from an offset on, until there are enough candidates, one of them without
// a broken budget. Those come first. The outcome does not depend on how goroutines run: nodes are tried in rounds, and
// what a round finds beyond the end is dropped.
func (p *defaultPreemption) try(ctx context.Context, t *trial, nodes []*framework.NodeInfo) (candidates []candidate, failed []*framework.Status, err error) {
	if len(nodes) == 0 {
		return nil, nil, nil
	}
	t.budgets = newBudgets(t.snapshot.Cluster.Budgets())
	first, want := p.offset(len(nodes)), p.enough(len(nodes))
	var harmless, harmful []candidate
	var errs []error
	outcomes := make([]attemptOn, want)
search:
	for from := 0; from < len(nodes) && ctx.Err() == nil; from += want {
		round := min(want, len(nodes)-from)
		t.Parallel(round, func(i int) bool {
			outcomes[i] = p.victims(t, nodes[(first+from+i)%len(nodes)])
			return ctx.Err() == nil
		})
		if ctx.Err() != nil {
			break
		}
		for i := range round {
			o, name := &outcomes[i], nodes[(first+from+i)%len(nodes)].Name()
			switch {
			case o.status.Code() == framework.Error:
				errs = append(errs, o.status.Err())
				failed = append(failed, o.status)
			case !o.status.IsSuccess():
				failed = append(failed, o.status)
			case o.victims.Violations == 0:
				harmless = append(harmless, candidate{name, o.victims})
			case len(harmful) < want:
				harmful = append(harmful, candidate{name, o.victims})
			}
			if len(harmless) > 0 && len(harmless)+len(harmful) >= want {
				break search
			}
		}
	}
	return append(harmless, harmful...), failed, errors.Join(append(errs, ctx.Err())...)
}

// victims works out which pods have to go from a node: none of those that fit beside the pod, of which the more
// important are tried first, and those before them whose disruption budget would be broken.
func (p *defaultPreemption) victims(t *trial, node *framework.NodeInfo) attemptOn {
	var lower []*framework.PodInfo
	for _, other := range node.Pods {
		if other.Priority < t.pod.Priority {
			lower = append(lower, other)
		}
	}
	if len(lower) == 0 {
		return attemptOn{status: p.noVictims}
	}
	w := &whatIf{trial: t, state: t.state.Clone(), node: node.Clone()}
	for _, v := range lower {
		w.remove(v)
	}
	if w.err == nil && !w.fits() {
		return attemptOn{status: w.status}
	}
	slices.SortStableFunc(lower, byImportance)
	violating, others := t.budgets.split(lower)
	var out framework.Victims
	for i, v := range slices.Concat(violating, others) {
		w.add(v)
		if w.err == nil && w.fits() {
			continue
		}
		w.remove(v)
		out.Pods = append(out.Pods, v)
		if i < len(violating) {
			out.Violations++
		}
	}
	switch {
	case w.err != nil:
		return attemptOn{status: framework.AsStatus(w.err)}
	case len(out.Pods) == 0:
		return attemptOn{status: framework.AsStatus(fmt.Errorf("expected at least one victim pod on node %q", node.Name()))}
	}
	slices.SortStableFunc(out.Pods, byImportance)
	return attemptOn{victims: out}
}

// whatIf is a copy of a node from which pods are taken. It keeps the first error.
type whatIf struct {
	*trial
	state  *framework.CycleState
	node   *framework.NodeInfo
	status *framework.Status
	err    error
}

func (w *whatIf) remove(p *framework.PodInfo) {
	w.node.RemovePod(p.UID())
	w.note(w.Removed(w.state, w.pod, p, w.node))
}

func (w *whatIf) add(p *framework.PodInfo) {
	w.node.AddPod(p)
	w.note(w.Added(w.state, w.pod, p, w.node))
}

func (w *whatIf) note(s *framework.Status) {
	if w.err == nil {
		w.err = s.Err()
	}
}

func (w *whatIf) fits() bool {
	w.status = w.Fits(w.state, w.pod, w.snapshot, w.node)
	return w.status.IsSuccess()
}

// consult lets extenders drop candidates and change their victims.
func consult(ctx context.Context, t *trial, candidates []candidate) ([]candidate, error) {
	var left map[string]*framework.Victims
	for _, e := range t.Extenders() {
		if !e.Verbs().Preempt || !e.Interested(t.pod.Pod) {
			continue
		}
		if left == nil {
			left = make(map[string]*framework.Victims, len(candidates))
			for i := range candidates {
				left[candidates[i].node] = &candidates[i].Victims
			}
		}
		answer, err := e.Preempt(ctx, t.pod.Pod, left, t.snapshot)
		if err != nil {
			if e.Ignorable() {
				continue
			}
			return nil, err
		}
		for node, victims := range answer {
			if victims != nil && len(victims.Pods) > 0 {
				continue
			}
			if !e.Ignorable() {
				return nil, fmt.Errorf("expected at least one victim pod on node %q", node)
			}
			delete(answer, node)
		}
		if left = answer; len(left) == 0 {
			return nil, nil
		}
	}
	if left == nil {
		return candidates, nil
	}
	var out []candidate
	for i := range candidates {
		if v := left[candidates[i].node]; v != nil {
			out = append(out, candidate{candidates[i].node, *v})
		}
	}
	return out, nil
}

// whyNot is the message when there is no candidate: nodes that were not even tried could not be helped.
func whyNot(nodes int, failed []*framework.Status) string {
	counts := map[string]int{}
	for _, s := range failed {
		for _, r := range s.Reasons() {
			counts[r]++
		}
	}
	if others := nodes - len(failed); others > 0 {
		counts["Preemption is not helpful for scheduling"] += others
	}
	lines := make([]string, 0, len(counts))
	for reason, n := range counts {
		lines = append(lines, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(lines)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(lines, ", "))
}
