package kinds

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// featureName is the form of the name of a feature that a node declares.
var featureName = regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)

func validateNode(o *corev1.Node) field.ErrorList {
	var p problems
	p.taints(field.NewPath("metadata", "taints"), o.Spec.Taints) // as Kubernetes says it
	p.nodeStatus(&o.Status)
	if w := o.Status.NodeInfo.Swap; w != nil && w.Capacity != nil && *w.Capacity <= 0 {
		p.invalid(field.NewPath("metadata", "nodeSwapStatus", "capacity"), *w.Capacity, "must be greater than zero")
	}
	at := field.NewPath("spec", "podCIDRs")
	for i, c := range o.Spec.PodCIDRs {
		p.add(utilvalidation.IsValidCIDRForLegacyField(at.Index(i), c, true, nil)...)
	}
	if len(o.Spec.PodCIDRs) > 1 {
		both, err := netutils.IsDualStackCIDRStrings(o.Spec.PodCIDRs)
		if err != nil {
			p.add(field.InternalError(at, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
		}
		if !both || len(o.Spec.PodCIDRs) > 2 {
			p.invalid(at, o.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family")
		}
	}
	return p.list
}

// nodeStatus checks what of a status is there.
func (p *problems) nodeStatus(s *corev1.NodeStatus) {
	check := func(part string, l corev1.ResourceList) {
		inNames(l, func(name corev1.ResourceName, q resource.Quantity) {
			p.resourceValue(field.NewPath("status", part, string(name)), name, q)
		})
	}
	check("capacity", s.Capacity)
	check("allocatable", s.Allocatable)
	at := field.NewPath("status", "declaredFeatures")
	for i, f := range s.DeclaredFeatures {
		switch {
		case len(f) > utilvalidation.DNS1123SubdomainMaxLength:
			p.invalid(at.Index(i), f, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", f, utilvalidation.DNS1123SubdomainMaxLength))
		case !featureName.MatchString(f):
			p.invalid(at.Index(i), f, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments "+
				"separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", f))
		}
		switch {
		case i == 0 || s.DeclaredFeatures[i-1] < f:
		case s.DeclaredFeatures[i-1] == f:
			p.duplicate(at.Index(i), f)
		default:
			p.invalid(at.Index(i), f, "list must be sorted alphabetically")
		}
	}
}

// taints checks taints, which must differ in their keys or effects.
func (p *problems) taints(at *field.Path, taints []corev1.Taint) {
	type pair struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := map[pair]bool{}
	for i, t := range taints {
		at := at.Index(i)
		p.labelKey(at.Child("key"), t.Key)
		if messages := utilvalidation.IsValidLabelValue(t.Value); len(messages) > 0 {
			p.invalid(at.Child("value"), t.Value, strings.Join(messages, ";"))
		}
		mustBeOneOf(p, at.Child("effect"), t.Effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
		if seen[pair{t.Key, t.Effect}] {
			err := field.Duplicate(at, t)
			err.Detail = "taints must be unique by key and effect pair"
			p.add(err)
		}
		seen[pair{t.Key, t.Effect}] = true
	}
}

func validateNodeUpdate(o, old *corev1.Node) field.ErrorList {
	var p problems
	p.nodeAddresses(o)
	if was := old.Spec.PodCIDRs; len(was) > 0 && !slices.Equal(was, o.Spec.PodCIDRs) {
		p.forbidden(field.NewPath("spec", "podCIDRs"), "node updates may not change podCIDR except from \"\" to valid")
	}
	if was, is := old.Spec.ProviderID, o.Spec.ProviderID; was != "" && was != is {
		detail := "field cannot be modified once set"
		if is == "" {
			detail = "field cannot be cleared once set"
		}
		p.invalid(field.NewPath("spec", "providerID"), nil, detail)
	}
	if o.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		p.forbidden(field.NewPath("spec", "externalID"), "may not be updated")
	}
	return p.list
}

func validateNodeStatus(o, _ *corev1.Node) field.ErrorList {
	var p problems
	p.nodeStatus(&o.Status)
	p.nodeAddresses(o)
	return p.list
}

func (p *problems) nodeAddresses(o *corev1.Node) {
	seen := map[corev1.NodeAddress]bool{}
	for i, a := range o.Status.Addresses {
		unique(p, seen, field.NewPath("status", "addresses").Index(i), a)
	}
}

func warnOfNode(o, _ *corev1.Node) (warnings []string) {
	if o.Spec.ConfigSource != nil {
		warnings = append(warnings, "spec.configSource: the feature is removed")
	}
	if o.Spec.DoNotUseExternalID != "" {
		warnings = append(warnings, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, c := range o.Spec.PodCIDRs {
		warnings = append(warnings, utilvalidation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), c)...)
	}
	return warnings
}
