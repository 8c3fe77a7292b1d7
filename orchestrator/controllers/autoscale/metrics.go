package autoscale

import (
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Sample is what was measured of a pod.
type Sample struct {
	Value  int64 // thousandths
	At     time.Time
	Window time.Duration // over which it was measured, before At
}

// Reading is what was read of a metric: Pods, by their names, for those that pods have, Value, in thousandths, for others.
type Reading struct {
	Pods  map[string]Sample
	Value int64
	Err   error
}

// tolerance is by how much the measured may be below and above its target.
type tolerance struct{ down, up float64 }

func (s Settings) tolerance(b *autoscalingv2.HorizontalPodAutoscalerBehavior) tolerance {
	t := tolerance{s.Tolerance, s.Tolerance}
	if b != nil && b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
		t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	if b != nil && b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
		t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
	return t
}

// within says whether a ratio of the measured and the wanted calls for nothing. An error of rounding is no difference.
func (t tolerance) within(ratio float64) bool {
	const rounding = 1e-9
	return 1-t.down-rounding <= ratio && ratio <= 1+t.up+rounding
}

// proposal is what comes of one metric.
type proposal struct {
	replicas int32
	metric   string // its name in messages
	status   autoscalingv2.MetricStatus
	failure  Failure
}

// calc computes proposals.
type calc struct {
	Settings
	tolerance
	target Target
	now    time.Time
}

// propose computes what a metric wants.
func (c *calc) propose(m *autoscalingv2.MetricSpec, r Reading) (p proposal) {
	fail := func(reason string, err error) {
		if err != nil {
			p.failure, p.status = Failure{reason, err}, autoscalingv2.MetricStatus{}
		}
	}
	switch {
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		s := &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name}
		n, metric, err := c.resource(m.Resource.Name, "", &m.Resource.Target, r, &s.Current)
		p = proposal{replicas: n, metric: fmt.Sprintf("%s resource%s", m.Resource.Name, metric), status: autoscalingv2.MetricStatus{Type: m.Type, Resource: s}}
		fail("FailedGetResourceMetric", err)
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		of := m.ContainerResource
		s := &autoscalingv2.ContainerResourceMetricStatus{Name: of.Name, Container: of.Container}
		n, metric, err := c.resource(of.Name, of.Container, &of.Target, r, &s.Current)
		p = proposal{replicas: n, metric: fmt.Sprintf("%s container resource%s", of.Name, metric), status: autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: s}}
		fail("FailedGetContainerResourceMetric", err)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		s := &autoscalingv2.PodsMetricStatus{Metric: m.Pods.Metric}
		n, err := c.average(m.Pods.Target.AverageValue, false, r, &s.Current)
		p = proposal{replicas: n, metric: "pods metric " + m.Pods.Metric.Name, status: autoscalingv2.MetricStatus{Type: m.Type, Pods: s}}
		fail("FailedGetPodsMetric", wrap(err, "unable to get metric %s", m.Pods.Metric.Name))
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		of := m.Object
		s := &autoscalingv2.ObjectMetricStatus{Metric: of.Metric, DescribedObject: of.DescribedObject}
		n, err := c.value(&of.Target, r, &s.Current)
		p = proposal{replicas: n, metric: of.DescribedObject.Kind + " metric " + of.Metric.Name, status: autoscalingv2.MetricStatus{Type: m.Type, Object: s}}
		fail("FailedGetObjectMetric", wrap(err, "unable to get metric %s: %s on %s", of.Metric.Name, of.DescribedObject.Kind, of.DescribedObject.Name))
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		s := &autoscalingv2.ExternalMetricStatus{Metric: m.External.Metric}
		n, err := c.value(&m.External.Target, r, &s.Current)
		p = proposal{replicas: n, metric: fmt.Sprintf("external metric %s(%+v)", m.External.Metric.Name, m.External.Metric.Selector), status: autoscalingv2.MetricStatus{Type: m.Type, External: s}}
		fail("FailedGetExternalMetric", wrap(err, "unable to get external metric %s", m.External.Metric.Name))
	default:
		fail("InvalidMetricSourceType", fmt.Errorf("unknown metric source type %q", m.Type))
	}
	return p
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// resource is for what pods, or one container of each, use of a resource. It returns how the metric's name ends.
func (c *calc) resource(name corev1.ResourceName, container string, t *autoscalingv2.MetricTarget, r Reading, current *autoscalingv2.MetricValueStatus) (n int32, metric string, err error) {
	cpu := name == corev1.ResourceCPU
	switch {
	case t.AverageValue != nil:
		n, err = c.average(t.AverageValue, cpu, r, current)
		return n, "", wrap(err, "failed to get %s usage: unable to get metrics for resource %s", name, name)
	case t.AverageUtilization == nil:
		return 0, "", errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	n, err = c.utilization(name, container, *t.AverageUtilization, cpu, r, current)
	return n, " utilization (percentage of request)", wrap(err, "failed to get %s utilization", name)
}

// utilization is for a percentage of what pods request.
func (c *calc) utilization(name corev1.ResourceName, container string, percent int32, cpu bool, r Reading, current *autoscalingv2.MetricValueStatus) (int32, error) {
	if r.Err != nil {
		return 0, fmt.Errorf("unable to get metrics for resource %s: %w", name, r.Err)
	}
	requests, err := c.requests(name, container)
	if err != nil {
		return 0, err
	}
	measure := func(values map[string]int64) (float64, autoscalingv2.MetricValueStatus, error) {
		var used, requested int64
		for pod, v := range values {
			used, requested = used+v, requested+requests[pod]
		}
		if requested == 0 {
			return 0, autoscalingv2.MetricValueStatus{}, errors.New("no metrics returned matched known pods")
		}
		is := int32(min(used*100/requested, math.MaxInt32))
		return float64(is) / float64(percent), autoscalingv2.MetricValueStatus{AverageUtilization: &is, AverageValue: milli(used / int64(len(values)))}, nil
	}
	return c.byPods(r.Pods, cpu, current, measure, func(pod string) int64 { return requests[pod] * int64(max(100, percent)) / 100 })
}

// average is for an amount that every pod is to have of something.
func (c *calc) average(target *resource.Quantity, cpu bool, r Reading, current *autoscalingv2.MetricValueStatus) (int32, error) {
	switch {
	case r.Err != nil:
		return 0, r.Err
	case target == nil:
		return 0, errors.New("no average value is set as its target")
	}
	wanted := target.MilliValue()
	measure := func(values map[string]int64) (float64, autoscalingv2.MetricValueStatus, error) {
		sum := int64(0)
		for _, v := range values {
			sum += v
		}
		is := sum / int64(len(values))
		return float64(is) / float64(wanted), autoscalingv2.MetricValueStatus{AverageValue: milli(is)}, nil
	}
	return c.byPods(r.Pods, cpu, current, measure, func(string) int64 { return wanted })
}

// value is for what is measured of something else than the pods: the whole of it, or what there is of it for each pod.
func (c *calc) value(t *autoscalingv2.MetricTarget, r Reading, current *autoscalingv2.MetricValueStatus) (int32, error) {
	switch {
	case r.Err != nil:
		return 0, r.Err
	case t.Type != autoscalingv2.ValueMetricType && t.AverageValue != nil || t.Value == nil && t.AverageValue != nil:
		return c.perPod(r.Value, t.AverageValue.MilliValue(), current), nil
	case t.Value == nil:
		return 0, errors.New("neither a value target nor an average value target was set")
	}
	current.Value = milli(r.Value)
	ratio := float64(r.Value) / float64(t.Value.MilliValue())
	switch {
	case c.target.Replicas == 0:
		return ceil(ratio), nil
	case c.within(ratio):
		return c.target.Replicas, nil
	case len(c.target.Pods) == 0:
		return 0, errNoPods
	}
	ready := 0
	for _, p := range c.target.Pods {
		if r := readiness(p); p.Status.Phase == corev1.PodRunning && r != nil && r.Status == corev1.ConditionTrue {
			ready++
		}
	}
	return ceil(ratio * float64(ready)), nil
}

func (c *calc) perPod(value, wanted int64, current *autoscalingv2.MetricValueStatus) int32 {
	running := c.target.Running
	current.AverageValue = milli(int64(math.Ceil(float64(value) / float64(max(running, 1)))))
	if running > 0 && c.within(float64(value)/(float64(wanted)*float64(running))) {
		return running
	}
	return ceil(float64(value) / float64(wanted))
}

func milli(v int64) *resource.Quantity { return resource.NewMilliQuantity(v, resource.DecimalSI) }

// ceil is a number of replicas that is enough.
func ceil(x float64) int32 { return replicas(math.Ceil(x)) }
