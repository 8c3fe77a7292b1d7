package cluster_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
	"github.com/keelson-io/keelson/orchestrator/controllers"
)

// queueLength is an API server of external.metrics.k8s.io with one metric.
type queueLength struct{ atomic.Int64 }

func (q *queueLength) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	var o any
	switch {
	case r.URL.Path == "/apis/external.metrics.k8s.io/v1beta1":
		o = metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "external.metrics.k8s.io/v1beta1",
			APIResources: []metav1.APIResource{{Name: "queue", Namespaced: true, Kind: "ExternalMetricValueList", Verbs: []string{"get"}}},
		}
	case r.URL.Query().Get("labelSelector") == "topic=in":
		o = externalv1beta1.ExternalMetricValueList{
			TypeMeta: metav1.TypeMeta{Kind: "ExternalMetricValueList", APIVersion: "external.metrics.k8s.io/v1beta1"},
			Items:    []externalv1beta1.ExternalMetricValue{{MetricName: "queue", Timestamp: metav1.Now(), Value: *resource.NewQuantity(q.Load(), resource.DecimalSI)}},
		}
	default:
		http.NotFound(w, r)
		return
	}
	_ = json.NewEncoder(w).Encode(o)
}

// serve makes the cluster know the server.
func (q *queueLength) serve(t *testing.T, c *clustertest.Cluster) {
	srv := httptest.NewTLSServer(q)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	_, text, err := net.SplitHostPort(srv.Listener.Addr().String())
	require.NoError(t, err)
	port, err := strconv.ParseInt(text, 10, 32)
	require.NoError(t, err)
	_, err = c.Client(t, nil).CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "queue"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	services, err := aggregator.NewForConfig(c.Config)
	require.NoError(t, err)
	_, err = services.APIServices().Create(t.Context(), &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1beta1.external.metrics.k8s.io"}, Spec: apiregistrationv1.APIServiceSpec{
			Group: "external.metrics.k8s.io", Version: "v1beta1", GroupPriorityMinimum: 100, VersionPriority: 100, InsecureSkipTLSVerify: true,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: "queue", Port: ptr.To(int32(port))},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// fleets are objects of a custom resource with a scale.
func fleets() *apiextensionsv1.CustomResourceDefinition {
	open := true
	return &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: "fleets.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
		Group: "example.com", Scope: apiextensionsv1.NamespaceScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "fleets", Kind: "Fleet"},
		Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
			Name: "v1", Served: true, Storage: true,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &open}},
			Subresources: &apiextensionsv1.CustomResourceSubresources{Scale: &apiextensionsv1.CustomResourceSubresourceScale{
				SpecReplicasPath: ".spec.boats", StatusReplicasPath: ".status.boats", LabelSelectorPath: ptr.To(".status.selector"),
			}},
		}},
	}}
}

// TestAutoscaling: a custom resource with a scale follows a metric that another API server serves: to nothing, and back.
func TestAutoscaling(t *testing.T) {
	loops := cluster.Loops{Autoscaler: controllers.DefaultAutoscaler()}
	loops.Autoscaler.Every, loops.Autoscaler.DownStabilization = 100*time.Millisecond, 0
	c := clustertest.Start(t, func(o *cluster.Options) { o.Loops.Autoscaler = loops.Autoscaler })
	queue := &queueLength{}
	queue.Store(25)
	queue.serve(t, c)
	_, err := c.Extensions(t).ApiextensionsV1().CustomResourceDefinitions().Create(t.Context(), fleets(), metav1.CreateOptions{})
	require.NoError(t, err)
	ns := c.Namespace(t)
	of := c.Dynamic(t).Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "fleets"}).Namespace(ns)
	require.Eventually(t, func() bool {
		_, err = of.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "example.com/v1", "kind": "Fleet", "metadata": map[string]any{"name": "f"},
			"spec": map[string]any{"boats": int64(1)}, "status": map[string]any{"boats": int64(1), "selector": "fleet=f"},
		}}, metav1.CreateOptions{})
		return err == nil
	}, time.Minute, 20*time.Millisecond, "%v", &err)
	autoscalers := c.Client(t, nil).AutoscalingV2().HorizontalPodAutoscalers(ns)
	_, err = autoscalers.Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Fleet", Name: "f"}, MinReplicas: ptr.To[int32](0), MaxReplicas: 9,
		Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: "queue", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"topic": "in"}}},
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewQuantity(10, resource.DecimalSI)},
		}}},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
	becomes := func(boats int64) {
		t.Helper()
		var now string
		require.Eventually(t, func() bool {
			f, err := of.Get(t.Context(), "f", metav1.GetOptions{})
			require.NoError(t, err)
			n, _, err := unstructured.NestedInt64(f.Object, "spec", "boats")
			require.NoError(t, err)
			a, err := autoscalers.Get(t.Context(), "a", metav1.GetOptions{})
			require.NoError(t, err)
			now = fmt.Sprintf("%d: %+v", n, a.Status)
			return n == boats && int64(a.Status.DesiredReplicas) == boats
		}, time.Minute, 20*time.Millisecond, "%s", &now)
	}
	becomes(3)
	queue.Store(0)
	becomes(0)
	queue.Store(100)
	becomes(9)
}
