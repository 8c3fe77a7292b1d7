package apiserver_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/keelson-io/keelson/server/servertest"
)

// Requests that come before the server knows custom resources and rights wait until it does; watches that come when it ends are
// told to come again.
func TestStartAndEnd(t *testing.T) {
	members := servertest.Start(t, 1, servertest.Quick()...)
	dyn, err := dynamic.NewForConfig(startOn(t, members)(adminToken))
	require.NoError(t, err)
	def := &unstructured.Unstructured{}
	require.NoError(t, yaml.Unmarshal([]byte(widgets), &def.Object))
	crds := dyn.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	_, err = crds.Create(t.Context(), def, metav1.CreateOptions{})
	require.NoError(t, err)

	api := build(t, members)
	get := func(path string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		r.Header.Set("Authorization", "Bearer "+adminToken)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		return w
	}
	require.Equal(t, http.StatusOK, get("/version").Code, "what needs no start does not wait")
	answers := make(chan *httptest.ResponseRecorder)
	paths := []string{"/apis/example.com/v1/widgets", "/apis/example.com/v1", "/openapi/v3/apis/example.com/v1"}
	for _, p := range paths {
		go func() { answers <- get(p) }()
	}
	ctx, cancel := context.WithCancel(t.Context())
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- api.Run(ctx, func() { close(started) }) }()
	defer func() {
		cancel()
		require.NoError(t, <-ended)
	}()
	for range paths {
		w := <-answers
		require.Equal(t, http.StatusOK, w.Code, w.Body.String())
	}
	<-started

	api.Drain()
	w := get("/apis/example.com/v1/widgets?watch=true&resourceVersion=1")
	require.Equal(t, http.StatusTooManyRequests, w.Code, w.Body.String())
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	require.Equal(t, http.StatusOK, get("/apis/example.com/v1/widgets").Code)
}
