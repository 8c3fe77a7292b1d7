package core

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// ErrNoNodes is the failure of an empty cluster.
var ErrNoNodes = errors.New("no nodes available to schedule pods")

// Decision is the outcome of an attempt.
type Decision struct {
	// Node is where the pod goes, or "".
	Node string
	// State is what plugins keep about the pod.
	State *framework.CycleState
	// Looked is the number of nodes that were looked at, Feasible that of those that fit.
	Looked, Feasible int
	// Failure is nil if there is a node.
	Failure *Failure
	// Preemption is what is to be done about a failure; nil leaves the pod's nomination as it is.
	Preemption *framework.Preemption
}

// Core makes decisions, one at a time.
type Core struct {
	random *rand.Rand
	clock  clock.Clock
	// observe, if not nil, is told how long an extension point took.
	observe func(profile, point string, c framework.Code, d time.Duration)
	// start is where the next search begins.
	start int
	// What follows is used again by every attempt.
	statuses []*framework.Status
	fit      []*framework.NodeInfo
	rows     [][]int64
	total    []int64
}

// Options of a core. All may be left out except Random.
type Options struct {
	Random *rand.Rand
	Clock  clock.Clock
	// Observe is told how long an extension point took.
	Observe func(profile, point string, c framework.Code, d time.Duration)
}

// New makes a core.
func New(o Options) *Core {
	if o.Clock == nil {
		o.Clock = clock.Real
	}
	return &Core{random: o.Random, clock: o.Clock, observe: o.Observe}
}

type attempt struct {
	*Profile
	core     *Core
	run      *run
	state    *framework.CycleState
	pod      *framework.PodInfo
	snapshot *framework.Snapshot
	failure  *Failure
	fit      []*framework.NodeInfo
}

// Schedule decides where a pod goes. Nominated is the node that the pod was promised, or "".
func (c *Core) Schedule(ctx context.Context, p *Profile, pod *framework.PodInfo, nominated string, s *framework.Snapshot) Decision {
	n := len(s.Nodes())
	d := Decision{State: framework.NewCycleState()}
	if n == 0 {
		d.Failure = failed(ErrNoNodes)
		d.Failure.rejected = true
		d.Preemption = &framework.Preemption{}
		return d
	}
	a := &attempt{Profile: p, core: c, state: d.State, pod: pod, snapshot: s, failure: newFailure(n), fit: c.fit}
	nodes, err := a.feasible(ctx, nominated, &d)
	c.fit = a.fit
	if err == nil && len(nodes) > 0 {
		d.Feasible = len(nodes)
		if d.Node, err = a.choose(ctx, nodes); err == nil {
			return d
		}
	}
	if err != nil {
		d.Failure, d.Preemption = failed(err), &framework.Preemption{}
		return d
	}
	d.Failure = a.failure
	a.blame()
	a.postFilter(ctx, &d)
	return d
}

// choose picks one of the nodes that fit.
func (a *attempt) choose(ctx context.Context, nodes []*framework.NodeInfo) (string, error) {
	if len(nodes) == 1 {
		return nodes[0].Name(), nil
	}
	began := a.core.now()
	scores, err := a.rank(ctx, nodes, false)
	if err != nil {
		a.core.took(a.Name, "Score", framework.Error, began)
		return "", err
	}
	a.core.took(a.Name, "Score", framework.Success, began)
	return nodes[a.core.best(scores.Total)].Name(), nil
}

// feasible finds nodes that fit.
func (a *attempt) feasible(ctx context.Context, nominated string, d *Decision) ([]*framework.NodeInfo, error) {
	c, all := a.core, a.snapshot.Nodes()
	c.statuses = slices.Grow(c.statuses[:0], len(all))[:len(all)]
	clear(c.statuses)
	began := c.now()
	r, only, narrowed, status := a.newRun(a.state, a.pod, a.snapshot)
	a.run = r
	c.took(a.Name, "PreFilter", status.Code(), began)
	for _, name := range narrowed {
		a.failure.RejectedBy[name] = struct{}{}
	}
	switch {
	case status.IsRejected():
		a.failure.PreFilter = status.Message()
		a.failure.blame(status)
		for i := range c.statuses {
			c.statuses[i] = status
		}
		return nil, nil
	case !status.IsSuccess():
		return nil, status.Err()
	}
	began = c.now()
	defer func() { c.took(a.Name, "Filter", framework.Success, began) }()
	if nominated != "" {
		if fit := a.promised(ctx, nominated, d); len(fit) > 0 {
			return fit, nil
		}
	}
	nodes, statuses := all, c.statuses
	if only != nil {
		nodes = a.narrow(only, narrowed)
		statuses = make([]*framework.Status, len(nodes))
	}
	fit, looked, err := a.search(nodes, c.start, a.nodesToFind(len(nodes)), statuses)
	c.start = (c.start + looked) % len(all)
	d.Looked += looked
	if err != nil {
		return nil, err
	}
	if only != nil {
		for i, n := range nodes {
			c.statuses[a.snapshot.Position(n.Name())] = statuses[i]
		}
	}
	return a.passExtenders(ctx, fit)
}

// narrow lists the only nodes that can do, in the snapshot's order, and rejects all others.
func (a *attempt) narrow(only map[string]struct{}, narrowed []string) []*framework.NodeInfo {
	others := framework.NewStatus(framework.UnschedulableAndUnresolvable, fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", narrowed))
	for i := range a.core.statuses {
		a.core.statuses[i] = others
	}
	nodes := make([]*framework.NodeInfo, 0, len(only))
	for name := range only {
		if n := a.snapshot.Node(name); n != nil {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(x, y *framework.NodeInfo) int {
		return cmp.Compare(a.snapshot.Position(x.Name()), a.snapshot.Position(y.Name()))
	})
	return nodes
}

// promised tries the node that preemption made room on. What goes wrong there is no reason to give up.
func (a *attempt) promised(ctx context.Context, name string, d *Decision) []*framework.NodeInfo {
	n := a.snapshot.Node(name)
	if n == nil {
		return nil
	}
	d.Looked++
	if st := a.run.Fits(a.state, a.pod, a.snapshot, n); !st.IsSuccess() {
		return nil
	}
	fit, err := a.passExtenders(ctx, []*framework.NodeInfo{n})
	if err != nil {
		return nil
	}
	return fit
}

// passExtenders asks extenders, one after another, which nodes they leave.
func (a *attempt) passExtenders(ctx context.Context, fit []*framework.NodeInfo) ([]*framework.NodeInfo, error) {
	for _, e := range a.extenders {
		if len(fit) == 0 {
			break
		}
		if !e.Verbs().Filter || !e.Interested(a.pod.Pod) {
			continue
		}
		left, rejected, unresolvable, err := e.Filter(ctx, a.pod.Pod, fit)
		if err != nil {
			if e.Ignorable() {
				continue
			}
			return nil, err
		}
		for name, reason := range rejected {
			a.reject(name, framework.NewStatus(framework.Unschedulable, reason))
		}
		for name, reason := range unresolvable {
			a.reject(name, framework.NewStatus(framework.UnschedulableAndUnresolvable, reason))
		}
		if len(left) != len(fit) {
			a.failure.RejectedBy[framework.ExtenderName] = struct{}{}
		}
		fit = left
	}
	return fit, nil
}

func (a *attempt) reject(node string, st *framework.Status) {
	if i := a.snapshot.Position(node); i >= 0 {
		a.core.statuses[i] = st
	}
}

// blame works out why no node fits.
func (a *attempt) blame() {
	if a.failure.PreFilter != "" {
		return
	}
	// Nodes mostly fail for a few reasons, whose statuses they share.
	type shared struct {
		status *framework.Status
		nodes  int
	}
	var seen []shared
next:
	for _, st := range a.core.statuses {
		if st == nil {
			continue
		}
		for i := range seen {
			if seen[i].status == st {
				seen[i].nodes++
				continue next
			}
		}
		if len(seen) < 16 {
			seen = append(seen, shared{st, 1})
			continue
		}
		a.failure.blame(st)
		a.failure.count(st)
	}
	for _, s := range seen {
		a.failure.blame(s.status)
		for _, r := range s.status.Reasons() {
			a.failure.Reasons[r] += s.nodes
		}
	}
}

// postFilter asks what to do about a failure.
func (a *attempt) postFilter(ctx context.Context, d *Decision) {
	if len(a.Profile.postFilter) == 0 {
		d.Preemption = &framework.Preemption{}
		return
	}
	began := a.core.now()
	proposal, status := a.askPostFilter(ctx)
	a.core.took(a.Name, "PostFilter", status.Code(), began)
	a.failure.PostFilter = status.Message()
	d.Preemption = proposal
}

func (a *attempt) askPostFilter(ctx context.Context) (*framework.Preemption, *framework.Status) {
	var reasons []string
	var proposal *framework.Preemption
	code := framework.Unschedulable
	for _, pl := range a.Profile.postFilter {
		p, st := pl.PostFilter(ctx, a.run, a.state, a.pod, a.snapshot, a.core.statuses)
		switch {
		case st.IsSuccess(), st.Code() == framework.UnschedulableAndUnresolvable:
			return p, st.By(pl.Name())
		case !st.IsRejected():
			return nil, framework.AsStatus(st.Err()).By(pl.Name())
		case p != nil:
			proposal = p
		}
		reasons = append(reasons, st.Reasons()...)
	}
	return proposal, framework.NewStatus(code, reasons...)
}

func (c *Core) now() time.Time {
	if c.observe == nil {
		return time.Time{}
	}
	return c.clock.Now()
}

func (c *Core) took(profile, point string, code framework.Code, began time.Time) {
	if c.observe != nil {
		c.observe(profile, point, code, c.clock.Now().Sub(began))
	}
}
