package openapi

import (
	"testing"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

const boxSchema = `
type: object
description: what things are in
properties:
  spec:
    type: object
    required: [maybe, size]
    properties:
      size: {type: string, default: big}
      maybe: {type: string, nullable: true}
      port: {x-kubernetes-int-or-string: true}
      inner: {type: object, x-kubernetes-embedded-resource: true, properties: {spec: {type: object}}}
      free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}
      parts:
        type: array
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [name]
        items: {type: object, required: [name], properties: {name: {type: string}, n: {type: integer}}}
`

func boxes(t testing.TB, version string) *kinds.Kind {
	t.Helper()
	props := &apiextensions.JSONSchemaProps{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(boxSchema), props))
	return &kinds.Kind{
		GroupVersionKind: schema.GroupVersionKind{Group: "example.com", Version: version, Kind: "Box"}, Resource: "boxes",
		Schema: props, FieldNames: []string{"spec.size"},
	}
}

func things() *kinds.Kind {
	return &kinds.Kind{GroupVersionKind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}, Resource: "things"}
}

func TestCustomSchemas(t *testing.T) {
	ts, err := newTypes()
	require.NoError(t, err)
	k := boxes(t, "v1")
	model, list := ts.addCustom(k)
	require.Equal(t, []string{"com.example.v1.Box", "com.example.v1.BoxList"}, []string{model, list})
	v3, v2 := ts.version3(), ts.version2()

	box := v3[model]
	require.Equal(t, "what things are in", box.Description)
	require.Equal(t, "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", ref(box.Properties["metadata"]))
	require.Equal(t, []any{map[string]any{"group": "example.com", "version": "v1", "kind": "Box"}}, box.Extensions["x-kubernetes-group-version-kind"])
	require.Equal(t, []any{map[string]any{"fieldPath": "spec.size"}}, box.Extensions["x-kubernetes-selectable-fields"])
	s := box.Properties["spec"].Properties
	require.Equal(t, "big", s["size"].Default)
	require.True(t, s["maybe"].Nullable)
	require.Len(t, s["port"].AnyOf, 2)
	require.Equal(t, []string{"kind", "apiVersion"}, s["inner"].Required)
	require.Contains(t, s["inner"].Properties, "metadata")
	require.Contains(t, s["free"].Properties, "a")
	require.Equal(t, "#/components/schemas/com.example.v1.Box", ref(*v3[list].Properties["items"].Items.Schema))
	for name := range v3 {
		if d := v3[name]; d.Extensions != nil {
			require.NotContains(t, d.Extensions, "x-kubernetes-v2-schema")
		}
	}

	old := v2[model]
	require.Equal(t, "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", ref(old.Properties["metadata"]))
	require.Equal(t, []string{"size"}, old.Properties["spec"].Required, "kubectl would refuse null")
	s = old.Properties["spec"].Properties
	require.Nil(t, s["size"].Default)
	require.False(t, s["maybe"].Nullable)
	require.Empty(t, s["maybe"].Type)
	require.NotContains(t, s["free"].Properties, "a")

	// Objects that may hold anything must not have properties here: kubectl would refuse others.
	free := *k
	free.Schema = k.Schema.DeepCopy()
	anything := true
	free.Schema.XPreserveUnknownFields = &anything
	ts.addCustom(&free)
	ts.addCustom(things())
	require.NotEmpty(t, ts.version3()[model].Properties)
	require.Empty(t, ts.version2()[model].Properties)
	require.Empty(t, ts.version2()["com.example.v1.Thing"].Properties)
}

func ref(s spec.Schema) string {
	if len(s.AllOf) == 1 {
		return s.AllOf[0].Ref.String()
	}
	return s.Ref.String()
}

func TestCustomTypes(t *testing.T) {
	types, err := CustomTypes(boxes(t, "v1"), boxes(t, "v2"))
	require.NoError(t, err)
	for _, version := range []string{"v1", "v2"} {
		read := func(parts string) error {
			_, err := types.ObjectToTyped(object(t, "{apiVersion: example.com/"+version+", kind: Box, metadata: {name: a, labels: {a: b}}, spec: {parts: "+parts+"}}"))
			return err
		}
		require.NoError(t, read("[{name: a}, {name: b}]"))
		require.ErrorContains(t, read("[{name: a}, {name: a}]"), "duplicate entries for key [name=\"a\"]")
	}
	types, err = CustomTypes(things())
	require.NoError(t, err)
	_, err = types.ObjectToTyped(object(t, "{apiVersion: example.com/v1, kind: Thing, metadata: {name: a}, whatever: [{a: b}]}"))
	require.NoError(t, err)
}
