package core

import (
	"context"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// Report is what every plugin says about every node.
type Report struct {
	// Gates are the rejections of PreEnqueue: the pod is not even tried.
	Gates []*framework.Status
	// PreFilter is a rejection for all nodes.
	PreFilter *framework.Status
	// Filters are the rejections of each node, in the order of the snapshot: of all plugins, not only the first.
	Filters [][]*framework.Status
	// Feasible are the nodes that fit, and Scores theirs.
	Feasible []*framework.NodeInfo
	Scores   *Scores
	// Failure and Preemption are those of a decision.
	Failure    *Failure
	Preemption *framework.Preemption
}

// Explain asks all plugins about all nodes, where Schedule would ask no more than it takes to decide.
func (c *Core) Explain(ctx context.Context, p *Profile, pod *framework.PodInfo, s *framework.Snapshot) (*Report, error) {
	out := &Report{}
	for _, pl := range p.preEnqueue {
		if st := pl.PreEnqueue(ctx, pod.Pod); !st.IsSuccess() {
			out.Gates = append(out.Gates, st.By(pl.Name()))
		}
	}
	nodes := s.Nodes()
	c.statuses = make([]*framework.Status, len(nodes))
	a := &attempt{Profile: p, core: c, state: framework.NewCycleState(), pod: pod, snapshot: s, failure: newFailure(len(nodes))}
	r, only, narrowed, status := p.newRun(a.state, pod, s)
	a.run = r
	for _, name := range narrowed {
		a.failure.RejectedBy[name] = struct{}{}
	}
	switch {
	case len(nodes) == 0:
		out.Failure = failed(ErrNoNodes)
		out.Failure.rejected = true
		return out, nil
	case status.IsRejected():
		out.PreFilter, out.Filters = status, make([][]*framework.Status, len(nodes))
		a.failure.PreFilter = status.Message()
		for i := range nodes {
			c.statuses[i] = status
		}
	case !status.IsSuccess():
		return nil, status.Err()
	default:
		if only != nil {
			for _, n := range a.narrow(only, narrowed) {
				c.statuses[s.Position(n.Name())] = nil
			}
		}
		if err := a.explainFilters(ctx, out); err != nil {
			return nil, err
		}
	}
	if len(out.Feasible) > 0 {
		var err error
		out.Scores, err = a.rank(ctx, out.Feasible, true)
		return out, err
	}
	d := &Decision{}
	a.blame()
	a.postFilter(ctx, d)
	out.Failure, out.Preemption = a.failure, d.Preemption
	return out, nil
}

func (a *attempt) explainFilters(ctx context.Context, out *Report) error {
	var fit []*framework.NodeInfo
	for i, n := range a.snapshot.Nodes() {
		if st := a.core.statuses[i]; st != nil { // not among the only nodes
			out.Filters = append(out.Filters, []*framework.Status{st})
			continue
		}
		var all []*framework.Status
		for _, f := range a.run.filters {
			st := f.Filter(a.state, a.pod, n)
			if st.Code() == framework.Error {
				return st.Err()
			}
			if !st.IsSuccess() {
				all = append(all, st.By(f.Name()))
			}
		}
		st := a.run.Fits(a.state, a.pod, a.snapshot, n)
		if st.Code() == framework.Error {
			return st.Err()
		}
		switch {
		case st.IsSuccess():
			fit = append(fit, n)
		case len(all) == 0: // fits without the pods that are promised the node
			all = append(all, st)
		}
		a.core.statuses[i] = st
		out.Filters = append(out.Filters, all)
	}
	left, err := a.passExtenders(ctx, fit)
	if err != nil {
		return err
	}
	kept := map[*framework.NodeInfo]bool{}
	for _, n := range left {
		kept[n] = true
	}
	for _, n := range fit {
		if i := a.snapshot.Position(n.Name()); !kept[n] {
			st := a.core.statuses[i]
			if st == nil {
				st = framework.NewStatus(framework.Unschedulable)
			}
			out.Filters[i] = append(out.Filters[i], st.By(framework.ExtenderName))
		}
	}
	out.Feasible = left
	return nil
}
