package plugins

import (
	"math"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/scheduler/config"
	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// share is a resource that is scored, with what the pod wants of it.
type share struct {
	name   v1.ResourceName
	weight int64
	want   int64
	scalar bool
}

// shares are the resources that a plugin scores for a pod. With nonZero, containers without requests count a default.
type shares struct {
	of      []share
	nonZero bool
}

func (s *shares) Clone() framework.StateData { return s }

func newShares(resources []config.ResourceSpec, pod *framework.PodInfo, nonZero bool) *shares {
	s := &shares{nonZero: nonZero}
	for _, r := range resources {
		one := share{name: v1.ResourceName(r.Name), weight: r.Weight}
		switch {
		case one.name == v1.ResourceCPU && nonZero:
			one.want = pod.NonZeroCPU
		case one.name == v1.ResourceMemory && nonZero:
			one.want = pod.NonZeroMemory
		default:
			one.want = pod.Requests.Get(one.name)
		}
		one.scalar = one.name != v1.ResourceCPU && one.name != v1.ResourceMemory && one.name != v1.ResourceEphemeralStorage
		if one.scalar && (one.want == 0 || one.name == v1.ResourcePods || !countedScalar(one.name)) {
			// A scalar resource that the pod does not want has no say.
			continue
		}
		s.of = append(s.of, one)
	}
	return s
}

// countedScalar tells whether nodes and pods keep count of the resource.
func countedScalar(name v1.ResourceName) bool {
	return framework.IsExtended(name) || strings.Contains(string(name), "/") || strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) ||
		strings.HasPrefix(string(name), v1.ResourceAttachableVolumesPrefix)
}

// on returns how much of the resource a node has, and how much of it is taken already.
func (s *share) on(n *framework.NodeInfo, nonZero bool) (capacity, taken int64) {
	switch s.name {
	case v1.ResourceCPU:
		if nonZero {
			return n.Allocatable.MilliCPU, n.NonZeroCPU
		}
		return n.Allocatable.MilliCPU, n.Requested.MilliCPU
	case v1.ResourceMemory:
		if nonZero {
			return n.Allocatable.Memory, n.NonZeroMemory
		}
		return n.Allocatable.Memory, n.Requested.Memory
	case v1.ResourceEphemeralStorage:
		return n.Allocatable.Ephemeral, n.Requested.Ephemeral
	}
	return n.Allocatable.Scalar(s.name), n.Requested.Scalar(s.name)
}

type resourceScorer func(s *shares, n *framework.NodeInfo) int64

// leastAllocated is the mean of the free parts.
func leastAllocated(s *shares, n *framework.NodeInfo) int64 {
	return s.mean(n, func(requested, capacity int64) int64 {
		if requested > capacity {
			return 0
		}
		return (capacity - requested) * framework.MaxScore / capacity
	})
}

// mostAllocated is the mean of the used parts.
func mostAllocated(s *shares, n *framework.NodeInfo) int64 {
	return s.mean(n, func(requested, capacity int64) int64 {
		return min(requested, capacity) * framework.MaxScore / capacity
	})
}

func (s *shares) mean(n *framework.NodeInfo, f func(requested, capacity int64) int64) int64 {
	var sum, weights int64
	for i := range s.of {
		r := &s.of[i]
		capacity, taken := r.on(n, s.nonZero)
		if capacity == 0 {
			continue
		}
		sum += f(taken+r.want, capacity) * r.weight
		weights += r.weight
	}
	if weights == 0 {
		return 0
	}
	return sum / weights
}

// capacityRatio is the mean of a function of the used parts; resources for which it is 0 are left out.
func capacityRatio(points []config.ShapePoint) resourceScorer {
	const scale = framework.MaxScore / 10
	f := func(used int64) int64 {
		for i, p := range points {
			if used > int64(p.Utilization) {
				continue
			}
			if i == 0 {
				return int64(p.Score) * scale
			}
			before := points[i-1]
			from, to := int64(before.Score)*scale, int64(p.Score)*scale
			return from + (to-from)*(used-int64(before.Utilization))/int64(p.Utilization-before.Utilization)
		}
		return int64(points[len(points)-1].Score) * scale
	}
	return func(s *shares, n *framework.NodeInfo) int64 {
		var sum, weights int64
		for i := range s.of {
			r := &s.of[i]
			capacity, taken := r.on(n, s.nonZero)
			if capacity == 0 {
				continue
			}
			used := int64(100)
			if requested := taken + r.want; requested <= capacity {
				used = requested * 100 / capacity
			}
			if score := f(used); score > 0 {
				sum += score * r.weight
				weights += r.weight
			}
		}
		if weights == 0 {
			return 0
		}
		return int64(math.Round(float64(sum) / float64(weights)))
	}
}

const balanceKey framework.StateKey = "PreScore" + config.NodeResourcesBalancedAllocation

// balancedAllocation prefers nodes whose resources are used more evenly with the pod than without it.
type balancedAllocation struct{ resources []config.ResourceSpec }

func newBalancedAllocation(a *config.NodeResourcesBalancedAllocationArgs) *balancedAllocation {
	return &balancedAllocation{resources: a.Resources}
}

func (*balancedAllocation) Name() string { return config.NodeResourcesBalancedAllocation }

// PreScore skips pods without requests, which would all be drawn to one node.
func (p *balancedAllocation) PreScore(state *framework.CycleState, pod *framework.PodInfo, _ *framework.Snapshot, _ []*framework.NodeInfo) *framework.Status {
	s := newShares(p.resources, pod, false)
	for i := range s.of {
		if s.of[i].want != 0 {
			state.Write(balanceKey, s)
			return nil
		}
	}
	return skip()
}

func (*balancedAllocation) Score(state *framework.CycleState, _ *framework.PodInfo, node *framework.NodeInfo) (int64, *framework.Status) {
	s := framework.Data[*shares](state, balanceKey)
	const half = framework.MaxScore / 2
	return half + (half+s.balance(node, 1)-s.balance(node, 0))/2, nil
}

// balance is MaxScore less the standard deviation of the used parts, with the pod if times is 1 and without it if 0.
func (s *shares) balance(n *framework.NodeInfo, times int64) int64 {
	var count int
	var first, last, sum float64
	part := func(i int) (float64, bool) {
		capacity, taken := s.of[i].on(n, s.nonZero)
		if capacity == 0 {
			return 0, false
		}
		return min(float64(taken+times*s.of[i].want)/float64(capacity), 1), true
	}
	for i := range s.of {
		if f, ok := part(i); ok {
			if count == 0 {
				first = f
			}
			last, sum = f, sum+f
			count++
		}
	}
	deviation := 0.0
	switch {
	case count == 2:
		deviation = math.Abs((first - last) / 2)
	case count > 2:
		mean, squares := sum/float64(count), 0.0
		for i := range s.of {
			if f, ok := part(i); ok {
				squares += (f - mean) * (f - mean)
			}
		}
		deviation = math.Sqrt(squares / float64(count))
	}
	return int64((1 - deviation) * float64(framework.MaxScore))
}
