package crd

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

func conflict(err error) bool { return apierrors.IsConflict(err) }

const widgets = `
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Born, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [color]
            x-kubernetes-validations:
            - {rule: "self.color == oldSelf.color", message: color is immutable}
            - {rule: "self.replicas <= 10", message: too many}
            properties:
              color: {type: string, enum: [red, green, blue]}
              replicas: {type: integer, default: 1, minimum: 0}
              ports:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, port: {type: integer}}}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}, phase: {type: string, maxLength: 5}}
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {color: {type: string}, size: {type: string, default: big}}}
`

func widget(t testing.TB, name, spec string) kinds.Object {
	return object(t, "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: "+name+"}\nspec: "+spec)
}

func in(name string) *verbs.Target { return &verbs.Target{Namespace: "ns", Name: name} }

func TestLifeOfADefinition(t *testing.T) {
	w := start(t)
	w.establish(parse(t, widgets))
	c := w.definition("widgets.example.com")
	require.Equal(t, []string{"v1"}, c.Status.StoredVersions)
	require.Equal(t, apiextensionsv1.CustomResourceDefinitionNames{
		Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList", ShortNames: []string{"wd"}, Categories: []string{"all"},
	}, c.Status.AcceptedNames)

	r := w.of("example.com/v1", "Widget")
	require.NotNil(t, r, "it is served before it is established")
	held := widget(t, "held", "{color: red}")
	held.SetFinalizers([]string{"example.com/hold"})
	_, err := r.Create(t.Context(), in(""), held)
	require.NoError(t, err)
	_, err = r.Create(t.Context(), in(""), widget(t, "free", "{color: red}"))
	require.NoError(t, err)

	_, removed, err := w.defs.Delete(t.Context(), &verbs.Target{Name: c.Name}, &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.False(t, removed)
	w.await(c.Name, apiextensionsv1.Terminating, "True")
	require.Eventually(t, func() bool {
		r = w.of("example.com/v1", "Widget")
		_, err := r.Get(t.Context(), "ns", "free", "")
		return apierrors.IsNotFound(err)
	}, 10*time.Second, 5*time.Millisecond)
	_, err = r.Create(t.Context(), in(""), widget(t, "new", "{color: red}"))
	require.True(t, apierrors.IsMethodNotSupported(err), err)
	require.EqualError(t, err, "create not allowed while custom resource definition is terminating")

	var it *objectstore.Item
	require.Eventually(t, func() bool {
		it, err = w.of("example.com/v1", "Widget").Get(t.Context(), "ns", "held", "")
		return err == nil && it.Object.GetDeletionTimestamp() != nil
	}, 10*time.Second, 5*time.Millisecond)
	o := it.Object.DeepCopyObject().(kinds.Object)
	o.SetFinalizers(nil)
	_, _, err = r.Update(t.Context(), in("held"), o)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return w.definition(c.Name) == nil && w.of("example.com/v1", "Widget") == nil }, 10*time.Second, 5*time.Millisecond)
}

func TestWrites(t *testing.T) {
	w := start(t)
	w.establish(parse(t, widgets))
	r := w.of("example.com/v1", "Widget")

	u := widget(t, "a", "{color: red, unknown: 1, ports: [{name: x, oops: 1}]}")
	unknown, err := r.Kind.Coerce(u)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"spec.unknown", "spec.ports[0].oops"}, unknown)

	u = widget(t, "a", "{color: red, unknown: 1}")
	content(u).Object["status"] = map[string]any{"phase": "x"}
	it, err := r.Create(t.Context(), in(""), u)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"color": "red", "replicas": int64(1)}, content(it.Object).Object["spec"])
	require.NotContains(t, content(it.Object).Object, "status")
	require.EqualValues(t, 1, it.Object.GetGeneration())

	for spec, want := range map[string]string{
		"{}":                         "spec.color: Required value",
		"{color: pink}":              `spec.color: Unsupported value: "pink": supported values: "red", "green", "blue"`,
		"{color: red, replicas: x}":  `spec.replicas: Invalid value: "string": spec.replicas in body must be of type integer: "string"`,
		"{color: red, replicas: 11}": "too many",
		"{color: red, replicas: -1}": "spec.replicas in body should be greater than or equal to 0",
		"{color: red, ports: [{name: a}, {name: a}]}": `spec.ports[1]: Duplicate value: {"name":"a"}`,
	} {
		_, err := r.Create(t.Context(), in(""), widget(t, "bad", spec))
		require.True(t, apierrors.IsInvalid(err), "%s: %v", spec, err)
		require.ErrorContains(t, err, want, spec)
	}

	o := it.Object.DeepCopyObject().(kinds.Object)
	content(o).Object["spec"].(map[string]any)["color"] = "green"
	_, _, err = r.Update(t.Context(), in("a"), o)
	require.ErrorContains(t, err, "color is immutable")

	o = it.Object.DeepCopyObject().(kinds.Object)
	content(o).Object["spec"].(map[string]any)["replicas"] = int64(3)
	content(o).Object["status"] = map[string]any{"phase": "x"}
	it, _, err = r.Update(t.Context(), in("a"), o)
	require.NoError(t, err)
	require.EqualValues(t, 2, it.Object.GetGeneration())
	require.NotContains(t, content(it.Object).Object, "status")

	status := in("a")
	status.Subresource = "status"
	o = it.Object.DeepCopyObject().(kinds.Object)
	o.SetLabels(map[string]string{"a": "b"})
	content(o).Object["spec"].(map[string]any)["replicas"] = int64(9)
	content(o).Object["status"] = map[string]any{"phase": "Fine", "nonsense": true}
	it, _, err = r.Update(t.Context(), status, o)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"phase": "Fine"}, content(it.Object).Object["status"])
	require.Equal(t, int64(3), content(it.Object).Object["spec"].(map[string]any)["replicas"])
	require.Empty(t, it.Object.GetLabels())
	require.EqualValues(t, 2, it.Object.GetGeneration())
	o = it.Object.DeepCopyObject().(kinds.Object)
	content(o).Object["status"] = map[string]any{"phase": "TooLong"}
	_, _, err = r.Update(t.Context(), status, o)
	require.ErrorContains(t, err, "status.phase: Too long: may not be more than 5 bytes")
}

func TestVersions(t *testing.T) {
	w := start(t)
	w.establish(parse(t, widgets))
	v1, beta := w.of("example.com/v1", "Widget"), w.of("example.com/v1beta1", "Widget")
	require.Equal(t, "example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget", beta.Kind.Deprecation)
	_, err := v1.Create(t.Context(), in(""), widget(t, "a", "{color: red, replicas: 2}"))
	require.NoError(t, err)
	it, err := beta.Get(t.Context(), "ns", "a", "")
	require.NoError(t, err)
	require.Equal(t, "example.com/v1beta1", content(it.Object).GetAPIVersion())
	require.Equal(t, map[string]any{"color": "red"}, content(it.Object).Object["spec"], "pruned, and not defaulted")

	o := object(t, "apiVersion: example.com/v1beta1\nkind: Widget\nmetadata: {name: b}\nspec: {color: blue}")
	it, err = beta.Create(t.Context(), in(""), o)
	require.NoError(t, err)
	require.Equal(t, "example.com/v1beta1", content(it.Object).GetAPIVersion())
	page, err := v1.List(t.Context(), objectstore.ListQuery{})
	require.NoError(t, err)
	require.Len(t, page.Items, 2)
	for _, it := range page.Items {
		require.Equal(t, "example.com/v1", content(it.Object).GetAPIVersion())
	}
	require.Equal(t, map[string]any{"color": "blue", "replicas": int64(1)}, content(page.Items[1].Object).Object["spec"])

	// What was stored in the old version stays so until it is written.
	require.NoError(t, w.change("widgets.example.com", func(c *apiextensionsv1.CustomResourceDefinition) {
		c.Spec.Versions[0].Storage, c.Spec.Versions[1].Storage = false, true
	}))
	require.Equal(t, []string{"v1", "v1beta1"}, w.definition("widgets.example.com").Status.StoredVersions)
	require.Eventually(t, func() bool { return w.of("example.com/v1", "Widget").Kind != v1.Kind }, 10*time.Second, 5*time.Millisecond)
	v1 = w.of("example.com/v1", "Widget")
	it, err = v1.Get(t.Context(), "ns", "a", "")
	require.NoError(t, err)
	require.Equal(t, map[string]any{"color": "red", "replicas": int64(2)}, content(it.Object).Object["spec"])
}
