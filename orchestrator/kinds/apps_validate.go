package kinds

import (
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

const aboveReplicas = "cannot be greater than status.replicas"

// podSet checks the selector and the template of a Deployment or a ReplicaSet, in the same words for both.
func (p *problems) podSet(spec *field.Path, selector *metav1.LabelSelector, template *corev1.PodTemplateSpec) {
	p.podSelector(spec.Child("selector"), selector, "deployment")
	s, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		p.invalid(spec.Child("selector"), selector, "invalid label selector")
		return
	}
	at := spec.Child("template")
	p.templateSelected(at, s, template)
	p.endless(at, template, "ReplicaSet")
}

// podSelector checks the selector of pods, which must select something in particular.
func (p *problems) podSelector(at *field.Path, selector *metav1.LabelSelector, kind string) {
	if selector == nil {
		p.required(at, "")
		return
	}
	p.add(metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, at)...)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		p.invalid(at, selector, "empty selector is invalid for "+kind)
	}
}

func (p *problems) templateSelected(at *field.Path, selector labels.Selector, template *corev1.PodTemplateSpec) {
	if !selector.Empty() && !selector.Matches(labels.Set(template.Labels)) {
		p.invalid(at.Child("metadata", "labels"), template.Labels, "`selector` does not match template `labels`")
	}
}

// endless allows no pods that end.
func (p *problems) endless(at *field.Path, template *corev1.PodTemplateSpec, kind string) {
	p.template(at, template)
	if r := template.Spec.RestartPolicy; r != corev1.RestartPolicyAlways {
		p.add(field.NotSupported(at.Child("spec", "restartPolicy"), r, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if template.Spec.ActiveDeadlineSeconds != nil {
		p.forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported")
	}
}

func (p *problems) immutable(at *field.Path, value, old any) {
	p.add(validation.ValidateImmutableField(value, old, at)...)
}

// optionalNotNegative checks a number that may be absent.
func optionalNotNegative[T int32 | int64](p *problems, at *field.Path, n *T) {
	if n != nil {
		p.notNegative(at, int64(*n))
	}
}

// notAbove checks that a number of pods is not above another.
func (p *problems) notAbove(at *field.Path, n, limit int32, message string) {
	if n > limit {
		p.invalid(at, n, message)
	}
}

// notDecremented checks the number of collisions of names, which only grows.
func (p *problems) notDecremented(at *field.Path, n, old *int32) {
	if old != nil && (n == nil || *n < *old) {
		p.invalid(at, ptr.Deref(n, 0), "cannot be decremented")
	}
}

func validateDeployment(o *appsv1.Deployment) field.ErrorList {
	var p problems
	s, at := &o.Spec, field.NewPath("spec")
	optionalNotNegative(&p, at.Child("replicas"), s.Replicas)
	p.podSet(at, s.Selector, &s.Template)
	p.deploymentStrategy(at.Child("strategy"), &s.Strategy)
	p.notNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	optionalNotNegative(&p, at.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)
	if d := s.ProgressDeadlineSeconds; d != nil {
		p.notNegative(at.Child("progressDeadlineSeconds"), int64(*d))
		if *d <= s.MinReadySeconds {
			p.invalid(at.Child("progressDeadlineSeconds"), *d, "must be greater than minReadySeconds")
		}
	}
	return p.list
}

func (p *problems) deploymentStrategy(at *field.Path, s *appsv1.DeploymentStrategy) {
	rolling := at.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			p.forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'")
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		u := s.RollingUpdate
		if u == nil {
			p.required(rolling, "this should be defaulted and never be nil")
			return
		}
		unavailable, surge := ptr.Deref(u.MaxUnavailable, intstr.IntOrString{}), ptr.Deref(u.MaxSurge, intstr.IntOrString{})
		p.intOrPercent(rolling.Child("maxUnavailable"), unavailable)
		p.intOrPercent(rolling.Child("maxSurge"), surge)
		if amount(unavailable) == 0 && amount(surge) == 0 {
			p.invalid(rolling.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0")
		}
		p.percentInRange(rolling.Child("maxUnavailable"), unavailable)
	default:
		p.add(field.NotSupported(at, s,
			[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}))
	}
}

func validateDeploymentUpdate(o, old *appsv1.Deployment) field.ErrorList {
	var p problems
	p.immutable(field.NewPath("spec", "selector"), o.Spec.Selector, old.Spec.Selector)
	return p.list
}

func validateDeploymentStatus(o, old *appsv1.Deployment) field.ErrorList {
	var p problems
	s, at := &o.Status, field.NewPath("status")
	p.notNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	p.notNegative(at.Child("replicas"), int64(s.Replicas))
	p.notNegative(at.Child("updatedReplicas"), int64(s.UpdatedReplicas))
	p.notNegative(at.Child("readyReplicas"), int64(s.ReadyReplicas))
	p.notNegative(at.Child("availableReplicas"), int64(s.AvailableReplicas))
	p.notNegative(at.Child("unavailableReplicas"), int64(s.UnavailableReplicas))
	optionalNotNegative(&p, at.Child("terminatingReplicas"), s.TerminatingReplicas)
	optionalNotNegative(&p, at.Child("collisionCount"), s.CollisionCount)
	p.notAbove(at.Child("updatedReplicas"), s.UpdatedReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than readyReplicas")
	p.notDecremented(at.Child("collisionCount"), s.CollisionCount, old.Status.CollisionCount)
	return p.list
}

func validateReplicaSet(o *appsv1.ReplicaSet) field.ErrorList {
	var p problems
	at := field.NewPath("spec")
	optionalNotNegative(&p, at.Child("replicas"), o.Spec.Replicas)
	p.notNegative(at.Child("minReadySeconds"), int64(o.Spec.MinReadySeconds))
	p.podSet(at, o.Spec.Selector, &o.Spec.Template)
	return p.list
}

func validateReplicaSetUpdate(o, old *appsv1.ReplicaSet) field.ErrorList {
	var p problems
	p.immutable(field.NewPath("spec", "selector"), o.Spec.Selector, old.Spec.Selector)
	return p.list
}

func validateReplicaSetStatus(o, _ *appsv1.ReplicaSet) field.ErrorList {
	var p problems
	s, at := &o.Status, field.NewPath("status")
	p.notNegative(at.Child("replicas"), int64(s.Replicas))
	p.notNegative(at.Child("fullyLabeledReplicas"), int64(s.FullyLabeledReplicas))
	p.notNegative(at.Child("readyReplicas"), int64(s.ReadyReplicas))
	p.notNegative(at.Child("availableReplicas"), int64(s.AvailableReplicas))
	p.notNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	optionalNotNegative(&p, at.Child("terminatingReplicas"), s.TerminatingReplicas)
	p.notAbove(at.Child("fullyLabeledReplicas"), s.FullyLabeledReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than readyReplicas")
	return p.list
}

func validateControllerRevision(o *appsv1.ControllerRevision) field.ErrorList {
	var p problems
	p.notNegative(field.NewPath("revision"), o.Revision)
	at := field.NewPath("data")
	var v any
	if o.Data.Raw == nil {
		p.required(at, "data is mandatory")
	} else if err := json.Unmarshal(o.Data.Raw, &v); err != nil {
		p.invalid(at, "<value omitted>", fmt.Sprintf("error parsing data: %v", err))
	} else if v == nil {
		p.required(at, "data is mandatory")
	} else if _, ok := v.(map[string]any); !ok {
		p.required(at, "data must be a valid JSON object")
	}
	return p.list
}

func validateControllerRevisionUpdate(o, old *appsv1.ControllerRevision) field.ErrorList {
	var p problems
	p.immutable(field.NewPath("data"), o.Data, old.Data)
	return p.list
}
