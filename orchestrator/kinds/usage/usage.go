// Package usage measures what objects take of a ResourceQuota: the one answer for admission, which charges a quota for what
// is about to be stored, and for the quota controller, which adds up what is there.
//
// # The model
//
// A Measure belongs to a resource. Pods, services, persistent volume claims and resource claims have their own; objects of
// any other resource count as one under "count/<resource>.<group>", and some under an older name, too. A quota is about an
// object if one of its hard limits has a name that the measure knows, and if the object is in all scopes of the quota.
//
// # Concurrency
//
// A Measure does not change, and objects are only read.
package usage

import (
	"fmt"
	"iter"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

// Measure knows what objects of a resource take.
type Measure struct {
	// Resource is what is measured.
	Resource schema.GroupResource
	// Updates says that a change of an object can change what it takes.
	Updates bool

	knows    func(name corev1.ResourceName) bool
	of       func(o runtime.Object, now time.Time) corev1.ResourceList
	inScope  func(s scope, o runtime.Object) (bool, error) // nil: never
	required func(names []corev1.ResourceName, o runtime.Object) error
}

type scope = corev1.ScopedResourceSelectorRequirement

// For returns the measure of a resource, nil if quotas are not about it.
func For(r schema.GroupResource) *Measure {
	if slices.Contains(ignored, r) {
		return nil
	}
	switch r {
	case pods:
		return &Measure{Resource: r, knows: knowsPod, of: ofPod, inScope: podInScope, required: podRequires}
	case services:
		return &Measure{Resource: r, Updates: true, knows: knowsService, of: ofService}
	case volumeClaims:
		return &Measure{Resource: r, Updates: true, knows: knowsVolumeClaim, of: ofVolumeClaim, inScope: volumeClaimInScope}
	case deviceClaims:
		return &Measure{Resource: r, Updates: true, knows: knowsDeviceClaim, of: ofDeviceClaim}
	}
	names := []corev1.ResourceName{CountName(r)}
	if r.Group == "" && slices.Contains(aliased, r.Resource) {
		names = append(names, corev1.ResourceName(r.Resource))
	}
	return &Measure{
		Resource: r, knows: func(name corev1.ResourceName) bool { return slices.Contains(names, name) },
		of: func(runtime.Object, time.Time) corev1.ResourceList {
			out := corev1.ResourceList{}
			for _, name := range names {
				out[name] = number(1)
			}
			return out
		},
	}
}

// aliased are core resources that quotas also know by their plain name.
var aliased = []string{"configmaps", "resourcequotas", "replicationcontrollers", "secrets"}

// ignored are what is not stored, and events.
var ignored = []schema.GroupResource{
	{Resource: "bindings"}, {Resource: "componentstatuses"}, {Resource: "events"}, {Group: "events.k8s.io", Resource: "events"},
	{Group: "authentication.k8s.io", Resource: "tokenreviews"}, {Group: "authentication.k8s.io", Resource: "selfsubjectreviews"},
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}, {Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"},
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}, {Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"},
}

// CountName is the name under which a quota limits how many objects of a resource there are.
func CountName(r schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + r.String())
}

// Of returns what an object takes. Now decides about pods that ought to be gone.
func (m *Measure) Of(o runtime.Object, now time.Time) corev1.ResourceList { return m.of(o, now) }

// Changed says whether an object takes something else than it did, or is in other scopes.
func (m *Measure) Changed(old, o runtime.Object, now time.Time) bool {
	if !quota.Equals(m.of(old, now), m.of(o, now)) {
		return true
	}
	if p, ok := o.(*corev1.Pod); ok {
		was, ok := old.(*corev1.Pod)
		return ok && Terminating(p) != Terminating(was)
	}
	if c, ok := o.(*corev1.PersistentVolumeClaim); ok {
		was, ok := old.(*corev1.PersistentVolumeClaim)
		return ok && VolumeClaimTakesOther(c, was)
	}
	return false
}

// Names returns those names that the measure knows.
func (m *Measure) Names(in []corev1.ResourceName) (out []corev1.ResourceName) {
	for _, name := range in {
		if m.knows(name) {
			out = append(out, name)
		}
	}
	return out
}

// Matches says whether a quota is about an object.
func (m *Measure) Matches(q *corev1.ResourceQuota, o runtime.Object) (bool, error) {
	if len(m.Names(quota.ResourceNames(q.Status.Hard))) == 0 {
		return false, nil
	}
	return m.inScopes(&q.Spec, o)
}

// Requires says what an object has to state itself because a quota limits it, in an error's words.
func (m *Measure) Requires(names []corev1.ResourceName, o runtime.Object) error {
	if m.required == nil {
		return nil
	}
	return m.required(names, o)
}

// Total adds up what the objects take that a quota's specification is about, of what it limits. What nothing takes is 0.
func (m *Measure) Total(spec *corev1.ResourceQuotaSpec, objects iter.Seq[runtime.Object], now time.Time) (corev1.ResourceList, error) {
	names := m.Names(quota.ResourceNames(spec.Hard))
	total := corev1.ResourceList{}
	for _, name := range names {
		total[name] = number(0)
	}
	if len(names) == 0 {
		return total, nil
	}
	for o := range objects {
		in, err := m.inScopes(spec, o)
		if err != nil {
			return nil, err
		}
		if in {
			total = quota.Add(total, quota.Mask(m.of(o, now), names))
		}
	}
	return total, nil
}

func (m *Measure) inScopes(spec *corev1.ResourceQuotaSpec, o runtime.Object) (bool, error) {
	for _, s := range scopes(spec) {
		if m.inScope == nil {
			return false, nil
		}
		if in, err := m.inScope(s, o); err != nil || !in {
			return false, err
		}
	}
	return true, nil
}

func scopes(spec *corev1.ResourceQuotaSpec) (out []scope) {
	for _, s := range spec.Scopes {
		out = append(out, scope{ScopeName: s, Operator: corev1.ScopeSelectorOpExists})
	}
	if spec.ScopeSelector != nil {
		out = append(out, spec.ScopeSelector.MatchExpressions...)
	}
	return out
}

// selects compares a scope with the values that an object has for it: one that fits is enough.
func selects(s scope, values []string) (bool, error) {
	op, ok := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[s.Operator]
	if !ok {
		return false, fmt.Errorf("%q is not a valid scope selector operator", s.Operator)
	}
	r, err := labels.NewRequirement(string(s.ScopeName), op, s.Values)
	if err != nil {
		return false, fmt.Errorf("scope selector: %w", err)
	}
	if len(values) == 0 {
		return r.Matches(labels.Set{}), nil
	}
	return slices.ContainsFunc(values, func(v string) bool { return r.Matches(labels.Set{string(s.ScopeName): v}) }), nil
}

func number(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }
