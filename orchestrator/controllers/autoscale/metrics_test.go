package autoscale

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// pod makes a pod that requests 1000m of processors, has run for an hour, and is ready.
func pod(i int, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i)}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1")}}}}
	began := metav1.NewTime(noon.Add(-time.Hour))
	p.Status = corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &began, Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: began},
	}}
	for _, f := range change {
		f(p)
	}
	return p
}

func pending(p *corev1.Pod) { p.Status.Phase, p.Status.Conditions = corev1.PodPending, nil }
func failed(p *corev1.Pod)  { p.Status.Phase = corev1.PodFailed }
func deleted(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: noon} }

// readySince makes a pod that was started some time ago and became ready, or not ready, some time ago.
func readySince(started, changed time.Duration, ready corev1.ConditionStatus) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.StartTime = &metav1.Time{Time: noon.Add(-started)}
		p.Status.Conditions[0] = corev1.PodCondition{Type: corev1.PodReady, Status: ready, LastTransitionTime: metav1.NewTime(noon.Add(-changed))}
	}
}

// usage are samples of pods, in thousandths; a negative one was not measured. They were made a second ago, over 30 s.
func usage(values ...int64) Reading {
	r := Reading{Pods: map[string]Sample{}}
	for i, v := range values {
		if v >= 0 {
			r.Pods[fmt.Sprintf("p%d", i)] = Sample{Value: v, At: noon.Add(-time.Second), Window: 30 * time.Second}
		}
	}
	return r
}

func cpuUse(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
	}}
}

func podsMetric(average string) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "qps"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse(average))},
	}}
}

func external(value, average string) autoscalingv2.MetricSpec {
	t := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType}
	if value != "" {
		t.Value = ptr.To(resource.MustParse(value))
	} else {
		t.Type, t.AverageValue = autoscalingv2.AverageValueMetricType, ptr.To(resource.MustParse(average))
	}
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "queue"}, Target: t,
	}}
}

func pods(all ...*corev1.Pod) []*corev1.Pod { return all }

// TestProposals: what one metric wants.
func TestProposals(t *testing.T) {
	three := pods(pod(0), pod(1), pod(2))
	young := readySince(time.Minute, 10*time.Second, corev1.ConditionTrue)                 // the window of its sample began before it was ready
	youngUnready := readySince(time.Minute, 10*time.Second, corev1.ConditionFalse)         // within the time of its start
	neverReady := readySince(time.Hour, time.Hour-10*time.Second, corev1.ConditionFalse)   // and the time of its start is over
	unreadyAgain := readySince(time.Hour, time.Hour-10*time.Minute, corev1.ConditionFalse) // it was ready once: its use counts
	sinceLong := readySince(2*time.Minute, 90*time.Second, corev1.ConditionTrue)           // measured wholly after it became ready
	noRequest := func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = nil }     // its utilization cannot be known
	wholePod := func(p *corev1.Pod) {
		noRequest(p)
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}}
	}
	sidecar := func(p *corev1.Pod) {
		s := p.Spec.Containers[0]
		s.Name, s.RestartPolicy = "s", ptr.To(corev1.ContainerRestartPolicyAlways)
		p.Spec.InitContainers = []corev1.Container{{Name: "init"}, s}
	}
	container := cpuUse(50)
	container.Type, container.ContainerResource, container.Resource = autoscalingv2.ContainerResourceMetricSourceType, &autoscalingv2.ContainerResourceMetricSource{
		Name: corev1.ResourceCPU, Container: "s", Target: container.Resource.Target,
	}, nil
	amount := cpuUse(1)
	amount.Resource.Target = autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: ptr.To(resource.MustParse("200m"))}
	object := autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
		DescribedObject: autoscalingv2.CrossVersionObjectReference{Kind: "Ingress", Name: "i"}, Metric: autoscalingv2.MetricIdentifier{Name: "hits"},
		Target: external("10", "").External.Target,
	}}
	for name, c := range map[string]struct {
		metric  autoscalingv2.MetricSpec
		reading Reading
		pods    []*corev1.Pod
		now     int32 // wanted at present; 0: as many as there are pods
		want    string
	}{
		"grows by the ratio":                              {cpuUse(30), usage(300, 500, 700), three, 0, "5"},
		"shrinks by the ratio":                            {cpuUse(50), usage(100, 300, 200), three, 0, "2"},
		"within the tolerance":                            {cpuUse(100), usage(1010, 1030, 1020), three, 0, "3"},
		"at the edge of the tolerance":                    {cpuUse(100), usage(1100, 1100, 1100), three, 0, "3"},
		"just outside of it":                              {cpuUse(100), usage(1110, 1110, 1110), three, 0, "4"},
		"to nothing measured nothing":                     {cpuUse(50), usage(0, 0, 0), three, 0, "0"},
		"a missing one is idle when it grows":             {cpuUse(50), usage(1000, 1000, -1), three, 0, "4"},
		"and busy when it shrinks":                        {cpuUse(50), usage(100, 100, -1), three, 0, "3"},
		"busy means at least its request":                 {cpuUse(40), usage(100, 100, -1), three, 0, "3"},
		"a missing one does not turn the direction":       {cpuUse(60), usage(700, 700, -1), three, 0, "3"},
		"fewer pods than are wanted do not let it shrink": {cpuUse(50), usage(900, 900, -1), three, 5, "5"},
		"pending ones are idle when it grows":             {cpuUse(30), usage(300, 500, -1), pods(pod(0), pod(1), pod(2, pending)), 0, "3"},
		"pending ones do not keep it from shrinking":      {cpuUse(50), usage(100, 100, -1), pods(pod(0), pod(1), pod(2, pending)), 0, "1"},
		"failed and deleted ones are none":                {cpuUse(50), usage(900, 500, 10), pods(pod(0), pod(1, failed), pod(2, deleted)), 1, "2"},
		"a starting one is not ready":                     {cpuUse(50), usage(600, 5000), pods(pod(0), pod(1, young)), 0, "2"},
		"nor is an unready one that starts":               {cpuUse(50), usage(600, 5000), pods(pod(0), pod(1, youngUnready)), 0, "2"},
		"nor one that was never ready":                    {cpuUse(50), usage(600, 5000), pods(pod(0), pod(1, neverReady)), 0, "2"},
		"one that was ready once counts":                  {cpuUse(50), usage(600, 900), pods(pod(0), pod(1, unreadyAgain)), 0, "3"},
		"one measured since it was ready counts":          {cpuUse(50), usage(600, 900), pods(pod(0), pod(1, sinceLong)), 0, "3"},
		"no pod is ready":                                 {cpuUse(50), usage(600), pods(pod(0, young)), 0, "failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)"},
		"no request":                                      {cpuUse(50), usage(600), pods(pod(0, noRequest)), 0, "failed to get cpu utilization: missing request for cpu in container c of Pod p0"},
		"the request of the whole pod":                    {cpuUse(50), usage(2000), pods(pod(0, wholePod)), 0, "2"},
		"a sidecar requests too":                          {cpuUse(50), usage(2000), pods(pod(0, sidecar)), 0, "2"},
		"one container":                                   {container, usage(2000), pods(pod(0, sidecar)), 0, "4"},
		"of which there is none":                          {container, usage(2000), pods(pod(0)), 0, "failed to get cpu utilization: container s not found in Pod p0"},
		"no pods":                                         {cpuUse(50), usage(600), nil, 1, "failed to get cpu utilization: no pods returned by selector while calculating replica count"},
		"it could not be read":                            {cpuUse(50), Reading{Err: errors.New("why")}, three, 0, "failed to get cpu utilization: unable to get metrics for resource cpu: why"},
		"an amount":                                       {amount, usage(400, 400, 400), three, 0, "6"},
		"an amount, missing when it grows":                {amount, usage(400, 400, -1), three, 0, "4"},
		"an amount, missing when it shrinks":              {amount, usage(50, 50, -1), three, 0, "2"},
		"missing at just the target":                      {amount, usage(200, 200, -1), three, 0, "3"},
		"a metric of pods":                                {podsMetric("10"), usage(20000, 20000, 20000), three, 0, "6"},
		"readiness is of processors only":                 {podsMetric("10"), usage(20000, 40000), pods(pod(0), pod(1, young)), 0, "6"},
		"a metric of pods is wrong":                       {podsMetric("10"), Reading{Err: errors.New("why")}, three, 0, "unable to get metric qps: why"},
		"an external value":                               {external("10", ""), Reading{Value: 20000}, three, 0, "6"},
		"only ready pods count for it":                    {external("10", ""), Reading{Value: 20000}, pods(pod(0), pod(1, pending)), 0, "2"},
		"within its tolerance":                            {external("10", ""), Reading{Value: 10500}, three, 0, "3"},
		"an external value of no pods":                    {external("10", ""), Reading{Value: 25000}, nil, 0, "3"},
		"an external value for each":                      {external("", "10"), Reading{Value: 85000}, three, 0, "9"},
		"within its tolerance, for each":                  {external("", "10"), Reading{Value: 32000}, three, 0, "3"},
		"for each of none":                                {external("", "10"), Reading{Value: 25000}, nil, 0, "3"},
		"nothing for each of none":                        {external("", "10"), Reading{}, nil, 0, "0"},
		"an external metric is wrong":                     {external("", "10"), Reading{Err: errors.New("why")}, three, 0, "unable to get external metric queue: why"},
		"of an object":                                    {object, Reading{Value: 20000}, three, 0, "6"},
		"an object's metric is wrong":                     {object, Reading{Err: errors.New("why")}, three, 0, "unable to get metric hits: Ingress on i: why"},
		"what is it?":                                     {autoscalingv2.MetricSpec{Type: "Odd"}, Reading{}, three, 0, `unknown metric source type "Odd"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := DefaultSettings()
			now := c.now
			if now == 0 {
				now = int32(len(c.pods))
			}
			calc := calc{Settings: s, tolerance: s.tolerance(nil), target: Target{Replicas: now, Running: int32(len(c.pods)), Pods: c.pods}, now: noon}
			p := calc.propose(&c.metric, c.reading)
			got := fmt.Sprint(p.replicas)
			if p.failure.Err != nil {
				got = p.failure.Err.Error()
				require.Empty(t, p.status, "nothing is shown of a metric that is not known")
			}
			require.Equal(t, c.want, got)
		})
	}
}

// TestStatuses: what is shown of metrics.
func TestStatuses(t *testing.T) {
	s := DefaultSettings()
	c := calc{Settings: s, tolerance: s.tolerance(nil), target: Target{Replicas: 2, Running: 2, Pods: pods(pod(0), pod(1))}, now: noon}
	m := cpuUse(50)
	p := c.propose(&m, usage(600, 200))
	require.Equal(t, "cpu resource utilization (percentage of request)", p.metric)
	require.EqualValues(t, 40, *p.status.Resource.Current.AverageUtilization)
	require.Equal(t, "400m", p.status.Resource.Current.AverageValue.String())
	m = external("", "10")
	p = c.propose(&m, Reading{Value: 25000})
	require.Equal(t, "external metric queue(nil)", p.metric)
	require.Equal(t, "12500m", p.status.External.Current.AverageValue.String())
	m = external("10", "")
	require.Equal(t, "25", c.propose(&m, Reading{Value: 25000}).status.External.Current.Value.String())
	m = podsMetric("10")
	require.Equal(t, "15", c.propose(&m, usage(10000, 20000)).status.Pods.Current.AverageValue.String())
}

// TestTolerances: an autoscaler has its own, one for each direction.
func TestTolerances(t *testing.T) {
	b := &autoscalingv2.HorizontalPodAutoscalerBehavior{
		ScaleUp: &autoscalingv2.HPAScalingRules{Tolerance: ptr.To(resource.MustParse("500m"))}, ScaleDown: &autoscalingv2.HPAScalingRules{Tolerance: ptr.To(resource.MustParse("0"))},
	}
	tol := DefaultSettings().tolerance(b)
	for ratio, within := range map[float64]bool{0.99: false, 1: true, 1.5: true, 1.51: false} {
		require.Equal(t, within, tol.within(ratio), "%v", ratio)
	}
	tol = DefaultSettings().tolerance(&autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: b.ScaleUp})
	require.True(t, tol.within(0.9))
	require.False(t, tol.within(0.89))
}
