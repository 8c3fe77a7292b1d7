package policy

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/sets"
	celadmission "k8s.io/apiserver/pkg/admission"
	celplugin "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission/match"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Mutating applies mutating admission policies.
type Mutating struct {
	plugin
	types TypeConverters
}

// mutator is the compiled expressions of a mutating policy.
type mutator struct {
	err        error // nothing was compiled
	compiler   *compiler
	conditions matchconditions.Matcher // nil: none
	patchers   []patch.Patcher
}

func newMutator(o *admissionv1.MutatingAdmissionPolicy) *mutator {
	c, err := newCompiler(o.Spec.Variables, o.Spec.ParamKind != nil)
	if err != nil {
		return &mutator{err: err}
	}
	m := &mutator{compiler: c, conditions: c.conditions(o.Spec.MatchConditions, o.Spec.FailurePolicy, "admit", o.Name)}
	declared := c.declared
	declared.HasPatchTypes = true
	for _, one := range o.Spec.Mutations {
		switch {
		case one.PatchType == admissionv1.PatchTypeJSONPatch && one.JSONPatch != nil:
			e := c.CompileMutatingEvaluator(&patch.JSONPatchCondition{Expression: one.JSONPatch.Expression}, declared, environment.StoredExpressions)
			m.patchers = append(m.patchers, patch.NewJSONPatcher(e))
		case one.PatchType == admissionv1.PatchTypeApplyConfiguration && one.ApplyConfiguration != nil:
			e := c.CompileMutatingEvaluator(&patch.ApplyConfigurationCondition{Expression: one.ApplyConfiguration.Expression}, declared, environment.StoredExpressions)
			m.patchers = append(m.patchers, patch.NewApplyConfigurationPatcher(e))
		}
	}
	return m
}

// change is one mutating invocation.
type change struct {
	rule    *rule
	binding *binding
	version match.Version
	param   param
}

// id tells invocations of one request apart.
func (c *change) id() string {
	id := c.rule.name + "/" + c.binding.name
	if o, ok := c.param.(metav1.Object); ok {
		id += "/" + o.GetNamespace() + "/" + o.GetName()
	}
	return id
}

// rounds is what is kept of a first round for a second one.
type rounds struct {
	last    runtime.Object   // as it was after the round
	done    sets.Set[string] // invocations, by their ids
	pending sets.Set[string] // to be done again
}

// changed makes what was done so far, and wants it, be done again.
func (r *rounds) changed() {
	r.pending = r.pending.Union(r.done)
	r.done = nil
}

// Mutate applies all policies that are bound and about a request, one after the other.
func (p *Mutating) Mutate(ctx context.Context, a *admission.Attributes) error {
	if match.Exempt(a) {
		return nil
	}
	rules, err := p.source.rules(ctx)
	if err != nil || len(rules) == 0 {
		return err
	}
	var changes []*change
	var failures refusals
	p.meet(ctx, a, rules, meeting{failed: func(f failure) { failures.add(f, "") }, found: func(r *rule, b *binding, v match.Version, params []param) {
		for _, param := range params {
			changes = append(changes, &change{r, b, v, param})
		}
	}})
	if len(changes) > 0 {
		if err := p.apply(ctx, a, changes, &failures); err != nil {
			return err
		}
	}
	return failures.status(a)
}

func (p *Mutating) apply(ctx context.Context, a *admission.Attributes, changes []*change, failures *refusals) error {
	state := admission.State[rounds](a, p)
	if a.Reinvoked() && len(state.done) > 0 && !equality.Semantic.DeepEqual(state.last, a.Object) {
		state.changed()
	}
	ns, err := p.namespace(ctx, a)
	if err != nil {
		return err
	}
	views := p.matcher.Views(a)
	for _, c := range changes {
		if a.Reinvoked() && !state.pending.Has(c.id()) {
			continue
		}
		start, before := p.clock.Now(), a.Object
		ran, err := p.one(ctx, a, c, views, ns, failures)
		if err != nil {
			return err
		}
		if !ran {
			continue
		}
		p.metrics.took(c.rule, c.binding, p.clock.Now().Sub(start))
		if before != a.Object && !equality.Semantic.DeepEqual(before, a.Object) {
			state.changed()
			a.Reinvoke()
		}
		if c.rule.reinvoke {
			if state.done == nil {
				state.done = sets.New[string]()
			}
			state.done.Insert(c.id())
		}
	}
	if len(state.done) > 0 && !a.Reinvoked() && a.Object != nil {
		state.last = a.Object.DeepCopyObject()
	}
	return nil
}

// one applies the mutations of an invocation. Ran is false if the match conditions are not met. Its errors are status errors
// and end the request.
func (p *Mutating) one(ctx context.Context, a *admission.Attributes, c *change, views *match.Views, ns *corev1.Namespace, failures *refusals) (ran bool, _ error) {
	m := c.rule.mutator
	refuse := func(err error) {
		failures.add(failure{c.rule, c.binding, err}, metav1.StatusReasonInvalid)
		p.metrics.counted(c.rule, c.binding, err.Error(), "deny")
	}
	if m.err != nil {
		refuse(m.err)
		return false, nil
	}
	view, err := views.Of(ctx, c.version)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	if m.conditions != nil {
		switch r := m.conditions.Match(ctx, view.CEL, c.param, p.authorizer); {
		case r.Error != nil:
			refuse(r.Error)
			return false, nil
		case !r.Matches:
			return false, nil
		}
	}
	for _, patcher := range m.patchers {
		if a.Object == nil { // there is nothing to change
			return true, nil
		}
		err := p.patch(m.compiler.CreateContext(ctx), patcher, c, views, ns)
		var status *apierrors.StatusError
		switch {
		case errors.As(err, &status):
			return true, err
		case err != nil:
			refuse(err)
		default:
			p.metrics.counted(c.rule, c.binding, "", "allow")
		}
	}
	return true, nil
}

// patch applies one mutation.
func (p *Mutating) patch(ctx context.Context, patcher patch.Patcher, c *change, views *match.Views, ns *corev1.Namespace) error {
	view, err := views.Of(ctx, c.version)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	var converter managedfields.TypeConverter
	if p.types != nil {
		converter = p.types.TypeConverter(view.ObjectKind)
	}
	if converter == nil {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("Resource kind %s not found. There can be a delay between when CustomResourceDefinitions are created and when they are available.", view.ObjectKind))
	}
	out, err := patcher.Patch(ctx, patch.Request{
		MatchedResource: view.Kind.GroupVersionResource(), VersionedAttributes: view.CEL, ObjectInterfaces: like{view.Object, nil}, Namespace: ns,
		OptionalVariables: celplugin.OptionalVariableBindings{VersionedParams: c.param, Authorizer: p.authorizer}, TypeConverter: converter,
	}, celconfig.RuntimeCELCostBudget)
	if err != nil {
		return err
	}
	o, err := typed(out, view.Object)
	if err != nil {
		return err
	}
	if k, ok := o.(kinds.Object); ok && view.Kind.Default != nil && view.ObjectKind == view.Kind.GroupVersionKind {
		view.Kind.Default(k)
	}
	if err := views.Replace(ctx, view.Version, o); err != nil {
		return apierrors.NewInternalError(err)
	}
	return nil
}

// typed returns a patched object as one of the type of another one.
func typed(o, as runtime.Object) (runtime.Object, error) {
	u, ok := o.(*unstructured.Unstructured)
	if _, wanted := as.(*unstructured.Unstructured); !ok || wanted {
		return o, nil
	}
	out := blank(as)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, out, false); err != nil {
		return nil, fmt.Errorf("patched object: %w", err)
	}
	return out, nil
}

// blank is an empty object of the type of another one.
func blank(o runtime.Object) runtime.Object {
	out, _ := reflect.New(reflect.TypeOf(o).Elem()).Interface().(runtime.Object)
	return out
}

// like gives patchers what they need to know about the type of one object.
type like struct {
	o runtime.Object
	celadmission.ObjectInterfaces
}

// GetObjectCreater returns what makes empty objects of the type.
func (l like) GetObjectCreater() runtime.ObjectCreater { return l }

// New makes an empty object.
func (l like) New(schema.GroupVersionKind) (runtime.Object, error) { return blank(l.o), nil }

// GetObjectTyper returns what tells no types: objects are decoded as what they are decoded into.
func (l like) GetObjectTyper() runtime.ObjectTyper { return runtime.NewScheme() }
