package aggregate

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// services are one service, with what is behind it.
type services struct {
	service *corev1.Service
	slices  []*discoveryv1.EndpointSlice
	address string // of an endpoint
	err     error
}

func (s *services) Resolve(context.Context, string, string, int32) (string, error) {
	if s.address == "" {
		return "", errors.New("no endpoints available")
	}
	return s.address, nil
}

func (s *services) Service(_ context.Context, _, name string) (*corev1.Service, error) {
	if s.service == nil && s.err == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "services"}, name)
	}
	return s.service, s.err
}

func (s *services) Slices(context.Context, string, string) ([]*discoveryv1.EndpointSlice, error) {
	return s.slices, s.err
}

// objects are APIServices, of which the Aggregator is told as a follower would tell it.
type objects struct {
	mu  sync.Mutex
	all map[string]*apiregistrationv1.APIService
	to  *Aggregator
}

func (s *objects) Create(_ context.Context, o *apiregistrationv1.APIService) error {
	o = o.DeepCopy()
	o.UID = types.UID(o.Name)
	s.put(o)
	return nil
}

func (s *objects) put(o *apiregistrationv1.APIService) {
	s.mu.Lock()
	s.all[o.Name] = o
	s.mu.Unlock()
	s.to.Set(o)
}

func (s *objects) get(name string) *apiregistrationv1.APIService {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[name].DeepCopy()
}

func (s *objects) Update(_ context.Context, name string, change func(*apiregistrationv1.APIService) bool) error {
	o := s.get(name)
	if o == nil {
		return apierrors.NewNotFound(schema.GroupResource{}, name)
	}
	if change(o) {
		s.put(o)
	}
	return nil
}

func (s *objects) UpdateStatus(ctx context.Context, name string, change func(*apiregistrationv1.APIService) bool) error {
	return s.Update(ctx, name, change)
}

func (s *objects) Delete(_ context.Context, o *apiregistrationv1.APIService) error {
	s.mu.Lock()
	delete(s.all, o.Name)
	s.mu.Unlock()
	s.to.Remove(o)
	return nil
}

func newAggregator(t *testing.T, s *services, local map[schema.GroupVersion]bool) (*Aggregator, *objects) {
	o := &objects{all: map[string]*apiregistrationv1.APIService{}}
	var err error
	o.to, err = New(Config{
		Registerer: prometheus.NewRegistry(), Services: s, Objects: o, Local: func() map[schema.GroupVersion]bool { return local },
		Fail: func(w http.ResponseWriter, _ *http.Request, err error) {
			code := http.StatusInternalServerError
			var status apierrors.APIStatus
			if errors.As(err, &status) {
				code = int(status.Status().Code)
			}
			http.Error(w, err.Error(), code)
		},
	})
	require.NoError(t, err)
	return o.to, o
}

func run(t *testing.T, a *Aggregator) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

func remoteService(uid string) *apiregistrationv1.APIService {
	port := int32(8443)
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1.ext.example", UID: types.UID(uid)},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: "ext.example", Version: "v1", GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: "d", Name: "s", Port: &port},
		},
	}
}

func TestLook(t *testing.T) {
	answer := http.StatusOK
	body := `{"kind":"APIResourceList","resources":[{"name":"things"}]}`
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/apis/ext.example/v1" || r.Header.Get("X-Remote-User") != "system:kube-aggregator" {
			answer = http.StatusForbidden
		}
		w.WriteHeader(answer)
		_, _ = w.Write([]byte(body))
	}))
	defer srv.Close()
	name, ready := "https", false
	svc := &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: []corev1.ServicePort{{Name: name, Port: 8443}}}}
	slice := func(port string, conditions discoveryv1.EndpointConditions) []*discoveryv1.EndpointSlice {
		return []*discoveryv1.EndpointSlice{{
			Ports: []discoveryv1.EndpointPort{{Name: &port}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, Conditions: conditions}},
		}}
	}
	other := svc.DeepCopy()
	other.Spec.Ports[0].Port = 1
	good := slice(name, discoveryv1.EndpointConditions{})
	at := srv.Listener.Addr().String()
	for _, c := range []struct {
		services services
		status   apiregistrationv1.ConditionStatus
		reason   string
	}{
		{services{}, "False", "ServiceNotFound"},
		{services{err: errors.New("broken")}, "Unknown", "ServiceAccessError"},
		{services{service: other}, "False", "ServicePortError"},
		{services{service: svc}, "False", "EndpointsNotFound"},
		{services{service: svc, slices: slice("other", discoveryv1.EndpointConditions{})}, "False", "MissingEndpoints"},
		{services{service: svc, slices: slice(name, discoveryv1.EndpointConditions{Ready: &ready})}, "False", "MissingEndpoints"},
		{services{service: svc, slices: good}, "False", "FailedDiscoveryCheck"},
		{services{service: svc, slices: good, address: at}, "True", "Passed"},
		{services{service: &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}, address: at}, "True", "Passed"},
	} {
		a, _ := newAggregator(t, &c.services, nil)
		r := a.newRemote(remoteService("1"))
		found, resources := a.look(t.Context(), r)
		r.close()
		require.Equal(t, c.status, found.Status, found)
		require.Equal(t, c.reason, found.Reason, found)
		require.Equal(t, c.reason == "Passed", resources != nil)
	}
	a, _ := newAggregator(t, &services{service: svc, slices: good, address: at}, nil)
	o := remoteService("1")
	o.Spec.InsecureSkipTLSVerify = false
	r := a.newRemote(o)
	found, _ := a.look(t.Context(), r)
	r.close()
	require.Equal(t, "FailedDiscoveryCheck", found.Reason, "nobody knows who signed the certificate")
	o.Spec.CABundle = []byte("nonsense")
	found, _ = a.look(t.Context(), a.newRemote(o))
	require.Contains(t, found.Message, "caBundle")
}

// What is served here is registered once, what comes and goes always; what others have made is left alone.
func TestRegister(t *testing.T) {
	gv := func(group, version string) schema.GroupVersion {
		return schema.GroupVersion{Group: group, Version: version}
	}
	local := map[schema.GroupVersion]bool{gv("apps", "v1"): false, gv("shop.example", "v1"): true, gv("apiregistration.k8s.io", "v1"): false}
	a, o := newAggregator(t, &services{}, local)
	mine := &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.mine.example"}, Spec: apiregistrationv1.APIServiceSpec{Group: "mine.example", Version: "v1"}}
	o.put(mine)
	stale := mine.DeepCopy()
	stale.Name, stale.Labels = "v1.stale.example", map[string]string{automanaged: onStart}
	o.put(stale)
	names := func() []string {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.names()
	}
	require.NoError(t, a.register(t.Context()))
	require.Equal(t, []string{"v1.apps", "v1.mine.example", "v1.shop.example"}, names())
	require.Equal(t, "Local", helper.GetAPIServiceConditionByType(o.get("v1.mine.example"), apiregistrationv1.Available).Reason)
	require.EqualValues(t, 17800, o.get("v1.apps").Spec.GroupPriorityMinimum)

	require.NoError(t, o.Delete(t.Context(), o.get("v1.apps")))
	delete(local, gv("shop.example", "v1"))
	require.NoError(t, a.register(t.Context()))
	require.Equal(t, []string{"v1.mine.example"}, names(), "what is registered at the start is not made again")
}

func TestRoutes(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Path", r.URL.EscapedPath())
		_, _ = w.Write([]byte(`{"resources":[]}`))
	}))
	defer srv.Close()
	a, o := newAggregator(t, &services{service: &corev1.Service{Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName}}, address: srv.Listener.Addr().String()}, nil)
	o.put(remoteService("1"))
	own := remoteService("2")
	own.Name, own.Spec.Group = "v1.apiregistration.k8s.io", "apiregistration.k8s.io"
	o.put(own)
	run(t, a)
	next := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "here", http.StatusTeapot) })
	ask := func(path string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		w := httptest.NewRecorder()
		a.Handler(next).ServeHTTP(w, r.WithContext(request.WithUser(r.Context(), &request.User{Name: "jane"})))
		return w
	}
	require.Eventually(t, func() bool { return ask("/apis/ext.example/v1").Code == http.StatusOK }, 30*time.Second, time.Millisecond)
	require.Equal(t, "/apis/ext.example/v1/things/a/b", ask("/apis/ext.example/v1/things/a%2Fb").Header().Get("X-Path"), "the path that was authorized")
	for _, path := range []string{"/", "/api/v1/pods", "/apis", "/apis/ext.example", "/apis/ext.example/v2/things", "/apis/apiregistration.k8s.io/v1/apiservices", "/openapi/v3", "/openapi/v3/apis/ext.example/v1/things"} {
		require.Equal(t, http.StatusTeapot, ask(path).Code, path)
	}
	require.Equal(t, http.StatusOK, ask("/openapi/v3/apis/ext.example/v1").Code)

	for _, path := range []string{"/apis/ext.example/v1/../v2/things", "/apis/ext.example/v1/./things", "/apis/ext.example/v1/%2e%2e/v2/things"} {
		require.Equal(t, http.StatusBadRequest, ask(path).Code, path)
	}

	// Another object of the same name is another server, of which nothing is known yet.
	again := remoteService("3")
	again.Spec.CABundle, again.Spec.InsecureSkipTLSVerify = []byte("nonsense"), false
	o.put(again)
	require.Equal(t, http.StatusInternalServerError, ask("/apis/ext.example/v1").Code)
	o.to.Remove(again)
	require.Equal(t, http.StatusTeapot, ask("/apis/ext.example/v1").Code)
}

func TestMetrics(t *testing.T) {
	a, o := newAggregator(t, &services{}, nil)
	s := remoteService("1")
	condition := func(status apiregistrationv1.ConditionStatus) {
		s = s.DeepCopy()
		helper.SetAPIServiceCondition(s, apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: status, Reason: "Tested"})
		o.put(s)
	}
	o.put(s)
	down := a.metrics.down.WithLabelValues(s.Name)
	falls := a.metrics.falls.WithLabelValues(s.Name, "Tested")
	require.Equal(t, 1.0, testutil.ToFloat64(down))
	condition(apiregistrationv1.ConditionFalse)
	require.Zero(t, testutil.ToFloat64(falls), "it was never available")
	condition(apiregistrationv1.ConditionTrue)
	require.Zero(t, testutil.ToFloat64(down))
	condition(apiregistrationv1.ConditionUnknown)
	condition(apiregistrationv1.ConditionFalse)
	require.Equal(t, 1.0, testutil.ToFloat64(down))
	require.Equal(t, 1.0, testutil.ToFloat64(falls))
	a.Remove(s)
	require.Zero(t, testutil.CollectAndCount(a.metrics.down))
}

func TestTrust(t *testing.T) {
	trust := Trust{ClientAuthorities: []byte("A\n"), Authority: []byte("F\n"), Name: "front"}
	one := trust.Data(nil)
	require.Equal(t, map[string]string{
		"client-ca-file": "A\n", "requestheader-client-ca-file": "F\n", "requestheader-allowed-names": `["front"]`,
		"requestheader-username-headers": `["X-Remote-User"]`, "requestheader-uid-headers": `["X-Remote-Uid"]`,
		"requestheader-group-headers": `["X-Remote-Group"]`, "requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}, one)
	require.Equal(t, one, trust.Data(one))
	two := Trust{ClientAuthorities: []byte("B\n")}.Data(map[string]string{"client-ca-file": "A"})
	require.Equal(t, map[string]string{"client-ca-file": "A\nB\n"}, two, "what another server has put there stays")
	require.Empty(t, Trust{}.Data(nil))
}
