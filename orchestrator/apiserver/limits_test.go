package apiserver_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver"
	"github.com/keelson-io/keelson/server/servertest"
)

// eventually waits for something that takes a moment. It is generous: machines that run tests are busy.
func eventually(t *testing.T, is func() bool, what string) {
	t.Helper()
	require.Eventually(t, is, time.Minute, 20*time.Millisecond, what)
}

// raw makes requests without client-go, which repeats what is rejected.
type raw struct {
	t      *testing.T
	client *http.Client
	host   string
}

func newRaw(t *testing.T, c *rest.Config) *raw {
	t.Helper()
	hc, err := rest.HTTPClientFor(c)
	require.NoError(t, err)
	t.Cleanup(hc.CloseIdleConnections)
	return &raw{t, hc, c.Host}
}

func (r *raw) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, r.host+path, body)
	require.NoError(r.t, err)
	req.Header.Set("Content-Type", "application/json")
	return r.client.Do(req)
}

// get returns the answer and its body.
func (r *raw) get(path string) (*http.Response, string) {
	r.t.Helper()
	resp, err := r.do(r.t.Context(), http.MethodGet, path, nil)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp, string(b)
}

// hold makes a request whose body does not end until the returned function is called, and waits until it has a seat.
func (r *raw) hold(metrics func() string, series string) (end func()) {
	r.t.Helper()
	body, finish := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		resp, err := r.do(r.t.Context(), http.MethodPost, "/api/v1/namespaces/default/configmaps", body)
		if err == nil {
			_ = resp.Body.Close()
		}
	}()
	eventually(r.t, func() bool { return strings.Contains(metrics(), series) }, series)
	return func() {
		_ = finish.Close()
		<-ended
	}
}

func letJane(t *testing.T, cs *kubernetes.Clientset) {
	t.Helper()
	_, err := cs.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "jane"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "jane"}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// TestOverload fills the one seat of a level. Who comes then is rejected, but not who is exempt, nor watches that have begun.
func TestOverload(t *testing.T) {
	config := start(t, func(c *apiserver.Config) { c.Limits.RequestsInFlight, c.Limits.MutatingInFlight = 1, 1 })
	admin := clientset(t, config(adminToken), "")
	jane, root := newRaw(t, config(userToken)), newRaw(t, config(adminToken))
	metrics := func() string {
		_, text := root.get("/metrics")
		return text
	}
	letJane(t, admin)
	levels := admin.FlowcontrolV1().PriorityLevelConfigurations()
	l, err := levels.Get(t.Context(), "global-default", metav1.GetOptions{})
	require.NoError(t, err)
	l.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "false"}
	l.Spec.Limited.LimitResponse = flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject}
	l.Spec.Limited.BorrowingLimitPercent = ptr.To[int32](0)
	l, err = levels.Update(t.Context(), l, metav1.UpdateOptions{})
	require.NoError(t, err)
	s, err := admin.FlowcontrolV1().FlowSchemas().Get(t.Context(), "global-default", metav1.GetOptions{})
	require.NoError(t, err)
	eventually(t, func() bool {
		return strings.Contains(metrics(), `apiserver_flowcontrol_upper_limit_seats{priority_level="global-default"} 1`)
	}, "the change takes effect")
	eventually(t, func() bool {
		resp, _ := jane.get("/api/v1/namespaces/default")
		return resp.StatusCode == http.StatusOK
	}, "the binding takes effect")

	watch, err := jane.do(t.Context(), http.MethodGet, "/api/v1/namespaces?watch=1", nil)
	require.NoError(t, err)
	defer watch.Body.Close()
	require.Equal(t, http.StatusOK, watch.StatusCode)
	const executing = `apiserver_flowcontrol_current_executing_requests{flow_schema="global-default",priority_level="global-default"} `
	eventually(t, func() bool { return strings.Contains(metrics(), executing+"0") }, "the watch gives its seat back")
	// So does one that has nothing to begin with.
	empty, err := jane.do(t.Context(), http.MethodGet, "/api/v1/namespaces/default/secrets?watch=1", nil)
	require.NoError(t, err)
	defer empty.Body.Close()
	require.Equal(t, http.StatusOK, empty.StatusCode)
	eventually(t, func() bool { return strings.Contains(metrics(), executing+"0") }, "the empty watch gives its seat back")
	end := jane.hold(metrics, executing+"1")
	resp, text := jane.get("/api/v1/namespaces/default")
	require.Equal(t, http.StatusTooManyRequests, resp.StatusCode)
	require.Equal(t, "1", resp.Header.Get("Retry-After"))
	require.Equal(t, "Too many requests, please try again later.\n", text)
	require.Equal(t, string(s.UID), resp.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID))
	require.Equal(t, string(l.UID), resp.Header.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID))
	require.NotEmpty(t, resp.Header.Get("Audit-Id"))
	resp, _ = root.get("/api/v1/namespaces/default")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	b := make([]byte, 10)
	_, err = io.ReadFull(watch.Body, b)
	require.NoError(t, err)
	require.Contains(t, metrics(), `apiserver_flowcontrol_rejected_requests_total{flow_schema="global-default",priority_level="global-default",reason="concurrency-limit"} 1`)
	require.Contains(t, metrics(), `apiserver_request_total{code="429",component="apiserver",dry_run="",group="",resource="namespaces",scope="resource",subresource="",verb="GET",version="v1"} 1`)
	require.Contains(t, metrics(), `apiserver_longrunning_requests{component="apiserver",group="",resource="namespaces",scope="cluster",subresource="",verb="WATCH",version="v1"} 1`)
	end()
	resp, _ = jane.get("/api/v1/namespaces/default")
	require.Equal(t, http.StatusOK, resp.StatusCode)
}

// TestRequestTime gives requests less time than they need.
func TestRequestTime(t *testing.T) {
	config := start(t, func(c *apiserver.Config) { c.Limits.RequestTime = 2 * time.Second })
	root := newRaw(t, config(adminToken))
	for _, path := range []string{"/api/v1/namespaces/default/configmaps", "/api/v1/namespaces/default/configmaps?timeout=100ms"} {
		body, finish := io.Pipe()
		resp, err := root.do(t.Context(), http.MethodPost, path, body)
		require.NoError(t, err)
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusGatewayTimeout, resp.StatusCode)
		require.Contains(t, string(text), `"reason":"Timeout"`)
		require.Contains(t, string(text), "request did not complete within the allotted timeout")
		_ = finish.Close()
	}
	resp, text := root.get("/api/v1/namespaces?timeout=soon")
	require.Equal(t, http.StatusBadRequest, resp.StatusCode)
	require.Contains(t, text, "invalid timeout specified in the request URL")
	resp, _ = root.get("/api/v1/namespaces?timeout=0s")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	// The connection is as good as new, and watches may take longer.
	watch, err := root.do(t.Context(), http.MethodGet, "/api/v1/namespaces?watch=1&timeoutSeconds=3&resourceVersion=0&sendInitialEvents=false&resourceVersionMatch=NotOlderThan", nil)
	require.NoError(t, err)
	begun := time.Now()
	_, err = io.ReadAll(watch.Body)
	require.NoError(t, err)
	require.NoError(t, watch.Body.Close())
	require.Greater(t, time.Since(begun), 2*time.Second)
}

func TestHealth(t *testing.T) {
	config := start(t)
	root := newRaw(t, config(adminToken))
	for path, lines := range map[string][]string{
		"/healthz": {"[+]ping ok", "[+]etcd ok", "[+]poststarthook/rbac/bootstrap-roles ok"},
		"/livez":   {"[+]ping ok", "[+]etcd ok", "[+]poststarthook/crd-informer-synced ok"},
		"/readyz":  {"[+]ping ok", "[+]etcd-readiness ok", "[+]informer-sync ok", "[+]shutdown ok", "[+]poststarthook/priority-and-fairness-config-producer ok"},
	} {
		resp, text := root.get(path + "?verbose")
		require.Equal(t, http.StatusOK, resp.StatusCode, text)
		for _, l := range lines {
			require.Contains(t, text, l+"\n")
		}
		require.True(t, strings.HasSuffix(text, path[1:]+" check passed\n"), text)
	}
	_, text := root.get("/livez/etcd")
	require.Equal(t, "ok", text)
	resp, _ := root.get("/livez/nonsense")
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
}

// TestRetire shuts a server down: first it is not ready any more, then its watches end.
func TestRetire(t *testing.T) {
	api, config := startAPI(t, servertest.Start(t, 1, servertest.Quick()...))
	root := newRaw(t, config(adminToken))
	cs := clientset(t, config(adminToken), "")
	w, err := cs.CoreV1().Namespaces().Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	defer w.Stop()
	api.Retire()
	resp, text := root.get("/readyz")
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
	require.Contains(t, text, "[-]shutdown failed: reason withheld\n")
	for _, path := range []string{"/livez", "/healthz"} {
		resp, _ = root.get(path)
		require.Equal(t, http.StatusOK, resp.StatusCode)
	}
	_, err = cs.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	for e := range w.ResultChan() {
		if e.Object.(*corev1.Namespace).Name == "late" {
			api.Drain()
		}
	}
	resp, _ = root.get("/readyz")
	require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
}

// TestFlowObjects changes and deletes the objects that every cluster has.
func TestFlowObjects(t *testing.T) {
	config := start(t)
	flow := clientset(t, config(adminToken), "").FlowcontrolV1()
	ctx := t.Context()
	schemas, err := flow.FlowSchemas().List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, schemas.Items, 11)
	levels, err := flow.PriorityLevelConfigurations().List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, levels.Items, 8)
	for _, l := range levels.Items {
		require.Equal(t, "true", l.Annotations[flowcontrolv1.AutoUpdateAnnotationKey])
	}
	dangling := func(name string) flowcontrolv1.ConditionStatus {
		s, err := flow.FlowSchemas().Get(ctx, name, metav1.GetOptions{})
		require.NoError(t, err)
		for _, c := range s.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
				return c.Status
			}
		}
		return "none"
	}
	for _, s := range schemas.Items {
		eventually(t, func() bool { return dangling(s.Name) == flowcontrolv1.ConditionFalse }, s.Name)
	}

	// Mandatory objects come again, and their annotation with them. Whoever changes another one keeps his change.
	require.NoError(t, flow.PriorityLevelConfigurations().Delete(ctx, "catch-all", metav1.DeleteOptions{}))
	require.NoError(t, flow.FlowSchemas().Delete(ctx, "exempt", metav1.DeleteOptions{}))
	eventually(t, func() bool {
		_, err := flow.PriorityLevelConfigurations().Get(ctx, "catch-all", metav1.GetOptions{})
		_, err2 := flow.FlowSchemas().Get(ctx, "exempt", metav1.GetOptions{})
		return err == nil && err2 == nil
	}, "mandatory objects")
	change := func(annotation string) {
		l, err := flow.PriorityLevelConfigurations().Get(ctx, "workload-low", metav1.GetOptions{})
		require.NoError(t, err)
		l.Annotations = map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: annotation}
		l.Spec.Limited.NominalConcurrencyShares = ptr.To[int32](99)
		_, err = flow.PriorityLevelConfigurations().Update(ctx, l, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	shares := func() int32 {
		l, err := flow.PriorityLevelConfigurations().Get(ctx, "workload-low", metav1.GetOptions{})
		require.NoError(t, err)
		return *l.Spec.Limited.NominalConcurrencyShares
	}
	change("true")
	eventually(t, func() bool { return shares() == 100 }, "it follows its default")
	change("false")

	// A schema dangles while its level is missing.
	_, err = flow.FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "mine"},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	eventually(t, func() bool { return dangling("mine") == flowcontrolv1.ConditionTrue }, "dangling")
	_, err = flow.PriorityLevelConfigurations().Create(ctx, &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "mine"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	eventually(t, func() bool { return dangling("mine") == flowcontrolv1.ConditionFalse }, "found")
	require.EqualValues(t, 99, shares(), "it does not follow its default")

	// What another version had as a default goes, unless somebody wants it.
	for name, annotation := range map[string]string{"old": "true", "kept": "false"} {
		_, err = flow.FlowSchemas().Create(ctx, &flowcontrolv1.FlowSchema{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: annotation}},
			Spec:       flowcontrolv1.FlowSchemaSpec{PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "mine"}},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	eventually(t, func() bool {
		_, err := flow.FlowSchemas().Get(ctx, "old", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}, "obsolete")
	eventually(t, func() bool { return dangling("kept") == flowcontrolv1.ConditionFalse }, "kept")
}
