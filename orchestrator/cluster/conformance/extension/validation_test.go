package extension

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// fieldValidation is behaviours of fieldValidation=Strict.
func fieldValidation() conformance.Behaviours {
	return conformance.Behaviours{
		"FieldValidation should create/apply a CR with unknown fields for CRD with no validation schema":         applyAnything,
		"FieldValidation should create/apply a valid CR for CRD with validation schema":                          applyValid,
		"FieldValidation should create/apply an invalid CR with extra properties for CRD with validation schema": applyExtra,
		"FieldValidation should detect duplicates in a CR when preserving unknown fields":                        applyDuplicates,
		"FieldValidation should detect unknown and duplicate fields of a typed object":                           createUnknown,
		"FieldValidation should detect unknown metadata fields in both the root and embedded object of a CR":     applyUnknownMetadata,
		"FieldValidation should detect unknown metadata fields of a typed object":                                createUnknownMetadata,
	}
}

// strictDeployment creates a deployment, with lines of JSON in its metadata and in its spec.
func strictDeployment(e *conformance.Env, metadata, spec string) error {
	body := fmt.Sprintf(`{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "my-dep", %s "labels": {"app": "nginx"}}, "spec": {%s
		"selector": {"matchLabels": {"app": "nginx"}},
		"template": {"metadata": {"labels": {"app": "nginx"}}, "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]}}}}`, metadata, spec)
	return e.Client.AppsV1().RESTClient().Post().AbsPath("/apis/apps/v1").Namespace(e.NS).Resource("deployments").
		Param("fieldManager", "field_validation_mgr").Param("fieldValidation", "Strict").Body([]byte(body)).Do(e.Ctx).Error()
}

func createUnknown(t *testing.T, e *conformance.Env) {
	err := strictDeployment(e, "", `"unknownField": "foo", "replicas": 2, "replicas": 3,`)
	require.ErrorContains(t, err, `strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas"`)
}

func createUnknownMetadata(t *testing.T, e *conformance.Env) {
	err := strictDeployment(e, `"unknownMeta": "foo",`, "")
	require.ErrorContains(t, err, `strict decoding error: unknown field "metadata.unknownMeta"`)
}

// crons is the schema of objects whose spec has a field foo, a schedule and ports.
func crons() *apiextensions.JSONSchemaProps {
	text := apiextensions.JSONSchemaProps{Type: "string"}
	number := apiextensions.JSONSchemaProps{Type: "integer", Format: "int32"}
	return &apiextensions.JSONSchemaProps{Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{
		"spec": {Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{
			"foo":      text,
			"cronSpec": {Type: "string", Pattern: `^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$`},
			"ports": {
				Type: "array", XListType: ptr.To("map"), XListMapKeys: []string{"containerPort", "protocol"},
				Items: &apiextensions.JSONSchemaPropsOrArray{Schema: &apiextensions.JSONSchemaProps{
					Type: "object", Required: []string{"containerPort", "protocol"}, Properties: map[string]apiextensions.JSONSchemaProps{
						"containerPort": number, "hostIP": text, "hostPort": number, "name": text, "protocol": text,
					},
				}},
			},
		}},
	}}
}

// defineCrons makes a definition of two versions that have the same schema.
func defineCrons(t *testing.T, e *conformance.Env, s *apiextensions.JSONSchemaProps) *apiextensions.CustomResourceDefinition {
	return define(t, e, definition(apiextensions.ClusterScoped, "", version("v1beta1", true, s), version("v0", false, s)))
}

// apply applies an object in YAML, with lines of its own at the root, in the metadata and in the spec.
func apply(t *testing.T, e *conformance.Env, d *apiextensions.CustomResourceDefinition, root, metadata, spec string) ([]byte, error) {
	body := fmt.Sprintf(`
apiVersion: %s/v1beta1
kind: %s
metadata:
  name: mytest%s%s
spec:%s
  cronSpec: "* * * * */5"
  ports:
  - name: x
    containerPort: 80
    protocol: TCP`, d.Spec.Group, d.Spec.Names.Kind, metadata, root, spec)
	return e.Client.Discovery().RESTClient().Patch(types.ApplyPatchType).AbsPath("/apis", d.Spec.Group, "v1beta1", d.Spec.Names.Plural).Name("mytest").
		Param("fieldManager", "field_validation_mgr").Param("fieldValidation", "Strict").Body([]byte(body)).DoRaw(e.Ctx)
}

func applyValid(t *testing.T, e *conformance.Env) {
	_, err := apply(t, e, defineCrons(t, e, crons()), "", "", "\n  foo: foo1")
	require.NoError(t, err)
}

func applyAnything(t *testing.T, e *conformance.Env) {
	_, err := apply(t, e, defineCrons(t, e, anything()), "", "", "\n  unknown: uk1")
	require.NoError(t, err)
}

func applyExtra(t *testing.T, e *conformance.Env) {
	answer, err := apply(t, e, defineCrons(t, e, crons()), "\nunknownField: unknown", "", "\n  foo: foo1")
	require.Error(t, err)
	require.Contains(t, string(answer), ".unknownField: field not declared in schema")
}

func applyDuplicates(t *testing.T, e *conformance.Env) {
	s := crons()
	spec := s.Properties["spec"]
	spec.XPreserveUnknownFields = ptr.To(true)
	s.Properties["spec"] = spec
	answer, err := apply(t, e, defineCrons(t, e, s), "", "", "\n  unknown: uk1\n  foo: foo1\n  foo: foo2")
	require.Error(t, err)
	require.Contains(t, string(answer), `line 9: key \"foo\" already set in map`)
}

func applyUnknownMetadata(t *testing.T, e *conformance.Env) {
	s := crons()
	spec := s.Properties["spec"]
	spec.XPreserveUnknownFields = ptr.To(true)
	spec.Properties["template"] = apiextensions.JSONSchemaProps{Type: "object", XEmbeddedResource: true, Properties: map[string]apiextensions.JSONSchemaProps{
		"metadata": {Type: "object", Properties: map[string]apiextensions.JSONSchemaProps{"name": {Type: "string"}}},
		"spec":     {Type: "object"},
	}}
	s.Properties["spec"] = spec
	d := defineCrons(t, e, s)
	template := `
  template:
    apiVersion: foo/v1
    kind: Sub
    metadata:
      unknownSubMeta: unknown
      name: subobject
      namespace: ` + e.NS
	answer, err := apply(t, e, d, "", "\n  unknownMeta: unknown", template)
	require.Error(t, err)
	require.Contains(t, string(answer), ".metadata.unknownMeta: field not declared in schema")
	answer, err = apply(t, e, d, "", "", template)
	require.Error(t, err)
	require.Contains(t, string(answer), ".spec.template.metadata.unknownSubMeta: field not declared in schema")
}
