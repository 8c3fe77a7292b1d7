package apiserver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/orchestrator/apiserver"
	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	adminToken = "admin-token"
	userToken  = "user-token"
)

// start starts an API server on a store member of its own. change may change how.
func start(t *testing.T, change ...func(*apiserver.Config)) (config func(token string) *rest.Config) {
	t.Helper()
	return startOn(t, servertest.Start(t, 1, servertest.Quick()...), change...)
}

// startOn starts an API server on a store.
func startOn(t *testing.T, members *servertest.Cluster, change ...func(*apiserver.Config)) (config func(token string) *rest.Config) {
	t.Helper()
	_, config = startAPI(t, members, change...)
	return config
}

func startAPI(t *testing.T, members *servertest.Cluster, change ...func(*apiserver.Config)) (api *apiserver.API, config func(token string) *rest.Config) {
	t.Helper()
	api = build(t, members, change...)
	ctx, cancel := context.WithCancel(t.Context())
	ended, started := make(chan error, 1), make(chan struct{})
	go func() { ended <- api.Run(ctx, func() { close(started) }) }()
	srv := httptest.NewUnstartedServer(api)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() {
		api.Drain()
		srv.CloseClientConnections()
		srv.Close()
		cancel()
		require.NoError(t, <-ended)
	})
	select {
	case <-started:
	case err := <-ended:
		require.NoError(t, err)
	}
	return api, func(token string) *rest.Config {
		return &rest.Config{
			Host: srv.URL, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: true},
			QPS: -1,
		}
	}
}

// build makes an API server on a store, that does not run yet.
func build(t *testing.T, members *servertest.Cluster, change ...func(*apiserver.Config)) *apiserver.API {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: members.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	registry := prometheus.NewRegistry()
	store := objectstore.New(objectstore.Config{Client: c, Registerer: registry})
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	keys, err := identity.NewKeyring(key)
	require.NoError(t, err)
	cfg := apiserver.Config{
		Registry: registry, Kinds: kinds.Builtin(), Store: store, Keys: keys, Issuer: "https://kubernetes.default.svc", Address: "127.0.0.1:1",
		Tokens: map[string]request.User{
			adminToken: {Name: "admin", Groups: []string{"system:masters"}}, userToken: {Name: "jane", Groups: []string{"system:authenticated"}},
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	api, err := apiserver.New(cfg)
	require.NoError(t, err)
	return api
}

func clientset(t *testing.T, c *rest.Config, contentType string) *kubernetes.Clientset {
	t.Helper()
	c.ContentType = contentType
	hc, err := rest.HTTPClientFor(c)
	require.NoError(t, err)
	t.Cleanup(hc.CloseIdleConnections)
	cs, err := kubernetes.NewForConfigAndClient(c, hc)
	require.NoError(t, err)
	return cs
}

func TestClientGo(t *testing.T) {
	config := start(t)
	for _, media := range []string{"application/json", "application/vnd.kubernetes.protobuf", "application/cbor"} {
		t.Run(media, func(t *testing.T) {
			cs := clientset(t, config(adminToken), media)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			v, err := cs.Discovery().ServerVersion()
			require.NoError(t, err)
			require.Equal(t, "37", v.Minor)

			ns, err := cs.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}, metav1.CreateOptions{})
			require.NoError(t, err)
			maps := cs.CoreV1().ConfigMaps(ns.Name)
			w, err := maps.Watch(ctx, metav1.ListOptions{})
			require.NoError(t, err)
			defer w.Stop()

			cm, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"l": "1"}}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
			require.NoError(t, err)
			require.NotEmpty(t, cm.UID)
			require.Len(t, cm.ManagedFields, 1)
			e := <-w.ResultChan()
			require.Equal(t, watch.Added, e.Type)
			require.Equal(t, "v", e.Object.(*corev1.ConfigMap).Data["k"])

			_, err = maps.Create(ctx, cm.DeepCopy(), metav1.CreateOptions{})
			require.Error(t, err)
			list, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "l=1"})
			require.NoError(t, err)
			require.Len(t, list.Items, 1)
			require.Equal(t, cm.UID, list.Items[0].UID)

			for _, p := range []struct {
				kind types.PatchType
				body string
			}{
				{types.MergePatchType, `{"data":{"k":"merge"}}`},
				{types.StrategicMergePatchType, `{"data":{"k":"strategic"}}`},
				{types.JSONPatchType, `[{"op":"replace","path":"/data/k","value":"json"}]`},
			} {
				cm, err = maps.Patch(ctx, "a", p.kind, []byte(p.body), metav1.PatchOptions{})
				require.NoError(t, err, p.kind)
				require.Contains(t, p.body, cm.Data["k"])
			}
			_, err = maps.Apply(ctx, applycorev1.ConfigMap("a", ns.Name).WithData(map[string]string{"k": "applied"}), metav1.ApplyOptions{FieldManager: "me"})
			require.True(t, apierrors.IsConflict(err), "%v", err)
			cm, err = maps.Apply(ctx, applycorev1.ConfigMap("a", ns.Name).WithData(map[string]string{"k": "applied"}), metav1.ApplyOptions{FieldManager: "me", Force: true})
			require.NoError(t, err)
			require.Equal(t, "applied", cm.Data["k"])
			cm, err = maps.Apply(ctx, applycorev1.ConfigMap("b", ns.Name).WithData(map[string]string{"k": "new"}), metav1.ApplyOptions{FieldManager: "me"})
			require.NoError(t, err)
			require.Len(t, cm.ManagedFields, 1)
			require.Equal(t, metav1.ManagedFieldsOperationApply, cm.ManagedFields[0].Operation)

			require.NoError(t, maps.Delete(ctx, "a", metav1.DeleteOptions{}))
			_, err = maps.Get(ctx, "a", metav1.GetOptions{})
			require.True(t, apierrors.IsNotFound(err))
		})
	}
}

func TestRights(t *testing.T) {
	config := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	jane := clientset(t, config(userToken), "")
	_, err := jane.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	r, err := jane.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: "default", Verb: "list", Resource: "secrets"}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.False(t, r.Status.Allowed)
	_, err = clientset(t, config("nobody"), "").CoreV1().Secrets("default").List(ctx, metav1.ListOptions{})
	require.True(t, apierrors.IsUnauthorized(err), "%v", err)
}

// TestPlaces: a path in a namespace leads only to what is in namespaces, so that rights in one lead nowhere else, and the
// other way round.
func TestPlaces(t *testing.T) {
	config := start(t)
	rc := config(adminToken)
	hc, err := rest.HTTPClientFor(rc)
	require.NoError(t, err)
	t.Cleanup(hc.CloseIdleConnections)
	for _, c := range []struct {
		verb, path, body string
		want             int
	}{
		{"GET", "/api/v1/namespaces/default/namespaces", "", 404},
		{"GET", "/api/v1/namespaces/default/nodes", "", 404},
		{"GET", "/api/v1/namespaces/default/nodes/n", "", 404},
		{"GET", "/api/v1/namespaces/default/nodes/n/status", "", 404},
		{"GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles/cluster-admin", "", 404},
		{"POST", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterrolebindings", "{}", 404},
		{"POST", "/apis/authorization.k8s.io/v1/namespaces/default/subjectaccessreviews", "{}", 404},
		{"POST", "/apis/authorization.k8s.io/v1/localsubjectaccessreviews", "{}", 404},
		{"POST", "/api/v1/bindings", "{}", 404},
		{"GET", "/api/v1/configmaps/x", "", 404},
		{"GET", "/api/v1/configmaps", "", 200},
		{"POST", "/api/v1/configmaps", `{"metadata": {"name": "x", "namespace": "default"}}`, 405},
		{"DELETE", "/api/v1/configmaps", "", 405},
		{"GET", "/api/v1/namespaces/default", "", 200},
		{"GET", "/api/v1/namespaces/default/status", "", 200},
		{"GET", "/api/v1/namespaces", "", 200},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.verb, rc.Host+c.path, strings.NewReader(c.body))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/json")
		got, err := hc.Do(r)
		require.NoError(t, err)
		require.NoError(t, got.Body.Close())
		require.Equal(t, c.want, got.StatusCode, "%s %s", c.verb, c.path)
	}
}

func TestNegotiation(t *testing.T) {
	config := start(t)
	c := config(adminToken)
	hc, err := rest.HTTPClientFor(c)
	require.NoError(t, err)
	t.Cleanup(hc.CloseIdleConnections)
	ask := func(method, path, accept, contentType string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), method, c.Host+path, nil)
		require.NoError(t, err)
		r.Header.Set("Accept", accept)
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		resp, err := hc.Do(r)
		require.NoError(t, err)
		_ = resp.Body.Close()
		return resp.StatusCode, resp.Header.Get("Content-Type")
	}
	for _, test := range []struct {
		method, path, accept, contentType string
		code                              int
		answer                            string
	}{
		{"GET", "/api/v1/namespaces", "application/yaml", "", 200, "application/yaml"},
		{"GET", "/api/v1/namespaces", "text/html", "", 406, "application/json"},
		{"GET", "/api/v1/namespaces", "application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1, application/json", "", 200, "application/json"},
		{"POST", "/api/v1/namespaces", "", "text/plain", 415, "application/json"},
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json;as=Table;g=meta.k8s.io;v=v1", "application/json", 406, "application/json"},
		{"POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "application/json;as=Table;g=meta.k8s.io;v=v1, application/json", "application/json", 400, "application/json"},
		{"PATCH", "/api/v1/namespaces/default", "", "text/plain", 415, "application/json"},
		{"GET", "/api/v1/unknown", "", "", 404, "text/plain; charset=utf-8"},
		{"GET", "/apis", "", "", 200, "application/json"},
		{"GET", "/readyz", "", "", 200, "text/plain; charset=utf-8"},
		{"POST", "/api/v1/namespaces/default", "", "", 405, "application/json"},
	} {
		code, answer := ask(test.method, test.path, test.accept, test.contentType)
		require.Equal(t, test.code, code, "%+v", test)
		require.Equal(t, test.answer, answer, "%+v", test)
	}
}

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              size: {type: integer, default: 3}
            x-kubernetes-validations: [{rule: "self.size < 10", message: too large}]
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
`

func TestCustomResources(t *testing.T) {
	config := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c := config(adminToken)
	hc, err := rest.HTTPClientFor(c)
	require.NoError(t, err)
	t.Cleanup(hc.CloseIdleConnections)
	dyn, err := dynamic.NewForConfigAndClient(c, hc)
	require.NoError(t, err)
	crds := dyn.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	def := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(widgets), &def.Object))
	_, err = crds.Create(ctx, def, metav1.CreateOptions{})
	require.NoError(t, err)
	objects := dyn.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}).Namespace("default")
	object := func(name string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": spec,
		}}
	}
	require.Eventually(t, func() bool {
		_, err = objects.Create(ctx, object("a", map[string]any{}), metav1.CreateOptions{})
		return err == nil
	}, 10*time.Second, 20*time.Millisecond, "%v", err)
	got, err := objects.Get(ctx, "a", metav1.GetOptions{})
	require.NoError(t, err)
	size, _, _ := unstructured.NestedInt64(got.Object, "spec", "size")
	require.EqualValues(t, 3, size)
	_, err = objects.Create(ctx, object("b", map[string]any{"size": int64(11)}), metav1.CreateOptions{})
	require.True(t, apierrors.IsInvalid(err), "%v", err)
	require.ErrorContains(t, err, "too large")
	applied, err := objects.Apply(ctx, "c", object("c", map[string]any{"size": int64(5)}), metav1.ApplyOptions{FieldManager: "me"})
	require.NoError(t, err)
	require.Len(t, applied.GetManagedFields(), 1)
	_, err = objects.Apply(ctx, "c", object("c", map[string]any{"size": int64(6)}), metav1.ApplyOptions{FieldManager: "you"})
	require.True(t, apierrors.IsConflict(err), "%v", err)

	disco, err := discovery.NewDiscoveryClientForConfigAndClient(c, hc)
	require.NoError(t, err)
	list, err := disco.ServerResourcesForGroupVersion("example.com/v1")
	require.NoError(t, err)
	require.Len(t, list.APIResources, 2) // widgets, widgets/status
	paths, err := disco.OpenAPIV3().Paths()
	require.NoError(t, err)
	require.Contains(t, paths, "apis/example.com/v1")

	require.NoError(t, crds.Delete(ctx, "widgets.example.com", metav1.DeleteOptions{}))
	require.Eventually(t, func() bool {
		_, err := objects.List(ctx, metav1.ListOptions{})
		return apierrors.IsNotFound(err)
	}, 10*time.Second, 20*time.Millisecond)
}
