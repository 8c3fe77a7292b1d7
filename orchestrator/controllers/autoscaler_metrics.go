package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"github.com/keelson-io/keelson/orchestrator/controllers/autoscale"
)

// PodMetrics is where autoscalers read metrics.
type PodMetrics struct {
	Resources metricsclient.PodMetricsesGetter       // metrics.k8s.io
	Custom    custom_metrics.CustomMetricsClient     // custom.metrics.k8s.io
	External  external_metrics.ExternalMetricsClient // external.metrics.k8s.io
	// Versions finds out which version of custom.metrics.k8s.io is served; nil: somebody else keeps it fresh.
	Versions custom_metrics.AvailableAPIsGetter
	Mapper   meta.RESTMapper
}

const (
	// versionsFor is how long a version of custom.metrics.k8s.io is believed to be served.
	versionsFor = 30 * time.Second
	// customWindow is over which a metric of a pod is measured that does not say it.
	customWindow = time.Minute
)

// refresh forgets from time to time which versions are served, until ctx ends.
func (m *PodMetrics) refresh(ctx context.Context) {
	if m.Versions != nil {
		custom_metrics.PeriodicallyInvalidate(m.Versions, versionsFor, ctx.Done())
	}
}

// read reads all metrics of an autoscaler whose target has the selector.
func (m *PodMetrics) read(ctx context.Context, a *autoscalingv2.HorizontalPodAutoscaler, selector labels.Selector) []autoscale.Reading {
	out := make([]autoscale.Reading, len(a.Spec.Metrics))
	for i := range a.Spec.Metrics {
		out[i] = m.one(ctx, a.Namespace, &a.Spec.Metrics[i], selector)
	}
	return out
}

func (m *PodMetrics) one(ctx context.Context, namespace string, of *autoscalingv2.MetricSpec, selector labels.Selector) (r autoscale.Reading) {
	switch {
	case of.Resource != nil && of.Type == autoscalingv2.ResourceMetricSourceType:
		r.Pods, r.Err = m.resource(ctx, namespace, selector, of.Resource.Name, "")
	case of.ContainerResource != nil && of.Type == autoscalingv2.ContainerResourceMetricSourceType:
		r.Pods, r.Err = m.resource(ctx, namespace, selector, of.ContainerResource.Name, of.ContainerResource.Container)
	case of.Pods != nil && of.Type == autoscalingv2.PodsMetricSourceType:
		r.Pods, r.Err = m.custom(namespace, selector, &of.Pods.Metric)
	case of.Object != nil && of.Type == autoscalingv2.ObjectMetricSourceType:
		r.Value, r.Err = m.object(namespace, &of.Object.DescribedObject, &of.Object.Metric)
	case of.External != nil && of.Type == autoscalingv2.ExternalMetricSourceType:
		r.Value, r.Err = m.external(namespace, &of.External.Metric)
	}
	return r
}

// resource reads what pods, or one container of each, use of a resource.
func (m *PodMetrics) resource(ctx context.Context, namespace string, selector labels.Selector, name corev1.ResourceName, container string) (map[string]autoscale.Sample, error) {
	list, err := m.Resources.PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	switch {
	case err != nil:
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	case len(list.Items) == 0:
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	out := map[string]autoscale.Sample{}
	for i := range list.Items {
		p := &list.Items[i]
		v, ok := used(p, name, container)
		if !ok && container != "" && len(p.Containers) > 0 {
			return nil, fmt.Errorf("container %s not present in metrics for pod %s/%s", container, namespace, p.Name)
		}
		if ok {
			out[p.Name] = autoscale.Sample{Value: v, At: p.Timestamp.Time, Window: p.Window.Duration}
		}
	}
	return out, nil
}

// used is what a pod, or one of its containers, uses, false if it is not known.
func used(p *metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) (sum int64, ok bool) {
	for _, c := range p.Containers {
		if container != "" && c.Name != container {
			continue
		}
		q, known := c.Usage[name]
		if !known {
			return 0, false
		}
		sum, ok = sum+q.MilliValue(), true
	}
	return sum, ok
}

func selectorOf(of *autoscalingv2.MetricIdentifier) (labels.Selector, error) {
	if of.Selector == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(of.Selector)
}

// custom reads a metric that pods have.
func (m *PodMetrics) custom(namespace string, selector labels.Selector, of *autoscalingv2.MetricIdentifier) (map[string]autoscale.Sample, error) {
	series, err := selectorOf(of)
	if err != nil {
		return nil, err
	}
	list, err := m.Custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, selector, of.Name, series)
	switch {
	case err != nil:
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	case len(list.Items) == 0:
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	out := map[string]autoscale.Sample{}
	for i := range list.Items {
		v := &list.Items[i]
		window := customWindow
		if v.WindowSeconds != nil {
			window = time.Duration(*v.WindowSeconds) * time.Second
		}
		out[v.DescribedObject.Name] = autoscale.Sample{Value: v.Value.MilliValue(), At: v.Timestamp.Time, Window: window}
	}
	return out, nil
}

// object reads a metric of one object, in thousandths.
func (m *PodMetrics) object(namespace string, ref *autoscalingv2.CrossVersionObjectReference, of *autoscalingv2.MetricIdentifier) (int64, error) {
	series, err := selectorOf(of)
	if err != nil {
		return 0, err
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return 0, fmt.Errorf("invalid API version of the described object: %w", err)
	}
	gk := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	get := m.Custom.NamespacedMetrics(namespace).GetForObject
	name := ref.Name
	if mapping, merr := m.Mapper.RESTMapping(gk); gk.Group == "" && ref.Kind == "Namespace" || merr == nil && mapping.Scope.Name() == meta.RESTScopeNameRoot {
		get = m.Custom.RootScopedMetrics().GetForObject
		if ref.Kind == "Namespace" {
			name = namespace // of no other
		}
	}
	var v *customv1beta2.MetricValue
	if v, err = get(gk, name, of.Name, series); err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return v.Value.MilliValue(), nil
}

// external reads a metric of nothing in the cluster: the sum of its values, in thousandths.
func (m *PodMetrics) external(namespace string, of *autoscalingv2.MetricIdentifier) (sum int64, err error) {
	series, err := selectorOf(of)
	if err != nil {
		return 0, err
	}
	list, err := m.External.NamespacedMetrics(namespace).List(of.Name, series)
	switch {
	case err != nil:
		return 0, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	case len(list.Items) == 0:
		return 0, errors.New("no metrics returned from external metrics API")
	}
	for i := range list.Items {
		sum += list.Items[i].Value.MilliValue()
	}
	return sum, nil
}
