package controllers

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// autoscaled is a world with deployments that have scales, and servers of metrics.
type autoscaled struct {
	*world
	scales Scales

	mu      sync.Mutex
	sizes   map[string]int32 // of deployments, and of boats, which are custom resources
	answers map[string]any   // by path and query of the metrics' servers
	refuse  int              // so many updates of scales
}

func (a *autoscaled) PreferredVersion() (schema.GroupVersion, error) {
	return customv1beta2.SchemeGroupVersion, nil
}
func (a *autoscaled) Invalidate() {}

func newAutoscaled(t *testing.T, sizes map[string]int32, objects ...runtime.Object) *autoscaled {
	a := &autoscaled{world: newWorld(t, objects...), sizes: sizes, answers: map[string]any{}}
	c := &scalefake.FakeScaleClient{}
	c.AddReactor("get", "*", func(x clienttesting.Action) (bool, runtime.Object, error) {
		o, err := a.scaleOf(x.(clienttesting.GetAction).GetName())
		return true, o, err
	})
	c.AddReactor("update", "*", func(x clienttesting.Action) (bool, runtime.Object, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		o := x.(clienttesting.UpdateAction).GetObject().(*autoscalingv1.Scale)
		if a.refuse > 0 {
			a.refuse--
			return true, nil, apierrors.NewConflict(x.GetResource().GroupResource(), o.Name, nil)
		}
		a.sizes[o.Name] = o.Spec.Replicas
		return true, o, nil
	})
	boats := schema.GroupVersion{Group: "example.com", Version: "v1"}
	m := meta.NewDefaultRESTMapper([]schema.GroupVersion{appsv1.SchemeGroupVersion, boats, corev1.SchemeGroupVersion})
	m.Add(appsv1.SchemeGroupVersion.WithKind("Deployment"), meta.RESTScopeNamespace)
	m.Add(boats.WithKind("Boat"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Pod"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	a.scales = Scales{Client: c, Mapper: m}
	return a
}

func (a *autoscaled) scaleOf(name string) (*autoscalingv1.Scale, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, ok := a.sizes[name]
	if !ok {
		return nil, apierrors.NewNotFound(appsv1.Resource("deployments"), name)
	}
	s := &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Spec: autoscalingv1.ScaleSpec{Replicas: n}, Status: autoscalingv1.ScaleStatus{Replicas: n, Selector: "app=" + name}}
	if name == "bare" {
		s.Status.Selector = ""
	}
	return s, nil
}

func (a *autoscaled) size(name string) int32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sizes[name]
}

func (a *autoscaled) answer(path string, o any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.answers[path] = o
}

// ServeHTTP is all servers of metrics.
func (a *autoscaled) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	o, ok := a.answers[r.URL.RequestURI()]
	if !ok {
		rw.WriteHeader(http.StatusNotFound)
		o = apierrors.NewNotFound(schema.GroupResource{Resource: "metric"}, r.URL.RequestURI()).Status()
	}
	_ = json.NewEncoder(rw).Encode(o)
}

// start runs the controller. Down is not dampened.
func (a *autoscaled) start() *autoscaler {
	server := httptest.NewServer(a)
	a.t.Cleanup(server.Close)
	config := &rest.Config{Host: server.URL, Transport: server.Client().Transport}
	resources, err := metricsclient.NewForConfig(config)
	require.NoError(a.t, err)
	external, err := external_metrics.NewForConfig(config)
	require.NoError(a.t, err)
	cfg := DefaultAutoscaler()
	cfg.Every, cfg.DownStabilization = 10*time.Millisecond, 0
	m := PodMetrics{Resources: resources, Custom: custom_metrics.NewForConfig(config, a.scales.Mapper, a), External: external, Versions: a, Mapper: a.scales.Mapper}
	c, err := NewHorizontalPodAutoscaler(a.client, a.scales, m, a.factory, a.events, clock.Real, nil, cfg)
	require.NoError(a.t, err)
	a.run(c)
	return c.(*autoscaler)
}

func hpa(name, target string, metrics ...autoscalingv2.MetricSpec) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Generation: 1, ResourceVersion: "1"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: target},
			MinReplicas:    ptr.To[int32](1), MaxReplicas: 10, Metrics: metrics,
		},
	}
}

func (a *autoscaled) hpa(name string) *autoscalingv2.HorizontalPodAutoscaler {
	o, err := a.client.AutoscalingV2().HorizontalPodAutoscalers("ns").Get(a.ctx, name, metav1.GetOptions{})
	require.NoError(a.t, err)
	return o
}

// conditions writes them as type=status(reason).
func conditions(o *autoscalingv2.HorizontalPodAutoscaler) (out []string) {
	for _, c := range o.Status.Conditions {
		out = append(out, fmt.Sprintf("%s=%s(%s)", c.Type, c.Status, c.Reason))
	}
	slices.Sort(out)
	return out
}

// becomes waits for a condition.
func (a *autoscaled) becomes(name, condition string) *autoscalingv2.HorizontalPodAutoscaler {
	a.t.Helper()
	var o *autoscalingv2.HorizontalPodAutoscaler
	eventually(a.t, func() error {
		if o = a.hpa(name); !slices.Contains(conditions(o), condition) {
			return fmt.Errorf("%s: %s is not among %v", name, condition, conditions(o))
		}
		return nil
	})
	return o
}

// told waits for an event.
func (a *autoscaled) told(part string) {
	a.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case e := <-a.events.Events:
			if strings.Contains(e, part) {
				return
			}
		case <-timeout:
			require.FailNow(a.t, "no event", part)
		}
	}
}

func scaledPod(name, app string) *corev1.Pod {
	began := metav1.NewTime(time.Now().Add(-time.Hour))
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &began, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: began},
		}},
	}
}

func podUse(cpu string, names ...string) *metricsv1beta1.PodMetricsList {
	l := &metricsv1beta1.PodMetricsList{TypeMeta: metav1.TypeMeta{APIVersion: "metrics.k8s.io/v1beta1", Kind: "PodMetricsList"}}
	for _, name := range names {
		l.Items = append(l.Items, metricsv1beta1.PodMetrics{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}, Timestamp: metav1.Now(), Window: metav1.Duration{Duration: 15 * time.Second},
			Containers: []metricsv1beta1.ContainerMetrics{{Name: "c", Usage: corev1.ResourceList{"cpu": resource.MustParse(cpu)}}, {Name: "side", Usage: corev1.ResourceList{"cpu": resource.MustParse("0")}}},
		})
	}
	return l
}

func cpuMetric(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: "cpu", Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

const (
	podMetrics   = "/apis/metrics.k8s.io/v1beta1/namespaces/ns/pods?labelSelector=app%3Dd"
	queueMetric  = "/apis/external.metrics.k8s.io/v1beta1/namespaces/ns/queue?labelSelector=name%3Din"
	qpsMetric    = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/pods/%2A/qps?labelSelector=app%3Dd"
	boatMetric   = "/apis/custom.metrics.k8s.io/v1beta2/namespaces/ns/boats.example.com/b/waves"
	nodeMetric   = "/apis/custom.metrics.k8s.io/v1beta2/nodes/n/load"
	allAreFound  = "ScalingActive=True(ValidMetricFound)"
	hasBeenDone  = "AbleToScale=True(SucceededRescale)"
	nothingToDo  = "AbleToScale=True(ReadyForNewScale)"
	withinBounds = "ScalingLimited=False(DesiredWithinRange)"
)

// TestAutoscalerFollowsCPU: a deployment grows with what its pods use, and its autoscaler says so.
func TestAutoscalerFollowsCPU(t *testing.T) {
	a := newAutoscaled(t, map[string]int32{"d": 2}, hpa("a", "d", cpuMetric(50)), scaledPod("p0", "d"), scaledPod("p1", "d"))
	a.answer(podMetrics, podUse("700m", "p0", "p1"))
	a.refuse = 2 // somebody else writes at the same time
	a.start()
	eventually(t, func() error {
		if n := a.size("d"); n != 3 {
			return fmt.Errorf("size %d", n)
		}
		return nil
	})
	a.told("Normal SuccessfulRescale New size: 3; reason: cpu resource utilization (percentage of request) above target")
	a.answer(podMetrics, podUse("500m", "p0", "p1")) // which is what is wanted of them, had they been three
	o := a.becomes("a", nothingToDo)
	require.Equal(t, []string{nothingToDo, "ScaledToZero=False(NotScaledToZero)", allAreFound, withinBounds}, conditions(o))
	require.EqualValues(t, 3, o.Status.CurrentReplicas)
	require.EqualValues(t, 3, o.Status.DesiredReplicas)
	require.EqualValues(t, 1, *o.Status.ObservedGeneration)
	require.NotNil(t, o.Status.LastScaleTime)
	require.EqualValues(t, 50, *o.Status.CurrentMetrics[0].Resource.Current.AverageUtilization)

	a.answer(podMetrics, podUse("100m"))
	a.told("Warning FailedGetResourceMetric failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API")
	a.told("Warning FailedComputeMetricsReplicas invalid metrics (1 invalid out of 1), first error is: ")
	o = a.becomes("a", "ScalingActive=False(FailedGetResourceMetric)")
	require.EqualValues(t, 3, o.Status.DesiredReplicas)
}

// TestAutoscalerMetrics: metrics of every kind are read.
func TestAutoscalerMetrics(t *testing.T) {
	quantity := func(s string) *resource.Quantity { return ptr.To(resource.MustParse(s)) }
	value := func(s string) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: quantity(s)}
	}
	average := func(s string) autoscalingv2.MetricTarget {
		return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: quantity(s)}
	}
	custom := func(names ...string) *customv1beta2.MetricValueList {
		l := &customv1beta2.MetricValueList{TypeMeta: metav1.TypeMeta{APIVersion: "custom.metrics.k8s.io/v1beta2", Kind: "MetricValueList"}}
		for _, name := range names {
			l.Items = append(l.Items, customv1beta2.MetricValue{DescribedObject: corev1.ObjectReference{Name: name}, Value: resource.MustParse("30"), Timestamp: metav1.Now()})
		}
		return l
	}
	object := func(version, kind, name, metric string) autoscalingv2.MetricSpec {
		return autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: version, Kind: kind, Name: name}, Metric: autoscalingv2.MetricIdentifier{Name: metric}, Target: value("10"),
		}}
	}
	external := autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "queue", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "in"}}}, Target: average("10"),
	}}
	container := autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{
		Name: "cpu", Container: "c", Target: average("200m"),
	}}
	qps := autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "qps"}, Target: average("10")}}
	for name, c := range map[string]struct {
		metric autoscalingv2.MetricSpec
		path   string
		answer any
		want   int32 // from two
	}{
		"Pods":             {qps, qpsMetric, custom("p0", "p1"), 6},
		"Object":           {object("example.com/v1", "Boat", "b", "waves"), boatMetric, custom("b"), 6},
		"Object, root":     {object("v1", "Node", "n", "load"), nodeMetric, custom("n"), 6},
		"External":         {external, queueMetric, &externalv1beta1.ExternalMetricValueList{Items: []externalv1beta1.ExternalMetricValue{{Value: resource.MustParse("30")}, {Value: resource.MustParse("20")}}}, 5},
		"of one container": {container, podMetrics, podUse("400m", "p0", "p1"), 4},
	} {
		t.Run(name, func(t *testing.T) {
			o := hpa("a", "d", c.metric)
			o.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{Policies: []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: 9, PeriodSeconds: 1800}}}}
			a := newAutoscaled(t, map[string]int32{"d": 2}, o, scaledPod("p0", "d"), scaledPod("p1", "d"))
			a.answer(c.path, c.answer)
			a.start()
			a.told(fmt.Sprintf("Normal SuccessfulRescale New size: %d;", c.want))
		})
	}
}

// TestAutoscalerSleeps: without work there are no pods; with work there are some again, but not if somebody else has stopped it.
func TestAutoscalerSleeps(t *testing.T) {
	external := autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "queue", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"name": "in"}}},
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("10"))},
	}}
	o := hpa("a", "d", external)
	o.Spec.MinReplicas = ptr.To[int32](0)
	o.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Boat", Name: "d"}
	a := newAutoscaled(t, map[string]int32{"d": 1}, o, scaledPod("p0", "d"))
	queue := func(n string) {
		a.answer(queueMetric, &externalv1beta1.ExternalMetricValueList{Items: []externalv1beta1.ExternalMetricValue{{Value: resource.MustParse(n)}}})
	}
	queue("0")
	a.start()
	a.becomes("a", "ScaledToZero=True(ScaledToZero)")
	require.Zero(t, a.size("d"))
	queue("25")
	a.becomes("a", "ScaledToZero=False(NotScaledToZero)")
	require.EqualValues(t, 3, a.size("d"))
	a.mu.Lock()
	a.sizes["d"] = 0
	a.mu.Unlock()
	a.becomes("a", "ScalingActive=False(ScalingDisabled)")
	require.Zero(t, a.size("d"))
}

// TestAutoscalerErrors: what is wrong is said.
func TestAutoscalerErrors(t *testing.T) {
	odd := hpa("odd", "x", cpuMetric(50))
	odd.Spec.ScaleTargetRef.Kind = "Odd"
	a := newAutoscaled(t, map[string]int32{"bare": 1}, hpa("none", "nothing", cpuMetric(50)), hpa("bare", "bare", cpuMetric(50)), odd)
	c := a.start()
	require.Contains(t, a.becomes("none", "AbleToScale=False(FailedGetScale)").Status.Conditions[0].Message, `deployments.apps "nothing" not found`)
	a.becomes("odd", "AbleToScale=False(FailedGetScale)")
	a.becomes("bare", "ScalingActive=False(InvalidSelector)")
	a.told("Warning SelectorRequired selector is required")
	require.NoError(t, a.client.AutoscalingV2().HorizontalPodAutoscalers("ns").Delete(t.Context(), "bare", metav1.DeleteOptions{}))
	eventually(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.known) != 2 {
			return fmt.Errorf("%d are known", len(c.known))
		}
		return nil
	})
}

// TestAutoscalersOfTheSamePods: nothing is done until there is one only.
func TestAutoscalersOfTheSamePods(t *testing.T) {
	a := newAutoscaled(t, map[string]int32{"d": 1}, hpa("a", "d", cpuMetric(50)), hpa("b", "d", cpuMetric(10)), scaledPod("p0", "d"))
	a.answer(podMetrics, podUse("500m", "p0"))
	a.start()
	a.becomes("a", "ScalingActive=False(AmbiguousSelector)")
	a.becomes("b", "ScalingActive=False(AmbiguousSelector)")
	a.told("Warning AmbiguousSelector pods by selector app=d are controlled by multiple HPAs: [ns/a ns/b]")
	require.NoError(t, a.client.AutoscalingV2().HorizontalPodAutoscalers("ns").Delete(t.Context(), "b", metav1.DeleteOptions{}))
	a.becomes("a", allAreFound)
}
