package kinds

import (
	"errors"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of scaling rules, in seconds.
const (
	maxScalingPeriod = 1800
	maxScalingWindow = 3600
)

// validateAutoscaler checks an autoscaler; old is nil at its creation.
func validateAutoscaler(o, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	p, at := problems{}, field.NewPath("spec")
	s := &o.Spec
	if s.MinReplicas != nil && s.MaxReplicas < *s.MinReplicas {
		p.invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to `minReplicas`")
	}
	target := apiVersionCheck{emptyGroup: s.ScaleTargetRef.Kind == "ReplicationController"}
	if old != nil && old.Spec.ScaleTargetRef.APIVersion == s.ScaleTargetRef.APIVersion && old.Spec.ScaleTargetRef.Kind == s.ScaleTargetRef.Kind {
		target.any = true
	}
	p.crossVersionReference(at.Child("scaleTargetRef"), &s.ScaleTargetRef, target)
	p.metrics(at.Child("metrics"), s, described(old))
	if b := s.Behavior; b != nil {
		p.scaling(at.Child("behavior", "scaleUp"), b.ScaleUp)
		p.scaling(at.Child("behavior", "scaleDown"), b.ScaleDown)
	}
	if s.MinReplicas != nil && *s.MinReplicas < 0 {
		p.invalid(at.Child("minReplicas"), *s.MinReplicas, "must be greater than or equal to 0")
	}
	switch {
	case s.MaxReplicas == 0:
		p.required(at.Child("maxReplicas"), "")
	case s.MaxReplicas < 0:
		p.invalid(at.Child("maxReplicas"), s.MaxReplicas, "must be greater than or equal to 1")
	}
	return p.list
}

// apiVersionCheck says what an apiVersion may be: anything, one of the core group.
type apiVersionCheck struct{ any, emptyGroup bool }

func (c apiVersionCheck) check(version string) error {
	if c.any {
		return nil
	}
	gv, err := schema.ParseGroupVersion(version)
	if err == nil && gv.Group == "" && !c.emptyGroup {
		err = errors.New("apiVersion must specify API group")
	}
	return err
}

// described says what the apiVersions of described objects may be: what was wrong before may stay wrong.
func described(old *autoscalingv2.HorizontalPodAutoscaler) apiVersionCheck {
	c := apiVersionCheck{emptyGroup: true}
	if old == nil {
		return c
	}
	c.any = slices.ContainsFunc(old.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil && c.check(m.Object.DescribedObject.APIVersion) != nil
	})
	return c
}

func (p *problems) crossVersionReference(at *field.Path, r *autoscalingv2.CrossVersionObjectReference, versions apiVersionCheck) {
	if p.have(at.Child("kind"), r.Kind) {
		p.each(at.Child("kind"), r.Kind, content.IsPathSegmentName(r.Kind))
	}
	if p.have(at.Child("name"), r.Name) {
		p.each(at.Child("name"), r.Name, content.IsPathSegmentName(r.Name))
	}
	if err := versions.check(r.APIVersion); err != nil {
		p.invalid(at.Child("apiVersion"), r.APIVersion, err.Error())
	}
}

func (p *problems) metrics(at *field.Path, s *autoscalingv2.HorizontalPodAutoscalerSpec, versions apiVersionCheck) {
	outside := false
	for i := range s.Metrics {
		m := &s.Metrics[i]
		p.metric(at.Index(i), m, versions)
		outside = outside || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if s.MinReplicas != nil && *s.MinReplicas == 0 && !outside {
		p.forbidden(at, "must specify at least one Object or External metric to support scaling to zero replicas")
	}
}

// metricSource is one of the sources that a metric may have.
type metricSource struct {
	of    autoscalingv2.MetricSourceType
	field string
	set   bool
	check func(at *field.Path)
}

func (p *problems) metric(at *field.Path, m *autoscalingv2.MetricSpec, versions apiVersionCheck) {
	types := []autoscalingv2.MetricSourceType{
		autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType,
		autoscalingv2.PodsMetricSourceType, autoscalingv2.ResourceMetricSourceType,
	}
	if m.Type == "" {
		p.required(at.Child("type"), "must specify a metric source type")
	}
	oneOf(p, at.Child("type"), m.Type, types...)
	sources := []metricSource{
		{autoscalingv2.ObjectMetricSourceType, "object", m.Object != nil, func(at *field.Path) { p.objectMetric(at, m.Object, versions) }},
		{autoscalingv2.ExternalMetricSourceType, "external", m.External != nil, func(at *field.Path) { p.externalMetric(at, m.External) }},
		{autoscalingv2.PodsMetricSourceType, "pods", m.Pods != nil, func(at *field.Path) { p.podsMetric(at, m.Pods) }},
		{autoscalingv2.ResourceMetricSourceType, "resource", m.Resource != nil, func(at *field.Path) { p.resourceMetric(at, m.Resource) }},
		{autoscalingv2.ContainerResourceMetricSourceType, "containerResource", m.ContainerResource != nil, func(at *field.Path) {
			p.containerMetric(at, m.ContainerResource)
		}},
	}
	set := 0
	for _, s := range sources {
		if !s.set {
			continue
		}
		if set++; set == 1 {
			s.check(at.Child(s.field))
		}
	}
	for _, s := range sources {
		if s.of == m.Type && !s.set {
			p.required(at.Child(s.field), "must populate information for the given metric source")
		}
	}
	oneOf(p, at.Child("type"), m.Type, types...) // Kubernetes says it twice
	for _, s := range sources {
		if set > 1 && s.set && s.of != m.Type {
			p.forbidden(at.Child(s.field), "must populate the given metric source only")
		}
	}
}

func (p *problems) objectMetric(at *field.Path, m *autoscalingv2.ObjectMetricSource, versions apiVersionCheck) {
	p.crossVersionReference(at.Child("describedObject"), &m.DescribedObject, versions)
	p.metricName(at.Child("metric", "name"), m.Metric.Name)
	p.metricTarget(at.Child("target"), &m.Target)
	if m.Target.Value == nil && m.Target.AverageValue == nil {
		p.required(at.Child("target", "averageValue"), "must set either a target value or averageValue")
	}
}

func (p *problems) externalMetric(at *field.Path, m *autoscalingv2.ExternalMetricSource) {
	p.metricName(at.Child("metric", "name"), m.Metric.Name)
	p.metricTarget(at.Child("target"), &m.Target)
	switch {
	case m.Target.Value == nil && m.Target.AverageValue == nil:
		p.required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target")
	case m.Target.Value != nil && m.Target.AverageValue != nil:
		p.forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target")
	}
}

func (p *problems) podsMetric(at *field.Path, m *autoscalingv2.PodsMetricSource) {
	p.metricName(at.Child("metric", "name"), m.Metric.Name)
	p.metricTarget(at.Child("target"), &m.Target)
	if m.Target.AverageValue == nil {
		p.required(at.Child("target", "averageValue"), "must specify a positive target averageValue")
	}
}

func (p *problems) resourceMetric(at *field.Path, m *autoscalingv2.ResourceMetricSource) {
	if m.Name == "" {
		p.required(at.Child("name"), "must specify a resource name")
	}
	p.usageTarget(at.Child("target"), &m.Target)
}

func (p *problems) containerMetric(at *field.Path, m *autoscalingv2.ContainerResourceMetricSource) {
	if m.Name == "" {
		p.required(at.Child("name"), "must specify a resource name")
	} else {
		p.containerResourceName(at.Child("name"), m.Name)
	}
	if m.Container == "" {
		p.required(at.Child("container"), "must specify a container")
	} else {
		p.label(at.Child("container"), m.Container)
	}
	p.usageTarget(at.Child("target"), &m.Target)
}

// usageTarget checks the wanted use of a resource.
func (p *problems) usageTarget(at *field.Path, t *autoscalingv2.MetricTarget) {
	p.metricTarget(at, t)
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		p.required(at.Child("averageUtilization"), "must set either a target raw value or a target utilization")
	case t.AverageUtilization != nil && t.AverageValue != nil:
		p.forbidden(at.Child("averageValue"), "may not set both a target raw value and a target utilization")
	}
}

func (p *problems) metricTarget(at *field.Path, t *autoscalingv2.MetricTarget) {
	if t.Type == "" {
		p.required(at.Child("type"), "must specify a metric target type")
	}
	switch t.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		p.invalid(at.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		p.invalid(at.Child("value"), t.Value, "must be positive")
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		p.invalid(at.Child("averageValue"), t.AverageValue, "must be positive")
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		p.invalid(at.Child("averageUtilization"), t.AverageUtilization, "must be greater than 0")
	}
}

func (p *problems) metricName(at *field.Path, name string) {
	if name == "" {
		p.required(at, "must specify a metric name")
		return
	}
	p.each(at, name, content.IsPathSegmentName(name))
}

func (p *problems) scaling(at *field.Path, r *autoscalingv2.HPAScalingRules) {
	if r == nil {
		return
	}
	if w := r.StabilizationWindowSeconds; w != nil && *w < 0 {
		p.invalid(at.Child("stabilizationWindowSeconds"), w, "must be greater than or equal to zero")
	} else if w != nil && *w > maxScalingWindow {
		p.invalid(at.Child("stabilizationWindowSeconds"), w, fmt.Sprintf("must be less than or equal to %d", maxScalingWindow))
	}
	if r.SelectPolicy != nil {
		oneOf(p, at.Child("selectPolicy"), *r.SelectPolicy, autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)
	}
	if len(r.Policies) == 0 {
		p.required(at.Child("policies"), "must specify at least one Policy")
	}
	for i, policy := range r.Policies {
		at := at.Child("policies").Index(i)
		oneOf(p, at.Child("type"), policy.Type, autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
		if policy.Value <= 0 {
			p.invalid(at.Child("value"), policy.Value, "must be greater than zero")
		}
		if policy.PeriodSeconds <= 0 {
			p.invalid(at.Child("periodSeconds"), policy.PeriodSeconds, "must be greater than zero")
		}
		if policy.PeriodSeconds > maxScalingPeriod {
			p.invalid(at.Child("periodSeconds"), policy.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", maxScalingPeriod))
		}
	}
	if r.Tolerance != nil {
		p.quantityNotNegative(at.Child("tolerance"), *r.Tolerance)
	}
}

func validateAutoscalerStatus(o, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	p, at := problems{}, field.NewPath("status")
	for i, c := range o.Status.Conditions {
		if c.ObservedGeneration != nil {
			p.notNegative(at.Child("conditions").Index(i).Child("observedGeneration"), *c.ObservedGeneration)
		}
	}
	p.notNegative(at.Child("currentReplicas"), int64(o.Status.CurrentReplicas))
	p.notNegative(at.Child("desiredReplicas"), int64(o.Status.DesiredReplicas))
	return p.list
}
