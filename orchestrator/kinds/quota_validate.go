package kinds

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateResourceQuota(o *corev1.ResourceQuota) field.ErrorList {
	var p problems
	p.quotaSpec(o)
	p.quotaStatus(o)
	return p.list
}

func (p *problems) quotaSpec(o *corev1.ResourceQuota) {
	spec := field.NewPath("spec")
	p.quotas(spec.Child("hard"), o.Spec.Hard)
	if scopes := o.Spec.Scopes; len(scopes) > 0 {
		at := spec.Child("scopes")
		for _, s := range scopes {
			p.quotaScope(at, at, scopes, scopes, s, o.Spec.Hard)
		}
		p.scopeConflicts(at, scopes, scopes)
	}
	if o.Spec.ScopeSelector != nil {
		p.scopeSelector(spec.Child("scopeSelector", "matchExpressions"), &o.Spec)
	}
}

func (p *problems) quotaStatus(o *corev1.ResourceQuota) {
	p.quotas(field.NewPath("status", "hard"), o.Status.Hard)
	p.quotas(field.NewPath("status", "used"), o.Status.Used)
}

func validateResourceQuotaUpdate(o, old *corev1.ResourceQuota) field.ErrorList {
	var p problems
	p.quotaSpec(o)
	if !sets.New(o.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
		p.invalid(field.NewPath("spec", "scopes"), o.Spec.Scopes, validation.FieldImmutableErrorMsg)
	}
	return p.list
}

func validateResourceQuotaStatus(o, _ *corev1.ResourceQuota) field.ErrorList {
	var p problems
	if o.ResourceVersion == "" {
		p.required(field.NewPath("resourceVersion"), "")
	}
	p.quotaStatus(o)
	return p.list
}

// quotaScope checks a scope, and that every resource of the quota has it.
func (p *problems) quotaScope(nameAt, at *field.Path, name, all any, scope corev1.ResourceQuotaScope, hard corev1.ResourceList) {
	fits, known := scopeFits(scope)
	if !known {
		p.invalid(nameAt, name, "unsupported scope")
		return
	}
	for _, r := range slices.Sorted(maps.Keys(hard)) {
		if quotaResource(r) && !fits(r) {
			p.invalid(at, all, "unsupported scope applied to resource")
		}
	}
}

// scopeFits returns which resources a scope can be applied to.
func scopeFits(scope corev1.ResourceQuotaScope) (fits func(corev1.ResourceName) bool, known bool) {
	one := func(names ...corev1.ResourceName) func(corev1.ResourceName) bool {
		return func(name corev1.ResourceName) bool { return slices.Contains(names, name) }
	}
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return one(corev1.ResourcePods), true
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return one(corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory), true
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return one(corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage), true
	}
	return nil, false
}

func (p *problems) scopeConflicts(at *field.Path, value any, scopes []corev1.ResourceQuotaScope) {
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if slices.Contains(scopes, pair[0]) && slices.Contains(scopes, pair[1]) {
			p.invalid(at, value, "conflicting scopes")
		}
	}
}

func (p *problems) scopeSelector(at *field.Path, s *corev1.ResourceQuotaSpec) {
	var scopes []corev1.ResourceQuotaScope
	for i := range s.ScopeSelector.MatchExpressions {
		r := &s.ScopeSelector.MatchExpressions[i]
		scopes = append(scopes, r.ScopeName)
		p.quotaScope(at.Child("scopeName"), at, r.ScopeName, s.ScopeSelector, r.ScopeName, s.Hard)
		p.scopeOperator(at, r)
	}
	p.scopeConflicts(at, s.Scopes, scopes)
}

func (p *problems) scopeOperator(at *field.Path, r *corev1.ScopedResourceSelectorRequirement) {
	switch r.ScopeName {
	case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
		corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		if r.Operator != corev1.ScopeSelectorOpExists {
			p.invalid(at.Child("operator"), r.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, "+
				"ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity")
		}
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			p.required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) != 0 {
			p.invalid(at.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector")
		}
	default:
		p.invalid(at.Child("operator"), r.Operator, "not a valid selector operator")
	}
}
