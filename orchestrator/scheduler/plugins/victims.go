package plugins

import (
	"cmp"
	"math"
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/keelson-io/keelson/orchestrator/scheduler/framework"
)

// byImportance orders pods: the higher priority first, and among equals the one that has run longer. Pods that have
// not started come last.
func byImportance(a, b *framework.PodInfo) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(startOf(a), startOf(b)))
}

// startOf is a pod's start in nanoseconds since 1970; that of one that has not started is after all others.
func startOf(p *framework.PodInfo) int64 {
	if p.Pod.Status.StartTime == nil {
		return math.MaxInt64
	}
	return p.Pod.Status.StartTime.UnixNano()
}

// losses measure what preempting a candidate's victims costs, the most telling first.
func losses() []func(*candidate) int64 {
	return []func(*candidate) int64{
		func(c *candidate) int64 { return int64(c.Violations) },
		func(c *candidate) int64 { return int64(c.Pods[0].Priority) },
		sumOfPriorities,
		func(c *candidate) int64 { return int64(len(c.Pods)) },
		func(c *candidate) int64 { return -longestRunning(c) },
	}
}

// sumOfPriorities counts from the least priority that there is, so that each victim adds to it.
func sumOfPriorities(c *candidate) int64 {
	var sum int64
	for _, p := range c.Pods {
		sum += int64(p.Priority) - math.MinInt32
	}
	return sum
}

// longestRunning is the earliest start among the victims of the highest priority.
func longestRunning(c *candidate) int64 {
	return startOf(slices.MinFunc(c.Pods, byImportance))
}

// leastLoss picks the candidate whose victims are missed least, the first of several that are equal.
func leastLoss(candidates []candidate) *candidate {
	if len(candidates) == 0 {
		return nil
	}
	left := make([]*candidate, len(candidates))
	for i := range candidates {
		left[i] = &candidates[i]
	}
	for _, loss := range losses() {
		if len(left) == 1 {
			break
		}
		least := int64(math.MaxInt64)
		var best []*candidate
		for _, c := range left {
			l := loss(c)
			if l < least {
				least, best = l, best[:0]
			}
			if l == least {
				best = append(best, c)
			}
		}
		left = best
	}
	return left[0]
}

// budget is a disruption budget with its selector parsed.
type budget struct {
	selector  labels.Selector
	allowed   int32
	disrupted map[string]metav1.Time
}

// budgets are by namespace.
type budgets map[string][]budget

// newBudgets leaves out budgets that cannot be read, and those of no pods.
func newBudgets(in []*policyv1.PodDisruptionBudget) budgets {
	out := budgets{}
	for _, b := range in {
		s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || s.Empty() || namesOnly(s) {
			continue
		}
		out[b.Namespace] = append(out[b.Namespace], budget{s, b.Status.DisruptionsAllowed, b.Status.DisruptedPods})
	}
	return out
}

// split tells the pods apart whose budget would be broken if all went away, in their order.
func (b budgets) split(pods []*framework.PodInfo) (violating, others []*framework.PodInfo) {
	if len(b) == 0 {
		return nil, pods
	}
	used := map[*budget]int32{}
	for _, p := range pods {
		if b.breaks(p, used) {
			violating = append(violating, p)
		} else {
			others = append(others, p)
		}
	}
	return violating, others
}

func (b budgets) breaks(p *framework.PodInfo, used map[*budget]int32) bool {
	of := b[p.Pod.Namespace]
	for i := range of {
		one := &of[i]
		if len(p.Pod.Labels) == 0 || !one.selector.Matches(labels.Set(p.Pod.Labels)) {
			continue
		}
		if _, already := one.disrupted[p.Pod.Name]; already {
			continue
		}
		if used[one]++; used[one] > one.allowed {
			return true
		}
	}
	return false
}
