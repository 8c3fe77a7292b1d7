//go:build linux

package traffic

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func proxies() behaviours {
	return behaviours{
		"Proxy version v1 A set of valid responses are returned for both pod and service Proxy":         proxied("/"),
		"Proxy version v1 A set of valid responses are returned for both pod and service ProxyWithPath": proxied("/some/path/with/verbs"),
		"Proxy version v1 should proxy through a service and a pod":                                     schemes,
	}
}

// direct asks the API server as it is, without following redirects.
func direct(t *testing.T, method, path string) (code int, location, body string) {
	t.Helper()
	c, err := rest.HTTPClientFor(cluster.Config)
	require.NoError(t, err)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	req, err := http.NewRequestWithContext(t.Context(), method, cluster.Config.Host+path, nil)
	require.NoError(t, err)
	resp, err := c.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, resp.Header.Get("Location"), string(b)
}

// proxied asks a server with every verb, by way of its pod and by way of its service.
func proxied(path string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		webs(t, ns, 1)
		service(t, ns, func(s *corev1.Service) { s.Spec.Ports[0].Name = "" })
		base := "/api/v1/namespaces/" + ns
		ways := []string{base + "/pods/web-1:8080/proxy", base + "/services/web/proxy"}
		nodetest.Until(t, "the service has an endpoint", func() (bool, any) {
			code, _, body := direct(t, http.MethodGet, ways[1]+"/")
			return code == http.StatusOK, body
		})
		for i, way := range ways {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions, http.MethodPatch, http.MethodPost, http.MethodPut} {
				before := cluster.Hits(t, ns, "web-1", method+" "+path)
				code, _, body := direct(t, method, way+path)
				require.Equal(t, http.StatusOK, code, "%s %s: %s", method, way, body)
				if method != http.MethodHead {
					require.Equal(t, "web-1\n", body)
				}
				require.Equal(t, before+1, cluster.Hits(t, ns, "web-1", method+" "+path), "%s, way %d", method, i)
			}
			code, to, _ := direct(t, http.MethodGet, way)
			require.Equal(t, http.StatusMovedPermanently, code)
			require.Equal(t, way+"/", to)
		}
	}
}

// schemes go through names and numbers of ports, with and without TLS.
func schemes(t *testing.T, ns string) {
	pod := nodetest.Server("web-1", "-https", ":8443")
	pod.Labels = map[string]string{"app": "web"}
	pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "plain", ContainerPort: 8080}, {Name: "secure", ContainerPort: 8443}}
	cluster.Started(t, ns, pod)
	service(t, ns, func(s *corev1.Service) {
		s.Spec.Ports = []corev1.ServicePort{
			{Name: "plain", Port: 80, TargetPort: intstr.FromString("plain")}, {Name: "secure", Port: 443, TargetPort: intstr.FromInt32(8443)},
		}
	})
	for _, way := range []string{
		"services/web:plain", "services/web:80", "services/http:web:plain", "services/http:web:80", "services/https:web:secure", "services/https:web:443",
		"pods/web-1", "pods/web-1:8080", "pods/http:web-1:8080", "pods/https:web-1:8443",
	} {
		path := "/api/v1/namespaces/" + ns + "/" + way + "/proxy/"
		nodetest.Until(t, way+" answers", func() (bool, any) {
			code, _, body := direct(t, http.MethodGet, path)
			return code == http.StatusOK && body == "web-1\n", body
		})
	}
}
