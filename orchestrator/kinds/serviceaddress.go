package kinds

import (
	"net/netip"
	"strings"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// serviceAddressKinds are the ranges of the addresses of services, and those of them that are taken.
func serviceAddressKinds() []*Kind { return []*Kind{serviceCIDRKind(), ipAddressKind()} }

func serviceCIDRKind() *Kind {
	return with(Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"), Resource: "servicecidrs", Singular: "servicecidr", Place: "servicecidrs",
		New: func() Object { return &networkingv1.ServiceCIDR{} }, NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]), ageColumn,
		},
	}, Rules[*networkingv1.ServiceCIDR]{
		Spec:   func(o *networkingv1.ServiceCIDR) any { return &o.Spec },
		Status: func(o *networkingv1.ServiceCIDR) any { return &o.Status },
		Validate: func(o *networkingv1.ServiceCIDR) field.ErrorList {
			var p problems
			at := field.NewPath("spec", "cidrs")
			if len(o.Spec.CIDRs) == 0 {
				p.required(at, "at least one CIDR required")
			}
			for i, c := range o.Spec.CIDRs {
				if prefix, err := netip.ParsePrefix(c); err != nil || prefix.Masked() != prefix {
					p.invalid(at.Index(i), c, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")
				}
			}
			return p.list
		},
		ValidateUpdate: func(o, old *networkingv1.ServiceCIDR) (errs field.ErrorList) {
			if !equality.Semantic.DeepEqual(o.Spec.CIDRs, old.Spec.CIDRs) {
				errs = append(errs, field.Invalid(field.NewPath("spec", "cidrs"), o.Spec.CIDRs, validation.FieldImmutableErrorMsg))
			}
			return errs
		},
		Row: func(o *networkingv1.ServiceCIDR, now time.Time) []any {
			return []any{o.Name, strings.Join(o.Spec.CIDRs, ","), age(o, now)}
		},
	})
}

func ipAddressKind() *Kind {
	return with(Kind{
		GroupVersionKind: networkingv1.SchemeGroupVersion.WithKind("IPAddress"), Resource: "ipaddresses", Singular: "ipaddress", ShortNames: []string{"ip"}, Place: "ipaddresses",
		New: func() Object { return &networkingv1.IPAddress{} }, NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },
		NameErrors: ipAddressNameErrors, Lifecycle: Lifecycle{Generation: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]), ageColumn,
		},
	}, Rules[*networkingv1.IPAddress]{
		Spec: func(o *networkingv1.IPAddress) any { return &o.Spec },
		Validate: func(o *networkingv1.IPAddress) field.ErrorList {
			var p problems
			at := field.NewPath("spec", "parentRef")
			if o.Spec.ParentRef == nil {
				p.required(at, "")
				return p.list
			}
			p.have(at.Child("resource"), o.Spec.ParentRef.Resource)
			p.have(at.Child("name"), o.Spec.ParentRef.Name)
			return p.list
		},
		ValidateUpdate: func(o, old *networkingv1.IPAddress) (errs field.ErrorList) {
			if !equality.Semantic.DeepEqual(o.Spec.ParentRef, old.Spec.ParentRef) {
				errs = append(errs, field.Invalid(field.NewPath("spec", "parentRef"), o.Spec.ParentRef, validation.FieldImmutableErrorMsg))
			}
			return errs
		},
		Row: func(o *networkingv1.IPAddress, now time.Time) []any {
			return []any{o.Name, parentCell(o.Spec.ParentRef), age(o, now)}
		},
	})
}

func parentCell(r *networkingv1.ParentReference) string {
	if r == nil {
		return "<none>"
	}
	parts := []string{r.Resource}
	if r.Group != "" {
		parts[0] += "." + r.Group
	}
	if r.Namespace != "" {
		parts = append(parts, r.Namespace)
	}
	return strings.Join(append(parts, r.Name), "/")
}

// ipAddressNameErrors wants the canonical form of an address.
func ipAddressNameErrors(name string, _ bool) []string {
	a, err := netip.ParseAddr(name)
	switch {
	case err != nil:
		return []string{err.Error()}
	case a.String() != name || a.Zone() != "" || a.Is4In6():
		return []string{"must be in canonical form"}
	}
	return nil
}
