package core

import (
	"fmt"
	"slices"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// The bounds of how many nodes are looked for.
const (
	minNodesToFind      = 100
	minPercentageToFind = 5
)

// minRound is the least number of nodes that are filtered at once after the first round.
const minRound = 32

// run asks the filters that take part in one attempt. It is the framework.Runner of PostFilter plugins.
type run struct {
	*Profile
	filters []framework.Filter
	changes []framework.PreFilter // those that are PodChanges
}

var _ framework.Runner = (*run)(nil)

// newRun asks PreFilter. With nodes that are not nil, only those can do, because of the plugins in narrowed.
func (p *Profile) newRun(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot) (r *run, nodes map[string]struct{}, narrowed []string, status *framework.Status) {
	r = &run{Profile: p}
	var skipped []string
	for _, pl := range p.preFilter {
		only, st := pl.PreFilter(state, pod, s)
		switch {
		case st.IsSkip():
			skipped = append(skipped, pl.Name())
			continue
		case st.Code() == framework.UnschedulableAndUnresolvable:
			return r, nil, nil, st.By(pl.Name())
		case st.Code() == framework.Unschedulable:
			status = st.By(pl.Name()) // preemption wants the others' state
			continue
		case !st.IsSuccess():
			return r, nil, nil, framework.AsStatus(fmt.Errorf("running PreFilter plugin %q: %w", pl.Name(), st.Err())).By(pl.Name())
		}
		if _, is := pl.(framework.PodChanges); is {
			r.changes = append(r.changes, pl)
		}
		if only == nil {
			continue
		}
		narrowed = append(narrowed, pl.Name())
		if nodes = intersect(nodes, only); len(nodes) == 0 {
			slices.Sort(narrowed)
			message := fmt.Sprintf("node(s) didn't satisfy plugin(s) %v simultaneously", narrowed)
			if len(narrowed) == 1 {
				message = "node(s) didn't satisfy plugin " + narrowed[0]
			}
			return r, nodes, narrowed, framework.NewStatus(framework.UnschedulableAndUnresolvable, message)
		}
	}
	r.filters = p.filter
	if len(skipped) > 0 {
		r.filters = slices.DeleteFunc(slices.Clone(p.filter), func(f framework.Filter) bool { return slices.Contains(skipped, f.Name()) })
	}
	slices.Sort(narrowed)
	return r, nodes, narrowed, status
}

// intersect takes nil for all nodes.
func intersect(a, b map[string]struct{}) map[string]struct{} {
	if a == nil {
		return b
	}
	out := map[string]struct{}{}
	for name := range b {
		if _, both := a[name]; both {
			out[name] = struct{}{}
		}
	}
	return out
}

// Fits tells whether the pod fits onto a node, with and without the pods that are nominated to it.
func (r *run) Fits(state *framework.CycleState, pod *framework.PodInfo, s *framework.Snapshot, node *framework.NodeInfo) *framework.Status {
	if len(s.Nominated) > 0 {
		if promised := s.Nominated[node.Name()]; len(promised) > 0 {
			with, more, err := r.withNominated(state, pod, promised, node)
			if err != nil {
				return err
			}
			if more != nil {
				if st := r.ask(with, pod, more); !st.IsSuccess() {
					return st
				}
			}
		}
	}
	return r.ask(state, pod, node)
}

func (r *run) ask(state *framework.CycleState, pod *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	for _, f := range r.filters {
		st := f.Filter(state, pod, node)
		if st.IsSuccess() {
			continue
		}
		if !st.IsRejected() {
			return framework.AsStatus(fmt.Errorf("running %q filter plugin: %w", f.Name(), st.Err())).By(f.Name())
		}
		return st.By(f.Name())
	}
	return nil
}

// withNominated adds the pods that are promised the node and that the pod has to yield to. The node is nil if there
// are none.
func (r *run) withNominated(state *framework.CycleState, pod *framework.PodInfo, promised []*framework.PodInfo, node *framework.NodeInfo) (*framework.CycleState, *framework.NodeInfo, *framework.Status) {
	var more *framework.NodeInfo
	for _, other := range promised {
		if other.Priority < pod.Priority || other.UID() == pod.UID() {
			continue
		}
		if more == nil {
			more, state = node.Clone(), state.Clone()
		}
		more.AddPod(other)
		if st := r.Added(state, pod, other, more); !st.IsSuccess() {
			return nil, nil, framework.AsStatus(st.Err())
		}
	}
	return state, more, nil
}

// Added keeps state up with a pod that was added to a clone of a node.
func (r *run) Added(state *framework.CycleState, pod, added *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	for _, pl := range r.changes {
		if st := pl.(framework.PodChanges).AddPod(state, pod, added, node); !st.IsSuccess() {
			return framework.AsStatus(fmt.Errorf("running AddPod on PreFilter plugin %q: %w", pl.Name(), st.Err()))
		}
	}
	return nil
}

// Removed keeps state up with a pod that was removed from a clone of a node.
func (r *run) Removed(state *framework.CycleState, pod, removed *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	for _, pl := range r.changes {
		if st := pl.(framework.PodChanges).RemovePod(state, pod, removed, node); !st.IsSuccess() {
			return framework.AsStatus(fmt.Errorf("running RemovePod on PreFilter plugin %q: %w", pl.Name(), st.Err()))
		}
	}
	return nil
}

// Extenders that may object to victims.
func (r *run) Extenders() []framework.Extender { return r.extenders }

// Parallel calls f from several goroutines.
func (r *run) Parallel(n int, f func(i int) bool) { parallel(r.parallelism, n, f) }

// search filters nodes, beginning at start, until want of them fit. Statuses are those of the others that were looked
// at, by their place in nodes. The outcome does not depend on how the goroutines run: nodes are looked at in rounds,
// and what a round finds beyond want is as if it had not been looked at.
func (a *attempt) search(nodes []*framework.NodeInfo, start, want int, statuses []*framework.Status) (fit []*framework.NodeInfo, looked int, err error) {
	n := len(nodes)
	fit = a.fit[:0]
	for round := want; looked < n && len(fit) < want; round = max(2*(want-len(fit)), minRound) {
		round = min(round, n-looked)
		base := start + looked
		a.run.Parallel(round, func(i int) bool {
			at := (base + i) % n
			st := a.run.Fits(a.state, a.pod, a.snapshot, nodes[at])
			statuses[at] = st
			return st.Code() != framework.Error
		})
		for i := range round {
			at := (base + i) % n
			switch st := statuses[at]; {
			case len(fit) == want:
				statuses[at] = nil
			case st.Code() == framework.Error:
				return nil, looked, st.Err()
			default:
				if looked++; st.IsSuccess() {
					statuses[at] = nil
					fit = append(fit, nodes[at])
				}
			}
		}
	}
	a.fit = fit
	return fit, looked, nil
}

// nodesToFind is how many of n nodes must fit before the search stops.
func (p *Profile) nodesToFind(n int) int {
	if !p.ranks() {
		return min(n, 1)
	}
	if n < minNodesToFind {
		return n
	}
	percentage := int(p.percentage)
	if percentage == 0 {
		percentage = max(50-n/125, minPercentageToFind)
	}
	return max(n*percentage/100, minNodesToFind)
}

// ranks tells whether it matters which of several nodes a pod gets.
func (p *Profile) ranks() bool {
	return len(p.score) > 0 || slices.ContainsFunc(p.extenders, func(e framework.Extender) bool {
		return e.Verbs().Filter || e.Verbs().Prioritize
	})
}
