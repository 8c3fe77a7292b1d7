package kinds

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func validateDaemonSet(o *appsv1.DaemonSet) field.ErrorList {
	var p problems
	s, at := &o.Spec, field.NewPath("spec")
	p.add(metav1validation.ValidateLabelSelector(s.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil {
		p.templateSelected(at.Child("template"), selector, &s.Template)
	}
	if s.Selector != nil && len(s.Selector.MatchLabels)+len(s.Selector.MatchExpressions) == 0 {
		p.invalid(at.Child("selector"), s.Selector, "empty selector is invalid for daemonset")
	}
	p.endless(at.Child("template"), &s.Template, "DaemonSet")
	p.notNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	p.daemonSetStrategy(at.Child("updateStrategy"), &s.UpdateStrategy)
	optionalNotNegative(&p, at.Child("revisionHistoryLimit"), s.RevisionHistoryLimit)
	return p.list
}

func (p *problems) daemonSetStrategy(at *field.Path, s *appsv1.DaemonSetUpdateStrategy) {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		at = at.Child("rollingUpdate")
		if s.RollingUpdate == nil {
			p.required(at, "")
			return
		}
		unavailable, surge := ptr.Deref(s.RollingUpdate.MaxUnavailable, intstr.IntOrString{}), ptr.Deref(s.RollingUpdate.MaxSurge, intstr.IntOrString{})
		p.intOrPercent(at.Child("maxUnavailable"), unavailable)
		p.intOrPercent(at.Child("maxSurge"), surge)
		p.percentInRange(at.Child("maxUnavailable"), unavailable)
		p.percentInRange(at.Child("maxSurge"), surge)
		switch u, s := amount(unavailable) != 0, amount(surge) != 0; {
		case u && s:
			p.invalid(at.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero")
		case !u && !s:
			p.required(at.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0")
		}
	default:
		p.add(field.NotSupported(at, s,
			[]appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
	}
}

func validateDaemonSetUpdate(o, old *appsv1.DaemonSet) field.ErrorList {
	var p problems
	p.immutable(field.NewPath("spec", "selector"), o.Spec.Selector, old.Spec.Selector)
	return p.list
}

func validateDaemonSetStatus(o, old *appsv1.DaemonSet) field.ErrorList {
	var p problems
	s, at := &o.Status, field.NewPath("status")
	p.notNegative(at.Child("currentNumberScheduled"), int64(s.CurrentNumberScheduled))
	p.notNegative(at.Child("numberMisscheduled"), int64(s.NumberMisscheduled))
	p.notNegative(at.Child("desiredNumberScheduled"), int64(s.DesiredNumberScheduled))
	p.notNegative(at.Child("numberReady"), int64(s.NumberReady))
	p.notNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	p.notNegative(at.Child("updatedNumberScheduled"), int64(s.UpdatedNumberScheduled))
	p.notNegative(at.Child("numberAvailable"), int64(s.NumberAvailable))
	p.notNegative(at.Child("numberUnavailable"), int64(s.NumberUnavailable))
	optionalNotNegative(&p, at.Child("collisionCount"), s.CollisionCount)
	p.notDecremented(at.Child("collisionCount"), s.CollisionCount, old.Status.CollisionCount)
	return p.list
}

// validateStatefulSet checks a new StatefulSet.
func validateStatefulSet(o *appsv1.StatefulSet) field.ErrorList {
	var p problems
	at := field.NewPath("spec")
	p.statefulSetStrategy(at, &o.Spec)
	for i := range o.Spec.VolumeClaimTemplates {
		p.claimSpec(at.Child("volumeClaimTemplates").Index(i).Child("spec"), &o.Spec.VolumeClaimTemplates[i].Spec)
	}
	p.statefulSetNumbers(at, &o.Spec)
	if o.Spec.ServiceName != "" {
		p.label(at.Child("serviceName"), o.Spec.ServiceName)
	}
	p.statefulSetPods(at, &o.Spec, true)
	return p.list
}

// validateStatefulSetUpdate leaves alone what was wrong before and cannot be changed.
func validateStatefulSetUpdate(o, old *appsv1.StatefulSet) field.ErrorList {
	var p, before problems
	at := field.NewPath("spec")
	before.statefulSetStrategy(at, &old.Spec)
	before.statefulSetNumbers(at, &old.Spec)
	before.statefulSetPods(at, &old.Spec, true)

	p.statefulSetStrategy(at, &o.Spec)
	p.statefulSetNumbers(at, &o.Spec)
	p.statefulSetPods(at, &o.Spec, len(before.list) == 0)
	p.immutable(at.Child("selector"), o.Spec.Selector, old.Spec.Selector)
	p.immutable(at.Child("volumeClaimTemplates"), o.Spec.VolumeClaimTemplates, old.Spec.VolumeClaimTemplates)
	p.immutable(at.Child("serviceName"), o.Spec.ServiceName, old.Spec.ServiceName)
	p.immutable(at.Child("podManagementPolicy"), o.Spec.PodManagementPolicy, old.Spec.PodManagementPolicy)
	return p.list
}

func (p *problems) statefulSetStrategy(at *field.Path, s *appsv1.StatefulSetSpec) {
	switch s.PodManagementPolicy {
	case "":
		p.required(at.Child("podManagementPolicy"), "")
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		p.invalid(at.Child("podManagementPolicy"), string(s.PodManagementPolicy), "must be 'OrderedReady' or 'Parallel'")
	}
	strategy, rolling := at.Child("updateStrategy"), s.UpdateStrategy.RollingUpdate
	switch s.UpdateStrategy.Type {
	case "":
		p.required(strategy, "")
	case appsv1.OnDeleteStatefulSetStrategyType:
		if rolling != nil {
			p.invalid(strategy.Child("rollingUpdate"), rolling, "only allowed for updateStrategy 'RollingUpdate'")
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if rolling != nil {
			p.rollingStatefulSet(strategy.Child("rollingUpdate"), rolling)
		}
	default:
		p.invalid(strategy, s.UpdateStrategy, "must be 'RollingUpdate' or 'OnDelete'")
	}
	if r := s.PersistentVolumeClaimRetentionPolicy; r != nil {
		at := at.Child("persistentVolumeClaimRetentionPolicy")
		retain, remove := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		oneOf(p, at.Child("whenDeleted"), r.WhenDeleted, retain, remove)
		oneOf(p, at.Child("whenScaled"), r.WhenScaled, retain, remove)
	}
}

func (p *problems) rollingStatefulSet(at *field.Path, u *appsv1.RollingUpdateStatefulSetStrategy) {
	optionalNotNegative(p, at.Child("partition"), u.Partition)
	if u.MaxUnavailable == nil {
		return
	}
	at = at.Child("maxUnavailable")
	p.intOrPercent(at, *u.MaxUnavailable)
	if amount(*u.MaxUnavailable) == 0 {
		p.invalid(at, *u.MaxUnavailable, "cannot be 0")
	}
	p.percentInRange(at, *u.MaxUnavailable)
}

func (p *problems) statefulSetNumbers(at *field.Path, s *appsv1.StatefulSetSpec) {
	optionalNotNegative(p, at.Child("replicas"), s.Replicas)
	p.notNegative(at.Child("minReadySeconds"), int64(s.MinReadySeconds))
	if s.Ordinals != nil {
		p.notNegative(at.Child("ordinals.start"), int64(s.Ordinals.Start))
	}
}

// statefulSetPods checks the selector and, if wanted, the whole template as the pods will be.
func (p *problems) statefulSetPods(at *field.Path, s *appsv1.StatefulSetSpec, whole bool) {
	p.podSelector(at.Child("selector"), s.Selector, "statefulset")
	template := at.Child("template")
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err != nil {
		p.invalid(at.Child("selector"), s.Selector, "")
	} else {
		p.templateSelected(template, selector, &s.Template)
		if whole {
			p.template(template, asStatefulPods(s))
		}
	}
	if r := s.Template.Spec.RestartPolicy; r != corev1.RestartPolicyAlways {
		p.add(field.NotSupported(template.Child("spec", "restartPolicy"), r, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if s.Template.Spec.ActiveDeadlineSeconds != nil {
		p.forbidden(template.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in StatefulSet is not Supported")
	}
}

// asStatefulPods is the template with what the controller puts into it: names, and volumes of the claims.
func asStatefulPods(s *appsv1.StatefulSetSpec) *corev1.PodTemplateSpec {
	t := s.Template.DeepCopy()
	t.Spec.Subdomain, t.Spec.Hostname = "", ""
	if len(s.VolumeClaimTemplates) == 0 {
		return t
	}
	claims := make(map[string]bool, len(s.VolumeClaimTemplates))
	volumes := make([]corev1.Volume, 0, len(s.VolumeClaimTemplates)+len(t.Spec.Volumes))
	for i := range s.VolumeClaimTemplates {
		name := s.VolumeClaimTemplates[i].Name
		if claims[name] {
			continue
		}
		claims[name] = true
		volumes = append(volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
	for i := range t.Spec.Volumes {
		if !claims[t.Spec.Volumes[i].Name] {
			volumes = append(volumes, t.Spec.Volumes[i])
		}
	}
	t.Spec.Volumes = volumes
	return t
}

func validateStatefulSetStatus(o, old *appsv1.StatefulSet) field.ErrorList {
	var p problems
	s, at := &o.Status, field.NewPath("status")
	p.notNegative(at.Child("replicas"), int64(s.Replicas))
	p.notNegative(at.Child("readyReplicas"), int64(s.ReadyReplicas))
	p.notNegative(at.Child("currentReplicas"), int64(s.CurrentReplicas))
	p.notNegative(at.Child("updatedReplicas"), int64(s.UpdatedReplicas))
	p.notNegative(at.Child("availableReplicas"), int64(s.AvailableReplicas))
	p.notNegative(at.Child("observedGeneration"), s.ObservedGeneration)
	optionalNotNegative(&p, at.Child("collisionCount"), s.CollisionCount)
	p.notAbove(at.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("currentReplicas"), s.CurrentReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("updatedReplicas"), s.UpdatedReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, aboveReplicas)
	p.notAbove(at.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "cannot be greater than status.readyReplicas")
	p.notDecremented(at.Child("collisionCount"), s.CollisionCount, old.Status.CollisionCount)
	return p.list
}

func statefulSetWarnings(o, old *appsv1.StatefulSet) (l []string) {
	for i := range o.Spec.VolumeClaimTemplates {
		at := field.NewPath("spec", "volumeClaimTemplates").Index(i)
		if old != nil {
			at = at.Child("Spec")
		}
		l = append(l, warnOfClaimSpec(at, &o.Spec.VolumeClaimTemplates[i].Spec)...)
	}
	if n := o.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		l = append(l, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return l
}
