package kinds

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations of version 1 for what it has no fields for. They are never stored.
const (
	metricsNote    = "autoscaling.alpha.kubernetes.io/metrics"
	statusesNote   = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsNote = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorNote   = "autoscaling.alpha.kubernetes.io/behavior"
	downNote       = "autoscaling.alpha.kubernetes.io/scale-down-tolerance"
	upNote         = "autoscaling.alpha.kubernetes.io/scale-up-tolerance"
)

// dropAutoscalerNotes takes out the annotations that version 1 makes. The map of annotations is not changed, but replaced.
func dropAutoscalerNotes(m *metav1.ObjectMeta) {
	left := maps.Clone(m.Annotations)
	for _, n := range []string{metricsNote, statusesNote, conditionsNote, behaviorNote, downNote, upNote} {
		delete(left, n)
	}
	if len(left) != len(m.Annotations) {
		m.Annotations = left
	}
}

// The behavior is in its annotation with the names of the fields in Go, as kube-apiserver writes it.
type (
	behaviorText struct{ ScaleUp, ScaleDown *scalingText }
	scalingText  struct {
		StabilizationWindowSeconds *int32
		SelectPolicy               *autoscalingv2.ScalingPolicySelect
		Policies                   []policyText
		Tolerance                  *resource.Quantity
	}
	policyText struct {
		Type                 autoscalingv2.HPAScalingPolicyType
		Value, PeriodSeconds int32
	}
)

func scalingOf(r *autoscalingv2.HPAScalingRules) *scalingText {
	if r == nil {
		return nil
	}
	out := &scalingText{StabilizationWindowSeconds: r.StabilizationWindowSeconds, SelectPolicy: r.SelectPolicy, Tolerance: r.Tolerance}
	for _, p := range r.Policies {
		out.Policies = append(out.Policies, policyText(p))
	}
	return out
}

func isUtilization(m *autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU &&
		m.Resource.Target.AverageUtilization != nil
}

// oldAutoscaler makes version 1 of version 2. Nothing of it is shared.
func oldAutoscaler(in *autoscalingv2.HorizontalPodAutoscaler) *autoscalingv1.HorizontalPodAutoscaler {
	in = in.DeepCopy()
	dropAutoscalerNotes(&in.ObjectMeta)
	out := &autoscalingv1.HorizontalPodAutoscaler{TypeMeta: in.TypeMeta, ObjectMeta: in.ObjectMeta}
	if out.APIVersion != "" {
		out.APIVersion = autoscalingv1.SchemeGroupVersion.String()
	}
	out.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef), MinReplicas: in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
	}
	var metrics []autoscalingv1.MetricSpec
	for _, m := range in.Spec.Metrics {
		if !isUtilization(&m) {
			metrics = append(metrics, oldMetric(&m))
		} else if out.Spec.TargetCPUUtilizationPercentage == nil {
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
		}
	}
	var statuses []autoscalingv1.MetricStatus
	for _, m := range in.Status.CurrentMetrics {
		statuses = append(statuses, oldMetricStatus(&m))
		if r := m.Resource; m.Type == autoscalingv2.ResourceMetricSourceType && r != nil && r.Name == corev1.ResourceCPU && r.Current.AverageUtilization != nil {
			out.Status.CurrentCPUUtilizationPercentage = r.Current.AverageUtilization
		}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range in.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type: autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
			Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration,
		})
	}
	note(&out.ObjectMeta, metricsNote, metrics, len(metrics) > 0)
	note(&out.ObjectMeta, statusesNote, statuses, len(statuses) > 0)
	if b := in.Spec.Behavior; b != nil {
		note(&out.ObjectMeta, behaviorNote, behaviorText{scalingOf(b.ScaleUp), scalingOf(b.ScaleDown)}, true)
	}
	note(&out.ObjectMeta, conditionsNote, conditions, len(conditions) > 0)
	return out
}

// note puts a value into an annotation.
func note(m *metav1.ObjectMeta, name string, value any, wanted bool) {
	if !wanted {
		return
	}
	text, err := json.Marshal(value)
	if err != nil {
		return // there is no such value: these types always have JSON
	}
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Annotations[name] = string(text)
}

// noted decodes an annotation. One that cannot be decoded is as if it were not there.
func noted[T any](m *metav1.ObjectMeta, name string) (value T, ok bool) {
	text, ok := m.Annotations[name]
	if !ok {
		return value, false
	}
	return value, json.Unmarshal([]byte(text), &value) == nil
}

// autoscalerMetrics are the metrics that version 1 asks for.
func autoscalerMetrics(o *autoscalingv1.HorizontalPodAutoscaler) (out []autoscalingv2.MetricSpec) {
	if others, ok := noted[[]autoscalingv1.MetricSpec](&o.ObjectMeta, metricsNote); ok {
		for _, m := range others {
			out = append(out, newMetric(&m))
		}
	}
	if percent := o.Spec.TargetCPUUtilizationPercentage; percent != nil {
		out = append(out, utilizationMetric(*percent))
	}
	return out
}

// newAutoscaler makes version 2 of version 1. Nothing of it is shared.
func newAutoscaler(in *autoscalingv1.HorizontalPodAutoscaler) *autoscalingv2.HorizontalPodAutoscaler {
	in = in.DeepCopy()
	out := &autoscalingv2.HorizontalPodAutoscaler{TypeMeta: in.TypeMeta, ObjectMeta: in.ObjectMeta}
	if out.APIVersion != "" {
		out.APIVersion = autoscalingv2.SchemeGroupVersion.String()
	}
	out.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef), MinReplicas: in.Spec.MinReplicas, MaxReplicas: in.Spec.MaxReplicas,
		Metrics: autoscalerMetrics(in),
	}
	if len(out.Spec.Metrics) == 0 {
		out.Spec.Metrics = []autoscalingv2.MetricSpec{utilizationMetric(defaultUtilization)}
	}
	// The names in the annotation differ from those of version 2 in case only.
	if b, ok := noted[autoscalingv2.HorizontalPodAutoscalerBehavior](&in.ObjectMeta, behaviorNote); ok && b != (autoscalingv2.HorizontalPodAutoscalerBehavior{}) {
		out.Spec.Behavior = &b
	}
	out.Status = newAutoscalerStatus(in)
	dropAutoscalerNotes(&out.ObjectMeta)
	return out
}

func newAutoscalerStatus(in *autoscalingv1.HorizontalPodAutoscaler) autoscalingv2.HorizontalPodAutoscalerStatus {
	out := autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration, LastScaleTime: in.Status.LastScaleTime,
		CurrentReplicas: in.Status.CurrentReplicas, DesiredReplicas: in.Status.DesiredReplicas,
	}
	if percent := in.Status.CurrentCPUUtilizationPercentage; percent != nil {
		out.CurrentMetrics = []autoscalingv2.MetricStatus{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricStatus{
			Name: corev1.ResourceCPU, Current: autoscalingv2.MetricValueStatus{AverageUtilization: percent},
		}}}
	}
	if statuses, ok := noted[[]autoscalingv1.MetricStatus](&in.ObjectMeta, statusesNote); ok {
		out.CurrentMetrics = nil // the annotation knows more
		for _, m := range statuses {
			out.CurrentMetrics = append(out.CurrentMetrics, newMetricStatus(&m))
		}
	}
	if conditions, ok := noted[[]autoscalingv1.HorizontalPodAutoscalerCondition](&in.ObjectMeta, conditionsNote); ok {
		for _, c := range conditions {
			out.Conditions = append(out.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
				Type: autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime,
				Reason: c.Reason, Message: c.Message, ObservedGeneration: c.ObservedGeneration,
			})
		}
	}
	return out
}
