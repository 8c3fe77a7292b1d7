package extension

import (
	"testing"

	"github.com/stretchr/testify/require"
	registration "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// webhooks are behaviours of admission webhooks with built-in kinds.
func webhooks() conformance.Behaviours {
	return conformance.Behaviours{
		"AdmissionWebhook should be able to deny pod and configmap creation":                                 denyPodsAndConfigMaps,
		"AdmissionWebhook should deny crd creation":                                                          denyDefinition,
		"AdmissionWebhook should honor timeout":                                                              honorTimeout,
		"AdmissionWebhook should mutate configmap":                                                           mutateConfigMap,
		"AdmissionWebhook should mutate everything except 'skip-me' configmaps":                              skipMe,
		"AdmissionWebhook should mutate pod and apply defaults after mutation":                               initContainer,
		"AdmissionWebhook should not be able to mutate or prevent deletion of webhook configuration objects": leaveConfigurations,
		"AdmissionWebhook should unconditionally reject operations on fail closed webhook":                   failClosed,
	}
}

func pod(name, container string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: container, Image: "registry.k8s.io/pause:3.10"}}},
	}
}

// skipping is a label of namespaces that a webhook is not about.
const skipping = "skip-webhook-admission"

func denyPodsAndConfigMaps(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	pods := h.validating("deny-pods", "/pods", rules("pods", registration.Create))
	pods.TimeoutSeconds = ptr.To[int32](2) // for the one that hangs
	maps := h.validating("deny-configmaps", "/configmaps", rules("configmaps", registration.Create, registration.Update, registration.Delete))
	maps.NamespaceSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: skipping, Operator: metav1.LabelSelectorOpNotIn, Values: []string{"true"}}}
	// It cannot be called, without its authority's certificate, and fails open.
	broken := h.validating("broken", "/configmaps", rules("configmaps", registration.Create))
	broken.ClientConfig.CABundle, broken.FailurePolicy = nil, ptr.To(registration.Ignore)
	h.validate("", pods, maps, broken)

	c := e.Client.CoreV1().Pods(e.NS)
	_, err := c.Create(e.Ctx, pod("disallowed-pod", disallow, map[string]string{sign: disallow}), metav1.CreateOptions{})
	require.ErrorContains(t, err, "the pod contains unwanted container name")
	require.ErrorContains(t, err, "the pod contains unwanted label")

	_, err = c.Create(e.Ctx, pod("hanging-pod", forever, map[string]string{sign: forever}), metav1.CreateOptions{})
	require.ErrorContains(t, err, "webhook")
	require.ErrorContains(t, err, "deadline")
	_, err = c.Get(e.Ctx, "hanging-pod", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), err)

	const unwanted = "the configmap contains unwanted key and value"
	_, err = h.configMaps().Create(e.Ctx, badConfigMap("disallowed"), metav1.CreateOptions{})
	require.ErrorContains(t, err, unwanted)
	good, err := h.configMaps().Create(e.Ctx, configMap("allowed", map[string]string{"admit": "this"}), metav1.CreateOptions{})
	require.NoError(t, err)
	bad := good.DeepCopy()
	bad.Data[sign] = disallow
	_, err = h.configMaps().Update(e.Ctx, bad, metav1.UpdateOptions{})
	require.ErrorContains(t, err, unwanted)
	_, err = h.configMaps().Patch(e.Ctx, good.Name, types.StrategicMergePatchType, []byte(`{"data":{"`+sign+`":"`+disallow+`"}}`), metav1.PatchOptions{})
	require.ErrorContains(t, err, unwanted)
	unchanged, err := h.configMaps().Get(e.Ctx, good.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, good, unchanged)

	skipped := h.namespace(h.label, skipping)
	_, err = e.Client.CoreV1().ConfigMaps(skipped).Create(e.Ctx, badConfigMap("disallowed"), metav1.CreateOptions{})
	require.NoError(t, err)
}

func denyDefinition(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	w := h.validating("deny-crd", "/crd", rules("apiextensions.k8s.io|*|customresourcedefinitions", registration.Create))
	w.NamespaceSelector, w.ObjectSelector = nil, w.NamespaceSelector
	h.validate("", w)
	c := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions()
	d := definition(apiextensions.NamespaceScoped, "")
	d.Labels = map[string]string{h.label: "true", sign: disallow}
	_, err := c.Create(e.Ctx, d, metav1.CreateOptions{})
	require.ErrorContains(t, err, "the crd contains unwanted label")
	_, err = c.Get(e.Ctx, d.Name, metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), err)
	delete(d.Labels, sign)
	define(t, e, d)
}

func honorTimeout(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	slow := func(policy registration.FailurePolicyType, seconds *int32) error {
		w := h.validating("slow", "/always-allow-delay", rules("configmaps", registration.Create))
		w.FailurePolicy, w.TimeoutSeconds = &policy, seconds
		c := e.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
		made := h.validate("", w)
		if seconds == nil {
			require.EqualValues(t, 10, *made.Webhooks[0].TimeoutSeconds)
		}
		_, err := h.configMaps().Create(e.Ctx, configMap("", nil), metav1.CreateOptions{})
		require.NoError(t, c.Delete(e.Ctx, made.Name, metav1.DeleteOptions{}))
		return err
	}
	err := slow(registration.Fail, ptr.To[int32](1))
	require.ErrorContains(t, err, "context deadline exceeded")
	require.ErrorContains(t, err, "/always-allow-delay?timeout=1s")
	require.NoError(t, slow(registration.Ignore, ptr.To[int32](1)))
	require.NoError(t, slow(registration.Fail, ptr.To[int32](30)))
	require.NoError(t, slow(registration.Fail, nil), "the default is ten seconds")
}

func mutateConfigMap(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	first := h.mutating("stage-1", "/mutating-configmaps", rules("configmaps", registration.Create))
	second := h.mutating("stage-2", "/mutating-configmaps", rules("configmaps", registration.Create))
	h.mutate("", first, second)
	made, err := h.configMaps().Create(e.Ctx, configMap("to-be-mutated", map[string]string{started: "yes"}), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{started: "yes", stage1: "yes", stage2: "yes"}, made.Data)
}

func skipMe(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	w := h.mutating("mutate", "/mutating-configmaps", rules("configmaps", registration.Create))
	w.MatchConditions = []registration.MatchCondition{condition("skip-me", "object.metadata.name != 'skip-me'")}
	h.mutate("", w)
	made, err := h.configMaps().Create(e.Ctx, configMap("any", map[string]string{started: "yes"}), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{started: "yes", stage1: "yes"}, made.Data)
	made, err = h.configMaps().Create(e.Ctx, configMap("skip-me", map[string]string{started: "yes"}), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]string{started: "yes"}, made.Data)
}

func initContainer(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	h.mutate("", h.mutating("add-init-container", "/mutating-pods", rules("pods", registration.Create)))
	made, err := e.Client.CoreV1().Pods(e.NS).Create(e.Ctx, pod(mutatePod, "example", nil), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Len(t, made.Spec.InitContainers, 1)
	require.Equal(t, "webhook-added-init-container", made.Spec.InitContainers[0].Name)
	require.Equal(t, corev1.TerminationMessageReadFile, made.Spec.InitContainers[0].TerminationMessagePolicy)
}

func leaveConfigurations(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	const both = "admissionregistration.k8s.io|*|validatingwebhookconfigurations,mutatingwebhookconfigurations"
	keep := h.validating("deny-deletion", "/always-deny", rules(both, registration.Delete))
	change := h.mutating("add-label", "/add-label", rules(both, registration.Create))
	// They are about requests for one object each, whose label says so, and about nothing else.
	keep.NamespaceSelector, keep.ObjectSelector = nil, keep.NamespaceSelector
	change.NamespaceSelector, change.ObjectSelector = nil, change.NamespaceSelector
	h.validate("-blocking", keep)
	h.mutate("-blocking", change)

	dummy := metav1.ObjectMeta{Name: h.label + "-dummy", Labels: map[string]string{h.label: "true"}}
	validating := e.Client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	v, err := validating.Create(e.Ctx, &registration.ValidatingWebhookConfiguration{
		ObjectMeta: dummy, Webhooks: []registration.ValidatingWebhook{h.validating("dummy", "/none", rules("invalid", registration.Create)), h.validatingMarker()},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NotContains(t, v.Labels, addition)
	h.wait()
	require.NoError(t, validating.Delete(e.Ctx, v.Name, metav1.DeleteOptions{}))

	mutating := e.Client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	m, err := mutating.Create(e.Ctx, &registration.MutatingWebhookConfiguration{
		ObjectMeta: dummy, Webhooks: []registration.MutatingWebhook{h.mutating("dummy", "/none", rules("invalid", registration.Create)), h.mutatingMarker()},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NotContains(t, m.Labels, addition)
	h.wait()
	require.NoError(t, mutating.Delete(e.Ctx, m.Name, metav1.DeleteOptions{}))
}

func failClosed(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	w := h.validating("fail-closed", "/configmaps", rules("configmaps", registration.Create))
	w.ClientConfig.CABundle, w.FailurePolicy = nil, ptr.To(registration.Fail)
	w.NamespaceSelector.MatchLabels["fail-closed-webhook"] = "true"
	h.validate("", w)
	failing := h.namespace(h.label, "fail-closed-webhook")
	_, err := e.Client.CoreV1().ConfigMaps(failing).Create(e.Ctx, configMap("foo", nil), metav1.CreateOptions{})
	require.True(t, apierrors.IsInternalError(err), err)
	_, err = h.configMaps().Create(e.Ctx, configMap("foo", nil), metav1.CreateOptions{})
	require.NoError(t, err, "what the webhook is not about")
}
