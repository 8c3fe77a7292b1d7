package apiserver_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

const gadgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: gadgets, kind: Gadget, shortNames: [gg], categories: [all]}
  versions:
  - &version
    name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns: [{name: Color, type: string, jsonPath: .spec.color}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              color: {type: string}
              replicas: {type: integer}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, size: {type: integer}}}
          status: {type: object, properties: {replicas: {type: integer}, selector: {type: string}}}
  - {<<: *version, name: v1beta1, storage: false, deprecated: true}
`

// warned keeps the warnings of answers.
type warned struct{ texts []string }

func (w *warned) HandleWarningHeader(_ int, _, text string) { w.texts = append(w.texts, text) }

// gadgetClients defines gadgets by server-side apply, and returns clients for their two versions.
func gadgetClients(t *testing.T) (v1, beta dynamic.ResourceInterface, crds apiextensions.Interface, warnings *warned, raw rest.Interface) {
	config := start(t)(adminToken)
	warnings = &warned{}
	config.WarningHandler = warnings
	hc, err := rest.HTTPClientFor(config)
	require.NoError(t, err)
	t.Cleanup(hc.CloseIdleConnections)
	crds, err = apiextensions.NewForConfigAndClient(config, hc)
	require.NoError(t, err)
	body, err := yaml.YAMLToJSON([]byte(gadgets))
	require.NoError(t, err)
	applied, err := crds.ApiextensionsV1().CustomResourceDefinitions().Patch(t.Context(), "gadgets.example.com", types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: "me"})
	require.NoError(t, err)
	require.NotEmpty(t, applied.ManagedFields)
	require.Eventually(t, func() bool {
		c, err := crds.ApiextensionsV1().CustomResourceDefinitions().Get(t.Context(), "gadgets.example.com", metav1.GetOptions{})
		require.NoError(t, err)
		for _, cond := range c.Status.Conditions {
			if cond.Type == apiextensionsv1.Established && cond.Status == apiextensionsv1.ConditionTrue {
				return true
			}
		}
		return false
	}, 10*time.Second, 5*time.Millisecond)
	dyn, err := dynamic.NewForConfigAndClient(config, hc)
	require.NoError(t, err)
	of := func(version string) dynamic.ResourceInterface {
		return dyn.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: "gadgets"}).Namespace("default")
	}
	return of("v1"), of("v1beta1"), crds, warnings, crds.Discovery().RESTClient()
}

func gadget(t *testing.T, version, name, spec string) *unstructured.Unstructured {
	u := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte("apiVersion: example.com/"+version+"\nkind: Gadget\nmetadata: {name: "+name+"}\nspec: "+spec), &u.Object))
	return u
}

func TestGadgets(t *testing.T) {
	v1, beta, crds, warnings, raw := gadgetClients(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	// Unknown fields.
	_, err := v1.Create(ctx, gadget(t, "v1", "a", "{color: red, x: 1}"), metav1.CreateOptions{FieldValidation: "Strict"})
	require.True(t, apierrors.IsBadRequest(err), "%v", err)
	require.EqualError(t, err, `Gadget in version "v1" cannot be handled as a Gadget: strict decoding error: unknown field "spec.x"`)
	made, err := v1.Create(ctx, gadget(t, "v1", "a", "{color: red, x: 1, parts: [{name: p}]}"), metav1.CreateOptions{FieldValidation: "Warn"})
	require.NoError(t, err)
	require.NotContains(t, made.Object["spec"], "x")
	require.Equal(t, []string{`unknown field "spec.x"`}, warnings.texts)
	_, err = v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"y":1}}`), metav1.PatchOptions{FieldValidation: "Strict"})
	require.ErrorContains(t, err, `unknown field "spec.y"`)
	_, err = v1.Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"labels":{"a":1}}}`), metav1.PatchOptions{})
	require.Error(t, err)

	// Two managers, in two versions.
	warnings.texts = nil
	_, err = beta.Apply(ctx, "s", gadget(t, "v1beta1", "s", "{color: red, parts: [{name: p, size: 1}]}"), metav1.ApplyOptions{FieldManager: "one"})
	require.NoError(t, err)
	require.Equal(t, []string{"example.com/v1beta1 Gadget is deprecated; use example.com/v1 Gadget"}, warnings.texts)
	_, err = v1.Apply(ctx, "s", gadget(t, "v1", "s", "{color: blue}"), metav1.ApplyOptions{FieldManager: "two"})
	require.True(t, apierrors.IsConflict(err), "%v", err)
	got, err := v1.Apply(ctx, "s", gadget(t, "v1", "s", "{parts: [{name: q}]}"), metav1.ApplyOptions{FieldManager: "two"})
	require.NoError(t, err)
	parts, _, _ := unstructured.NestedSlice(got.Object, "spec", "parts")
	require.Len(t, parts, 2)
	got, err = beta.Apply(ctx, "s", gadget(t, "v1beta1", "s", "{color: red}"), metav1.ApplyOptions{FieldManager: "one"})
	require.NoError(t, err)
	parts, _, _ = unstructured.NestedSlice(got.Object, "spec", "parts")
	require.Len(t, parts, 1, "what was applied in another version is still known")

	// Subresources.
	scale := []byte(`{"spec":{"replicas":4}}`)
	_, err = v1.Patch(ctx, "a", types.MergePatchType, scale, metav1.PatchOptions{}, "scale")
	require.NoError(t, err)
	got, err = v1.Get(ctx, "a", metav1.GetOptions{})
	require.NoError(t, err)
	n, _, _ := unstructured.NestedInt64(got.Object, "spec", "replicas")
	require.EqualValues(t, 4, n)
	require.EqualValues(t, 2, got.GetGeneration())
	require.NoError(t, unstructured.SetNestedField(got.Object, int64(3), "status", "replicas"))
	got, err = v1.UpdateStatus(ctx, got, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 2, got.GetGeneration())

	// Selectors and tables.
	list, err := v1.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"})
	require.NoError(t, err)
	require.Len(t, list.Items, 2)
	require.Equal(t, "GadgetList", list.GetKind())
	_, err = v1.List(ctx, metav1.ListOptions{FieldSelector: "spec.replicas=4"})
	require.True(t, apierrors.IsBadRequest(err), "%v", err)
	table := &metav1.Table{}
	data, err := raw.Get().AbsPath("/apis/example.com/v1/namespaces/default/gadgets").SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Raw()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, table))
	require.Equal(t, []any{"a", "red"}, table.Rows[0].Cells)

	// What is published.
	data, err = raw.Get().AbsPath("/openapi/v3/apis/example.com/v1").Do(ctx).Raw()
	require.NoError(t, err)
	require.Contains(t, string(data), "com.example.v1.Gadget")
	require.Contains(t, string(data), "/apis/example.com/v1/namespaces/{namespace}/gadgets/{name}/scale")
	data, err = raw.Get().AbsPath("/openapi/v2").Do(ctx).Raw()
	require.NoError(t, err)
	require.True(t, strings.Contains(string(data), "com.example.v1beta1.Gadget"))

	// A watch ends with its definition; its objects are reported as deleted before.
	w, err := v1.Watch(ctx, metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
	require.NoError(t, err)
	defer w.Stop()
	require.NoError(t, crds.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, "gadgets.example.com", metav1.DeleteOptions{}))
	for range w.ResultChan() {
	}
	require.Eventually(t, func() bool {
		_, err := v1.List(ctx, metav1.ListOptions{})
		return apierrors.IsNotFound(err)
	}, 10*time.Second, 20*time.Millisecond)
}
