package autoscale

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/utils/ptr"
)

// told writes what was decided: replicas, why, and the conditions.
func told(d Decision) string {
	words := []string{fmt.Sprint(d.Replicas)}
	if d.Reason != "" {
		words = append(words, "because "+d.Reason+";")
	}
	for _, c := range d.Conditions {
		words = append(words, fmt.Sprintf("%s=%s(%s)", c.Type, c.Status, c.Reason))
	}
	if d.Err != nil {
		words = append(words, "error: "+d.Err.Error())
	}
	return strings.Join(words, " ")
}

// TestBounds: what is decided without metrics.
func TestBounds(t *testing.T) {
	const disabled = "0 ScalingActive=False(ScalingDisabled)"
	for name, c := range map[string]struct {
		least  *int32
		most   int32
		now    int32
		zero   bool // the autoscaler did it
		metric autoscalingv2.MetricSpec
		want   string // "": not decided
	}{
		"above":                              {ptr.To[int32](1), 3, 5, false, cpuUse(50), "3 because Current number of replicas above Spec.MaxReplicas;"},
		"below":                              {ptr.To[int32](2), 3, 1, false, cpuUse(50), "2 because Current number of replicas below Spec.MinReplicas;"},
		"one is the least":                   {nil, 3, 1, false, cpuUse(50), ""},
		"switched off":                       {nil, 3, 0, false, cpuUse(50), disabled},
		"switched off by somebody":           {ptr.To[int32](0), 3, 0, false, external("1", ""), disabled},
		"it will be woken":                   {ptr.To[int32](0), 3, 0, true, external("1", ""), ""},
		"nothing would wake it":              {ptr.To[int32](0), 3, 0, true, cpuUse(50), disabled},
		"it may not be zero any more":        {ptr.To[int32](2), 3, 0, true, external("1", ""), "2 because Current number of replicas below Spec.MinReplicas;"},
		"zero is forbidden, of nothing else": {nil, 3, 0, true, cpuUse(50), "1 because Current number of replicas below Spec.MinReplicas;"},
	} {
		in := Input{Spec: &autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: c.least, MaxReplicas: c.most, Metrics: []autoscalingv2.MetricSpec{c.metric}}, Target: Target{Replicas: c.now}, ScaledToZero: c.zero, Now: noon}
		d, decided := DefaultSettings().Bounds(in)
		require.Equal(t, c.want != "", decided, name)
		if decided {
			require.Equal(t, c.want, told(d), name)
		}
	}
}

// TestDecisions: several metrics, and what is made of them.
func TestDecisions(t *testing.T) {
	broken := Reading{Err: errors.New("why")}
	two := pods(pod(0), pod(1))
	type metrics = []autoscalingv2.MetricSpec
	for name, c := range map[string]struct {
		metrics  metrics
		readings []Reading
		most     int32
		want     string
	}{
		"the largest wins": {
			metrics{cpuUse(50), podsMetric("10")}, []Reading{usage(500, 500), usage(15000, 15000)}, 9,
			"3 because pods metric qps above target; ScalingActive=True(ValidMetricFound) AbleToScale=True(ReadyForNewScale) ScalingLimited=False(DesiredWithinRange)",
		},
		"nothing to do": {
			metrics{cpuUse(50)}, []Reading{usage(500, 500)}, 9,
			"2 ScalingActive=True(ValidMetricFound) AbleToScale=True(ReadyForNewScale) ScalingLimited=False(DesiredWithinRange)",
		},
		"at most": {
			metrics{cpuUse(50)}, []Reading{usage(1000, 1000)}, 3,
			"3 because cpu resource utilization (percentage of request) above target; ScalingActive=True(ValidMetricFound) AbleToScale=True(ReadyForNewScale) ScalingLimited=True(TooManyReplicas)",
		},
		"at most twice, or four": {
			metrics{cpuUse(10)}, []Reading{usage(1000, 1000)}, 30,
			"4 because cpu resource utilization (percentage of request) above target; ScalingActive=True(ValidMetricFound) AbleToScale=True(ReadyForNewScale) ScalingLimited=True(ScaleUpLimit)",
		},
		"down is dampened": {
			metrics{cpuUse(50)}, []Reading{usage(100, 100)}, 9,
			"2 ScalingActive=True(ValidMetricFound) AbleToScale=True(ScaleDownStabilized) ScalingLimited=False(DesiredWithinRange)",
		},
		"one that is broken does not keep it from growing": {
			metrics{podsMetric("10"), cpuUse(50)}, []Reading{broken, usage(750, 750)}, 9,
			"3 because cpu resource utilization (percentage of request) above target; ScalingActive=True(ValidMetricFound) AbleToScale=True(ReadyForNewScale) ScalingLimited=False(DesiredWithinRange)",
		},
		"but from shrinking": {
			metrics{podsMetric("10"), cpuUse(50)}, []Reading{broken, usage(100, 100)}, 9,
			"2 ScalingActive=False(FailedGetPodsMetric) error: invalid metrics (1 invalid out of 2), first error is: unable to get metric qps: why",
		},
		"all are broken": {
			metrics{podsMetric("10"), cpuUse(50)}, []Reading{broken, broken}, 9,
			"2 ScalingActive=False(FailedGetPodsMetric) error: invalid metrics (2 invalid out of 2), first error is: unable to get metric qps: why",
		},
	} {
		in := Input{Spec: &autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: c.most, Metrics: c.metrics}, Target: Target{Replicas: 2, Running: 2, Pods: two}, Readings: c.readings, Now: noon}
		require.Equal(t, c.want, told(DefaultSettings().Decide(in)), name)
	}
}

// TestZero: a target is put to sleep by an external metric, and woken by it.
func TestZero(t *testing.T) {
	in := Input{
		Spec:   &autoscalingv2.HorizontalPodAutoscalerSpec{MinReplicas: ptr.To[int32](0), MaxReplicas: 9, Metrics: []autoscalingv2.MetricSpec{external("", "10"), cpuUse(50)}},
		Target: Target{Replicas: 1, Running: 1, Pods: pods(pod(0))}, Readings: []Reading{{}, usage(0)}, Now: noon,
	}
	require.True(t, in.CanBeZero())
	s := DefaultSettings()
	d := s.Decide(in)
	require.EqualValues(t, 1, d.Replicas, "the window holds what there was")
	in.History, in.Now = d.History, noon.Add(s.DownStabilization)
	d = s.Decide(in)
	require.EqualValues(t, 0, d.Replicas)
	in.Target, in.Readings, in.ScaledToZero = Target{}, []Reading{{Value: 25000}, {Err: errors.New("no pods")}}, true
	_, decided := s.Bounds(in)
	require.False(t, decided)
	require.EqualValues(t, 3, s.Decide(in).Replicas)
}
