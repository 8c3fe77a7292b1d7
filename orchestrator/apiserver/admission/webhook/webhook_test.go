package webhook

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	admissionapi "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// world is the objects that plugins can look up.
type world struct {
	mu  sync.Mutex
	all map[string][]kinds.Object // by resource
}

func (w *world) Get(_ context.Context, r schema.GroupResource, namespace, name string, _ bool) (kinds.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.all[r.String()] {
		if o.GetName() == name && o.GetNamespace() == namespace {
			return o, nil
		}
	}
	return nil, apierrors.NewNotFound(r, name)
}

func (w *world) List(_ context.Context, r schema.GroupResource, _ string) ([]kinds.Object, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.all[r.String()]), nil
}

func (w *world) put(resource string, objects ...kinds.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[string][]kinds.Object{}
	}
	w.all[resource] = objects
}

const (
	mutatingResource   = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
	validatingResource = "validatingwebhookconfigurations.admissionregistration.k8s.io"
)

// backend is a webhook server that notes what it was asked.
type backend struct {
	*httptest.Server
	mu    sync.Mutex
	asked []*admissionapi.AdmissionRequest
	urls  []string
}

type handler func(r *admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse

func serve(t *testing.T, handlers map[string]handler) *backend {
	b := &backend{}
	b.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review := &admissionapi.AdmissionReview{}
		if err := json.NewDecoder(r.Body).Decode(review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		b.mu.Lock()
		b.asked = append(b.asked, review.Request)
		b.urls = append(b.urls, r.URL.String())
		b.mu.Unlock()
		h, ok := handlers[r.URL.Path]
		if !ok {
			http.Error(w, "who?", http.StatusNotFound)
			return
		}
		out := h(review.Request)
		if out == nil {
			http.Error(w, "broken", http.StatusInternalServerError)
			return
		}
		if out.UID == "" {
			out.UID = review.Request.UID
		}
		review.Request, review.Response = nil, out
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.StartTLS()
	t.Cleanup(b.Close)
	return b
}

func (b *backend) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.Certificate().Raw})
}

func (b *backend) paths() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range b.urls {
		path, _, _ := strings.Cut(u, "?")
		out = append(out, path)
	}
	return out
}

// all is the rule about everything.
func all() []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{
		Operations: []admissionv1.OperationType{admissionv1.OperationAll},
		Rule:       admissionv1.Rule{APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*/*"}},
	}}
}

func (b *backend) mutating(path string, change ...func(*admissionv1.MutatingWebhook)) admissionv1.MutatingWebhook {
	w := admissionv1.MutatingWebhook{
		Name:         strings.TrimPrefix(path, "/") + ".example.com",
		ClientConfig: admissionv1.WebhookClientConfig{URL: ptr.To(b.URL + path), CABundle: b.ca()},
		Rules:        all(), AdmissionReviewVersions: []string{"v1"}, SideEffects: ptr.To(admissionv1.SideEffectClassNone), TimeoutSeconds: ptr.To(int32(5)),
	}
	for _, f := range change {
		f(&w)
	}
	return w
}

func (b *backend) validating(path string, change ...func(*admissionv1.MutatingWebhook)) admissionv1.ValidatingWebhook {
	w := b.mutating(path, change...)
	return admissionv1.ValidatingWebhook{
		Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
		NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
		TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
	}
}

func mutatingConfig(name string, hooks ...admissionv1.MutatingWebhook) kinds.Object {
	return &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: "1"}, Webhooks: hooks}
}

func validatingConfig(name string, hooks ...admissionv1.ValidatingWebhook) kinds.Object {
	return &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), ResourceVersion: "1"}, Webhooks: hooks}
}

func kind(group, version, k, resource string) *kinds.Kind {
	return &kinds.Kind{GroupVersionKind: schema.GroupVersionKind{Group: group, Version: version, Kind: k}, Resource: resource}
}

var podKind = kind("", "v1", "Pod", "pods")

// told is what a request's client and the audit log were told.
type told struct {
	warnings    []string
	annotations map[string]string
}

func podRequest(labels map[string]string) (*admission.Attributes, *told) {
	heard := &told{annotations: map[string]string{}}
	return &admission.Attributes{
		Operation: admission.Create, Kind: podKind, ObjectKind: podKind.GroupVersionKind, Namespace: "ns", Name: "p",
		Object:  &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: labels}},
		Options: &metav1.CreateOptions{FieldManager: "me"},
		User:    &request.User{Name: "alice", Groups: []string{"a"}, Extra: map[string][]string{"k": {"v"}}},
		Warn:    func(s string) { heard.warnings = append(heard.warnings, s) }, Annotate: func(k, v string) { heard.annotations[k] = v },
	}, heard
}

func allow(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
	return &admissionapi.AdmissionResponse{Allowed: true}
}

func patch(p string) handler {
	return func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		return &admissionapi.AdmissionResponse{Allowed: true, Patch: []byte(p), PatchType: ptr.To(admissionapi.PatchTypeJSONPatch)}
	}
}

func deny(why string, code int32) handler {
	return func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		return &admissionapi.AdmissionResponse{Result: &metav1.Status{Message: why, Code: code}}
	}
}

func TestMutating(t *testing.T) {
	b := serve(t, map[string]handler{
		"/a": func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
			return &admissionapi.AdmissionResponse{Allowed: true, Warnings: []string{"careful"}, AuditAnnotations: map[string]string{"why": "so"},
				Patch: []byte(`[{"op":"add","path":"/metadata/labels","value":{"a":"1"}}]`), PatchType: ptr.To(admissionapi.PatchTypeJSONPatch)}
		},
		"/b": patch(`[{"op":"add","path":"/metadata/labels/b","value":"2"}]`),
	})
	w := &world{}
	w.put(mutatingResource, mutatingConfig("z", b.mutating("/b")), mutatingConfig("y", b.mutating("/a")))
	registry := prometheus.NewRegistry()
	p, _ := New(Config{Lookup: w, Registerer: registry})
	a, heard := podRequest(nil)
	was := a.Object
	require.NoError(t, admission.NewChain(p).Mutate(t.Context(), a))
	require.Equal(t, map[string]string{"a": "1", "b": "2"}, a.Object.(*corev1.Pod).Labels)
	require.Empty(t, was.(*corev1.Pod).Labels)
	require.Equal(t, []string{"/a", "/b"}, b.paths(), "in order of configurations, and no second time")
	require.Equal(t, []string{"careful"}, heard.warnings)
	require.Equal(t, map[string]string{
		"a.example.com/why": "so",
		"mutation.webhook.admission.k8s.io/round_0_index_0": `{"configuration":"y","webhook":"a.example.com","mutated":true}`,
		"mutation.webhook.admission.k8s.io/round_0_index_1": `{"configuration":"z","webhook":"b.example.com","mutated":true}`,
	}, heard.annotations)
	require.Equal(t, "/a?timeout=5s", b.urls[0])

	r := b.asked[0]
	require.Equal(t, metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, r.Kind)
	require.Equal(t, metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, *r.RequestResource)
	require.Equal(t, "alice", r.UserInfo.Username)
	require.EqualValues(t, []string{"v"}, r.UserInfo.Extra["k"])
	require.False(t, *r.DryRun)
	require.Contains(t, string(r.Object.Raw), `"apiVersion":"v1"`)
	require.Equal(t, "null", orNull(r.OldObject.Raw))
	require.JSONEq(t, `{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1","fieldManager":"me"}`, string(r.Options.Raw))
	n, err := testutil.GatherAndCount(registry, "apiserver_admission_webhook_request_total")
	require.NoError(t, err)
	require.Equal(t, 2, n)
}

func orNull(b []byte) string {
	if len(b) == 0 {
		return "null"
	}
	return string(b)
}

func TestReinvocation(t *testing.T) {
	var saw []bool
	b := serve(t, map[string]handler{
		"/sees": func(r *admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
			saw = append(saw, strings.Contains(string(r.Object.Raw), "late"))
			return allow(r)
		},
		"/never": allow,
		"/late":  patch(`[{"op":"add","path":"/metadata/labels","value":{"late":"1"}}]`),
	})
	w := &world{}
	again := func(w *admissionv1.MutatingWebhook) {
		w.ReinvocationPolicy = ptr.To(admissionv1.IfNeededReinvocationPolicy)
	}
	w.put(mutatingResource, mutatingConfig("c", b.mutating("/sees", again), b.mutating("/never"), b.mutating("/late", again)))
	p, _ := New(Config{Lookup: w})
	a, heard := podRequest(nil)
	require.NoError(t, admission.NewChain(p).Mutate(t.Context(), a))
	require.Equal(t, []string{"/sees", "/never", "/late", "/sees"}, b.paths(), "what did the last change is not called again")
	require.Equal(t, []bool{false, true}, saw)
	require.Contains(t, heard.annotations, "mutation.webhook.admission.k8s.io/round_1_index_0")
}

// labeller is a plugin of the API server that changes objects.
type labeller struct{}

func (labeller) Mutate(_ context.Context, a *admission.Attributes) error {
	if a.Reinvoked() {
		a.Object.(*corev1.Pod).Annotations = map[string]string{"again": "1"}
	}
	return nil
}

func TestReinvocationAfterOtherPlugins(t *testing.T) {
	b := serve(t, map[string]handler{"/a": patch(`[{"op":"add","path":"/metadata/labels","value":{"a":"1"}}]`)})
	w := &world{}
	w.put(mutatingResource, mutatingConfig("c", b.mutating("/a", func(w *admissionv1.MutatingWebhook) {
		w.ReinvocationPolicy = ptr.To(admissionv1.IfNeededReinvocationPolicy)
	})))
	p, _ := New(Config{Lookup: w})
	a, _ := podRequest(nil)
	require.NoError(t, admission.NewChain(labeller{}, p).Mutate(t.Context(), a))
	require.Equal(t, []string{"/a", "/a"}, b.paths())
}

func TestMutatingErrors(t *testing.T) {
	for name, c := range map[string]struct {
		answer handler
		change func(*admissionv1.MutatingWebhook)
		dryRun bool
		want   string
		code   int32
	}{
		"denied":           {answer: deny("not today", 0), want: `admission webhook "a.example.com" denied the request: not today`, code: 400},
		"denied with code": {answer: deny("", 418), want: `admission webhook "a.example.com" denied the request without explanation`, code: 418},
		"500":              {answer: func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse { return nil }, want: `Internal error occurred: failed calling webhook "a.example.com": failed to call webhook: an error on the server ("broken") has prevented the request from succeeding`, code: 500},
		"other uid": {answer: func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
			return &admissionapi.AdmissionResponse{UID: "x"}
		}, want: `received invalid webhook response: expected response.uid=`, code: 500},
		"no patch type": {answer: func(*admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
			return &admissionapi.AdmissionResponse{Allowed: true, Patch: []byte("[]")}
		}, want: "webhook returned response.patch but not response.patchType", code: 500},
		"bad patch":         {answer: patch(`{}`), want: "received undecodable patch in webhook response", code: 500},
		"impossible patch":  {answer: patch(`[{"op":"remove","path":"/metadata/nothing"}]`), want: "Internal error occurred", code: 500},
		"patch of a type":   {answer: patch(`[{"op":"replace","path":"/metadata/name","value":7}]`), want: "decode patched object", code: 500},
		"no dry run":        {answer: allow, dryRun: true, change: func(w *admissionv1.MutatingWebhook) { w.SideEffects = ptr.To(admissionv1.SideEffectClassSome) }, want: `admission webhook "a.example.com" does not support dry run`, code: 400},
		"unknown versions":  {answer: allow, change: func(w *admissionv1.MutatingWebhook) { w.AdmissionReviewVersions = []string{"v7"} }, want: "webhook does not accept known AdmissionReview versions (v1, v1beta1)", code: 500},
		"not there":         {answer: allow, change: func(w *admissionv1.MutatingWebhook) { *w.ClientConfig.URL += "/nothing" }, want: "failed to call webhook: the server could not find the requested resource", code: 500},
		"another authority": {answer: allow, change: func(w *admissionv1.MutatingWebhook) { w.ClientConfig.CABundle = nil }, want: "failed to call webhook: Post \"https://127.0.0.1", code: 500},
		"no authority":      {answer: allow, change: func(w *admissionv1.MutatingWebhook) { w.ClientConfig.CABundle = []byte("x") }, want: "unable to load root certificates", code: 500},
		"nowhere":           {answer: allow, change: func(w *admissionv1.MutatingWebhook) { w.ClientConfig.URL = nil }, want: "webhook configuration must have either service or URL", code: 500},
		"bad condition": {answer: allow, change: func(w *admissionv1.MutatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: "object.nothing.x == 1"}}
		}, want: `pods "p" is forbidden: expression 'object.nothing.x == 1' resulted in error: no such key: nothing`, code: 403},
		"bad selector": {answer: allow, change: func(w *admissionv1.MutatingWebhook) {
			w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"-": "-"}}
		}, want: "Internal error occurred", code: 500},
		"no namespace": {answer: allow, change: func(w *admissionv1.MutatingWebhook) {
			w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, want: `namespaces "ns" not found`, code: 404},
	} {
		t.Run(name, func(t *testing.T) {
			b := serve(t, map[string]handler{"/a": c.answer})
			w := &world{}
			hook := b.mutating("/a")
			if c.change != nil {
				c.change(&hook)
			}
			w.put(mutatingResource, mutatingConfig("c", hook))
			p, _ := New(Config{Lookup: w})
			a, _ := podRequest(nil)
			a.DryRun = c.dryRun
			err := p.Mutate(t.Context(), a)
			var status *apierrors.StatusError
			require.ErrorAs(t, err, &status)
			require.ErrorContains(t, err, c.want)
			require.Equal(t, c.code, status.ErrStatus.Code)
		})
	}
}

func TestFailurePolicyIgnore(t *testing.T) {
	slow := make(chan struct{})
	b := serve(t, map[string]handler{
		"/slow": func(r *admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse { <-slow; return allow(r) },
		"/no":   deny("no", 0),
		"/ok":   patch(`[{"op":"add","path":"/metadata/labels","value":{"ok":"1"}}]`),
	})
	defer close(slow)
	ignore := func(w *admissionv1.MutatingWebhook) {
		w.FailurePolicy, w.TimeoutSeconds = ptr.To(admissionv1.Ignore), ptr.To(int32(1))
	}
	w := &world{}
	w.put(mutatingResource, mutatingConfig("c", b.mutating("/nothing", ignore), b.mutating("/slow", ignore), b.mutating("/ok", ignore)))
	w.put(validatingResource, validatingConfig("c", b.validating("/nothing", ignore), b.validating("/no", ignore)))
	m, v := New(Config{Lookup: w})
	a, heard := podRequest(nil)
	require.NoError(t, m.Mutate(t.Context(), a))
	require.Equal(t, map[string]string{"ok": "1"}, a.Object.(*corev1.Pod).Labels)
	require.Equal(t, "nothing.example.com", heard.annotations["failed-open.mutation.webhook.admission.k8s.io/round_0_index_0"])
	require.Equal(t, "slow.example.com", heard.annotations["failed-open.mutation.webhook.admission.k8s.io/round_0_index_1"])
	require.EqualError(t, v.Validate(t.Context(), a), `admission webhook "no.example.com" denied the request: no`, "a refusal is no failure")
	require.Equal(t, "nothing.example.com", heard.annotations["failed-open.validating.webhook.admission.k8s.io/round_0_index_0"])
}

func TestValidatingInParallel(t *testing.T) {
	var together sync.WaitGroup
	together.Add(3)
	meet := func(r *admissionapi.AdmissionRequest) *admissionapi.AdmissionResponse {
		together.Done()
		together.Wait()
		return &admissionapi.AdmissionResponse{Allowed: true, Warnings: []string{r.Name}}
	}
	b := serve(t, map[string]handler{"/a": meet, "/b": meet, "/c": meet})
	w := &world{}
	w.put(validatingResource, validatingConfig("c", b.validating("/a"), b.validating("/b"), b.validating("/c")))
	_, v := New(Config{Lookup: w})
	a, heard := podRequest(nil)
	require.NoError(t, v.Validate(t.Context(), a))
	require.Len(t, heard.warnings, 3)
	require.ElementsMatch(t, []string{"/a", "/b", "/c"}, b.paths())
}

func TestValidatingErrors(t *testing.T) {
	b := serve(t, map[string]handler{"/a": deny("first", 0), "/b": deny("second", 403), "/patch": patch(`[]`)})
	w := &world{}
	_, v := New(Config{Lookup: w})
	a, _ := podRequest(nil)
	require.NoError(t, v.Validate(t.Context(), a), "none")
	w.put(validatingResource, validatingConfig("y", b.validating("/b")), validatingConfig("x", b.validating("/a")))
	require.EqualError(t, v.Validate(t.Context(), a), `admission webhook "a.example.com" denied the request: first`)
	w.put(validatingResource, validatingConfig("y", b.validating("/b")))
	err := v.Validate(t.Context(), a)
	require.EqualError(t, err, `admission webhook "b.example.com" denied the request: second`)
	require.EqualValues(t, 403, err.(apierrors.APIStatus).Status().Code)
	w.put(validatingResource, validatingConfig("y2", b.validating("/patch")))
	require.ErrorContains(t, v.Validate(t.Context(), a), "validating webhook may not return response.patch")

	config := &admission.Attributes{Operation: admission.Delete, Kind: kind(admissionv1.GroupName, "v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"), Name: "y2"}
	require.NoError(t, v.Validate(t.Context(), config), "what cannot be taken away again")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.True(t, apierrors.IsTimeout(v.Validate(ctx, a)))
}

func TestWhatMatches(t *testing.T) {
	b := serve(t, map[string]handler{"/a": deny("asked", 0)})
	rule := func(f func(*admissionv1.RuleWithOperations)) func(*admissionv1.MutatingWebhook) {
		return func(w *admissionv1.MutatingWebhook) { f(&w.Rules[0]) }
	}
	selects := func(k, v string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
	}
	condition := func(s string) func(*admissionv1.MutatingWebhook) {
		return func(w *admissionv1.MutatingWebhook) {
			w.MatchConditions = []admissionv1.MatchCondition{{Name: "c", Expression: s}}
		}
	}
	for name, c := range map[string]struct {
		change func(*admissionv1.MutatingWebhook)
		want   bool
	}{
		"all":             {func(*admissionv1.MutatingWebhook) {}, true},
		"operation":       {rule(func(r *admissionv1.RuleWithOperations) { r.Operations = []admissionv1.OperationType{"CREATE"} }), true},
		"other operation": {rule(func(r *admissionv1.RuleWithOperations) { r.Operations = []admissionv1.OperationType{"UPDATE"} }), false},
		"resource":        {rule(func(r *admissionv1.RuleWithOperations) { r.Resources = []string{"pods"} }), true},
		"subresource":     {rule(func(r *admissionv1.RuleWithOperations) { r.Resources = []string{"pods/status"} }), false},
		"group":           {rule(func(r *admissionv1.RuleWithOperations) { r.APIGroups = []string{"apps"} }), false},
		"version":         {rule(func(r *admissionv1.RuleWithOperations) { r.APIVersions = []string{"v2"} }), false},
		"scope":           {rule(func(r *admissionv1.RuleWithOperations) { r.Scope = ptr.To(admissionv1.ClusterScope) }), false},
		"namespaced":      {rule(func(r *admissionv1.RuleWithOperations) { r.Scope = ptr.To(admissionv1.NamespacedScope) }), true},
		"namespace":       {func(w *admissionv1.MutatingWebhook) { w.NamespaceSelector = selects("team", "a") }, true},
		"other namespace": {func(w *admissionv1.MutatingWebhook) { w.NamespaceSelector = selects("team", "b") }, false},
		"object":          {func(w *admissionv1.MutatingWebhook) { w.ObjectSelector = selects("app", "x") }, true},
		"other object":    {func(w *admissionv1.MutatingWebhook) { w.ObjectSelector = selects("app", "y") }, false},
		"condition":       {condition(`request.userInfo.username == "alice" && object.metadata.labels.app == "x"`), true},
		"other condition": {condition(`object.kind != "Pod"`), false},
		"ignored condition": {func(w *admissionv1.MutatingWebhook) {
			condition("object.x.y")(w)
			w.FailurePolicy = ptr.To(admissionv1.Ignore)
		}, false},
		"authorizer": {condition(`authorizer.group("").resource("pods").check("get").allowed()`), false},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{}
			w.put("namespaces", &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", Labels: map[string]string{"team": "a"}}})
			w.put(validatingResource, validatingConfig("c", b.validating("/a", c.change)))
			_, v := New(Config{Lookup: w})
			a, _ := podRequest(map[string]string{"app": "x"})
			err := v.Validate(t.Context(), a)
			if c.want {
				require.ErrorContains(t, err, "asked")
			} else {
				require.NoError(t, err)
			}
		})
	}
}

// versions has two versions of deployments, which differ in name only.
type versions struct{ of []*kinds.Kind }

func (v versions) Equivalents(*kinds.Kind) []*kinds.Kind { return v.of }

func (v versions) Convert(_ context.Context, o kinds.Object, _, to *kinds.Kind) (kinds.Object, error) {
	o = o.DeepCopyObject().(kinds.Object)
	o.GetObjectKind().SetGroupVersionKind(to.GroupVersionKind)
	o.SetAnnotations(map[string]string{"shown": to.Version})
	return o, nil
}

func TestEquivalent(t *testing.T) {
	b := serve(t, map[string]handler{"/a": patch(`[{"op":"add","path":"/spec/paused","value":true}]`)})
	one, two := kind("apps", "v1", "Deployment", "deployments"), kind("apps", "v2", "Deployment", "deployments")
	w := &world{}
	rule := all()
	rule[0].APIVersions = []string{"v2"}
	exact := func(w *admissionv1.MutatingWebhook) { w.Rules = rule }
	equivalent := func(w *admissionv1.MutatingWebhook) {
		w.Rules, w.MatchPolicy = rule, ptr.To(admissionv1.Equivalent)
	}
	w.put(mutatingResource, mutatingConfig("c", b.mutating("/exact", exact), b.mutating("/a", equivalent)))
	p, _ := New(Config{Lookup: w, Versions: versions{[]*kinds.Kind{one, two}}})
	a := &admission.Attributes{Operation: admission.Update, Kind: one, ObjectKind: one.GroupVersionKind, Namespace: "ns", Name: "d",
		Object: &appsv1.Deployment{}, Old: &appsv1.Deployment{}}
	require.NoError(t, p.Mutate(t.Context(), a))
	require.Equal(t, []string{"/a"}, b.paths())
	require.Equal(t, "v2", b.asked[0].Kind.Version)
	require.Equal(t, "v1", b.asked[0].RequestKind.Version)
	require.Contains(t, string(b.asked[0].OldObject.Raw), `"shown":"v2"`)
	d := a.Object.(*appsv1.Deployment)
	require.True(t, d.Spec.Paused)
	require.Equal(t, "v1", d.Annotations["shown"], "converted back")
}

func TestCustomResource(t *testing.T) {
	b := serve(t, map[string]handler{"/a": patch(`[{"op":"add","path":"/spec","value":{"n":3}}]`)})
	w := &world{}
	w.put(mutatingResource, mutatingConfig("c", b.mutating("/a")))
	p, _ := New(Config{Lookup: w})
	k := kind("example.com", "v1", "Thing", "things")
	o := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": "x"}}}
	o.SetGroupVersionKind(k.GroupVersionKind)
	a := &admission.Attributes{Operation: admission.Create, Kind: k, ObjectKind: k.GroupVersionKind, Object: o}
	require.NoError(t, p.Mutate(t.Context(), a))
	require.Equal(t, int64(3), a.Object.(*unstructured.Unstructured).Object["spec"].(map[string]any)["n"])
	a.Operation, a.Old, a.Object = admission.Delete, o, nil
	require.ErrorContains(t, p.Mutate(t.Context(), a), `admission webhook "a.example.com" attempted to modify the object, which is not supported for this operation`)
}

// fixed is where every service is.
type fixed string

func (f fixed) Resolve(_ context.Context, namespace, service string, port int32) (string, error) {
	if namespace != "hooks" || service != "svc" || port != 8443 {
		return "", errors.New("no such service")
	}
	return string(f), nil
}

func TestService(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"svc.hooks.svc"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		review := &admissionapi.AdmissionReview{}
		_ = json.NewDecoder(r.Body).Decode(review)
		review.Response = &admissionapi.AdmissionResponse{UID: review.Request.UID, Result: &metav1.Status{Message: r.Host + r.URL.Path + " " + r.Proto + " " + review.APIVersion}}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.StartTLS()
	defer s.Close()
	hook := func(port int32) admissionv1.ValidatingWebhook {
		return admissionv1.ValidatingWebhook{
			Name: "a.example.com", Rules: all(), AdmissionReviewVersions: []string{"v0", "v1beta1"},
			ClientConfig: admissionv1.WebhookClientConfig{
				Service:  &admissionv1.ServiceReference{Namespace: "hooks", Name: "svc", Path: ptr.To("/check"), Port: &port},
				CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			},
		}
	}
	w := &world{}
	w.put(validatingResource, validatingConfig("c", hook(8443)))
	_, v := New(Config{Lookup: w, Resolver: fixed(s.Listener.Addr().String())})
	a, _ := podRequest(nil)
	require.EqualError(t, v.Validate(t.Context(), a), `admission webhook "a.example.com" denied the request: svc.hooks.svc:8443/check HTTP/1.1 admission.k8s.io/v1beta1`)
	require.Len(t, v.source.clients.open, 1)
	w.put(validatingResource, validatingConfig("d", hook(443)))
	require.EqualError(t, v.Validate(t.Context(), a), `Internal error occurred: failed calling webhook "a.example.com": failed to call webhook: Post "https://svc.hooks.svc:443/check": no such service`)
	require.Len(t, v.source.clients.open, 1, "the other server is not used any more")
}

func TestDecode(t *testing.T) {
	o, err := decode([]byte(`{"metadata":{"Name":"wrong case","name":"x"}}`), &corev1.Pod{})
	require.NoError(t, err)
	require.Equal(t, "x", o.(*corev1.Pod).Name)
	_, err = decode([]byte(`{"metadata":{}}`), &unstructured.Unstructured{})
	require.Error(t, err, "an object without kind")
}
