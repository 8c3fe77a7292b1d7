package openapi

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	clientresource "k8s.io/cli-runtime/pkg/resource"
	clientdiscovery "k8s.io/client-go/discovery"
	"k8s.io/client-go/openapi3"
	"k8s.io/client-go/rest"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/util/proto"
	explain "k8s.io/kubectl/pkg/explain/v2"
	kubectlopenapi "k8s.io/kubectl/pkg/util/openapi"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/apiserver/discovery"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

const orderSchema = `
type: object
description: Order is what a customer wants.
required: [spec]
properties:
  spec:
    type: object
    properties:
      count: {type: integer, default: 1, nullable: true, description: Count is how many.}
      port: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}, {type: string}]}
      free: {type: object, x-kubernetes-preserve-unknown-fields: true}
      template: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
      lines:
        type: array
        x-kubernetes-list-type: map
        x-kubernetes-list-map-keys: [sku]
        items: {type: object, required: [sku], properties: {sku: {type: string}, count: {type: integer}}}
`

func orders(t *testing.T) *kinds.Kind {
	t.Helper()
	props := &apiextensions.JSONSchemaProps{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(orderSchema), props))
	all := testKinds()
	k := *all[len(all)-1]
	k.Schema = props
	return &k
}

func testHandler(custom Custom) *Handler {
	all := testKinds()
	return New(all[:len(all)-1], []discovery.Virtual{{
		GroupVersionKind: schema.GroupVersionKind{Group: "authorization.k8s.io", Version: "v1", Kind: "SelfSubjectAccessReview"},
		Resource:         "selfsubjectaccessreviews", Singular: "selfsubjectaccessreview", Verbs: []string{"create"},
	}}, custom, nil)
}

func testClient(t *testing.T, h http.Handler) *clientdiscovery.DiscoveryClient {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	client, err := clientdiscovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	return client
}

// kubectl explain prints what it finds in the documents.
func TestExplain(t *testing.T) {
	client := testClient(t, testHandler(func() []*kinds.Kind { return []*kinds.Kind{orders(t)} })).OpenAPIV3()
	for _, c := range []struct {
		group, version, resource string
		path                     []string
		want                     []string
	}{
		{"", "v1", "pods", []string{"spec", "containers"}, []string{"KIND:       Pod", "FIELD: containers <[]Container>", "List of containers belonging to the pod.", "livenessProbe\t<Probe>", "name\t<string> -required-"}},
		{"apps", "v1", "deployments", []string{"spec", "strategy", "rollingUpdate", "maxSurge"}, []string{"FIELD: maxSurge <IntOrString>"}},
		{"apps", "v1", "deployments", nil, []string{"Deployment enables declarative updates", "spec\t<DeploymentSpec> -required-"}},
		{"authorization.k8s.io", "v1", "selfsubjectaccessreviews", []string{"spec"}, []string{"nonResourceAttributes\t<NonResourceAttributes>"}},
		{"apiextensions.k8s.io", "v1", "customresourcedefinitions", []string{"spec", "versions"}, []string{"subresources\t<CustomResourceSubresources>"}},
		{"shop.example", "v1", "orders", []string{"spec"}, []string{"GROUP:      shop.example", "count\t<integer>", "Count is how many.", "lines\t<[]Object>"}},
		{"shop.example", "v1", "orders", []string{"spec", "template", "metadata", "labels"}, []string{"map[string]string"}},
	} {
		var out bytes.Buffer
		gvr := schema.GroupVersionResource{Group: c.group, Version: c.version, Resource: c.resource}
		require.NoError(t, explain.PrintModelDescription(c.path, &out, client, gvr, false, -1, "plaintext"), gvr)
		for _, want := range c.want {
			require.Contains(t, out.String(), want)
		}
	}
}

// kubectl finds in both versions whether a request may have a parameter, and which patches there are.
func TestParameters(t *testing.T) {
	client := testClient(t, testHandler(func() []*kinds.Kind { return []*kinds.Kind{orders(t)} }))
	pod := schema.GroupVersionKind{Version: "v1", Kind: "Pod"}
	order := schema.GroupVersionKind{Group: "shop.example", Version: "v1", Kind: "Order"}
	for _, kind := range []schema.GroupVersionKind{pod, order, {Group: "apps", Version: "v1", Kind: "Deployment"}} {
		for _, param := range []clientresource.VerifiableQueryParam{"dryRun", clientresource.QueryParamFieldValidation} {
			require.NoError(t, clientresource.NewQueryParamVerifierV3(nil, client.OpenAPIV3(), param).HasSupport(kind))
			require.NoError(t, clientresource.NewQueryParamVerifier(nil, client, param).HasSupport(kind))
		}
	}
	root := openapi3.NewRoot(client.OpenAPIV3())
	versions, err := root.GroupVersions()
	require.NoError(t, err)
	require.Len(t, versions, 5)
	core, err := root.GVSpec(pod.GroupVersion())
	require.NoError(t, err)
	item := core.Paths.Paths["/api/v1/namespaces/{namespace}/pods/{name}"]
	require.Contains(t, item.Patch.RequestBody.Content, "application/strategic-merge-patch+json")
	require.Equal(t, "patchCoreV1NamespacedPod", item.Patch.OperationId)
	require.Equal(t, "listCoreV1PodForAllNamespaces", core.Paths.Paths["/api/v1/pods"].Get.OperationId)
	require.Equal(t, "deleteCoreV1CollectionNamespacedPod", core.Paths.Paths["/api/v1/namespaces/{namespace}/pods"].Delete.OperationId)
	require.Contains(t, core.Paths.Paths["/api/v1/namespaces/{namespace}/pods/{name}/log"].Get.Responses.StatusCodeResponses[200].Content, "text/plain")
	require.NotNil(t, core.Paths.Paths["/api/v1/namespaces/{namespace}/pods/{name}/exec"].Post)
	require.NotNil(t, core.Paths.Paths["/api/v1/namespaces/{namespace}/pods/{name}/eviction"].Post)
	require.NotNil(t, core.Paths.Paths["/api/v1/namespaces/{namespace}/pods/{name}/status"].Patch)
	require.Nil(t, core.Paths.Paths["/api/v1/nodes/{name}"].Patch, "a verb that is not served")
	ids := map[string]bool{}
	for _, item := range core.Paths.Paths {
		for _, o := range []*spec3.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if o != nil {
				require.False(t, ids[o.OperationId], "%s is there twice", o.OperationId)
				ids[o.OperationId] = true
			}
		}
	}
	shop, err := root.GVSpec(order.GroupVersion())
	require.NoError(t, err)
	item = shop.Paths.Paths["/apis/shop.example/v1/namespaces/{namespace}/orders/{name}"]
	require.NotContains(t, item.Patch.RequestBody.Content, "application/strategic-merge-patch+json", "there is no Go type to merge by")
	require.NotContains(t, item.Get.Responses.StatusCodeResponses[200].Content, "application/vnd.kubernetes.protobuf")
}

// The document of version 2 can be read as old clients do, and makes a schema for merges.
func TestVersion2(t *testing.T) {
	client := testClient(t, testHandler(func() []*kinds.Kind { return []*kinds.Kind{orders(t)} }))
	doc, err := client.OpenAPISchema() // in protobuf
	require.NoError(t, err)
	models, err := proto.NewOpenAPIData(doc)
	require.NoError(t, err)
	pod := models.LookupModel("io.k8s.api.core.v1.PodSpec").(*proto.Kind)
	containers := pod.Fields["containers"].(*proto.Array)
	require.Equal(t, "name", containers.Extensions["x-kubernetes-patch-merge-key"])
	require.Equal(t, "io.k8s.api.core.v1.Container", containers.SubType.(proto.Reference).Reference())
	require.Equal(t, []string{"containers"}, pod.RequiredFields)
	order := models.LookupModel("example.shop.v1.Order").(*proto.Kind)
	spec := order.Fields["spec"].(*proto.Kind)
	require.IsType(t, &proto.Arbitrary{}, spec.Fields["count"], "what may be null cannot be said")
	require.IsType(t, &proto.Arbitrary{}, spec.Fields["free"])
	resources, err := kubectlopenapi.NewOpenAPIData(doc)
	require.NoError(t, err)
	require.NotNil(t, resources.LookupResource(schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"}))
	require.Contains(t, resources.GetConsumes(schema.GroupVersionKind{Version: "v1", Kind: "Pod"}, "PATCH"), "application/strategic-merge-patch+json")

	parser, err := managedfields.NewGVKParser(models, false)
	require.NoError(t, err)
	parseable := parser.Type(schema.GroupVersionKind{Version: "v1", Kind: "Pod"})
	a, err := parseable.FromUnstructured(object(t, `{spec: {containers: [{name: a, resources: {limits: {cpu: 1}}}]}}`).Object)
	require.NoError(t, err)
	b, err := parseable.FromUnstructured(object(t, `{spec: {containers: [{name: b}]}}`).Object)
	require.NoError(t, err)
	merged, err := a.Merge(b)
	require.NoError(t, err)
	require.Len(t, merged.AsValue().Unstructured().(map[string]any)["spec"].(map[string]any)["containers"], 2)
}

func TestCustomMerge(t *testing.T) {
	converter, err := CustomTypes(orders(t))
	require.NoError(t, err)
	a, err := converter.ObjectToTyped(object(t, `{apiVersion: shop.example/v1, kind: Order, metadata: {finalizers: [a]}, spec: {port: 80, free: {x: 1}, lines: [{sku: a, count: 1}]}}`))
	require.NoError(t, err)
	b, err := converter.ObjectToTyped(object(t, `{apiVersion: shop.example/v1, kind: Order, metadata: {finalizers: [b]}, spec: {port: http, free: {z: 2}, lines: [{sku: b}]}}`))
	require.NoError(t, err)
	merged, err := a.Merge(b)
	require.NoError(t, err)
	got, err := converter.TypedToObject(merged)
	require.NoError(t, err)
	require.Equal(t, object(t, `{apiVersion: shop.example/v1, kind: Order, metadata: {finalizers: [a, b]}, spec: {port: http, free: {x: 1, z: 2}, lines: [{sku: a, count: 1}, {sku: b}]}}`), got)
}

func get(h http.Handler, method, path string, header map[string]string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func paths(t *testing.T, h http.Handler) map[string]string {
	t.Helper()
	text, err := io.ReadAll(get(h, "GET", "/openapi/v3", nil).Body)
	require.NoError(t, err)
	index := struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}{}
	require.NoError(t, yaml.Unmarshal(text, &index))
	all := map[string]string{}
	for k, v := range index.Paths {
		all[k] = v.ServerRelativeURL
	}
	return all
}

func TestHTTP(t *testing.T) {
	h := testHandler(nil)
	url := paths(t, h)["apps/v1"]
	require.Empty(t, url)
	url = paths(t, h)["apis/apps/v1"]
	require.Regexp(t, `^/openapi/v3/apis/apps/v1\?hash=[0-9A-F]{64}$`, url)

	r := get(h, "GET", url, nil)
	require.Equal(t, 200, r.StatusCode)
	require.Equal(t, "public, immutable, max-age=31536000", r.Header.Get("Cache-Control"))
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.Empty(t, r.Header.Get("Content-Encoding"))
	etag := r.Header.Get("ETag")
	r = get(h, "GET", url, map[string]string{"Accept-Encoding": "gzip"})
	require.Equal(t, "gzip", r.Header.Get("Content-Encoding"))
	r = get(h, "GET", "/openapi/v3/apis/apps/v1", map[string]string{"If-None-Match": etag})
	require.Equal(t, 304, r.StatusCode)
	require.Empty(t, r.Header.Get("Cache-Control"), "this may change")
	r = get(h, "GET", "/openapi/v3/apis/apps/v1?hash=old", nil)
	require.Equal(t, 301, r.StatusCode)
	require.Equal(t, url, r.Header.Get("Location"))

	for _, c := range []struct {
		method, path, accept string
		code                 int
		media                string
	}{
		{"GET", "/openapi/v2", "", 200, "application/json"},
		{"GET", "/openapi/v2", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", 200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"},
		{"GET", "/openapi/v3/api/v1", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf", 200, "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"},
		{"GET", "/openapi/v3/api/v1", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf,application/json", 200, "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"},
		{"GET", "/openapi/v3/api/v1", "*/*", 200, "application/json"},
		{"GET", "/openapi/v3/api/v1", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf", 406, "application/json"},
		{"GET", "/openapi/v3/apis/none/v1", "", 404, "application/json"},
		{"GET", "/openapi", "", 404, "application/json"},
		{"POST", "/openapi/v3", "", 405, "application/json"},
	} {
		r := get(h, c.method, c.path, map[string]string{"Accept": c.accept})
		require.Equal(t, c.code, r.StatusCode, c.path)
		require.Equal(t, c.media, r.Header.Get("Content-Type"))
	}
}

// Documents of custom resources come, change and go; the others stay.
func TestCustomResources(t *testing.T) {
	var now []*kinds.Kind
	h := testHandler(func() []*kinds.Kind { return now })
	before := paths(t, h)
	require.NotContains(t, before, "apis/shop.example/v1")
	etag := get(h, "GET", "/openapi/v2", nil).Header.Get("ETag")

	order := orders(t)
	now = []*kinds.Kind{order}
	first := paths(t, h)["apis/shop.example/v1"]
	require.NotEmpty(t, first)
	require.Equal(t, before["api/v1"], paths(t, h)["api/v1"])
	require.Equal(t, first, paths(t, h)["apis/shop.example/v1"])
	require.NotEqual(t, etag, get(h, "GET", "/openapi/v2", nil).Header.Get("ETag"))

	changed := *order
	changed.Schema = order.Schema.DeepCopy()
	changed.Schema.Properties["spec"].Properties["count"] = apiextensions.JSONSchemaProps{Type: "integer", Minimum: ptr.To(1.0)}
	now = []*kinds.Kind{&changed}
	require.NotEqual(t, first, paths(t, h)["apis/shop.example/v1"])

	now = nil
	require.Equal(t, before, paths(t, h))
	require.Equal(t, etag, get(h, "GET", "/openapi/v2", nil).Header.Get("ETag"))
}

func TestConcurrent(t *testing.T) {
	order := orders(t)
	h := testHandler(func() []*kinds.Kind { return []*kinds.Kind{order} })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			path := []string{"/openapi/v2", "/openapi/v3", "/openapi/v3/api/v1", "/openapi/v3/apis/shop.example/v1"}[i%4]
			if r := get(h, "GET", path, nil); r.StatusCode != 200 {
				t.Errorf("%s: %s", path, r.Status)
			}
		})
	}
	wg.Wait()
}
