package policy

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// world is the objects that plugins can look up, by resource.
type world map[string][]kinds.Object

func (w world) Get(_ context.Context, r schema.GroupResource, namespace, name string, _ bool) (kinds.Object, error) {
	for _, o := range w[r.String()] {
		if o.GetName() == name && o.GetNamespace() == namespace {
			return o, nil
		}
	}
	return nil, apierrors.NewNotFound(r, name)
}

func (w world) List(_ context.Context, r schema.GroupResource, namespace string) (out []kinds.Object, _ error) {
	for _, o := range w[r.String()] {
		if namespace == "" || o.GetNamespace() == namespace {
			out = append(out, o)
		}
	}
	return out, nil
}

// ByKind knows config maps, and limits.example.com, which are cluster-scoped.
func (w world) ByKind(k schema.GroupVersionKind) *kinds.Kind {
	switch k.Kind {
	case "ConfigMap":
		return &kinds.Kind{GroupVersionKind: k, Resource: "configmaps", Namespaced: true}
	case "Limit":
		return &kinds.Kind{GroupVersionKind: k, Resource: "limits"}
	}
	return nil
}

// Authorize lets everybody get pods.
func (w world) Authorize(_ context.Context, a rights.Attributes) (rights.Decision, string, error) {
	if a.Verb == "get" && a.Resource == "pods" && a.User.Name == "alice" {
		return rights.Allow, "", nil
	}
	return rights.NoOpinion, "", nil
}

// TypeConverter knows the built-in types.
func (w world) TypeConverter(k schema.GroupVersionKind) managedfields.TypeConverter {
	if k.Group == "example.com" {
		return managedfields.NewDeducedTypeConverter()
	}
	return applyconfigurations.NewTypeConverter(scheme.Scheme)
}

func everything() *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.OperationAll},
		Rule:       admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*"}},
	}}}}
}

func meta(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: "1"}
}

func validatingPolicy(name string, change func(*admissionv1.ValidatingAdmissionPolicySpec), expressions ...string) kinds.Object {
	p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: meta(name)}
	p.Spec.MatchConstraints = everything()
	for _, e := range expressions {
		p.Spec.Validations = append(p.Spec.Validations, admissionv1.Validation{Expression: e})
	}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func validatingBinding(name, policy string, change func(*admissionv1.ValidatingAdmissionPolicyBindingSpec)) kinds.Object {
	b := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: meta(name)}
	b.Spec.PolicyName, b.Spec.ValidationActions = policy, []admissionv1.ValidationAction{admissionv1.Deny}
	if change != nil {
		change(&b.Spec)
	}
	return b
}

func (w world) add(objects ...kinds.Object) world {
	for _, o := range objects {
		var resource string
		switch o.(type) {
		case *admissionv1.ValidatingAdmissionPolicy:
			resource = "validatingadmissionpolicies.admissionregistration.k8s.io"
		case *admissionv1.ValidatingAdmissionPolicyBinding:
			resource = "validatingadmissionpolicybindings.admissionregistration.k8s.io"
		case *admissionv1.MutatingAdmissionPolicy:
			resource = "mutatingadmissionpolicies.admissionregistration.k8s.io"
		case *admissionv1.MutatingAdmissionPolicyBinding:
			resource = "mutatingadmissionpolicybindings.admissionregistration.k8s.io"
		case *corev1.ConfigMap:
			resource = "configmaps"
		case *corev1.Namespace:
			resource = "namespaces"
		case *unstructured.Unstructured:
			resource = "limits.example.com"
		}
		w[resource] = append(w[resource], o)
	}
	return w
}

// told is what a request's client and the audit log were told.
type told struct {
	warnings    []string
	annotations map[string]string
}

func deployRequest(replicas int32) (*admission.Attributes, *told) {
	heard := &told{annotations: map[string]string{}}
	k := &kinds.Kind{GroupVersionKind: schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}, Resource: "deployments", Namespaced: true}
	return &admission.Attributes{
		Operation: admission.Create, Kind: k, ObjectKind: k.GroupVersionKind, Namespace: "ns", Name: "d",
		Object: &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "ns", Labels: map[string]string{"app": "x"}},
			Spec: appsv1.DeploymentSpec{Replicas: &replicas, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}},
		Options: &metav1.CreateOptions{}, User: &request.User{Name: "alice"},
		Warn: func(s string) { heard.warnings = append(heard.warnings, s) }, Annotate: func(k, v string) { heard.annotations[k] = v },
	}, heard
}

func start(w world) (*Mutating, *Validating) {
	w.add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"env": "test"}}})
	return New(Config{Lookup: w, Kinds: w, Authorizer: w, Types: w})
}

func TestValidating(t *testing.T) {
	const denied = `deployments.apps "d" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: `
	type spec = admissionv1.ValidatingAdmissionPolicySpec
	for name, c := range map[string]struct {
		policy  func(*spec)
		binding func(*admissionv1.ValidatingAdmissionPolicyBindingSpec)
		want    string // "" passes
		code    int32
	}{
		"passes": {policy: func(s *spec) { s.Validations = []admissionv1.Validation{{Expression: "object.spec.replicas <= 5"}} }},
		"fails": {policy: func(s *spec) { s.Validations = []admissionv1.Validation{{Expression: "object.spec.replicas < 5"}} },
			want: denied + "failed expression: object.spec.replicas < 5", code: 422},
		"message": {policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "false", Message: " too many ", Reason: ptr.To(metav1.StatusReasonForbidden)}}
		}, want: denied + "too many", code: 403},
		"computed message": {policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "false", Message: "no", MessageExpression: "'replicas: ' + string(object.spec.replicas)"}}
		}, want: denied + "replicas: 5", code: 422},
		"message of two lines": {policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "false", Message: "no", MessageExpression: `'a\nb'`}}
		}, want: denied + "no", code: 422},
		"variables": {policy: func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "n", Expression: "object.spec.replicas"}, {Name: "twice", Expression: "variables.n * 2"}}
			s.Validations = []admissionv1.Validation{{Expression: "variables.twice != 10"}}
		}, want: denied + "failed expression: variables.twice != 10", code: 422},
		"namespace and user": {policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "namespaceObject.metadata.labels.env == 'test' && request.userInfo.username == 'alice' && request.kind.kind == 'Deployment' && oldObject == null && object.kind == 'Deployment'"}}
		}},
		"authorizer": {policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "authorizer.group('').resource('pods').check('get').allowed() && !authorizer.requestResource.check('delete').allowed()"}}
		}},
		"condition": {policy: func(s *spec) {
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "object.spec.replicas > 100"}}
			s.Validations = []admissionv1.Validation{{Expression: "false"}}
		}},
		"error": {policy: func(s *spec) { s.Validations = []admissionv1.Validation{{Expression: "object.nothing.x == 1"}} },
			want: denied + "expression 'object.nothing.x == 1' resulted in error: no such key: nothing", code: 422},
		"error ignored": {policy: func(s *spec) {
			s.FailurePolicy = ptr.To(admissionv1.Ignore)
			s.Validations = []admissionv1.Validation{{Expression: "object.nothing.x == 1"}}
		}},
		"refusal not ignored": {policy: func(s *spec) {
			s.FailurePolicy = ptr.To(admissionv1.Ignore)
			s.Validations = []admissionv1.Validation{{Expression: "false"}}
		}, want: denied + "failed expression: false", code: 422},
		"does not compile": {policy: func(s *spec) { s.Validations = []admissionv1.Validation{{Expression: "1 +"}} },
			want: denied + "compilation error: compilation failed: ERROR", code: 422},
		"costs too much": {policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "[1,2,3,4,5,6,7,8,9,10].all(a, [1,2,3,4,5,6,7,8,9,10].all(b, [1,2,3,4,5,6,7,8,9,10].all(c, [1,2,3,4,5,6,7,8,9,10].all(d, [1,2,3,4,5,6,7,8,9,10].all(e, [1,2,3,4,5,6,7,8,9,10].all(f, [1,2,3,4,5,6,7,8,9,10].all(g, a+b+c+d+e+f+g > 0)))))))"}}
		}, want: "cost", code: 422},
		"no constraints": {policy: func(s *spec) { s.MatchConstraints = nil },
			want: `deployments.apps "d" is forbidden: ValidatingAdmissionPolicy 'p' denied request: failed to configure policy: policy contained no match constraints, a required field`, code: 422},
		"excluded": {policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "false"}}
			s.MatchConstraints.ExcludeResourceRules = []admissionv1.NamedRuleWithOperations{{ResourceNames: []string{"d"}, RuleWithOperations: s.MatchConstraints.ResourceRules[0].RuleWithOperations}}
		}},
		"another name": {policy: func(s *spec) {
			s.Validations = []admissionv1.Validation{{Expression: "false"}}
			s.MatchConstraints.ResourceRules[0].ResourceNames = []string{"e"}
		}},
		"binding": {policy: func(s *spec) { s.Validations = []admissionv1.Validation{{Expression: "false"}} }, binding: func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) {
			s.MatchResources = &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"env": "prod"}}}
		}},
		"bound": {policy: func(s *spec) { s.Validations = []admissionv1.Validation{{Expression: "false"}} }, binding: func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) {
			s.MatchResources = &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"env": "test"}}, ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}
		}, want: denied + "failed expression: false", code: 422},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{}
			_, v := start(w.add(validatingPolicy("p", c.policy), validatingBinding("b", "p", c.binding)))
			a, _ := deployRequest(5)
			err := v.Validate(t.Context(), a)
			if c.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.want)
			status := err.(apierrors.APIStatus).Status()
			require.Equal(t, c.code, status.Code)
			require.Contains(t, status.Details.Causes[0].Message, "denied request: ")
		})
	}
}

func TestActions(t *testing.T) {
	actions := func(all ...admissionv1.ValidationAction) func(*admissionv1.ValidatingAdmissionPolicyBindingSpec) {
		return func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) { s.ValidationActions = all }
	}
	w := world{}
	w.add(validatingPolicy("p", func(s *admissionv1.ValidatingAdmissionPolicySpec) {
		s.AuditAnnotations = []admissionv1.AuditAnnotation{{Key: "n", ValueExpression: "string(object.spec.replicas)"}, {Key: "none", ValueExpression: "null"}}
	}, "true", "object.spec.replicas < 5"), validatingPolicy("unbound", nil, "false"),
		validatingBinding("warn", "p", actions(admissionv1.Warn, admissionv1.Audit)), validatingBinding("audit", "p", actions(admissionv1.Audit)))
	registry := prometheus.NewRegistry()
	w.add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	_, v := New(Config{Lookup: w, Kinds: w, Registerer: registry})
	a, heard := deployRequest(5)
	require.NoError(t, v.Validate(t.Context(), a))
	require.Equal(t, []string{"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'warn': failed expression: object.spec.replicas < 5"}, heard.warnings)
	require.Equal(t, "5", heard.annotations["p/n"])
	require.NotContains(t, heard.annotations, "p/none")
	require.JSONEq(t, `[{"message":"failed expression: object.spec.replicas < 5","policy":"p","binding":"audit","expressionIndex":1,"validationActions":["Audit"]},
		{"message":"failed expression: object.spec.replicas < 5","policy":"p","binding":"warn","expressionIndex":1,"validationActions":["Warn","Audit"]}]`,
		heard.annotations["validation.policy.admission.k8s.io/validation_failure"])
	n, err := testutil.GatherAndCount(registry, "apiserver_validating_admission_policy_check_total")
	require.NoError(t, err)
	require.Equal(t, 3, n)

	w.add(validatingBinding("deny", "unbound", nil))
	require.ErrorContains(t, v.Validate(t.Context(), a), "ValidatingAdmissionPolicy 'unbound' with binding 'deny' denied request: failed expression: false")
	own := &admission.Attributes{Operation: admission.Delete, Kind: &kinds.Kind{GroupVersionKind: admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"), Resource: "validatingadmissionpolicies"}}
	require.NoError(t, v.Validate(t.Context(), own), "what cannot be taken away again")
}

func limit(name string, n int64) kinds.Object {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Limit", "metadata": map[string]any{"name": name, "labels": map[string]any{"sort": "max"}}, "most": n}}
}

func configMap(namespace, name, most string) kinds.Object {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"sort": "max"}}, Data: map[string]string{"most": most}}
}

func TestParams(t *testing.T) {
	maps, limits := admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}, admissionv1.ParamKind{APIVersion: "example.com/v1", Kind: "Limit"}
	bySort := &metav1.LabelSelector{MatchLabels: map[string]string{"sort": "max"}}
	const (
		typed  = "params.kind == 'ConfigMap' && object.spec.replicas <= int(params.data.most)"
		custom = "object.spec.replicas <= params.most"
	)
	for name, c := range map[string]struct {
		kind       admissionv1.ParamKind
		expression string
		ref        *admissionv1.ParamRef
		objects    []kinds.Object
		want       string
	}{
		"by name":               {maps, typed, &admissionv1.ParamRef{Name: "c"}, []kinds.Object{configMap("ns", "c", "5")}, ""},
		"by name, refused":      {maps, typed, &admissionv1.ParamRef{Name: "c"}, []kinds.Object{configMap("ns", "c", "4")}, "failed expression: params.kind"},
		"of another namespace":  {maps, typed, &admissionv1.ParamRef{Name: "c", Namespace: "other"}, []kinds.Object{configMap("ns", "c", "5"), configMap("other", "c", "4")}, "failed expression"},
		"by selector":           {maps, typed, &admissionv1.ParamRef{Selector: bySort}, []kinds.Object{configMap("ns", "c", "5"), configMap("ns", "d", "4")}, "failed expression"},
		"by selector, others":   {maps, typed, &admissionv1.ParamRef{Selector: bySort}, []kinds.Object{configMap("other", "d", "4")}, ""},
		"missing, allowed":      {maps, typed, &admissionv1.ParamRef{Name: "c", ParameterNotFoundAction: ptr.To(admissionv1.AllowAction)}, nil, ""},
		"missing":               {maps, typed, &admissionv1.ParamRef{Name: "c", ParameterNotFoundAction: ptr.To(admissionv1.DenyAction)}, nil, "with binding 'b' denied request: failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
		"none":                  {maps, "params == null", nil, nil, ""},
		"custom":                {limits, custom, &admissionv1.ParamRef{Name: "l"}, []kinds.Object{limit("l", 5)}, ""},
		"custom, refused":       {limits, custom, &admissionv1.ParamRef{Selector: bySort}, []kinds.Object{limit("l", 5), limit("m", 4)}, "failed expression: object.spec.replicas <= params.most"},
		"namespace for cluster": {limits, custom, &admissionv1.ParamRef{Name: "l", Namespace: "x"}, nil, "paramRef.namespace must not be provided for a cluster-scoped `paramKind`"},
		"both":                  {limits, custom, &admissionv1.ParamRef{Name: "l", Selector: bySort}, nil, "mutually exclusive"},
		"unknown kind":          {admissionv1.ParamKind{APIVersion: "x/v1", Kind: "Y"}, custom, &admissionv1.ParamRef{Name: "l"}, nil, "failed to configure policy: failed to find resource referenced by paramKind: 'x/v1, Kind=Y'"},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{}
			_, v := start(w.add(c.objects...).add(
				validatingPolicy("p", func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.ParamKind = &c.kind }, c.expression),
				validatingBinding("b", "p", func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) { s.ParamRef = c.ref })))
			a, _ := deployRequest(5)
			err := v.Validate(t.Context(), a)
			if c.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.want)
			}
		})
	}
}

func mutatingPolicy(name string, change func(*admissionv1.MutatingAdmissionPolicySpec), expressions ...string) kinds.Object {
	p := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: meta(name)}
	p.Spec.MatchConstraints, p.Spec.ReinvocationPolicy = everything(), admissionv1.NeverReinvocationPolicy
	for _, e := range expressions {
		m := admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: e}}
		if !strings.HasPrefix(e, "[") {
			m = admissionv1.Mutation{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: e}}
		}
		p.Spec.Mutations = append(p.Spec.Mutations, m)
	}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func mutatingBinding(name, policy string) kinds.Object {
	b := &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: meta(name)}
	b.Spec.PolicyName = policy
	return b
}

func TestMutating(t *testing.T) {
	type spec = admissionv1.MutatingAdmissionPolicySpec
	for name, c := range map[string]struct {
		change      func(*spec)
		expressions []string
		want        func(t *testing.T, d *appsv1.Deployment)
		err         string
	}{
		"json patch": {expressions: []string{`[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b"), value: "c"}, JSONPatch{op: "replace", path: "/spec/replicas", value: object.spec.replicas + 1}]`},
			want: func(t *testing.T, d *appsv1.Deployment) {
				require.Equal(t, map[string]string{"app": "x", "a/b": "c"}, d.Labels)
				require.EqualValues(t, 6, *d.Spec.Replicas)
			}},
		"a test that fails": {expressions: []string{`[JSONPatch{op: "test", path: "/spec/replicas", value: 7}, JSONPatch{op: "remove", path: "/spec/replicas"}]`},
			want: func(t *testing.T, d *appsv1.Deployment) { require.EqualValues(t, 5, *d.Spec.Replicas) }},
		"apply": {expressions: []string{`Object{metadata: Object.metadata{annotations: {"a": "b"}}, spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: "sidecar", image: "s"}]}}}}`},
			want: func(t *testing.T, d *appsv1.Deployment) {
				require.Equal(t, "b", d.Annotations["a"])
				require.Len(t, d.Spec.Template.Spec.Containers, 2)
				require.Equal(t, "c", d.Spec.Template.Spec.Containers[0].Name, "lists are merged")
			}},
		"one after the other": {expressions: []string{`Object{spec: Object.spec{replicas: object.spec.replicas + 1}}`, `[JSONPatch{op: "replace", path: "/spec/replicas", value: object.spec.replicas * 2}]`},
			want: func(t *testing.T, d *appsv1.Deployment) { require.EqualValues(t, 12, *d.Spec.Replicas) }},
		"variables and conditions": {change: func(s *spec) {
			s.Variables = []admissionv1.Variable{{Name: "n", Expression: "object.spec.replicas + 2"}}
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "variables.n == 7"}}
		}, expressions: []string{`Object{spec: Object.spec{replicas: variables.n}}`},
			want: func(t *testing.T, d *appsv1.Deployment) { require.EqualValues(t, 7, *d.Spec.Replicas) }},
		"condition not met": {change: func(s *spec) {
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "false"}}
		}, expressions: []string{`Object{spec: Object.spec{replicas: 1}}`},
			want: func(t *testing.T, d *appsv1.Deployment) { require.EqualValues(t, 5, *d.Spec.Replicas) }},
		"atomic": {expressions: []string{`Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {"a": "b"}}}}`},
			err: "policy 'p' with binding 'b' denied request: error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector"},
		"error":          {expressions: []string{`[JSONPatch{op: "remove", path: "/nothing"}]`}, err: "policy 'p' with binding 'b' denied request: JSON Patch: "},
		"error ignored":  {change: func(s *spec) { s.FailurePolicy = ptr.To(admissionv1.Ignore) }, expressions: []string{`[JSONPatch{op: "remove", path: "/nothing"}]`}},
		"wrong field":    {expressions: []string{`[JSONPatch{op: "add", path: "/spec/nonsense", value: 1}]`}, err: `unknown field "spec.nonsense"`},
		"no constraints": {change: func(s *spec) { s.MatchConstraints = nil }, err: `policy "p" denied request: failed to configure policy: policy contained no match constraints, a required field`},
	} {
		t.Run(name, func(t *testing.T) {
			w := world{}
			m, _ := start(w.add(mutatingPolicy("p", c.change, c.expressions...), mutatingBinding("b", "p")))
			a, _ := deployRequest(5)
			was := a.Object.DeepCopyObject()
			original := a.Object
			err := admission.NewChain(m).Mutate(t.Context(), a)
			require.Equal(t, was, original, "what was passed in is not changed")
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			if c.want != nil {
				c.want(t, a.Object.(*appsv1.Deployment))
			}
		})
	}
}

func TestMutatingCustomResource(t *testing.T) {
	w := world{}
	m, _ := start(w.add(mutatingPolicy("p", nil, `Object{most: object.most + 1}`, `[JSONPatch{op: "add", path: "/least", value: 1}]`), mutatingBinding("b", "p")))
	k := w.ByKind(schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Limit"})
	a := &admission.Attributes{Operation: admission.Create, Kind: k, ObjectKind: k.GroupVersionKind, Name: "l", Object: limit("l", 1).(runtime.Object), User: &request.User{}}
	require.NoError(t, m.Mutate(t.Context(), a))
	require.EqualValues(t, 2, a.Object.(*unstructured.Unstructured).Object["most"])
	require.EqualValues(t, 1, a.Object.(*unstructured.Unstructured).Object["least"])
	a.Operation, a.Old, a.Object = admission.Delete, a.Object, nil
	require.NoError(t, m.Mutate(t.Context(), a))
	none, _ := New(Config{Lookup: w, Kinds: w})
	a.Operation, a.Old, a.Object = admission.Create, nil, a.Old
	require.True(t, apierrors.IsServiceUnavailable(none.Mutate(t.Context(), a)), "a type that is not known")
}

func TestReinvocation(t *testing.T) {
	again := func(s *admissionv1.MutatingAdmissionPolicySpec) {
		s.ReinvocationPolicy = admissionv1.IfNeededReinvocationPolicy
	}
	count := `Object{metadata: Object.metadata{annotations: {"%": string(int(object.metadata.?annotations["%"].orValue("0")) + 1)}}}`
	counter := func(key string) string { return strings.ReplaceAll(count, "%", key) }
	w := world{}
	m, _ := start(w.add(mutatingPolicy("1", again, counter("first")), mutatingPolicy("2", nil, counter("second")), mutatingPolicy("3", again, counter("third")),
		mutatingBinding("1", "1"), mutatingBinding("2", "2"), mutatingBinding("3", "3")))
	a, _ := deployRequest(5)
	require.NoError(t, admission.NewChain(m).Mutate(t.Context(), a))
	require.Equal(t, map[string]string{"first": "2", "second": "1", "third": "2"}, a.Object.(*appsv1.Deployment).Annotations)
}
