package apiserver_test

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/orchestrator/apiserver"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestStoreWithoutQuorum stops most members of the store. What needs it says so, in time; what the caches have is there.
func TestStoreWithoutQuorum(t *testing.T) {
	members := servertest.Start(t, 3, servertest.Quick()...)
	c, err := client.New(client.Config{Endpoints: members.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	store := objectstore.New(objectstore.Config{Client: c, StoreTimeout: 3 * time.Second})
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	config := startOn(t, members, func(cfg *apiserver.Config) { cfg.Store = store })
	root := newRaw(t, config(adminToken))
	maps := clientset(t, config(adminToken), "").CoreV1().ConfigMaps("default")
	m, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	const path = "/api/v1/namespaces/default/configmaps"
	eventually(t, func() bool {
		_, text := root.get(path + "?resourceVersion=0")
		return strings.Contains(text, `"name":"a"`)
	}, "the cache has it")
	watch, err := root.do(t.Context(), http.MethodGet, path+"?watch=1&resourceVersion="+m.ResourceVersion, nil)
	require.NoError(t, err)
	defer watch.Body.Close()

	for _, m := range members.Members[1:] {
		members.Stop(m)
	}
	fails := func(method, path, body string) {
		t.Helper()
		begun := time.Now()
		resp, err := root.do(t.Context(), method, path, strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		t.Logf("%s %s: %d in %v: %s", method, path, resp.StatusCode, time.Since(begun).Round(time.Millisecond), b)
		require.Contains(t, []int{http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, resp.StatusCode)
		var s metav1.Status
		require.NoError(t, json.Unmarshal(b, &s))
		require.Equal(t, metav1.StatusFailure, s.Status)
		require.Contains(t, s.Message, "the store")
		if strings.Contains(s.Message, "may have happened") {
			require.Empty(t, resp.Header.Get("Retry-After"), "a client would repeat what may have happened")
		}
	}
	fails(http.MethodPost, path, `{"metadata":{"name":"b"}}`)
	fails(http.MethodGet, path, "")
	const soon = "?timeout=300ms"
	fails(http.MethodPost, path+soon, `{"metadata":{"name":"b"}}`)
	fails(http.MethodPut, path+"/a"+soon, `{"metadata":{"name":"a"},"data":{"k":"v"}}`)
	fails(http.MethodPut, path+"/nowhere"+soon, `{"metadata":{"name":"nowhere"}}`)
	fails(http.MethodDelete, path+"/a"+soon, "")
	fails(http.MethodDelete, path+soon, "")
	fails(http.MethodGet, path+soon, "")
	fails(http.MethodGet, path+"/a"+soon, "")
	fails(http.MethodGet, path+"?watch=1", "")

	for _, cached := range []string{path + "?resourceVersion=0", path + "/a?resourceVersion=0", path + "?resourceVersion=" + m.ResourceVersion, "/apis", "/livez?exclude=etcd"} {
		resp, text := root.get(cached)
		require.Equal(t, http.StatusOK, resp.StatusCode, "%s: %s", cached, text)
	}
	for _, check := range []string{"/healthz", "/livez", "/livez/etcd", "/readyz", "/readyz/etcd-readiness"} {
		resp, _ := root.get(check)
		require.Equal(t, http.StatusInternalServerError, resp.StatusCode, check)
	}
	_, text := root.get("/readyz")
	require.Contains(t, text, "[-]etcd failed: reason withheld\n")

	for _, m := range members.Members[1:] {
		members.Run(m)
	}
	members.WaitReady(members.Members...)
	eventually(t, func() bool {
		resp, _ := root.get("/readyz")
		return resp.StatusCode == http.StatusOK
	}, "ready")
	_, err = maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "c"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	for lines := bufio.NewScanner(watch.Body); ; {
		require.True(t, lines.Scan(), "the watch goes on")
		if strings.Contains(lines.Text(), `"name":"c"`) {
			break
		}
	}
}
