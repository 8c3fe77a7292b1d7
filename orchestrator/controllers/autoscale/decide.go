package autoscale

import (
	"fmt"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
)

// Settings are those of all autoscalers.
type Settings struct {
	// Tolerance is how far from its target, as a part of it, a metric may be without anything being done.
	Tolerance float64
	// CPUInitialization is how long after its start the processors' use of a pod counts only if it was measured while it was ready.
	CPUInitialization time.Duration
	// InitialReadiness is how long after its start a pod that became unready is one that was never ready.
	InitialReadiness time.Duration
	// DownStabilization is for how long the highest recommendation holds, unless the autoscaler's behavior says it.
	DownStabilization time.Duration
}

// DefaultSettings are those of kube-controller-manager.
func DefaultSettings() Settings {
	return Settings{Tolerance: 0.1, CPUInitialization: 5 * time.Minute, InitialReadiness: 30 * time.Second, DownStabilization: 5 * time.Minute}
}

// Target is what is scaled.
type Target struct {
	Replicas int32         // that are wanted at present
	Running  int32         // that there are
	Pods     []*corev1.Pod // that its selector chooses
}

// Input is what a decision is made from.
type Input struct {
	Spec   *autoscalingv2.HorizontalPodAutoscalerSpec
	Target Target
	// Readings are those of Spec.Metrics, in that order.
	Readings []Reading
	// ScaledToZero says that the target has no replicas because the autoscaler wanted none.
	ScaledToZero bool
	History      History
	Now          time.Time
}

// Condition is one that the autoscaler's status is to have.
type Condition struct {
	Type            autoscalingv2.HorizontalPodAutoscalerConditionType
	Status          corev1.ConditionStatus
	Reason, Message string
}

// Failure is why a metric proposed nothing. Reason is a word for events and conditions.
type Failure struct {
	Reason string
	Err    error
}

// Decision is how many replicas there are to be, and why. With Err nothing could be decided, and Replicas is what there is.
type Decision struct {
	Replicas   int32
	Reason     string // of a change
	Conditions []Condition
	Metrics    []autoscalingv2.MetricStatus
	Failures   []Failure // also without Err
	Err        error
	History    History
}

func (d *Decision) say(t autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, message string) {
	d.Conditions = append(d.Conditions, Condition{t, status, reason, message})
}

func (in *Input) least() int32 {
	if in.Spec.MinReplicas == nil {
		return 1
	}
	return *in.Spec.MinReplicas
}

// outside says whether a metric does not come from the pods themselves: only such a one can tell that none, or again some, are needed.
func (in *Input) outside() bool {
	return slices.ContainsFunc(in.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	})
}

// CanBeZero says whether the autoscaler may want no replicas at all, and would notice when some are needed again.
func (in *Input) CanBeZero() bool { return in.least() == 0 && in.outside() }

// Bounds decides what can be decided without metrics, and says whether it could.
func (s Settings) Bounds(in Input) (d Decision, decided bool) {
	d = Decision{Replicas: in.Target.Replicas, History: in.History.begun(in.Target.Replicas, in.Now)}
	least := in.least()
	switch n := in.Target.Replicas; {
	case n == 0 && (!in.ScaledToZero || least == 0 && !in.outside()):
		d.say(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
	case n > in.Spec.MaxReplicas:
		d.Replicas, d.Reason = in.Spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas"
	case n < least:
		d.Replicas, d.Reason = least, "Current number of replicas below Spec.MinReplicas"
	default:
		return d, false
	}
	return d, true
}

// Decide decides by the metrics; the caller has asked Bounds before.
func (s Settings) Decide(in Input) Decision {
	d := Decision{Replicas: in.Target.Replicas, History: in.History.begun(in.Target.Replicas, in.Now)}
	wanted, metric := s.largest(in, &d)
	if d.Err != nil {
		return d
	}
	d.say(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from "+metric)
	switch {
	case wanted > in.Target.Replicas:
		d.Reason = metric + " above target"
	case wanted < in.Target.Replicas:
		d.Reason = "All metrics below target"
	}
	d.step(s, in, wanted)
	return d
}

// largest is the largest proposal of all metrics, and what it was made from.
func (s Settings) largest(in Input, d *Decision) (wanted int32, metric string) {
	c := calc{Settings: s, tolerance: s.tolerance(in.Spec.Behavior), target: in.Target, now: in.Now}
	valid := 0
	for i := range in.Spec.Metrics {
		p := c.propose(&in.Spec.Metrics[i], in.Readings[i])
		d.Metrics = append(d.Metrics, p.status)
		if p.failure.Err != nil {
			d.Failures = append(d.Failures, p.failure)
			continue
		}
		if valid++; valid == 1 || p.replicas > wanted {
			wanted, metric = p.replicas, p.metric
		}
	}
	if len(d.Failures) > 0 && (valid == 0 || wanted < in.Target.Replicas) {
		first := d.Failures[0]
		d.say(autoscalingv2.ScalingActive, corev1.ConditionFalse, first.Reason, fmt.Sprintf("the HPA was unable to compute the replica count: %v", first.Err))
		d.Err = fmt.Errorf("invalid metrics (%d invalid out of %d), first error is: %w", len(d.Failures), len(in.Spec.Metrics), first.Err)
	}
	return wanted, metric
}
