package apiserver_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// mapRules is about config maps.
func mapRules(operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{Operations: operations, Rule: admissionv1.Rule{
		APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"},
	}}}
}

// TestAdmission configures admission as users do: by objects.
func TestAdmission(t *testing.T) {
	cs := clientset(t, start(t)(adminToken), "application/json")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{
		"pod-security.kubernetes.io/enforce": "baseline",
	}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	newMap := func(name string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	create := func(name string) (*corev1.ConfigMap, error) {
		return cs.CoreV1().ConfigMaps("ns").Create(ctx, newMap(name), metav1.CreateOptions{})
	}

	t.Run("webhooks", func(t *testing.T) {
		hook := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			review := &admissionapi.AdmissionReview{}
			_ = json.NewDecoder(r.Body).Decode(review)
			out := &admissionapi.AdmissionResponse{UID: review.Request.UID, Allowed: true}
			switch {
			case r.URL.Path == "/mutate" && review.Request.Operation == admissionapi.Create:
				out.Patch, out.PatchType = []byte(`[{"op":"add","path":"/data","value":{"hook":"was here"}}]`), ptr.To(admissionapi.PatchTypeJSONPatch)
			case r.URL.Path == "/validate":
				out.Allowed, out.Result = false, &metav1.Status{Message: "keep it"}
			}
			review.Response = out
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(review)
		}))
		defer hook.Close()
		at := func(path string) admissionv1.WebhookClientConfig {
			return admissionv1.WebhookClientConfig{URL: ptr.To(hook.URL + path), CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})}
		}
		mutating, validating := cs.AdmissionregistrationV1().MutatingWebhookConfigurations(), cs.AdmissionregistrationV1().ValidatingWebhookConfigurations()
		_, err := mutating.Create(ctx, &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Webhooks: []admissionv1.MutatingWebhook{{
			Name: "m.example.com", ClientConfig: at("/mutate"), Rules: mapRules("*"), SideEffects: ptr.To(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		}}}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = validating.Create(ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "v.example.com", ClientConfig: at("/validate"), Rules: mapRules("DELETE"), SideEffects: ptr.To(admissionv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
		}}}, metav1.CreateOptions{})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			cm, err := cs.CoreV1().ConfigMaps("ns").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "hooked-"}}, metav1.CreateOptions{})
			require.NoError(t, err)
			return cm.Data["hook"] == "was here"
		}, 5*time.Second, 20*time.Millisecond)
		cm, err := create("kept")
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			err := cs.CoreV1().ConfigMaps("ns").Delete(ctx, cm.Name, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
			return err != nil && err.Error() == `admission webhook "v.example.com" denied the request: keep it`
		}, 5*time.Second, 20*time.Millisecond)
		require.NoError(t, mutating.Delete(ctx, "m", metav1.DeleteOptions{}))
		require.NoError(t, validating.Delete(ctx, "v", metav1.DeleteOptions{}))
		require.Eventually(t, func() bool {
			return cs.CoreV1().ConfigMaps("ns").Delete(ctx, cm.Name, metav1.DeleteOptions{}) == nil
		}, 5*time.Second, 20*time.Millisecond)
	})

	t.Run("policies", func(t *testing.T) {
		about := &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: mapRules("CREATE")[0]}}}
		admit := cs.AdmissionregistrationV1()
		_, err := admit.ValidatingAdmissionPolicies().Create(ctx, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: about, Validations: []admissionv1.Validation{{Expression: "object.metadata.name != 'bad'", Message: "a bad name"}},
		}}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = admit.ValidatingAdmissionPolicyBindings().Create(ctx, &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: "p", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
		}}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = admit.MutatingAdmissionPolicies().Create(ctx, &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.MutatingAdmissionPolicySpec{
			MatchConstraints: about, ReinvocationPolicy: admissionv1.NeverReinvocationPolicy, Mutations: []admissionv1.Mutation{{
				PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: `Object{data: {"policy": "was here"}}`},
			}},
		}}, metav1.CreateOptions{})
		require.NoError(t, err)
		_, err = admit.MutatingAdmissionPolicyBindings().Create(ctx, &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p"}}, metav1.CreateOptions{})
		require.NoError(t, err)
		require.Eventually(t, func() bool {
			_, err := cs.CoreV1().ConfigMaps("ns").Create(ctx, newMap("bad"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			return apierrors.IsInvalid(err) && err.Error() == `configmaps "bad" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: a bad name`
		}, 5*time.Second, 20*time.Millisecond)
		require.Eventually(t, func() bool {
			cm, err := cs.CoreV1().ConfigMaps("ns").Create(ctx, newMap("good"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			require.NoError(t, err)
			return cm.Data["policy"] == "was here"
		}, 5*time.Second, 20*time.Millisecond)
	})

	t.Run("quotas", func(t *testing.T) {
		quotas := cs.CoreV1().ResourceQuotas("ns")
		hard := corev1.ResourceList{"count/secrets": resource.MustParse("1")}
		q, err := quotas.Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
		require.NoError(t, err)
		q.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{"count/secrets": resource.MustParse("0")}}
		_, err = quotas.UpdateStatus(ctx, q, metav1.UpdateOptions{}) // as the quota controller does
		require.NoError(t, err)
		const full = `exceeded quota: q, requested: count/secrets=1, used: count/secrets=1, limited: count/secrets=1`
		require.Eventually(t, func() bool {
			_, err := cs.CoreV1().Secrets("ns").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{GenerateName: "s-"}}, metav1.CreateOptions{})
			if err != nil {
				require.ErrorContains(t, err, full)
			}
			return err != nil
		}, 5*time.Second, 20*time.Millisecond)
		q, err = quotas.Get(ctx, "q", metav1.GetOptions{})
		require.NoError(t, err)
		used := q.Status.Used["count/secrets"]
		require.EqualValues(t, 1, used.Value())
	})

	t.Run("pod security", func(t *testing.T) {
		_, err := cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{
			"pod-security.kubernetes.io/enforce": "nonsense",
		}}}, metav1.CreateOptions{})
		require.True(t, apierrors.IsInvalid(err), "%v", err)
	})
}

const racks = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: racks.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: racks, singular: rack, kind: Rack, listKind: RackList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          units:
            type: array
            x-kubernetes-list-type: map
            x-kubernetes-list-map-keys: [name]
            items: {type: object, required: [name], properties: {name: {type: string}, height: {type: integer}}}
`

// TestPolicyOnCustomResource merges a list by its keys, which only the definition's schema tells.
func TestPolicyOnCustomResource(t *testing.T) {
	config := start(t)(adminToken)
	hc, err := rest.HTTPClientFor(config)
	require.NoError(t, err)
	t.Cleanup(hc.CloseIdleConnections)
	dyn, err := dynamic.NewForConfigAndClient(config, hc)
	require.NoError(t, err)
	cs, err := kubernetes.NewForConfigAndClient(config, hc)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	def := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(racks), &def.Object))
	_, err = dyn.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(ctx, def, metav1.CreateOptions{})
	require.NoError(t, err)
	rules := mapRules("CREATE")
	rules[0].APIGroups, rules[0].Resources = []string{"example.com"}, []string{"racks"}
	_, err = cs.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.MutatingAdmissionPolicySpec{
		MatchConstraints:   &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rules[0]}}},
		ReinvocationPolicy: admissionv1.NeverReinvocationPolicy, Mutations: []admissionv1.Mutation{{
			PatchType:          admissionv1.PatchTypeApplyConfiguration,
			ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: `Object{units: [Object.units{name: "power", height: 2}]}`},
		}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = cs.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: "p"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Rack", "metadata": map[string]any{"name": "r"}, "units": []any{map[string]any{"name": "server", "height": int64(1)}},
	}}
	var made *unstructured.Unstructured
	require.Eventually(t, func() bool {
		made, err = dyn.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "racks"}).Create(ctx, object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			return false
		}
		units, _, _ := unstructured.NestedSlice(made.Object, "units")
		return len(units) == 2
	}, 10*time.Second, 20*time.Millisecond, "%v", &err)
	require.Equal(t, []any{map[string]any{"name": "server", "height": int64(1)}, map[string]any{"name": "power", "height": int64(2)}}, made.Object["units"])
}
