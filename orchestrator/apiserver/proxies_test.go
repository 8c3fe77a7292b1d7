package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver"
)

// backend is what is behind a pod. It says what it was asked.
func backend(secure bool) *httptest.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s %s|%s|%s", r.Method, r.URL.RequestURI(), b, r.Header.Get("Authorization"), r.Header.Get("X-Mine"))
	})
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, `<html><head></head><body><a href="/other">x</a></body></html>`)
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/page", http.StatusFound) })
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, buffered)
	})
	if secure {
		return httptest.NewTLSServer(mux)
	}
	return httptest.NewServer(mux)
}

// proxied is an API server with a pod, a service and a node, whose addresses lead to backends.
type proxied struct {
	client *kubernetes.Clientset
	config func(token string) *rest.Config
	plain  *httptest.Server
	// dialed is the last address that the API server wanted to reach.
	dialed atomic.Pointer[string]
}

func startProxied(t *testing.T) *proxied {
	t.Helper()
	plain, secure := backend(false), backend(true)
	t.Cleanup(func() {
		for _, s := range []*httptest.Server{plain, secure} {
			s.CloseClientConnections()
			s.Close()
		}
	})
	p := &proxied{plain: plain}
	p.config = start(t, func(c *apiserver.Config) {
		c.Nodes.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			p.dialed.Store(&address)
			to := plain
			switch {
			case strings.HasSuffix(address, ":443"):
				to = secure
			case strings.HasSuffix(address, ":99"):
				return nil, fmt.Errorf("dial tcp %s: connection refused", address)
			}
			return (&net.Dialer{}).DialContext(ctx, network, to.Listener.Addr().String())
		}
	})
	p.client = kubernetes.NewForConfigOrDie(p.config(adminToken))
	ctx, core := t.Context(), p.client.CoreV1()
	_, err := core.ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	for name, ip := range map[string]string{"p": "10.0.0.7", "local": "127.0.0.1", "new": ""} {
		pod, err := core.Pods("default").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "a", Image: "i", Ports: []corev1.ContainerPort{{ContainerPort: 8080}}},
		}}}, metav1.CreateOptions{})
		require.NoError(t, err)
		if ip == "" {
			continue
		}
		pod.Status.PodIP, pod.Status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		_, err = core.Pods("default").UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	_, err = core.Services("default").Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{
		{Name: "http", Port: 80}, {Name: "https", Port: 443}, {Name: "empty", Port: 81},
	}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = p.client.DiscoveryV1().EndpointSlices("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports:     []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(int32(8081))}, {Name: ptr.To("https"), Port: ptr.To(int32(443))}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.8"}}, {Addresses: []string{"10.0.0.9"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	node, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}
	_, err = core.Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	require.NoError(t, err)
	return p
}

func TestProxies(t *testing.T) {
	p := startProxied(t)
	do := func(method, path string) (string, error) {
		b, err := p.client.CoreV1().RESTClient().Verb(method).RequestURI(path).SetHeader("X-Mine", "1").SetHeader("Accept", "image/png").Body([]byte("body")).DoRaw(t.Context())
		return string(b), err
	}
	const pods, services = "/api/v1/namespaces/default/pods/", "/api/v1/namespaces/default/services/"
	for _, c := range []struct{ method, path, want, dialed string }{
		{"GET", pods + "p/proxy/a/b?c=d", "GET /a/b?c=d body||1", "10.0.0.7:8080"},
		{"GET", pods + "p/proxy/", "GET / body||1", "10.0.0.7:8080"},
		{"GET", pods + "p:90/proxy/a/", "GET /a/ body||1", "10.0.0.7:90"},
		{"POST", pods + "http:p:90/proxy/a%20b", "POST /a%20b body||1", "10.0.0.7:90"},
		{"PUT", pods + "https:p:443/proxy/a", "PUT /a body||1", "10.0.0.7:443"},
		{"PATCH", pods + "p/proxy/a", "PATCH /a body||1", "10.0.0.7:8080"},
		{"DELETE", pods + "p/proxy/a", "DELETE /a body||1", "10.0.0.7:8080"},
		{"OPTIONS", pods + "p/proxy/a", "OPTIONS /a body||1", "10.0.0.7:8080"},
		{"GET", services + "s:http/proxy/a", "GET /a body||1", "10.0.0.8:8081"},
		{"GET", services + "s:80/proxy/a", "GET /a body||1", "10.0.0.8:8081"},
		{"GET", services + "https:s:https/proxy/a", "GET /a body||1", "10.0.0.8:443"},
		{"GET", "/api/v1/nodes/n:8000/proxy/a", "GET /a body||1", "10.0.0.1:8000"},
		{"GET", pods + "p/proxy/page", `<html><head></head><body><a href="` + pods + `p/proxy/other">x</a></body></html>`, "10.0.0.7:8080"},
	} {
		out, err := do(c.method, c.path)
		require.NoError(t, err, "%s %s", c.method, c.path)
		require.Equal(t, c.want, out, "%s %s", c.method, c.path)
		require.Contains(t, []string{c.dialed, ""}, *p.dialed.Swap(ptr.To("")), "%s %s", c.method, c.path)
	}
	message := func(path string) error {
		return p.client.CoreV1().RESTClient().Get().RequestURI(path).Do(t.Context()).Error()
	}
	for path, want := range map[string]string{
		pods + "local/proxy/":            "address not allowed",
		pods + "new/proxy/":              "pod new has no address",
		pods + "none/proxy/":             `pods "none" not found`,
		pods + "ftp:p:1/proxy/":          "invalid pod request",
		pods + "p:99/proxy/":             "error trying to reach service: dial tcp 10.0.0.7:99: connection refused",
		services + "s:82/proxy/":         `no service port 82 found for service "s"`,
		services + "s:empty/proxy/":      `no endpoints available for service "s"`,
		services + "s/proxy/":            `no endpoints available for service "s"`,
		"/api/v1/nodes/n/proxy/healthz":  "node n serves no streams",
		"/api/v1/nodes/none/proxy/a":     `nodes "none" not found`,
		"/api/v1/nodes/n:10250/proxy/x/": "",
	} {
		if err := message(path); want != "" {
			require.ErrorContains(t, err, want, path)
		}
	}
}

// Clients are sent to the same place through the API server, also by redirects.
func TestProxyRedirects(t *testing.T) {
	p := startProxied(t)
	c, err := rest.HTTPClientFor(p.config(adminToken))
	require.NoError(t, err)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for path, want := range map[string]string{
		"/api/v1/namespaces/default/pods/p/proxy":      "/api/v1/namespaces/default/pods/p/proxy/",
		"/api/v1/namespaces/default/pods/p/proxy/away": "/api/v1/namespaces/default/pods/p/proxy/page",
	} {
		r, err := c.Get(p.config(adminToken).Host + path)
		require.NoError(t, err)
		require.NoError(t, r.Body.Close())
		require.Equal(t, 3, r.StatusCode/100, path)
		require.Equal(t, want, r.Header.Get("Location"))
	}
}

// A connection through a proxy can be upgraded, and ends with the API server.
func TestProxyUpgrade(t *testing.T) {
	p := startProxied(t)
	config := p.config(adminToken)
	conn, err := tls.Dial("tcp", strings.TrimPrefix(config.Host, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(time.Minute)))
	_, err = fmt.Fprintf(conn, "GET /api/v1/namespaces/default/pods/p/proxy/upgrade HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", adminToken)
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	r, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, r.StatusCode)
	_, err = io.WriteString(conn, "hello\n")
	require.NoError(t, err)
	line, err := in.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
}

// Who may read pods may not reach them.
func TestProxyRights(t *testing.T) {
	p := startProxied(t)
	_, err := p.client.RbacV1().Roles("default").Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "r"}, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{"pods", "services", "pods/proxy"}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = p.client.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "r"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "r"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "jane"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	jane := kubernetes.NewForConfigOrDie(p.config(userToken)).CoreV1().RESTClient()
	require.Eventually(t, func() bool {
		return jane.Get().RequestURI("/api/v1/namespaces/default/pods/p/proxy/a").Do(t.Context()).Error() == nil
	}, time.Minute, 10*time.Millisecond)
	for method, path := range map[string]string{
		"POST": "/api/v1/namespaces/default/pods/p/proxy/a", "OPTIONS": "/api/v1/namespaces/default/pods/p/proxy/a",
		"GET": "/api/v1/namespaces/default/services/s:http/proxy/a", "PUT": "/api/v1/nodes/n:1/proxy/a",
	} {
		require.True(t, apierrors.IsForbidden(jane.Verb(method).RequestURI(path).Do(t.Context()).Error()), "%s %s", method, path)
	}
}
