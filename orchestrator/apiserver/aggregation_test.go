package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apidiscovery "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"

	"github.com/keelson-io/keelson/orchestrator/apiserver"
	"github.com/keelson-io/keelson/orchestrator/apiserver/aggregate"
	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
)

const extension = "/apis/ext.example/v1"

// extensionServer is an API server of a group version. It believes what a front proxy with a certificate says of the user.
func extensionServer() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc(extension, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "ext.example/v1",
			APIResources: []metav1.APIResource{{Name: "things", SingularName: "thing", Kind: "Thing", Verbs: []string{"get", "list", "watch"}}},
		})
	})
	mux.HandleFunc("/openapi/v3", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"paths":{"apis/ext.example/v1":{"serverRelativeURL":"/openapi/v3%s?hash=7"}}}`, extension)
	})
	mux.HandleFunc("/openapi/v3"+extension, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"openapi":"3.0.0"}`) })
	mux.HandleFunc(extension+"/things/echo", func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(r.Header) })
	mux.HandleFunc(extension+"/things/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.example/", http.StatusFound)
	})
	mux.HandleFunc(extension+"/things", func(w http.ResponseWriter, r *http.Request) { // a watch
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	mux.HandleFunc(extension+"/things/stream", func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\nX-User: %s\r\n\r\n", r.Header.Get("X-Remote-User"))
		_, _ = io.Copy(conn, buffered)
	})
	return mux
}

// extended is a cluster with an extension server, that is not registered yet.
type extended struct {
	config   *rest.Config
	client   *kubernetes.Clientset
	services aggregator.APIServiceInterface
	server   *httptest.Server
	object   *apiregistrationv1.APIService
}

func extend(t *testing.T) *extended {
	front, err := pki.Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	own, err := front.Client("front", "front")
	require.NoError(t, err)
	serving, err := pki.Open(t.TempDir(), time.Now)
	require.NoError(t, err)
	cert, err := serving.Server("ext", "ext.default.svc")
	require.NoError(t, err)
	srv := httptest.NewUnstartedServer(extensionServer())
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: front.Pool(), MinVersion: tls.VersionTLS12}
	srv.StartTLS()
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	require.NoError(t, err)
	number, err := strconv.ParseInt(port, 10, 32)
	require.NoError(t, err)
	at := int32(number)
	config := start(t, func(c *apiserver.Config) {
		c.Aggregation = apiserver.Aggregation{Certificate: &own, Trust: aggregate.Trust{ClientAuthorities: serving.CA(), Authority: front.CA(), Name: "front"}}
	})(adminToken)
	services, err := aggregator.NewForConfig(config)
	require.NoError(t, err)
	return &extended{
		config: config, client: clientset(t, config, ""), services: services.APIServices(), server: srv,
		object: &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.ext.example"}, Spec: apiregistrationv1.APIServiceSpec{
			Group: "ext.example", Version: "v1", GroupPriorityMinimum: 17799, VersionPriority: 10, CABundle: serving.CA(),
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "ext", Port: &at},
		}},
	}
}

// becomes waits for the condition Available.
func (e *extended) becomes(t *testing.T, status apiregistrationv1.ConditionStatus, reason string) {
	t.Helper()
	var c *apiregistrationv1.APIServiceCondition
	require.Eventually(t, func() bool {
		o, err := e.services.Get(t.Context(), e.object.Name, metav1.GetOptions{})
		require.NoError(t, err)
		c = helper.GetAPIServiceConditionByType(o, apiregistrationv1.Available)
		return c != nil && c.Status == status && c.Reason == reason
	}, 30*time.Second, 10*time.Millisecond, "it is to become %s, %s, but is %v", status, reason, &c)
}

// register makes the service and waits until the extension is served.
func (e *extended) register(t *testing.T) {
	_, err := e.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "ext"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = e.services.Create(t.Context(), e.object, metav1.CreateOptions{})
	require.NoError(t, err)
	e.becomes(t, apiregistrationv1.ConditionTrue, "Passed")
	require.Eventually(t, func() bool {
		_, err := e.get(t, extension)
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
}

func (e *extended) get(t *testing.T, path string) (string, error) {
	b, err := e.client.RESTClient().Get().RequestURI(path).Do(t.Context()).Raw()
	return string(b), err
}

func TestAggregationAvailability(t *testing.T) {
	e := extend(t)
	_, err := e.get(t, extension)
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	_, err = e.services.Create(t.Context(), e.object, metav1.CreateOptions{})
	require.NoError(t, err)
	e.becomes(t, apiregistrationv1.ConditionFalse, "ServiceNotFound")
	_, err = e.get(t, extension)
	require.True(t, apierrors.IsServiceUnavailable(err), "%v", err)

	services := e.client.CoreV1().Services("default")
	_, err = services.Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "ext"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 1}}}}, metav1.CreateOptions{})
	require.NoError(t, err)
	e.becomes(t, apiregistrationv1.ConditionFalse, "ServicePortError")
	svc, err := services.Get(t.Context(), "ext", metav1.GetOptions{})
	require.NoError(t, err)
	svc.Spec.Ports[0].Port = *e.object.Spec.Service.Port
	svc, err = services.Update(t.Context(), svc, metav1.UpdateOptions{})
	require.NoError(t, err)
	e.becomes(t, apiregistrationv1.ConditionFalse, "EndpointsNotFound")
	svc.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"}
	svc, err = services.Update(t.Context(), svc, metav1.UpdateOptions{})
	require.NoError(t, err)
	e.becomes(t, apiregistrationv1.ConditionTrue, "Passed")
	require.Eventually(t, func() bool { _, err := e.get(t, extension); return err == nil }, 30*time.Second, 10*time.Millisecond)

	e.server.CloseClientConnections()
	e.server.Listener.Close()
	svc.Annotations = map[string]string{"look": "again"}
	_, err = services.Update(t.Context(), svc, metav1.UpdateOptions{})
	require.NoError(t, err)
	e.becomes(t, apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck")
	require.Eventually(t, func() bool {
		_, err := e.get(t, extension)
		return apierrors.IsServiceUnavailable(err)
	}, 30*time.Second, 10*time.Millisecond)
	groups := e.aggregated(t)
	v := versionOf(groups, "ext.example")
	require.NotNil(t, v)
	require.Equal(t, apidiscovery.DiscoveryFreshnessStale, v.Freshness)
	require.Equal(t, "things", v.Resources[0].Resource, "what it said before is still told")

	require.NoError(t, e.services.Delete(t.Context(), e.object.Name, metav1.DeleteOptions{}))
	require.Eventually(t, func() bool {
		_, err := e.get(t, extension)
		return apierrors.IsNotFound(err)
	}, 30*time.Second, 10*time.Millisecond)
	require.Nil(t, versionOf(e.aggregated(t), "ext.example"))
}

func (e *extended) aggregated(t *testing.T) *apidiscovery.APIGroupDiscoveryList {
	t.Helper()
	b, err := e.client.RESTClient().Get().RequestURI("/apis").SetHeader("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").Do(t.Context()).Raw()
	require.NoError(t, err)
	list := &apidiscovery.APIGroupDiscoveryList{}
	require.NoError(t, json.Unmarshal(b, list))
	return list
}

func versionOf(list *apidiscovery.APIGroupDiscoveryList, group string) *apidiscovery.APIVersionDiscovery {
	for _, g := range list.Items {
		if g.Name == group {
			return &g.Versions[0]
		}
	}
	return nil
}

func TestAggregationRequests(t *testing.T) {
	e := extend(t)
	e.register(t)
	groups, resources, err := e.client.Discovery().ServerGroupsAndResources()
	require.NoError(t, err)
	require.Equal(t, "ext.example", groups[3].Name, "behind apiregistration.k8s.io and apps, as its priority says")
	require.NotEmpty(t, resources)
	text, err := e.get(t, "/openapi/v3")
	require.NoError(t, err)
	require.Contains(t, text, `"/openapi/v3/apis/ext.example/v1?hash=7"`)
	text, err = e.get(t, "/openapi/v3/apis/ext.example/v1?hash=7")
	require.NoError(t, err)
	require.Equal(t, `{"openapi":"3.0.0"}`, text)

	b, err := e.client.RESTClient().Get().AbsPath(extension+"/things/echo").SetHeader("X-Remote-User", "root").SetHeader("X-Remote-Extra-Lie", "x").Do(t.Context()).Raw()
	require.NoError(t, err)
	var sent http.Header
	require.NoError(t, json.Unmarshal(b, &sent))
	require.Equal(t, []string{"admin"}, sent["X-Remote-User"])
	require.Contains(t, sent["X-Remote-Group"], "system:masters")
	require.NotContains(t, sent, "X-Remote-Extra-Lie")
	require.NotContains(t, sent, "Authorization")
	result := e.client.RESTClient().Get().AbsPath(extension + "/things/elsewhere").Do(t.Context())
	code := 0
	result.StatusCode(&code)
	require.Equal(t, http.StatusBadGateway, code, "%v", result.Error())
	require.ErrorContains(t, result.Error(), "not permitted")

	as := rest.CopyConfig(e.config)
	as.Impersonate = rest.ImpersonationConfig{UserName: "jane", Extra: map[string][]string{"some/key": {"v"}}}
	jane := clientset(t, as, "")
	_, err = jane.RESTClient().Get().AbsPath(extension + "/things/echo").Do(t.Context()).Raw()
	require.True(t, apierrors.IsForbidden(err), "%v", err)
	grant(t, e.client)
	require.Eventually(t, func() bool {
		b, err = jane.RESTClient().Get().AbsPath(extension + "/things/echo").Do(t.Context()).Raw()
		return err == nil
	}, 30*time.Second, 10*time.Millisecond)
	sent = nil
	require.NoError(t, json.Unmarshal(b, &sent))
	require.Equal(t, []string{"jane"}, sent["X-Remote-User"])
	require.Equal(t, []string{"v"}, sent["X-Remote-Extra-Some%2fkey"])
	require.NotContains(t, sent, "Impersonate-User")
}

func TestAggregationStreams(t *testing.T) {
	e := extend(t)
	e.register(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := e.client.RESTClient().Get().AbsPath(extension+"/things").Param("watch", "1").Stream(ctx)
	require.NoError(t, err)
	line, err := bufio.NewReader(stream).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "first\n", line, "what is sent comes at once")
	cancel()
	_ = stream.Close()

	host := e.config.Host[len("https://"):]
	conn, err := tls.Dial("tcp", host, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	require.NoError(t, err)
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "GET %s/things/stream HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", extension, host, adminToken)
	require.NoError(t, err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.Equal(t, "admin", resp.Header.Get("X-User"))
	_, err = io.WriteString(conn, "hello\n")
	require.NoError(t, err)
	line, err = in.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)
}

// grant lets jane get things.
func grant(t *testing.T, c *kubernetes.Clientset) {
	_, err := c.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "things"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"get"}, APIGroups: []string{"ext.example"}, Resources: []string{"things"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = c.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "things"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "things"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "jane"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// What the server itself has is registered, and whom others are to believe is published.
func TestAggregationLocal(t *testing.T) {
	e := extend(t)
	ctx := t.Context()
	exists := func(name string) func() bool {
		return func() bool {
			_, err := e.services.Get(ctx, name, metav1.GetOptions{})
			return err == nil
		}
	}
	const automanaged = "kube-aggregator.kubernetes.io/automanaged"
	for _, name := range []string{"v1.", "v1.apps", "v2.autoscaling", "v1.authorization.k8s.io"} {
		require.Eventually(t, exists(name), 30*time.Second, 10*time.Millisecond, name)
		o, err := e.services.Get(ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, "onstart", o.Labels[automanaged])
		require.Equal(t, "Local", helper.GetAPIServiceConditionByType(o, apiregistrationv1.Available).Reason)
	}
	require.False(t, exists("v1.apiregistration.k8s.io")())

	crds, err := apiextensions.NewForConfig(e.config)
	require.NoError(t, err)
	d := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "gadgets.shop.example"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "shop.example", Scope: apiextensionsv1.ClusterScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "gadgets", Kind: "Gadget"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"},
			}}},
		},
	}
	_, err = crds.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, d, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, exists("v1.shop.example"), 30*time.Second, 10*time.Millisecond)
	o, err := e.services.Get(ctx, "v1.shop.example", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "true", o.Labels[automanaged])
	require.EqualValues(t, 1000, o.Spec.GroupPriorityMinimum)
	o.Spec.VersionPriority = 7
	_, err = e.services.Update(ctx, o, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		o, err := e.services.Get(ctx, "v1.shop.example", metav1.GetOptions{})
		return err == nil && o.Spec.VersionPriority == 100
	}, 30*time.Second, 10*time.Millisecond, "what is managed is put back")
	require.NoError(t, crds.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, d.Name, metav1.DeleteOptions{}))
	require.Eventually(t, func() bool { return !exists("v1.shop.example")() }, 30*time.Second, 10*time.Millisecond)

	require.Eventually(t, func() bool {
		c, err := e.client.CoreV1().ConfigMaps("kube-system").Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
		return err == nil && c.Data["requestheader-allowed-names"] == `["front"]` && c.Data["client-ca-file"] != "" && c.Data["requestheader-client-ca-file"] != ""
	}, 30*time.Second, 10*time.Millisecond)
}
