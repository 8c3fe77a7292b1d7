package autoscale

import (
	"math"
	"math/rand"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
)

// diary is the naive model: what was wanted and what there was in each second since the beginning.
type diary struct {
	wanted map[int]int32 // when it was looked at
	was    []int32       // at the end of each second
}

// next says, from the diary, what the rules make of a wish in a second.
func (d *diary) next(second int, wanted, least, most int32, up, down *autoscalingv2.HPAScalingRules) int32 {
	now := d.was[second-1]
	low, high := wanted, wanted
	for s, w := range d.wanted {
		if s > second-int(*up.StabilizationWindowSeconds) {
			low = min(low, w)
		}
		if s > second-int(*down.StabilizationWindowSeconds) {
			high = max(high, w)
		}
	}
	stable := now
	if stable < low {
		stable = low
	}
	if stable > high {
		stable = high
	}
	if stable > now {
		return min(max(now, min(stable, d.policies(second, up, true))), most)
	}
	if stable < now {
		return max(min(now, max(stable, d.policies(second, down, false))), least)
	}
	return max(min(stable, most), least)
}

// policies is how far they allow to go.
func (d *diary) policies(second int, r *autoscalingv2.HPAScalingRules, up bool) int32 {
	if *r.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return d.was[second-1]
	}
	best, most := int32(0), float64(-1)
	for _, p := range r.Policies {
		from := d.was[max(0, second-int(p.PeriodSeconds))]
		step := float64(p.Value)
		if p.Type == autoscalingv2.PercentScalingPolicy {
			step = float64(from) * float64(p.Value) / 100
		}
		to := float64(from) + step
		if !up {
			to = math.Trunc(float64(from) - step)
		}
		n := int32(math.Ceil(to))
		distance := float64(n - d.was[second-1])
		if !up {
			distance = -distance
		}
		far := most == -1 || *r.SelectPolicy == autoscalingv2.MaxChangePolicySelect && distance > float64(best)
		near := most == -1 || *r.SelectPolicy == autoscalingv2.MinChangePolicySelect && distance < float64(best)
		if far || near {
			best, most = int32(distance), 1
		}
	}
	if up {
		return d.was[second-1] + best
	}
	return d.was[second-1] - best
}

func someRules(r *rand.Rand) *autoscalingv2.HPAScalingRules {
	selects := []autoscalingv2.ScalingPolicySelect{autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.DisabledPolicySelect}
	types := []autoscalingv2.HPAScalingPolicyType{autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy}
	out := &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: ptr.To(int32(r.Intn(4) * 20)), SelectPolicy: &selects[r.Intn(len(selects))]}
	for range 1 + r.Intn(3) {
		out.Policies = append(out.Policies, autoscalingv2.HPAScalingPolicy{Type: types[r.Intn(2)], Value: int32([]int{1, 4, 25, 50, 100}[r.Intn(5)]), PeriodSeconds: int32(1 + r.Intn(60))})
	}
	return out
}

// TestBehaviorAgainstADiary: windows and policies, against a model that remembers everything.
func TestBehaviorAgainstADiary(t *testing.T) {
	for seed := range int64(300) {
		r := rand.New(rand.NewSource(seed))
		up, down := someRules(r), someRules(r)
		least, most := int32(r.Intn(3)), int32(10+r.Intn(90))
		spec := &autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: &least, MaxReplicas: most, Behavior: &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: up, ScaleDown: down}}
		begin := max(1, least)
		model := &diary{wanted: map[int]int32{0: begin}, was: []int32{begin}}
		h := History{}.begun(begin, noon)
		for second := 1; second < 400; second++ {
			now := model.was[second-1]
			model.was = append(model.was, now)
			if r.Intn(7) != 0 {
				continue
			}
			wanted, at := int32(r.Intn(120)), noon.Add(time.Duration(second)*time.Second)
			d := Decision{History: h}
			d.step(DefaultSettings(), Input{Spec: spec, Target: Target{Replicas: now}, Now: at}, wanted)
			want := model.next(second, wanted, least, most, up, down)
			require.Equal(t, want, d.Replicas, "seed %d, second %d: %d, wanted %d, rules %+v %+v", seed, second, now, wanted, up, down)
			model.wanted[second], model.was[second] = wanted, want
			if h = d.History; want != now {
				h = h.Scaled(now, want, at)
			}
		}
	}
}

// TestHistoryIsBounded: what no rule can ask for is forgotten.
func TestHistoryIsBounded(t *testing.T) {
	h := History{}
	for i := range int32(5000) {
		at := noon.Add(time.Duration(i) * 15 * time.Second)
		h = h.recommend(i, at).Scaled(i, i+1, at)
	}
	require.LessOrEqual(t, len(h.recommended), 241)
	require.LessOrEqual(t, len(h.changes), 121)
	last := noon.Add(4999 * 15 * time.Second)
	require.EqualValues(t, 5000-120, h.before(5000, longestPeriod, last))
}

// TestDefaultRules: a behavior without rules has those of Kubernetes.
func TestDefaultRules(t *testing.T) {
	r := DefaultSettings().rulesOf(&autoscalingv2.HorizontalPodAutoscalerBehavior{})
	up, down := r.windows()
	require.Zero(t, up)
	require.Equal(t, 5*time.Minute, down)
	require.EqualValues(t, 14, History{}.reach(10, &r.up, 1, noon)-6, "doubled, not four more")
	require.EqualValues(t, 6, History{}.reach(2, &r.up, 1, noon), "four more, not doubled")
	require.EqualValues(t, 0, History{}.reach(10, &r.down, -1, noon))
	require.Nil(t, DefaultSettings().rulesOf(nil))
}
