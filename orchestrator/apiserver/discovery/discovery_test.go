package discovery

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	apidiscoverybeta "k8s.io/api/apidiscovery/v2beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientdiscovery "k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func kind(group, version, name, resource string) *kinds.Kind {
	return &kinds.Kind{
		GroupVersionKind: schema.GroupVersionKind{Group: group, Version: version, Kind: name}, Resource: resource, Singular: resource[:len(resource)-1],
		Namespaced: true,
	}
}

func testKinds() []*kinds.Kind {
	status := kinds.Strategy{Status: kinds.PartAt(func(kinds.Object) any { return nil })}
	pod, event, template := kind("", "v1", "Pod", "pods"), kind("", "v1", "Event", "events"), kind("", "v1", "PodTemplate", "podtemplates")
	pod.ShortNames, pod.Categories, pod.Strategy = []string{"po"}, []string{"all"}, status
	pod.Subresources = []kinds.Subresource{
		{Name: "eviction", Kind: schema.GroupVersionKind{Group: "policy", Version: "v1", Kind: "Eviction"}, Verbs: []string{"create"}},
		{Name: "binding", Kind: schema.GroupVersionKind{Version: "v1", Kind: "Binding"}, Verbs: []string{"create"}},
	}
	deployment := kind("apps", "v1", "Deployment", "deployments")
	deployment.Scale = &kinds.Scale{}
	newEvent := kind("events.k8s.io", "v1", "Event", "events")
	newEvent.Stored = &kinds.Conversion{Kind: event}
	node := kind("", "v1", "Node", "nodes")
	node.Namespaced, node.Verbs = false, []string{"list", "get"}
	return []*kinds.Kind{
		kind("shop.example", "v1beta1", "Order", "orders"), kind("shop.example", "v1", "Order", "orders"), kind("shop.example", "v10", "Order", "orders"),
		kind("shop.example", "v2alpha1", "Order", "orders"), kind("bakery.example", "v1", "Loaf", "loafs"), kind("batch", "v1", "Job", "jobs"),
		newEvent, deployment, node, template, pod, event,
	}
}

func testHandler() *Handler {
	return New(testKinds(), []Virtual{{
		GroupVersionKind: schema.GroupVersionKind{Group: "authorization.k8s.io", Version: "v1", Kind: "SubjectAccessReview"},
		Resource:         "subjectaccessreviews", Singular: "subjectaccessreview", Verbs: []string{"create"},
	}}, Aggregated{})
}

func get(t *testing.T, h http.Handler, method, path string, header map[string]string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, r *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	return string(b)
}

// A client finds the same with the aggregated documents as with the single ones.
func TestClient(t *testing.T) {
	server := httptest.NewServer(testHandler())
	defer server.Close()
	client, err := clientdiscovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	groups, byVersion, failed, err := client.GroupsAndMaybeResources()
	require.NoError(t, err)
	require.Empty(t, failed)
	require.NotNil(t, byVersion, "the client was given the aggregated form")
	var names []string
	for _, g := range groups.Groups {
		names = append(names, g.Name)
	}
	require.Equal(t, []string{"", "apps", "events.k8s.io", "authorization.k8s.io", "batch", "bakery.example", "shop.example"}, names)
	shop := groups.Groups[6]
	require.Equal(t, "v10", shop.PreferredVersion.Version)
	require.Equal(t, []string{"v10", "v1", "v1beta1", "v2alpha1"}, []string{
		shop.Versions[0].Version, shop.Versions[1].Version, shop.Versions[2].Version, shop.Versions[3].Version,
	})

	legacy := client.WithLegacy()
	legacyGroups, err := legacy.ServerGroups()
	require.NoError(t, err)
	require.Equal(t, groups.Groups[1:], legacyGroups.Groups[1:])
	for gv, list := range byVersion {
		single, err := legacy.ServerResourcesForGroupVersion(gv.String())
		require.NoError(t, err)
		for i, r := range single.APIResources {
			r.StorageVersionHash = "" // the aggregated form has none
			if r.Group == "" && r.Version == "" {
				r.Group, r.Version = gv.Group, gv.Version
			}
			if r.SingularName == "" { // the client gives subresources that of their resource
				r.SingularName = list.APIResources[i].SingularName
			}
			require.Equal(t, list.APIResources[i], r)
		}
		require.Len(t, list.APIResources, len(single.APIResources))
	}

	mapped, err := restmapper.GetAPIGroupResources(client)
	require.NoError(t, err)
	m := restmapper.NewShortcutExpander(restmapper.NewDiscoveryRESTMapper(mapped), client, nil)
	gvr, err := m.ResourceFor(schema.GroupVersionResource{Resource: "po"})
	require.NoError(t, err)
	require.Equal(t, schema.GroupVersionResource{Version: "v1", Resource: "pods"}, gvr)
	gvr, err = m.ResourceFor(schema.GroupVersionResource{Resource: "events"})
	require.NoError(t, err)
	require.Empty(t, gvr.Group, "the core group comes first")
}

func TestDocuments(t *testing.T) {
	for _, c := range []struct{ path, want string }{
		{"/api", `{"kind":"APIVersions","versions":["v1"],"serverAddressByClientCIDRs":[{"clientCIDR":"0.0.0.0/0","serverAddress":"example.com"}]}`},
		{"/apis/batch/", `{"kind":"APIGroup","apiVersion":"v1","name":"batch","versions":[{"groupVersion":"batch/v1","version":"v1"}],` +
			`"preferredVersion":{"groupVersion":"batch/v1","version":"v1"}}`},
		{"/apis/apps/v1", `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"apps/v1","resources":[` +
			`{"name":"deployments","singularName":"deployment","namespaced":true,"kind":"Deployment","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"storageVersionHash":"8aSe+NMegvE="},` +
			`{"name":"deployments/scale","singularName":"","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get","patch","update"]}]}`},
		{"/api/v1", `{"kind":"APIResourceList","groupVersion":"v1","resources":[` +
			`{"name":"events","singularName":"event","namespaced":true,"kind":"Event","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"storageVersionHash":"r2yiGXH7wu8="},` +
			`{"name":"nodes","singularName":"node","namespaced":false,"kind":"Node","verbs":["get","list"],"storageVersionHash":"XwShjMxG9Fs="},` +
			`{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["po"],"categories":["all"],"storageVersionHash":"xPOwRZ+Yhw8="},` +
			`{"name":"pods/binding","singularName":"","namespaced":true,"kind":"Binding","verbs":["create"]},` +
			`{"name":"pods/eviction","singularName":"","namespaced":true,"group":"policy","version":"v1","kind":"Eviction","verbs":["create"]},` +
			`{"name":"pods/status","singularName":"","namespaced":true,"kind":"Pod","verbs":["get","patch","update"]},` +
			`{"name":"podtemplates","singularName":"podtemplate","namespaced":true,"kind":"PodTemplate","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"storageVersionHash":"LIXB2x4IFpk="}]}`},
		{"/apis/authorization.k8s.io/v1", `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"authorization.k8s.io/v1","resources":[` +
			`{"name":"subjectaccessreviews","singularName":"subjectaccessreview","namespaced":false,"kind":"SubjectAccessReview","verbs":["create"]}]}`},
	} {
		r := get(t, testHandler(), "GET", c.path, nil)
		require.Equal(t, 200, r.StatusCode)
		require.JSONEq(t, c.want, body(t, r), c.path)
	}
	// An event that is stored as one of the core group has its hash.
	require.Contains(t, body(t, get(t, testHandler(), "GET", "/apis/events.k8s.io/v1", nil)), "r2yiGXH7wu8=")
}

func TestFormats(t *testing.T) {
	const aggregated = ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	h := testHandler()
	for _, c := range []struct{ path, accept, want string }{
		{"/apis", "", "application/json"},
		{"/apis", "*/*", "application/json"},
		{"/apis", "application/*", "application/json"},
		{"/apis", "application/yaml", "application/yaml"},
		{"/apis/apps/v1", "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"},
		{"/apis", "application/json" + aggregated + ",application/json", "application/json" + aggregated},
		{"/api", "application/yaml" + aggregated, "application/yaml" + aggregated},
		{"/api/v1", "application/json" + aggregated + ",application/yaml", "application/yaml"},
		{"/apis", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "application/json"},
	} {
		r := get(t, h, "GET", c.path, map[string]string{"Accept": c.accept})
		require.Equal(t, 200, r.StatusCode)
		require.Equal(t, c.want, r.Header.Get("Content-Type"), c.accept)
	}
	r := get(t, h, "GET", "/apis", map[string]string{"Accept": "application/yaml"})
	list := &metav1.APIGroupList{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(body(t, r)), list))
	require.Len(t, list.Groups, 6)

	r = get(t, h, "GET", "/apis", map[string]string{"Accept": "application/vnd.kubernetes.protobuf;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"})
	envelope, beta := &runtime.Unknown{}, &apidiscoverybeta.APIGroupDiscoveryList{}
	require.NoError(t, envelope.Unmarshal([]byte(body(t, r))[4:]))
	require.Equal(t, "apidiscovery.k8s.io/v2beta1", envelope.APIVersion)
	require.NoError(t, beta.Unmarshal(envelope.Raw))
	require.Equal(t, "deployments", beta.Items[0].Versions[0].Resources[0].Resource)
	require.Equal(t, "scale", beta.Items[0].Versions[0].Resources[0].Subresources[0].Subresource)
}

// What other servers serve is among the rest, where its ranks say.
func TestAggregated(t *testing.T) {
	gv := func(group, version string) schema.GroupVersion {
		return schema.GroupVersion{Group: group, Version: version}
	}
	h := New(testKinds(), nil, Aggregated{
		Ranks: map[schema.GroupVersion]Rank{gv("a.example", "v1"): {17799, 1}, gv("a.example", "v2"): {5, 2}, gv("shop.example", "v1beta1"): {1000, 200}},
		Remote: map[schema.GroupVersion]Remote{
			gv("a.example", "v1"): {Resources: []metav1.APIResource{{Name: "things/status", Kind: "Thing", Namespaced: true, Verbs: []string{"get"}}}},
			gv("a.example", "v2"): {Stale: true},
		},
	})
	server := httptest.NewServer(h)
	defer server.Close()
	client, err := clientdiscovery.NewDiscoveryClientForConfig(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	groups, byVersion, failed, err := client.GroupsAndMaybeResources()
	require.NoError(t, err)
	var names []string
	for _, g := range groups.Groups {
		names = append(names, g.Name)
	}
	require.Equal(t, []string{"", "apps", "a.example", "events.k8s.io", "batch", "bakery.example", "shop.example"}, names)
	require.JSONEq(t, `{"kind":"APIGroup","apiVersion":"v1","name":"a.example","preferredVersion":{"groupVersion":"a.example/v2","version":"v2"},`+
		`"versions":[{"groupVersion":"a.example/v2","version":"v2"},{"groupVersion":"a.example/v1","version":"v1"}]}`,
		body(t, get(t, h, "GET", "/apis/a.example", nil)))
	require.Equal(t, "v1beta1", groups.Groups[6].PreferredVersion.Version)
	require.Contains(t, failed, gv("a.example", "v2"), "the server does not answer")
	require.Equal(t, "things/status", byVersion[gv("a.example", "v1")].APIResources[0].Name)
}

func TestETag(t *testing.T) {
	h := testHandler()
	r := get(t, h, "GET", "/apis", nil)
	etag := r.Header.Get("ETag")
	require.NotEmpty(t, etag)
	r = get(t, h, "GET", "/apis", map[string]string{"If-None-Match": etag})
	require.Equal(t, 304, r.StatusCode)
	require.Empty(t, body(t, r))
	r = get(t, h, "GET", "/apis", map[string]string{"If-None-Match": etag, "Accept": "application/yaml"})
	require.Equal(t, 200, r.StatusCode, "another form is another document")
	r = get(t, New(testKinds()[:3], nil, Aggregated{}), "GET", "/apis", map[string]string{"If-None-Match": etag})
	require.Equal(t, 200, r.StatusCode)
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		method, path, accept string
		code                 int
		reason               metav1.StatusReason
	}{
		{"GET", "/apis/nothing", "", 404, metav1.StatusReasonNotFound},
		{"GET", "/api/v2", "image/png", 404, metav1.StatusReasonNotFound},
		{"POST", "/apis", "", 405, metav1.StatusReasonMethodNotAllowed},
		{"GET", "/apis", "image/png", 406, metav1.StatusReasonNotAcceptable},
		{"GET", "/apis", "[", 406, metav1.StatusReasonNotAcceptable},
		{"GET", "/apis", "application/json;g=apidiscovery.k8s.io;v=v7;as=APIGroupDiscoveryList", 406, metav1.StatusReasonNotAcceptable},
	} {
		r := get(t, testHandler(), c.method, c.path, map[string]string{"Accept": c.accept})
		require.Equal(t, c.code, r.StatusCode)
		s := &metav1.Status{}
		require.NoError(t, yaml.UnmarshalStrict([]byte(body(t, r)), s))
		require.Equal(t, c.reason, s.Reason)
		require.Equal(t, "Status", s.Kind)
		require.EqualValues(t, c.code, s.Code)
	}
}

func FuzzAccept(f *testing.F) {
	f.Add("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,*/*;q=0.1")
	f.Add("application/yaml, [/*")
	f.Fuzz(func(t *testing.T, header string) {
		chosen, ok := accept(&http.Request{URL: httptest.NewRequest("GET", "/", nil).URL, Header: http.Header{"Accept": {header}}}, true)
		require.Contains(t, mediaTypes, chosen.media)
		require.True(t, ok || chosen.version == "")
	})
}
