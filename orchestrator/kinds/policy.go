package kinds

import (
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// policyKinds are those of policy.
func policyKinds() []*Kind {
	return []*Kind{with(Kind{
		GroupVersionKind: policyv1.SchemeGroupVersion.WithKind("PodDisruptionBudget"), Resource: "poddisruptionbudgets", Singular: "poddisruptionbudget",
		ShortNames: []string{"pdb"}, Namespaced: true, Place: "poddisruptionbudgets",
		New: func() Object { return &policyv1.PodDisruptionBudget{} }, NewList: func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Min Available", "The minimum number of pods that must be available."),
			textColumn("Max Unavailable", "The maximum number of pods that may be unavailable."),
			countColumn("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
			ageColumn,
		},
	}, Rules[*policyv1.PodDisruptionBudget]{
		Ratchets: true,
		Validate: func(o *policyv1.PodDisruptionBudget) field.ErrorList { return validateBudget(o, false) },
		ValidateUpdate: func(o, old *policyv1.PodDisruptionBudget) field.ErrorList {
			return validateBudget(o, metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector))
		},
		ValidateStatus: validateBudgetStatus,
		Spec:           func(o *policyv1.PodDisruptionBudget) any { return &o.Spec },
		Status:         func(o *policyv1.PodDisruptionBudget) any { return &o.Status },
		Row: func(o *policyv1.PodDisruptionBudget, now time.Time) []any {
			return []any{o.Name, limitCell(o.Spec.MinAvailable), limitCell(o.Spec.MaxUnavailable), int64(o.Status.DisruptionsAllowed), age(o, now)}
		},
	})}
}

func limitCell(v *intstr.IntOrString) string {
	if v == nil {
		return "N/A"
	}
	return v.String()
}

// validateBudget checks a budget, whose selector may have bad values if it had them before.
func validateBudget(o *policyv1.PodDisruptionBudget, badValues bool) field.ErrorList {
	var p problems
	s, at := &o.Spec, field.NewPath("spec")
	if s.MinAvailable != nil && s.MaxUnavailable != nil {
		p.invalid(at, s, "minAvailable and maxUnavailable cannot be both set")
	}
	if v := s.MinAvailable; v != nil {
		p.intOrPercent(at.Child("minAvailable"), *v)
		p.percentInRange(at.Child("minAvailable"), *v)
	}
	if v := s.MaxUnavailable; v != nil {
		p.intOrPercent(at.Child("maxUnavailable"), *v)
		p.percentInRange(at.Child("maxUnavailable"), *v)
	}
	options := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: badValues}
	p.add(metav1validation.ValidateLabelSelector(s.Selector, options, at.Child("selector"))...)
	if v := s.UnhealthyPodEvictionPolicy; v != nil {
		oneOf(&p, at.Child("unhealthyPodEvictionPolicy"), *v, policyv1.AlwaysAllow, policyv1.IfHealthyBudget)
	}
	return p.list
}

func validateBudgetStatus(o, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	var p problems
	s, at := &o.Status, field.NewPath("status")
	p.add(metav1validation.ValidateConditions(s.Conditions, at.Child("conditions"))...)
	p.notNegative(at.Child("disruptionsAllowed"), int64(s.DisruptionsAllowed))
	p.notNegative(at.Child("currentHealthy"), int64(s.CurrentHealthy))
	p.notNegative(at.Child("desiredHealthy"), int64(s.DesiredHealthy))
	p.notNegative(at.Child("expectedPods"), int64(s.ExpectedPods))
	return p.list
}
