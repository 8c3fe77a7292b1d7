package kinds

import (
	"fmt"
	"strings"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// autoscalingKinds are those of autoscaling. Version 2 is stored; version 1 keeps in annotations what it has no fields for.
func autoscalingKinds() []*Kind {
	stored := autoscalerKind()
	return []*Kind{stored, oldAutoscalerKind(stored)}
}

// autoscaler is what both versions have in common.
func autoscaler(of Kind) Kind {
	spec, status := autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc(), autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()
	of.Kind, of.Resource, of.Singular = "HorizontalPodAutoscaler", "horizontalpodautoscalers", "horizontalpodautoscaler"
	of.ShortNames, of.Categories, of.Namespaced, of.Place = []string{"hpa"}, []string{"all"}, true, "horizontalpodautoscalers"
	of.NameErrors, of.Lifecycle = validation.NameIsDNSSubdomain, Lifecycle{Generation: true, Unconditional: true}
	of.Columns = []metav1.TableColumnDefinition{
		nameColumn, textColumn("Reference", spec["scaleTargetRef"]), textColumn("Targets", spec["metrics"]), textColumn("MinPods", spec["minReplicas"]),
		textColumn("MaxPods", spec["maxReplicas"]), textColumn("Replicas", status["currentReplicas"]), ageColumn,
	}
	return of
}

func autoscalerKind() *Kind {
	k := autoscaler(Kind{
		New:     func() Object { return &autoscalingv2.HorizontalPodAutoscaler{} },
		NewList: func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },
	})
	k.Group, k.Version = autoscalingv2.GroupName, "v2"
	return with(k, Rules[*autoscalingv2.HorizontalPodAutoscaler]{
		Default:  defaultAutoscaler,
		Create:   func(o *autoscalingv2.HorizontalPodAutoscaler) { dropAutoscalerNotes(&o.ObjectMeta) },
		Update:   func(o, _ *autoscalingv2.HorizontalPodAutoscaler) { dropAutoscalerNotes(&o.ObjectMeta) },
		Validate: func(o *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList { return validateAutoscaler(o, nil) },
		Ratchets: true, ValidateUpdate: validateAutoscaler,
		Spec:           func(o *autoscalingv2.HorizontalPodAutoscaler) any { return &o.Spec },
		Status:         func(o *autoscalingv2.HorizontalPodAutoscaler) any { return &o.Status },
		UpdateStatus:   func(o, _ *autoscalingv2.HorizontalPodAutoscaler) { dropAutoscalerNotes(&o.ObjectMeta) },
		ValidateStatus: validateAutoscalerStatus,
		Row:            autoscalerRow,
	})
}

// oldAutoscalerKind is version 1. What is done with its objects is done with them as version 2.
func oldAutoscalerKind(stored *Kind) *Kind {
	k := autoscaler(Kind{
		New:     func() Object { return &autoscalingv1.HorizontalPodAutoscaler{} },
		NewList: func() runtime.Object { return &autoscalingv1.HorizontalPodAutoscalerList{} },
		Stored: &Conversion{
			Kind: stored,
			To:   func(o Object) (Object, error) { return newAutoscaler(o.(*autoscalingv1.HorizontalPodAutoscaler)), nil },
			From: func(o ...Object) ([]Object, error) {
				out := make([]Object, len(o))
				for i, a := range o {
					out[i] = oldAutoscaler(a.(*autoscalingv2.HorizontalPodAutoscaler))
				}
				return out, nil
			},
		},
	})
	k.Group, k.Version = autoscalingv1.GroupName, "v1"
	again := func(o *autoscalingv1.HorizontalPodAutoscaler) { *o = *oldAutoscaler(newAutoscaler(o)) }
	out := with(k, Rules[*autoscalingv1.HorizontalPodAutoscaler]{
		Default: func(o *autoscalingv1.HorizontalPodAutoscaler) {
			fill(&o.Spec.MinReplicas, 1)
			if len(autoscalerMetrics(o)) == 0 {
				fill(&o.Spec.TargetCPUUtilizationPercentage, defaultUtilization)
			}
		},
		Create: again,
		Update: func(o, _ *autoscalingv1.HorizontalPodAutoscaler) { again(o) },
		Validate: func(o *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
			return validateAutoscaler(newAutoscaler(o), nil)
		},
		Ratchets: true,
		ValidateUpdate: func(o, old *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
			return validateAutoscaler(newAutoscaler(o), newAutoscaler(old))
		},
		UpdateStatus: func(o, _ *autoscalingv1.HorizontalPodAutoscaler) { again(o) },
		ValidateStatus: func(o, old *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
			return validateAutoscalerStatus(newAutoscaler(o), newAutoscaler(old))
		},
		Row: func(o *autoscalingv1.HorizontalPodAutoscaler, now time.Time) []any {
			return autoscalerRow(newAutoscaler(o), now)
		},
	})
	out.Spec, out.Status = autoscalerPart{stored.Spec}, autoscalerPart{stored.Status}
	return out
}

// autoscalerPart is a part of version 1, which is spread over fields and annotations: it is that of version 2.
type autoscalerPart struct{ of Part }

func (p autoscalerPart) Copy(o, from Object) {
	p.change(o, func(n Object) { p.of.Copy(n, newAutoscaler(from.(*autoscalingv1.HorizontalPodAutoscaler))) })
}

func (p autoscalerPart) Clear(o Object) { p.change(o, p.of.Clear) }

func (p autoscalerPart) Same(a, b Object) bool {
	return p.of.Same(newAutoscaler(a.(*autoscalingv1.HorizontalPodAutoscaler)), newAutoscaler(b.(*autoscalingv1.HorizontalPodAutoscaler)))
}

func (p autoscalerPart) change(o Object, do func(Object)) {
	old := o.(*autoscalingv1.HorizontalPodAutoscaler)
	n := newAutoscaler(old)
	do(n)
	*old = *oldAutoscaler(n)
}

// defaultUtilization is the wanted use of processors, in percent of what was requested, if no metric is given.
const defaultUtilization = 80

func utilizationMetric(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

func defaultAutoscaler(o *autoscalingv2.HorizontalPodAutoscaler) {
	fill(&o.Spec.MinReplicas, 1)
	if len(o.Spec.Metrics) == 0 {
		o.Spec.Metrics = []autoscalingv2.MetricSpec{utilizationMetric(defaultUtilization)}
	}
	if o.Spec.Behavior == nil {
		return
	}
	const every = 15 // seconds
	doubled := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: every}
	up := defaultScaling(&o.Spec.Behavior.ScaleUp, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: every}, doubled)
	fill(&up.StabilizationWindowSeconds, 0)
	defaultScaling(&o.Spec.Behavior.ScaleDown, doubled)
}

func defaultScaling(r **autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	fill(r, autoscalingv2.HPAScalingRules{})
	fill(&(*r).SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if (*r).Policies == nil {
		(*r).Policies = policies
	}
	return *r
}

func autoscalerRow(o *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
	least := "<unset>"
	if o.Spec.MinReplicas != nil {
		least = fmt.Sprint(*o.Spec.MinReplicas)
	}
	return []any{
		o.Name, o.Spec.ScaleTargetRef.Kind + "/" + o.Spec.ScaleTargetRef.Name, metricsCell(o.Spec.Metrics, o.Status.CurrentMetrics), least,
		int64(o.Spec.MaxReplicas), int64(o.Status.CurrentReplicas), age(o, now),
	}
}

// metricsCell shows two metrics, each as it is and as it should be, and says how many more there are.
func metricsCell(metrics []autoscalingv2.MetricSpec, current []autoscalingv2.MetricStatus) string {
	if len(metrics) == 0 {
		return noCell
	}
	const shown = 2
	var all []string
	for i, m := range metrics[:min(shown, len(metrics))] {
		var is autoscalingv2.MetricStatus
		if i < len(current) {
			is = current[i]
		}
		all = append(all, metricCell(&m, &is))
	}
	text := strings.Join(all, ", ")
	if n := len(metrics) - shown; n > 0 {
		text += fmt.Sprintf(" + %d more...", n)
	}
	return text
}

func metricCell(m *autoscalingv2.MetricSpec, is *autoscalingv2.MetricStatus) string {
	var current autoscalingv2.MetricValueStatus
	switch {
	case m.External != nil && m.Type == autoscalingv2.ExternalMetricSourceType:
		if is.External != nil {
			current = is.External.Current
		}
		return amountCell(&m.External.Target, &current)
	case m.Pods != nil && m.Type == autoscalingv2.PodsMetricSourceType:
		if is.Pods != nil {
			current = is.Pods.Current
		}
		return quantityCell(current.AverageValue) + "/" + quantityCell(m.Pods.Target.AverageValue)
	case m.Object != nil && m.Type == autoscalingv2.ObjectMetricSourceType:
		if is.Object != nil {
			current = is.Object.Current
		}
		return amountCell(&m.Object.Target, &current)
	case m.Resource != nil && m.Type == autoscalingv2.ResourceMetricSourceType:
		if is.Resource != nil {
			current = is.Resource.Current
		}
		return string(m.Resource.Name) + ": " + usageCell(&m.Resource.Target, &current)
	case m.ContainerResource != nil && m.Type == autoscalingv2.ContainerResourceMetricSourceType:
		if is.ContainerResource != nil {
			current = is.ContainerResource.Current
		}
		return string(m.ContainerResource.Name) + ": " + usageCell(&m.ContainerResource.Target, &current)
	}
	return "<unknown type>"
}

const unknownCell = "<unknown>"

func quantityCell(q *resource.Quantity) string {
	if q == nil {
		return unknownCell
	}
	return q.String()
}

// amountCell is a value, or the average of the pods.
func amountCell(t *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return quantityCell(current.AverageValue) + "/" + t.AverageValue.String() + " (avg)"
	}
	return quantityCell(current.Value) + "/" + quantityCell(t.Value)
}

// usageCell is the use of a resource: an amount, or a part of what was requested.
func usageCell(t *autoscalingv2.MetricTarget, current *autoscalingv2.MetricValueStatus) string {
	if t.AverageValue != nil {
		return quantityCell(current.AverageValue) + "/" + t.AverageValue.String()
	}
	percent := func(n *int32, none string) string {
		if n == nil {
			return none
		}
		return fmt.Sprintf("%d%%", *n)
	}
	return percent(current.AverageUtilization, unknownCell) + "/" + percent(t.AverageUtilization, "<auto>")
}
