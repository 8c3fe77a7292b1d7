package kinds

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// coordinationKinds are those of coordination.k8s.io.
func coordinationKinds() []*Kind {
	return []*Kind{with(Kind{
		GroupVersionKind: coordinationv1.SchemeGroupVersion.WithKind("Lease"), Resource: "leases", Singular: "lease", Namespaced: true, Place: "leases",
		New: func() Object { return &coordinationv1.Lease{} }, NewList: func() runtime.Object { return &coordinationv1.LeaseList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{CreateOnUpdate: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			{Name: "Holder", Type: "string", Description: coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]},
			ageColumn,
		},
	}, Rules[*coordinationv1.Lease]{
		Validate: validateLease,
		Row: func(o *coordinationv1.Lease, now time.Time) []any {
			return []any{o.Name, ptr.Deref(o.Spec.HolderIdentity, ""), age(o, now)}
		},
	})}
}

func validateLease(o *coordinationv1.Lease) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	if d := o.Spec.LeaseDurationSeconds; d != nil && *d <= 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseDurationSeconds"), *d, "must be greater than 0"))
	}
	if t := o.Spec.LeaseTransitions; t != nil && *t < 0 {
		errs = append(errs, field.Invalid(spec.Child("leaseTransitions"), *t, "must be greater than or equal to 0"))
	}
	if s := o.Spec.Strategy; s != nil {
		if *s == "" {
			errs = append(errs, field.Required(spec.Child("strategy"), ""))
		}
	}
	if p := o.Spec.PreferredHolder; p != nil && *p != "" && (o.Spec.Strategy == nil || *o.Spec.Strategy == "") {
		errs = append(errs, field.Forbidden(spec.Child("preferredHolder"), "may only be specified when `strategy` is defined"))
	}
	return errs
}
