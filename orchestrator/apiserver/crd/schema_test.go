package crd

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

const embedded = `
metadata: {name: boxes.example.com}
spec:
  group: example.com
  scope: Cluster
  names: {plural: boxes, kind: Box, listKind: BoxList}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.size}]
    schema:
      openAPIV3Schema:
        type: object
        description: what things are in
        properties:
          spec:
            type: object
            properties:
              size: {type: string, default: big}
              maybe: {type: string, nullable: true}
              inner: {type: object, x-kubernetes-embedded-resource: true, properties: {spec: {type: object}}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true, properties: {a: {type: string}}}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, n: {type: integer}}}
`

func TestSchemas(t *testing.T) {
	k := kindsOf(t, embedded)[0]
	v3, v2 := Schemas(k, false), Schemas(k, true)
	require.Len(t, v3, 2)
	box := v3["com.example.v1.Box"]
	require.Equal(t, "what things are in", box.Description)
	require.Equal(t, "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", ref(box.Properties["metadata"]))
	require.Equal(t, []any{map[string]any{"group": "example.com", "version": "v1", "kind": "Box"}}, box.Extensions["x-kubernetes-group-version-kind"])
	require.Equal(t, []any{map[string]any{"fieldPath": "spec.size"}}, box.Extensions["x-kubernetes-selectable-fields"])
	s := box.Properties["spec"].Properties
	require.Equal(t, "big", s["size"].Default)
	require.True(t, s["maybe"].Nullable)
	require.Equal(t, []string{"kind", "apiVersion"}, s["inner"].Required)
	require.Contains(t, s["inner"].Properties, "metadata")
	require.Contains(t, s["free"].Properties, "a")
	list := v3["com.example.v1.BoxList"]
	require.Equal(t, "#/components/schemas/com.example.v1.Box", ref(*list.Properties["items"].Items.Schema))

	box = v2["com.example.v1.Box"]
	require.Equal(t, "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", ref(box.Properties["metadata"]))
	s = box.Properties["spec"].Properties
	require.Nil(t, s["size"].Default)
	require.False(t, s["maybe"].Nullable)
	require.Empty(t, s["maybe"].Type)
	require.NotContains(t, s["free"].Properties, "a")

	free := kindsOf(t, strings.ReplaceAll(embedded, "        type: object\n        desc", "        type: object\n        x-kubernetes-preserve-unknown-fields: true\n        desc"))[0]
	require.NotEmpty(t, Schemas(free, false)["com.example.v1.Box"].Properties)
	require.Empty(t, Schemas(free, true)["com.example.v1.Box"].Properties)
	// Objects that may hold anything must not have properties here: kubectl would refuse others.
	require.Empty(t, Schemas(&kinds.Kind{GroupVersionKind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}}, true)["com.example.v1.Thing"].Properties)
}

func ref(s spec.Schema) string {
	if len(s.AllOf) == 1 {
		return s.AllOf[0].Ref.String()
	}
	return s.Ref.String()
}

func TestTypeConverter(t *testing.T) {
	types, err := TypeConverter(kindsOf(t, embedded)...)
	require.NoError(t, err)
	read := func(parts string) error {
		_, err := types.ObjectToTyped(object(t, "apiVersion: example.com/v1\nkind: Box\nmetadata: {name: a, labels: {a: b}}\nspec: {parts: "+parts+"}"))
		return err
	}
	require.NoError(t, read("[{name: a}, {name: b}]"))
	require.ErrorContains(t, read("[{name: a}, {name: a}]"), "duplicate entries for key [name=\"a\"]")

	types, err = TypeConverter(kindsOf(t, widgets)...)
	require.NoError(t, err)
	for _, version := range []string{"v1", "v1beta1"} {
		_, err = types.ObjectToTyped(object(t, "apiVersion: example.com/"+version+"\nkind: Widget\nmetadata: {name: a}\nspec: {color: red}"))
		require.NoError(t, err)
	}
	types, err = TypeConverter(&kinds.Kind{GroupVersionKind: schema.GroupVersionKind{Group: "example.com", Version: "v1", Kind: "Thing"}})
	require.NoError(t, err)
	_, err = types.ObjectToTyped(object(t, "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: a}\nwhatever: [{a: b}]"))
	require.NoError(t, err)
}

func BenchmarkTypeConverter(b *testing.B) {
	all := kindsOf(b, widgets)
	for b.Loop() {
		if _, err := TypeConverter(all...); err != nil {
			b.Fatal(err)
		}
	}
}
