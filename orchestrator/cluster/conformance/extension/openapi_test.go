package extension

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/util"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// publication is behaviours of the schemas of definitions in OpenAPI.
func publication() conformance.Behaviours {
	return conformance.Behaviours{
		"CustomResourcePublishOpenAPI removes definition from spec when one version gets changed to not be served": publishNoMore,
		"CustomResourcePublishOpenAPI updates the published spec when one version gets renamed":                    publishRenamed,
		"CustomResourcePublishOpenAPI works for CRD preserving unknown fields at the schema root":                  publishOpenRoot,
		"CustomResourcePublishOpenAPI works for CRD preserving unknown fields in an embedded object":               publishOpenPart,
		"CustomResourcePublishOpenAPI works for CRD with validation schema":                                        publishSchema,
		"CustomResourcePublishOpenAPI works for CRD without validation schema":                                     publishNothing,
		"CustomResourcePublishOpenAPI works for multiple CRDs of different groups":                                 publishGroups,
		"CustomResourcePublishOpenAPI works for multiple CRDs of same group and version but different kinds":       publishKinds,
		"CustomResourcePublishOpenAPI works for multiple CRDs of same group but different versions":                publishVersions,
	}
}

// documents reads OpenAPI documents; those that did not change are not read again.
type documents struct {
	t      *testing.T
	e      *conformance.Env
	client *http.Client
	etags  map[string]string
	last   map[string]map[string]json.RawMessage // the schemas of a document
}

func newDocuments(t *testing.T, e *conformance.Env) *documents {
	client, err := rest.HTTPClientFor(e.Config)
	require.NoError(t, err)
	return &documents{t: t, e: e, client: client, etags: map[string]string{}, last: map[string]map[string]json.RawMessage{}}
}

// schemas returns the schemas of a document. There is none if the document is not there.
func (d *documents) schemas(path string) (map[string]json.RawMessage, error) {
	request, err := http.NewRequestWithContext(d.e.Ctx, http.MethodGet, d.e.URL+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	if etag := d.etags[path]; etag != "" {
		request.Header.Set("If-None-Match", etag)
	}
	answer, err := d.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	switch answer.StatusCode {
	case http.StatusNotModified:
		return d.last[path], nil
	case http.StatusNotFound:
		return nil, nil
	case http.StatusOK:
	default:
		return nil, fmt.Errorf("%s: %s", path, answer.Status)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	var document struct {
		Definitions map[string]json.RawMessage `json:"definitions"`
		Components  struct {
			Schemas map[string]json.RawMessage `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(body, &document); err != nil {
		return nil, err
	}
	schemas := document.Definitions
	if strings.HasPrefix(path, "/openapi/v3") {
		schemas = document.Components.Schemas
	}
	d.etags[path], d.last[path] = answer.Header.Get("ETag"), schemas
	return schemas, nil
}

// model is the name of a version's schema.
func model(c *apiextensionsv1.CustomResourceDefinition, version string) string {
	return util.ToRESTFriendlyName(c.Spec.Group + "/" + version + "/" + c.Spec.Names.Kind)
}

// published waits until OpenAPI 2 and 3 have the schema of a version as it is in YAML; "" is not compared. In version 2 it is
// v2, if that is given.
func (d *documents) published(c *apiextensionsv1.CustomResourceDefinition, version, schema string, v2 ...string) {
	d.t.Helper()
	two := schema
	if len(v2) > 0 {
		two = v2[0]
	}
	d.wait("/openapi/v2", model(c, version), two)
	d.wait("/openapi/v3/apis/"+c.Spec.Group+"/"+version, model(c, version), schema)
}

func (d *documents) wait(path, name, schema string) {
	d.t.Helper()
	want := expected(d.t, schema)
	require.Eventually(d.t, func() bool {
		schemas, err := d.schemas(path)
		if err != nil {
			return false
		}
		text, ok := schemas[name]
		if !ok || schema == "" {
			return ok
		}
		got := spec.Schema{}
		return json.Unmarshal(text, &got) == nil && equality.Semantic.DeepEqual(want, bare(got))
	}, limit, 500*time.Millisecond, "%s: %s", path, name)
}

// withdrawn waits until the schema of a version is in no document.
func (d *documents) withdrawn(c *apiextensionsv1.CustomResourceDefinition, version string) {
	d.t.Helper()
	for _, path := range []string{"/openapi/v2", "/openapi/v3/apis/" + c.Spec.Group + "/" + version} {
		poll(d.t, d.e.Ctx, func() (bool, error) {
			schemas, err := d.schemas(path)
			_, there := schemas[model(c, version)]
			return !there, err
		})
	}
}

// bare is a schema without what the server adds to it.
func bare(s spec.Schema) spec.Schema {
	properties := map[string]spec.Schema{}
	for name, p := range s.Properties {
		if name != "metadata" && name != "apiVersion" && name != "kind" {
			properties[name] = p
		}
	}
	extensions := spec.Extensions{}
	for name, v := range s.Extensions {
		if name != "x-kubernetes-group-version-kind" && name != "x-kubernetes-selectable-fields" {
			extensions[name] = v
		}
	}
	s.Properties, s.Extensions = properties, extensions
	return s
}

// props is a schema in YAML; "" is that of objects in which anything goes.
func props(t *testing.T, schema string) *apiextensionsv1.JSONSchemaProps {
	if schema == "" {
		return anything()
	}
	out := &apiextensionsv1.JSONSchemaProps{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(schema), out))
	return out
}

// expected is a schema in YAML as it is published.
func expected(t *testing.T, schema string) spec.Schema {
	in, made, out := &apiextensions.JSONSchemaProps{}, spec.Schema{}, spec.Schema{}
	require.NoError(t, apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(props(t, schema), in, nil))
	require.NoError(t, validation.ConvertJSONSchemaProps(in, &made))
	text, err := json.Marshal(made)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &out))
	return out
}

// publish makes a definition whose versions have a schema, the first of which is stored.
func publish(t *testing.T, e *conformance.Env, group, schema string, versions ...string) *apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	var all []apiextensionsv1.CustomResourceDefinitionVersion
	for i, name := range versions {
		all = append(all, version(name, i == 0, props(t, schema)))
	}
	return define(t, e, definition(apiextensionsv1.NamespaceScoped, group, all...))
}

func publishGroups(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	foo, waldo := publish(t, e, "", schemaFoo, "v1"), publish(t, e, "", schemaWaldo, "v1beta1")
	require.NotEqual(t, foo.Spec.Group, waldo.Spec.Group)
	d.published(foo, "v1", schemaFoo)
	d.published(waldo, "v1beta1", schemaWaldo)
	undefine(t, e, foo.Name)
	d.withdrawn(foo, "v1")
	undefine(t, e, waldo.Name)
	d.withdrawn(waldo, "v1beta1")
}

func publishVersions(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	several := publish(t, e, "", schemaFoo, "v2", "v3")
	d.published(several, "v3", schemaFoo)
	d.published(several, "v2", schemaFoo)
	undefine(t, e, several.Name)
	d.withdrawn(several, "v3")
	d.withdrawn(several, "v2")

	foo := publish(t, e, "", schemaFoo, "v4")
	waldo := publish(t, e, foo.Spec.Group, schemaWaldo, "v5")
	d.published(foo, "v4", schemaFoo)
	d.published(waldo, "v5", schemaWaldo)
}

func publishKinds(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	foo := publish(t, e, "", schemaFoo, "v6")
	waldo := publish(t, e, foo.Spec.Group, schemaWaldo, "v6")
	d.published(foo, "v6", schemaFoo)
	d.published(waldo, "v6", schemaWaldo)
	undefine(t, e, foo.Name)
	d.withdrawn(foo, "v6")
	d.published(waldo, "v6", schemaWaldo)
}

func publishRenamed(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	c := publish(t, e, "", schemaFoo, "v2", "v3")
	d.published(c, "v3", schemaFoo)
	patch := []byte(`[{"op": "test", "path": "/spec/versions/1/name", "value": "v3"}, {"op": "replace", "path": "/spec/versions/1/name", "value": "v4"}]`)
	_, err := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions().Patch(e.Ctx, c.Name, types.JSONPatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
	d.published(c, "v4", schemaFoo)
	d.withdrawn(c, "v3")
	d.published(c, "v2", schemaFoo)
}

func publishNoMore(t *testing.T, e *conformance.Env) {
	d := newDocuments(t, e)
	c := publish(t, e, "", schemaFoo, "v5", "v6alpha1")
	d.published(c, "v5", schemaFoo)
	d.published(c, "v6alpha1", schemaFoo)
	was := c.ResourceVersion
	c.Spec.Versions[1].Served = false
	c, err := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions().Update(e.Ctx, c, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.NotEqual(t, was, c.ResourceVersion)
	d.withdrawn(c, "v6alpha1")
	d.published(c, "v5", schemaFoo)
}
