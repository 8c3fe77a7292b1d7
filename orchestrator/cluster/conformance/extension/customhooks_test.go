package extension

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	registration "k8s.io/api/admissionregistration/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// customWebhooks are behaviours of admission webhooks with custom resources.
func customWebhooks() conformance.Behaviours {
	return conformance.Behaviours{
		"AdmissionWebhook should be able to deny custom resource creation, update and deletion": denyCustom,
		"AdmissionWebhook should mutate custom resource":                                        mutateCustom,
		"AdmissionWebhook should mutate custom resource with different stored version":          mutateStored,
		"AdmissionWebhook should mutate custom resource with pruning":                           mutatePruned,
	}
}

func data(sign, value string) map[string]any {
	return map[string]any{"data": map[string]any{sign: value}}
}

func denyCustom(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	d := define(t, e, definition(apiextensions.NamespaceScoped, ""))
	h.validate("", h.validating("deny-custom", "/custom-resource",
		rules(d.Spec.Group+"|v1|"+d.Spec.Names.Plural, registration.Create, registration.Update, registration.Delete)))
	c := objects(t, e, d, "v1")
	const unwanted = "the custom resource contains unwanted data"
	_, err := c.Create(e.Ctx, object(d, "v1", "one", data(sign, disallow)), metav1.CreateOptions{})
	require.ErrorContains(t, err, unwanted)

	o, err := c.Create(e.Ctx, object(d, "v1", "two", data(sign, lasting)), metav1.CreateOptions{})
	require.NoError(t, err)
	bad := o.DeepCopy()
	bad.Object["data"] = data(sign, disallow)["data"]
	_, err = c.Update(e.Ctx, bad, metav1.UpdateOptions{})
	require.ErrorContains(t, err, unwanted)
	require.ErrorContains(t, c.Delete(e.Ctx, "two", metav1.DeleteOptions{}), "the custom resource cannot be deleted because it contains unwanted key and value")
	o.Object["data"] = data(sign, "webhook-allow")["data"]
	_, err = c.Update(e.Ctx, o, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.NoError(t, c.Delete(e.Ctx, "two", metav1.DeleteOptions{}))
}

// mutateDefinition registers two webhooks for a definition's objects: one for creations and updates, one for creations.
func (h *hooks) mutateDefinition(d *apiextensions.CustomResourceDefinition, versions string) {
	resource := d.Spec.Group + "|" + versions + "|" + d.Spec.Names.Plural
	h.mutate("",
		h.mutating("stage-1", "/mutating-custom-resource", rules(resource, registration.Create, registration.Update)),
		h.mutating("stage-2", "/mutating-custom-resource", rules(resource, registration.Create)))
}

var mutated = map[string]any{started: "yes", stage1: "yes", stage2: "yes"}

func mutateCustom(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	d := define(t, e, definition(apiextensions.NamespaceScoped, ""))
	h.mutateDefinition(d, "v1")
	o, err := objects(t, e, d, "v1").Create(e.Ctx, object(d, "v1", "one", data(started, "yes")), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, mutated, o.Object["data"])
}

func mutatePruned(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	text := apiextensions.JSONSchemaProps{Type: "string"}
	d := define(t, e, definition(apiextensions.NamespaceScoped, "", version("v1", true, &apiextensions.JSONSchemaProps{
		Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{
			"data": {Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{started: text, stage1: text}},
		},
	}), version("v2", false, anything())))
	h.mutateDefinition(d, "v1,v2")
	o, err := objects(t, e, d, "v1").Create(e.Ctx, object(d, "v1", "one", data(started, "yes")), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, map[string]any{started: "yes", stage1: "yes"}, o.Object["data"])
}

func mutateStored(t *testing.T, e *conformance.Env) {
	h := newHooks(t, e)
	d := define(t, e, definition(apiextensions.NamespaceScoped, "", version("v1", true, anything()), version("v2", false, anything())))
	h.mutateDefinition(d, "v1,v2")
	_, err := objects(t, e, d, "v1").Create(e.Ctx, object(d, "v1", "one", data(started, "yes")), metav1.CreateOptions{})
	require.NoError(t, err)

	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"versions": []any{version("v1", false, anything()), version("v2", true, anything())}}})
	require.NoError(t, err)
	changed, err := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions().Patch(e.Ctx, d.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, []string{"v1", "v2"}, changed.Status.StoredVersions)

	o, err := objects(t, e, d, "v2").Patch(e.Ctx, "one", types.JSONPatchType, []byte(`[{"op": "add", "path": "/dummy", "value": "test"}]`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, mutated, o.Object["data"])
	require.Equal(t, "test", o.Object["dummy"])
	require.Equal(t, d.Spec.Group+"/v2", o.GetAPIVersion())
}
