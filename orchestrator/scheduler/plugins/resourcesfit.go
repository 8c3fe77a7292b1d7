package plugins

import (
	"slices"
	"strings"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

const (
	fitFilterKey framework.StateKey = "PreFilter" + config.NodeResourcesFit
	fitScoreKey  framework.StateKey = "PreScore" + config.NodeResourcesFit
)

// The bits of what a node has too little of; those of scalar resources follow.
const (
	noPods = 1 << iota
	noCPU
	noMemory
	noEphemeral
	firstScalar
)

// maxShared is the number of scalar resources up to which rejections are shared between nodes.
const maxShared = 4

// nodeResourcesFit keeps pods off nodes without room for their requests, and prefers, by its strategy, nodes with
// much or with little room.
type nodeResourcesFit struct {
	ignored       []string
	ignoredGroups []string
	scorer        resourceScorer
	resources     []config.ResourceSpec
}

func newNodeResourcesFit(a *config.NodeResourcesFitArgs, ignored []string) *nodeResourcesFit {
	p := &nodeResourcesFit{ignored: append(slices.Clone(a.IgnoredResources), ignored...), ignoredGroups: a.IgnoredResourceGroups}
	p.resources = a.ScoringStrategy.Resources
	switch a.ScoringStrategy.Type {
	case config.MostAllocated:
		p.scorer = mostAllocated
	case config.RequestedToCapacityRatio:
		p.scorer = capacityRatio(a.ScoringStrategy.RequestedToCapacityRatio.Shape)
	default:
		p.scorer = leastAllocated
	}
	return p
}

func (*nodeResourcesFit) Name() string { return config.NodeResourcesFit }

// fitState is what a pod requests, without what is ignored, and the rejections that were needed so far.
type fitState struct {
	cpu, memory, ephemeral int64
	scalars                []framework.Scalar
	// nothing is true for a pod that requests nothing at all, ignored resources included.
	nothing bool
	// statuses are by the bits of what is missing, those that preemption cannot help in the second half.
	statuses []atomic.Pointer[framework.Status]
}

// Clone returns the same, for it depends on the pod alone.
func (s *fitState) Clone() framework.StateData { return s }

func (p *nodeResourcesFit) newState(pod *framework.PodInfo) *fitState {
	r := &pod.Requests
	s := &fitState{cpu: r.MilliCPU, memory: r.Memory, ephemeral: r.Ephemeral}
	s.nothing = s.cpu == 0 && s.memory == 0 && s.ephemeral == 0 && len(r.Scalars) == 0
	for _, scalar := range r.Scalars {
		if scalar.Value > 0 && !p.ignores(scalar.Name) {
			s.scalars = append(s.scalars, scalar)
		}
	}
	s.statuses = make([]atomic.Pointer[framework.Status], 2*firstScalar<<min(len(s.scalars), maxShared))
	return s
}

func (p *nodeResourcesFit) ignores(name v1.ResourceName) bool {
	if len(p.ignored) == 0 && len(p.ignoredGroups) == 0 || !framework.IsExtended(name) {
		return false
	}
	group, _, _ := strings.Cut(string(name), "/")
	return slices.Contains(p.ignored, string(name)) || slices.Contains(p.ignoredGroups, group)
}

func (p *nodeResourcesFit) PreFilter(state *framework.CycleState, pod *framework.PodInfo, _ *framework.Snapshot) (map[string]struct{}, *framework.Status) {
	state.Write(fitFilterKey, p.newState(pod))
	return nil, nil
}

func (p *nodeResourcesFit) Filter(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) *framework.Status {
	s := framework.Data[*fitState](state, fitFilterKey)
	missing, never := s.missing(node)
	if missing == 0 {
		return nil
	}
	return s.status(missing, never)
}

// missing tells which resources do not suffice, and whether one would not on the empty node.
func (s *fitState) missing(n *framework.NodeInfo) (bits int, never bool) {
	if int64(len(n.Pods))+1 > n.Allocatable.Pods {
		bits |= noPods
	}
	if s.nothing {
		return bits, false
	}
	if s.cpu > 0 && s.cpu > n.Allocatable.MilliCPU-n.Requested.MilliCPU {
		bits |= noCPU
		never = never || s.cpu > n.Allocatable.MilliCPU
	}
	if s.memory > 0 && s.memory > n.Allocatable.Memory-n.Requested.Memory {
		bits |= noMemory
		never = never || s.memory > n.Allocatable.Memory
	}
	if s.ephemeral > 0 && s.ephemeral > n.Allocatable.Ephemeral-n.Requested.Ephemeral {
		bits |= noEphemeral
		never = never || s.ephemeral > n.Allocatable.Ephemeral
	}
	for i := range s.scalars {
		want, has := s.scalars[i].Value, n.Allocatable.Scalar(s.scalars[i].Name)
		if want > has-n.Requested.Scalar(s.scalars[i].Name) {
			bits |= firstScalar << i
			never = never || want > has
		}
	}
	return bits, never
}

func (s *fitState) status(missing int, never bool) *framework.Status {
	at := missing
	if never {
		at += len(s.statuses) / 2
	}
	if missing >= len(s.statuses)/2 {
		return s.newStatus(missing, never)
	}
	if known := s.statuses[at].Load(); known != nil {
		return known
	}
	made := s.newStatus(missing, never)
	s.statuses[at].Store(made)
	return made
}

func (s *fitState) newStatus(missing int, never bool) *framework.Status {
	var reasons []string
	for i, text := range [...]string{"Too many pods", "Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage"} {
		if missing&(1<<i) != 0 {
			reasons = append(reasons, text)
		}
	}
	for i := range s.scalars {
		if missing&(firstScalar<<i) != 0 {
			reasons = append(reasons, "Insufficient "+string(s.scalars[i].Name))
		}
	}
	code := framework.Unschedulable
	if never {
		code = framework.UnschedulableAndUnresolvable
	}
	return reject(config.NodeResourcesFit, code, reasons...)
}

func (p *nodeResourcesFit) PreScore(state *framework.CycleState, pod *framework.PodInfo, _ *framework.Snapshot, _ []*framework.NodeInfo) *framework.Status {
	state.Write(fitScoreKey, newShares(p.resources, pod, true))
	return nil
}

func (p *nodeResourcesFit) Score(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) (int64, *framework.Status) {
	return p.scorer(framework.Data[*shares](state, fitScoreKey), node), nil
}

func (p *nodeResourcesFit) Hints() []framework.Hint {
	return []framework.Hint{
		{Event: framework.Event{Resource: framework.AssignedPod, Action: framework.Delete}, Helps: func(_ *framework.PodInfo, c framework.Change) bool {
			old, _ := c.Pods()
			return old == nil || onNode(old)
		}},
		{Event: framework.Event{Resource: framework.Node, Action: framework.Add | framework.UpdateNodeAllocatable}, Helps: p.nodeHelps},
		{Event: framework.Event{Resource: framework.AssignedPod, Action: framework.UpdatePodScaleDown}, Helps: p.scaleDownHelps},
		{Event: framework.Event{Resource: framework.TargetPod, Action: framework.UpdatePodScaleDown}},
	}
}

// nodeHelps tells whether the pod would fit onto the node if it were empty, and the node has grown in what it needs.
func (p *nodeResourcesFit) nodeHelps(pod *framework.PodInfo, c framework.Change) bool {
	before, after := c.Nodes()
	if after == nil {
		return false
	}
	s, now := p.newState(pod), framework.NewNodeInfo(after)
	if missing, _ := s.missing(now); missing != 0 {
		return false
	}
	if before == nil {
		return true
	}
	old, have := framework.NewResources(before.Status.Allocatable), &now.Allocatable
	if have.Pods > old.Pods || s.cpu > 0 && have.MilliCPU > old.MilliCPU || s.memory > 0 && have.Memory > old.Memory || s.ephemeral > 0 && have.Ephemeral > old.Ephemeral {
		return true
	}
	return slices.ContainsFunc(s.scalars, func(r framework.Scalar) bool { return have.Scalar(r.Name) > old.Scalar(r.Name) })
}

// scaleDownHelps tells whether a pod on a node gave back something that the pod needs.
func (*nodeResourcesFit) scaleDownHelps(pod *framework.PodInfo, c framework.Change) bool {
	before, after := c.Pods()
	if before == nil || after == nil || after.Spec.NodeName == "" {
		return false
	}
	was, is := &framework.NewPodInfo(before).Requests, &framework.NewPodInfo(after).Requests
	r := &pod.Requests
	if r.MilliCPU > 0 && was.MilliCPU > is.MilliCPU || r.Memory > 0 && was.Memory > is.Memory || r.Ephemeral > 0 && was.Ephemeral > is.Ephemeral {
		return true
	}
	return slices.ContainsFunc(r.Scalars, func(s framework.Scalar) bool { return s.Value > 0 && was.Scalar(s.Name) > is.Scalar(s.Name) })
}
