package policy

import (
	"context"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// rule is a compiled policy with its bindings, of which there is at least one.
type rule struct {
	name      string
	criteria  *match.Criteria // nil: left out, which is wrong
	paramKind *admissionv1.ParamKind
	ignore    bool // failures
	reinvoke  bool // if the object changed after its mutation
	validator *validator
	mutator   *mutator
	bindings  []*binding // in order of their names
}

// binding is a compiled binding.
type binding struct {
	name, policy string
	criteria     *match.Criteria // nil: none of its own
	params       *admissionv1.ParamRef
	actions      []admissionv1.ValidationAction
}

// source has the policies of one sort.
type source struct {
	lookup             admission.Lookup
	policies, bindings schema.GroupResource
	compiled           match.Compiled[any, []*rule] // *rule or *binding
}

func newSource(l admission.Lookup, policies, bindings string, compile func(o kinds.Object) any) *source {
	resource := func(s string) schema.GroupResource {
		return schema.GroupResource{Group: admissionv1.GroupName, Resource: s}
	}
	s := &source{lookup: l, policies: resource(policies), bindings: resource(bindings)}
	s.compiled.Compile, s.compiled.Join = compile, join
	return s
}

// rules returns the policies that are bound, in order of their names.
func (s *source) rules(ctx context.Context) ([]*rule, error) {
	policies, err := s.lookup.List(ctx, s.policies, "")
	if err != nil {
		return nil, listError(err)
	}
	if len(policies) == 0 {
		return nil, nil
	}
	bindings, err := s.lookup.List(ctx, s.bindings, "")
	if err != nil {
		return nil, listError(err)
	}
	return s.compiled.Of(slices.Concat(policies, bindings)), nil
}

// join gives policies their bindings. What was compiled stays as it is.
func join(all []any) (rules []*rule) {
	bindings := map[string][]*binding{}
	for _, one := range all {
		if b, ok := one.(*binding); ok {
			bindings[b.policy] = append(bindings[b.policy], b)
		}
	}
	for _, one := range all {
		if r, ok := one.(*rule); ok && len(bindings[r.name]) > 0 {
			bound := *r
			bound.bindings = bindings[r.name]
			rules = append(rules, &bound)
		}
	}
	return rules
}

func validatingSource(l admission.Lookup) *source {
	return newSource(l, "validatingadmissionpolicies", "validatingadmissionpolicybindings", func(o kinds.Object) any {
		switch o := o.(type) {
		case *admissionv1.ValidatingAdmissionPolicy:
			r := newRule(o.Name, o.Spec.MatchConstraints, o.Spec.ParamKind, o.Spec.FailurePolicy)
			r.validator = newValidator(o)
			return r
		case *admissionv1.ValidatingAdmissionPolicyBinding:
			b := newBinding(o.Name, o.Spec.PolicyName, o.Spec.MatchResources, o.Spec.ParamRef)
			b.actions = o.Spec.ValidationActions
			return b
		}
		return nil
	})
}

func mutatingSource(l admission.Lookup) *source {
	return newSource(l, "mutatingadmissionpolicies", "mutatingadmissionpolicybindings", func(o kinds.Object) any {
		switch o := o.(type) {
		case *admissionv1.MutatingAdmissionPolicy:
			r := newRule(o.Name, o.Spec.MatchConstraints, o.Spec.ParamKind, o.Spec.FailurePolicy)
			r.reinvoke = o.Spec.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy
			r.mutator = newMutator(o)
			return r
		case *admissionv1.MutatingAdmissionPolicyBinding:
			return newBinding(o.Name, o.Spec.PolicyName, o.Spec.MatchResources, o.Spec.ParamRef)
		}
		return nil
	})
}

func newRule(name string, about *admissionv1.MatchResources, kind *admissionv1.ParamKind, policy *admissionv1.FailurePolicyType) *rule {
	r := &rule{name: name, paramKind: kind, ignore: ptr.Deref(policy, admissionv1.Fail) == admissionv1.Ignore}
	if about != nil {
		r.criteria = match.ForResources(about)
	}
	return r
}

func newBinding(name, policy string, about *admissionv1.MatchResources, params *admissionv1.ParamRef) *binding {
	b := &binding{name: name, policy: policy, params: params}
	if about != nil {
		b.criteria = match.ForResources(about)
	}
	return b
}
