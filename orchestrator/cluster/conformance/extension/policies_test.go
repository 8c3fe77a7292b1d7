package extension

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	registration "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// policies are behaviours of admission policies.
func policies() conformance.Behaviours {
	return conformance.Behaviours{
		"MutatingAdmissionPolicy should mutate a Deployment":                                       mutateReplicas,
		"MutatingAdmissionPolicy should mutate a Deployment with annotations":                      mutateAnnotations,
		"MutatingAdmissionPolicy should support MutatingAdmissionPolicy API operations":            mutatingPolicyOperations,
		"MutatingAdmissionPolicy should support MutatingAdmissionPolicyBinding API operations":     mutatingBindingOperations,
		"ValidatingAdmissionPolicy should allow expressions to refer variables.":                   variables,
		"ValidatingAdmissionPolicy should support ValidatingAdmissionPolicy API operations":        validatingPolicyOperations,
		"ValidatingAdmissionPolicy should support ValidatingAdmissionPolicyBinding API operations": validatingBindingOperations,
		"ValidatingAdmissionPolicy should validate against a Deployment":                           validateReplicas,
	}
}

// about matches deployments of the namespace that has a label.
func about(label string) *registration.MatchResources {
	return &registration.MatchResources{
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{label: "true"}},
		ResourceRules: []registration.NamedRuleWithOperations{{
			RuleWithOperations: rules("apps|v1|deployments", registration.Create, registration.Update)[0],
		}},
	}
}

// labelled gives the namespace of a test a label of its own.
func labelled(t *testing.T, e *conformance.Env) string {
	_, err := e.Client.CoreV1().Namespaces().Patch(e.Ctx, e.NS, types.MergePatchType, []byte(`{"metadata":{"labels":{"`+e.NS+`":"true"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	return e.NS
}

func template() (*metav1.LabelSelector, corev1.PodTemplateSpec) {
	labels := map[string]string{"app": "nginx"}
	return &metav1.LabelSelector{MatchLabels: labels}, corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("", "nginx", nil).Spec,
	}
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Paused: true}}
	if name == "" {
		d.GenerateName = "marker-"
	}
	d.Spec.Selector, d.Spec.Template = template()
	return d
}

func replicaSet(name string, replicas int32) *appsv1.ReplicaSet {
	r := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.ReplicaSetSpec{Replicas: &replicas}}
	r.Spec.Selector, r.Spec.Template = template()
	return r
}

// validatePolicy makes a policy about deployments, and its binding.
func validatePolicy(t *testing.T, e *conformance.Env, spec registration.ValidatingAdmissionPolicySpec) {
	t.Helper()
	label := labelled(t, e)
	spec.MatchConstraints = about(label)
	policies, bindings := e.Client.AdmissionregistrationV1().ValidatingAdmissionPolicies(), e.Client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings()
	p, err := policies.Create(e.Ctx, &registration.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: label + ".policy.example.com"}, Spec: spec}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = policies.Delete(context.Background(), p.Name, metav1.DeleteOptions{}) })
	b, err := bindings.Create(e.Ctx, &registration.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: label + ".binding.example.com"},
		Spec: registration.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: p.Name, ValidationActions: []registration.ValidationAction{registration.Deny},
			MatchResources: &registration.MatchResources{NamespaceSelector: spec.MatchConstraints.NamespaceSelector},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bindings.Delete(context.Background(), b.Name, metav1.DeleteOptions{}) })
}

// refuses waits until deployments of one replica are refused as invalid, with a text.
func refuses(t *testing.T, e *conformance.Env, text string) {
	t.Helper()
	var refusal error
	poll(t, e.Ctx, func() (bool, error) {
		_, refusal = e.Client.AppsV1().Deployments(e.NS).Create(e.Ctx, deployment("", 1), metav1.CreateOptions{})
		return apierrors.IsInvalid(refusal), ignoreInvalid(refusal)
	})
	require.ErrorContains(t, refusal, text)
}

func ignoreInvalid(err error) error {
	if apierrors.IsInvalid(err) {
		return nil
	}
	return err
}

func validateReplicas(t *testing.T, e *conformance.Env) {
	validatePolicy(t, e, registration.ValidatingAdmissionPolicySpec{Validations: []registration.Validation{
		{Expression: "object.spec.replicas > 1", MessageExpression: "'wants replicas > 1, got ' + string(object.spec.replicas)"},
		{Expression: "namespaceObject.metadata.name == '" + e.NS + "'", Message: "Internal error! Other namespace should not be allowed."},
	}})
	refuses(t, e, "wants replicas > 1, got 1")
	_, err := e.Client.AppsV1().Deployments(e.NS).Create(e.Ctx, deployment("replicated", 2), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = e.Client.AppsV1().ReplicaSets(e.NS).Create(e.Ctx, replicaSet("non-replicated", 1), metav1.CreateOptions{})
	require.NoError(t, err)
}

func variables(t *testing.T, e *conformance.Env) {
	validatePolicy(t, e, registration.ValidatingAdmissionPolicySpec{
		Variables: []registration.Variable{
			{Name: "replicas", Expression: "object.spec.replicas"},
			{Name: "oddReplicas", Expression: "variables.replicas % 2 == 1"},
		},
		Validations: []registration.Validation{{Expression: "variables.replicas > 1"}, {Expression: "variables.oddReplicas"}},
	})
	refuses(t, e, "failed expression: variables.replicas > 1")
	c := e.Client.AppsV1().Deployments(e.NS)
	_, err := c.Create(e.Ctx, deployment("even", 2), metav1.CreateOptions{})
	require.ErrorContains(t, err, "failed expression: variables.oddReplicas")
	_, err = c.Create(e.Ctx, deployment("replicated", 3), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = e.Client.AppsV1().ReplicaSets(e.NS).Create(e.Ctx, replicaSet("non-replicated", 1), metav1.CreateOptions{})
	require.NoError(t, err)
}

// mutatePolicy makes a policy that applies an expression to deployments, with its binding, and waits until it does.
func mutatePolicy(t *testing.T, e *conformance.Env, expression string, is func(*appsv1.Deployment) bool) *appsv1.Deployment {
	t.Helper()
	label := labelled(t, e)
	policies, bindings := e.Client.AdmissionregistrationV1().MutatingAdmissionPolicies(), e.Client.AdmissionregistrationV1().MutatingAdmissionPolicyBindings()
	p, err := policies.Create(e.Ctx, &registration.MutatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: label + ".policy.example.com"},
		Spec: registration.MutatingAdmissionPolicySpec{
			MatchConstraints: about(label), ReinvocationPolicy: registration.NeverReinvocationPolicy,
			Mutations: []registration.Mutation{{
				PatchType:          registration.PatchTypeApplyConfiguration,
				ApplyConfiguration: &registration.ApplyConfiguration{Expression: expression},
			}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = policies.Delete(context.Background(), p.Name, metav1.DeleteOptions{}) })
	b, err := bindings.Create(e.Ctx, &registration.MutatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: label + ".binding.example.com"},
		Spec: registration.MutatingAdmissionPolicyBindingSpec{
			PolicyName: p.Name, MatchResources: &registration.MatchResources{NamespaceSelector: p.Spec.MatchConstraints.NamespaceSelector},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = bindings.Delete(context.Background(), b.Name, metav1.DeleteOptions{}) })
	var made *appsv1.Deployment
	poll(t, e.Ctx, func() (bool, error) {
		var err error
		made, err = e.Client.AppsV1().Deployments(e.NS).Create(e.Ctx, deployment("", 1), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && is(made), err
	})
	return made
}

func mutateReplicas(t *testing.T, e *conformance.Env) {
	d := mutatePolicy(t, e, "Object{spec: Object.spec{replicas: 1337}}", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 1337 })
	require.Equal(t, deployment("", 1).Spec.Selector, d.Spec.Selector, "what the policy does not name stays")
	r, err := e.Client.AppsV1().ReplicaSets(e.NS).Create(e.Ctx, replicaSet("other", 1), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, ptr.To[int32](1), r.Spec.Replicas)
}

func mutateAnnotations(t *testing.T, e *conformance.Env) {
	d := mutatePolicy(t, e, `Object{metadata: Object.metadata{annotations: {"mutated-by": "admission-policy"}}}`, func(d *appsv1.Deployment) bool {
		return d.Annotations["mutated-by"] == "admission-policy"
	})
	require.Equal(t, ptr.To[int32](1), d.Spec.Replicas)
}
