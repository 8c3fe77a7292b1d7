package autoscale

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// History is what was recommended and done of late.
type History struct {
	recommended []recommendation
	changes     []change
}

type recommendation struct {
	at       time.Time
	replicas int32
}

type change struct {
	at time.Time
	by int32
}

// The longest windows and periods that a behavior may have.
const (
	longestWindow = time.Hour
	longestPeriod = 30 * time.Minute
)

// begun is the history with a first recommendation: what there was when it began.
func (h History) begun(replicas int32, now time.Time) History {
	if len(h.recommended) == 0 {
		h.recommended = []recommendation{{now, replicas}}
	}
	return h
}

// recommend adds a recommendation, and forgets those that are in no window any more.
func (h History) recommend(replicas int32, now time.Time) History {
	old := func(r recommendation) bool { return r.at.Before(now.Add(-longestWindow)) }
	h.recommended = append(slices.DeleteFunc(slices.Clone(h.recommended), old), recommendation{now, replicas})
	return h
}

// Scaled adds that the target was scaled.
func (h History) Scaled(from, to int32, now time.Time) History {
	old := func(c change) bool { return c.at.Before(now.Add(-longestPeriod)) }
	h.changes = append(slices.DeleteFunc(slices.Clone(h.changes), old), change{now, to - from})
	return h
}

// before is how many replicas there were before a period.
func (h History) before(replicas int32, period time.Duration, now time.Time) int32 {
	for _, c := range h.changes {
		if c.at.After(now.Add(-period)) {
			replicas -= c.by
		}
	}
	return replicas
}

// lowest and highest are the extremes of a number and of the recommendations of a window.
func (h History) lowest(n int32, window time.Duration, now time.Time) int32 {
	for _, r := range h.recommended {
		if r.at.After(now.Add(-window)) {
			n = min(n, r.replicas)
		}
	}
	return n
}

func (h History) highest(n int32, window time.Duration, now time.Time) int32 {
	for _, r := range h.recommended {
		if r.at.After(now.Add(-window)) {
			n = max(n, r.replicas)
		}
	}
	return n
}

// rules are a behavior with all its defaults.
type rules struct{ up, down autoscalingv2.HPAScalingRules }

func (r *rules) windows() (up, down time.Duration) {
	return seconds(*r.up.StabilizationWindowSeconds), seconds(*r.down.StabilizationWindowSeconds)
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// rulesOf are those of an autoscaler; nil: it has no behavior.
func (s Settings) rulesOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) *rules {
	if b == nil {
		return nil
	}
	const every = 15
	double := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: every}
	return &rules{
		up:   filled(b.ScaleUp, 0, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: every}, double),
		down: filled(b.ScaleDown, int32(s.DownStabilization/time.Second), double),
	}
}

func filled(given *autoscalingv2.HPAScalingRules, window int32, policies ...autoscalingv2.HPAScalingPolicy) (r autoscalingv2.HPAScalingRules) {
	if given != nil {
		r = *given
	}
	if r.StabilizationWindowSeconds == nil {
		r.StabilizationWindowSeconds = &window
	}
	if r.SelectPolicy == nil {
		most := autoscalingv2.MaxChangePolicySelect
		r.SelectPolicy = &most
	}
	if r.Policies == nil {
		r.Policies = policies
	}
	return r
}

// step goes as far towards the wanted number as windows, policies and bounds allow.
func (d *Decision) step(s Settings, in Input, wanted int32) {
	r := s.rulesOf(in.Spec.Behavior)
	now := in.Target.Replicas
	up, down := time.Duration(0), s.DownStabilization
	if r != nil {
		up, down = r.windows()
	}
	// between the lowest of one window and the highest of the other nothing moves
	stable := min(max(now, d.History.lowest(wanted, up, in.Now)), d.History.highest(wanted, down, in.Now))
	d.History = d.History.recommend(wanted, in.Now)
	reason, message := "ReadyForNewScale", "recommended size matches current size"
	switch {
	case stable != wanted && wanted >= now:
		reason, message = "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"
	case stable != wanted:
		reason, message = "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"
	}
	d.say(autoscalingv2.AbleToScale, corev1.ConditionTrue, reason, message)
	l := limitsOf(in, d.History, r)
	d.Replicas, reason, message = l.clamp(stable)
	limited := corev1.ConditionFalse
	if d.Replicas != stable {
		limited = corev1.ConditionTrue
	}
	d.say(autoscalingv2.ScalingLimited, limited, reason, message)
	if d.Replicas == now {
		d.Reason = ""
	}
}

// limits are how far a step may go, and which of them come from policies.
type limits struct {
	least, most          int32
	downByRate, upByRate bool
}

func limitsOf(in Input, h History, r *rules) limits {
	l := limits{least: in.least(), most: in.Spec.MaxReplicas}
	now := in.Target.Replicas
	fastest := replicas(max(2*float64(now), 4))
	if r != nil {
		fastest = max(now, h.reach(now, &r.up, 1, in.Now))
		if slowest := min(now, h.reach(now, &r.down, -1, in.Now)); slowest > l.least {
			l.least, l.downByRate = slowest, true
		}
	}
	if fastest < l.most {
		l.most, l.upByRate = fastest, true
	}
	return l
}

// clamp bounds a number, and says why.
func (l limits) clamp(n int32) (bounded int32, reason, message string) {
	switch {
	case n > l.most && l.upByRate:
		return l.most, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
	case n > l.most:
		return l.most, "TooManyReplicas", "the desired replica count is more than the maximum replica count"
	case n < l.least && l.downByRate:
		return l.least, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
	case n < l.least:
		return l.least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
	}
	return n, "DesiredWithinRange", "the desired count is within the acceptable range"
}

// reach is the number that policies allow at most (direction 1) or at least (-1).
func (h History) reach(now int32, r *autoscalingv2.HPAScalingRules, direction int32, at time.Time) int32 {
	if *r.SelectPolicy == autoscalingv2.DisabledPolicySelect || len(r.Policies) == 0 {
		return now
	}
	var all []int32
	for _, p := range r.Policies {
		from := h.before(now, seconds(p.PeriodSeconds), at)
		switch {
		case p.Type == autoscalingv2.PodsScalingPolicy:
			all = append(all, replicas(float64(from)+float64(direction)*float64(p.Value)))
		case direction > 0: // rounded up, or a small target would never grow
			all = append(all, replicas(math.Ceil(float64(from)*(1+float64(p.Value)/100))))
		default:
			all = append(all, replicas(float64(from)*(1-float64(p.Value)/100)))
		}
	}
	if (*r.SelectPolicy == autoscalingv2.MinChangePolicySelect) == (direction > 0) {
		return slices.Min(all)
	}
	return slices.Max(all)
}

// replicas is the whole part of a number, which may be too large for one.
func replicas(x float64) int32 { return int32(max(min(x, math.MaxInt32), math.MinInt32)) }
