package match

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// namespaces are found by fresh reads only if their name is "new".
type namespaces map[string]*corev1.Namespace

func (n namespaces) Get(_ context.Context, r schema.GroupResource, _, name string, fresh bool) (kinds.Object, error) {
	if ns := n[name]; ns != nil && (fresh || name != "new") {
		return ns, nil
	}
	return nil, apierrors.NewNotFound(r, name)
}

func (n namespaces) List(context.Context, schema.GroupResource, string) ([]kinds.Object, error) {
	return nil, nil
}

func builtin(t *testing.T, group, version, kind string) *kinds.Kind {
	all := kinds.Builtin()
	i := slices.IndexFunc(all, func(k *kinds.Kind) bool {
		return k.GroupVersionKind == schema.GroupVersionKind{Group: group, Version: version, Kind: kind}
	})
	require.GreaterOrEqual(t, i, 0)
	return all[i]
}

func labelled(name, team string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": team}}}
}

func rulesFor(resources ...string) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{Operations: []admissionv1.OperationType{"*"}, Rule: admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: resources}}}
}

func TestNamespaceSelector(t *testing.T) {
	m := &Matcher{Lookup: namespaces{"a": labelled("a", "a"), "b": labelled("b", "b"), "new": labelled("new", "a")}}
	c := ForWebhook(rulesFor("*"), nil, &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}, nil)
	namespace, role, cm := builtin(t, "", "v1", "Namespace"), builtin(t, "rbac.authorization.k8s.io", "v1", "ClusterRole"), builtin(t, "", "v1", "ConfigMap")
	for name, x := range map[string]struct {
		a    admission.Attributes
		want bool
	}{
		"in the namespace":      {admission.Attributes{Kind: cm, Namespace: "a"}, true},
		"in another one":        {admission.Attributes{Kind: cm, Namespace: "b"}, false},
		"in a new one":          {admission.Attributes{Kind: cm, Namespace: "new"}, true},
		"in none":               {admission.Attributes{Kind: role}, true},
		"a namespace, changed":  {admission.Attributes{Kind: namespace, Operation: admission.Update, Namespace: "b", Name: "b", Object: labelled("b", "a")}, true},
		"a namespace, made":     {admission.Attributes{Kind: namespace, Operation: admission.Create, Name: "c", Object: labelled("c", "c")}, false},
		"a namespace, deleted":  {admission.Attributes{Kind: namespace, Operation: admission.Delete, Namespace: "a", Name: "a", Old: labelled("a", "b")}, true},
		"a namespace, deleted2": {admission.Attributes{Kind: namespace, Operation: admission.Delete, Name: "b", Old: labelled("b", "a")}, false},
	} {
		_, ok, err := m.Match(t.Context(), c, &x.a)
		require.NoError(t, err, name)
		require.Equal(t, x.want, ok, name)
	}
	_, _, err := m.Match(t.Context(), c, &admission.Attributes{Kind: cm, Namespace: "gone"})
	require.True(t, apierrors.IsNotFound(err))
	_, ok, err := m.Match(t.Context(), ForWebhook(rulesFor("pods"), nil, &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}, nil), &admission.Attributes{Kind: cm, Namespace: "gone"})
	require.NoError(t, err, "what it is not about does not matter")
	require.False(t, ok)
}

func TestScope(t *testing.T) {
	namespace, cm := builtin(t, "", "v1", "Namespace"), builtin(t, "", "v1", "ConfigMap")
	for _, x := range []struct {
		scope admissionv1.ScopeType
		a     admission.Attributes
		want  bool
	}{
		{admissionv1.ClusterScope, admission.Attributes{Kind: namespace, Namespace: "a", Name: "a"}, true},
		{admissionv1.NamespacedScope, admission.Attributes{Kind: namespace, Namespace: "a", Name: "a"}, false},
		{admissionv1.NamespacedScope, admission.Attributes{Kind: cm, Namespace: "a"}, true},
		{admissionv1.ClusterScope, admission.Attributes{Kind: cm, Namespace: "a"}, false},
		{admissionv1.AllScopes, admission.Attributes{Kind: cm, Namespace: "a"}, true},
		{"Other", admission.Attributes{Kind: cm, Namespace: "a"}, false},
	} {
		rules := rulesFor("*")
		rules[0].Scope = &x.scope
		_, ok, err := (&Matcher{}).Match(t.Context(), ForWebhook(rules, nil, nil, nil), &x.a)
		require.NoError(t, err)
		require.Equal(t, x.want, ok, "%s %s", x.scope, x.a.Kind.Resource)
	}
	_, ok, err := (&Matcher{}).Match(t.Context(), ForWebhook(nil, nil, nil, nil), &admission.Attributes{Kind: cm})
	require.NoError(t, err)
	require.False(t, ok, "a webhook without rules")
	_, ok, err = (&Matcher{}).Match(t.Context(), ForResources(nil), &admission.Attributes{Kind: cm})
	require.NoError(t, err)
	require.True(t, ok, "a policy without rules")
}

func TestServed(t *testing.T) {
	served := Served(kinds.Builtin)
	core, events := builtin(t, "", "v1", "Event"), builtin(t, "events.k8s.io", "v1", "Event")
	require.Len(t, served.Equivalents(core), 2)
	m := &Matcher{Versions: served}
	rules := rulesFor("events")
	rules[0].APIGroups = []string{"events.k8s.io"}
	c := ForWebhook(rules, ptr.To(admissionv1.Equivalent), nil, nil)
	a := &admission.Attributes{Operation: admission.Create, Kind: core, ObjectKind: core.GroupVersionKind, Namespace: "ns", Object: &corev1.Event{Message: "hi"}}
	v, ok, err := m.Match(t.Context(), c, a)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, events.GroupVersionKind, v.ObjectKind)
	views := m.Views(a)
	view, err := views.Of(t.Context(), v)
	require.NoError(t, err)
	require.Equal(t, "hi", view.Object.(*eventsv1.Event).Note)
	require.Equal(t, "events.k8s.io/v1", view.Object.(*eventsv1.Event).APIVersion)
	again, err := views.Of(t.Context(), v)
	require.NoError(t, err)
	require.Same(t, view, again)
	changed := view.Object.(*eventsv1.Event).DeepCopy()
	changed.Note = "ho"
	require.NoError(t, views.Replace(t.Context(), v, changed))
	require.Equal(t, "ho", a.Object.(*corev1.Event).Message)

	// What a subresource exchanges is the same in all versions.
	a.Subresource, a.ObjectKind, a.Object = "scale", autoscalingv1.SchemeGroupVersion.WithKind("Scale"), &autoscalingv1.Scale{}
	rules[0].Resources = []string{"events/scale"}
	v, ok, err = m.Match(t.Context(), ForWebhook(rules, ptr.To(admissionv1.Equivalent), nil, nil), a)
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, a.ObjectKind, v.ObjectKind)
	require.Equal(t, "events.k8s.io", v.Kind.Group)
}

func TestOptions(t *testing.T) {
	a := &admission.Attributes{Operation: admission.Create, Options: &metav1.PatchOptions{FieldManager: "m", Force: ptr.To(true)}}
	o, ok := options(a).(*metav1.CreateOptions)
	require.True(t, ok)
	require.Equal(t, "m", o.FieldManager)
	require.Equal(t, "CreateOptions", o.Kind)
	a.Operation = admission.Update
	require.IsType(t, &metav1.UpdateOptions{}, options(a))
	a.Options = &metav1.DeleteOptions{}
	require.Equal(t, "DeleteOptions", options(a).GetObjectKind().GroupVersionKind().Kind)
	require.Empty(t, a.Options.GetObjectKind().GroupVersionKind().Kind, "what came is not changed")
	a.Options = nil
	require.Nil(t, options(a))
}

func TestCompiled(t *testing.T) {
	var made []string
	joined := 0
	c := &Compiled[string, []string]{
		Compile: func(o kinds.Object) string {
			made = append(made, o.GetName())
			return o.GetName() + o.GetResourceVersion()
		},
		Join: func(all []string) []string { joined++; return all },
	}
	o := func(name, version string) kinds.Object {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: version}}
	}
	require.Equal(t, []string{"a1", "b1"}, c.Of([]kinds.Object{o("b", "1"), o("a", "1")}))
	require.Equal(t, []string{"a1", "b1"}, c.Of([]kinds.Object{o("b", "1"), o("a", "1")}))
	require.Equal(t, 1, joined)
	require.Equal(t, []string{"a1", "b2"}, c.Of([]kinds.Object{o("b", "2"), o("a", "1")}))
	require.Equal(t, []string{"b", "a", "b"}, made, "only what changed")
	require.Empty(t, c.Of(nil))
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for i := range 50 {
				assert.Len(t, c.Of([]kinds.Object{o("x", string(rune('0'+i%2)))}), 1)
			}
		})
	}
	wait.Wait()
}

// fixed answers with one decision.
type fixed struct {
	decision rights.Decision
	asked    rights.Attributes
}

func (f *fixed) Authorize(_ context.Context, a rights.Attributes) (rights.Decision, string, error) {
	f.asked = a
	return f.decision, "why", nil
}

func TestAuthorizer(t *testing.T) {
	q := authorizer.AttributesRecord{User: UserInfo(&request.User{Name: "u", Groups: []string{"g"}}), Verb: "get", APIGroup: "apps", Resource: "deployments", Name: "d", ResourceRequest: true}
	for ours, theirs := range map[rights.Decision]authorizer.Decision{
		rights.Allow: authorizer.DecisionAllow, rights.Deny: authorizer.DecisionDeny, rights.NoOpinion: authorizer.DecisionNoOpinion,
	} {
		f := &fixed{decision: ours}
		d, reason, err := Authorizer(f).Authorize(t.Context(), q)
		require.NoError(t, err)
		require.Equal(t, theirs, d)
		require.Equal(t, "why", reason)
		require.Equal(t, rights.Attributes{User: &request.User{Name: "u", Groups: []string{"g"}}, Verb: "get", Group: "apps", Resource: "deployments", Name: "d", IsResource: true}, f.asked)
	}
	d, _, err := Authorizer(nil).Authorize(t.Context(), q)
	require.NoError(t, err)
	require.Equal(t, authorizer.DecisionNoOpinion, d)
}

func TestExempt(t *testing.T) {
	for _, k := range kinds.Builtin() {
		want := k.Group == "admissionregistration.k8s.io"
		require.Equal(t, want, Exempt(&admission.Attributes{Kind: k}), k.GroupVersionKind)
	}
}
