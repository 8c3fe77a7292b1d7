package controllers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/controllers/autoscale"
)

// AutoscalerConfig says how autoscalers work.
type AutoscalerConfig struct {
	autoscale.Settings
	Every   time.Duration // between two looks at an autoscaler
	Workers int
}

// DefaultAutoscaler is that of kube-controller-manager.
func DefaultAutoscaler() AutoscalerConfig {
	return AutoscalerConfig{Settings: autoscale.DefaultSettings(), Every: 15 * time.Second, Workers: 5}
}

// autoscaler scales what horizontal pod autoscalers point at.
type autoscaler struct {
	*loop
	AutoscalerConfig
	client  kubernetes.Interface
	scales  Scales
	metrics PodMetrics
	all     cache.Indexer // autoscalers
	pods    cache.Indexer
	events  record.EventRecorder
	clock   clock.Clock

	mu    sync.Mutex
	known map[string]*scaled // by the autoscaler's key
}

// scaled is what is remembered of an autoscaler.
type scaled struct {
	selector labels.Selector // of its target; nil: not known yet
	history  autoscale.History
}

// NewHorizontalPodAutoscaler makes the controller of horizontal pod autoscalers. It remembers recommendations in memory only: after a
// start, the first is the number of replicas that there are.
func NewHorizontalPodAutoscaler(client kubernetes.Interface, scales Scales, metrics PodMetrics, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger, cfg AutoscalerConfig) (Controller, error) {
	if cfg.Every <= 0 || cfg.Workers < 1 {
		return nil, fmt.Errorf("horizontalpodautoscaler: a period of %s and %d workers: both have to be positive", cfg.Every, cfg.Workers)
	}
	ai, pi := i.Autoscaling().V2().HorizontalPodAutoscalers().Informer(), i.Core().V1().Pods().Informer()
	r := &autoscaler{
		loop: newLoop("horizontalpodautoscaler", lg), AutoscalerConfig: cfg, client: client, scales: scales, metrics: metrics,
		all: ai.GetIndexer(), pods: pi.GetIndexer(), events: events, clock: c, known: map[string]*scaled{},
	}
	r.sync = r.syncOne
	return r, errors.Join(
		r.watch(ai, cache.ResourceEventHandlerFuncs{
			AddFunc: r.add, DeleteFunc: r.add,
			UpdateFunc: func(old, o any) { // of its status it writes itself
				if old.(*autoscalingv2.HorizontalPodAutoscaler).Generation != o.(*autoscalingv2.HorizontalPodAutoscaler).Generation {
					r.add(o)
				}
			},
		}),
		r.watch(pi, cache.ResourceEventHandlerFuncs{}),
	)
}

// Run works until ctx ends.
func (r *autoscaler) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.metrics.refresh(ctx) })
	return r.run(ctx, r.Workers)
}

// syncOne looks at an autoscaler, and will do so again: what it looks at are numbers, of which no event tells.
func (r *autoscaler) syncOne(ctx context.Context, key string) error {
	x, exists, err := r.all.GetByKey(key)
	if err != nil {
		return err
	}
	if !exists {
		r.mu.Lock()
		delete(r.known, key)
		r.mu.Unlock()
		return nil
	}
	a := x.(*autoscalingv2.HorizontalPodAutoscaler)
	if err := r.scale(ctx, key, a); err != nil && ctx.Err() == nil {
		r.lg.Debug("not scaled", zap.String("key", key), zap.Error(err))
	}
	r.queue.AddAfter(key, r.Every)
	return nil
}

// scaling is one look at an autoscaler.
type scaling struct {
	*autoscaler
	key      string
	of       *autoscalingv2.HorizontalPodAutoscaler // a copy, of which the status is brought up to date
	target   *autoscalingv1.Scale
	resource schema.GroupResource
	now      time.Time
}

func (r *autoscaler) scale(ctx context.Context, key string, a *autoscalingv2.HorizontalPodAutoscaler) error {
	w := &scaling{autoscaler: r, key: key, of: a.DeepCopy(), now: r.clock.Now()}
	r.remember(key, func(*scaled) {})
	err := w.work(ctx)
	return errors.Join(err, w.writeStatus(ctx, &a.Status))
}

func (r *autoscaler) remember(key string, change func(s *scaled)) scaled {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[key] == nil {
		r.known[key] = &scaled{}
	}
	change(r.known[key])
	return *r.known[key]
}

func (w *scaling) warn(reason string, err error) {
	w.events.Event(w.of, corev1.EventTypeWarning, reason, err.Error())
}

func (w *scaling) work(ctx context.Context) (err error) {
	ref := w.of.Spec.ScaleTargetRef
	w.target, w.resource, err = w.scales.find(ctx, w.of.Namespace, ref.APIVersion, ref.Kind, ref.Name)
	if err != nil {
		w.warn("FailedGetScale", err)
		w.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", fmt.Sprintf("the HPA controller was unable to get the target's current scale: %v", err))
		return fmt.Errorf("failed to query scale subresource for %s/%s/%s: %w", ref.Kind, w.of.Namespace, ref.Name, err)
	}
	w.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	in := autoscale.Input{
		Spec: &w.of.Spec, Target: autoscale.Target{Replicas: w.target.Spec.Replicas, Running: w.target.Status.Replicas},
		ScaledToZero: w.has(autoscalingv2.ScaledToZero), History: w.remember(w.key, func(*scaled) {}).history, Now: w.now,
	}
	w.of.Status.CurrentReplicas = in.Target.Replicas
	d, decided := w.Bounds(in)
	if !decided {
		selector, serr := w.selector()
		if serr != nil {
			return serr
		}
		in.Target.Pods = w.chosen(selector)
		in.Readings = w.metrics.read(ctx, w.of, selector)
		d = w.Decide(in)
		w.of.Status.CurrentMetrics = d.Metrics
	} else {
		w.of.Status.CurrentMetrics = nil
	}
	return w.apply(ctx, in, d)
}

// apply does what was decided, and notes it in the status.
func (w *scaling) apply(ctx context.Context, in autoscale.Input, d autoscale.Decision) error {
	for _, c := range d.Conditions {
		w.condition(c.Type, c.Status, c.Reason, c.Message)
	}
	for _, f := range d.Failures {
		w.warn(f.Reason, f.Err)
	}
	w.remember(w.key, func(s *scaled) { s.history = d.History })
	if d.Err != nil {
		w.warn("FailedComputeMetricsReplicas", d.Err)
		return d.Err
	}
	from, to := in.Target.Replicas, d.Replicas
	if from != to {
		if err := w.rescale(ctx, d); err != nil {
			return err
		}
		w.remember(w.key, func(s *scaled) { s.history = s.history.Scaled(from, to, w.now) })
	}
	w.of.Status.DesiredReplicas = to
	w.noteZero(from, to, in.CanBeZero())
	return nil
}

// rescale sets how many replicas the target is to have.
func (w *scaling) rescale(ctx context.Context, d autoscale.Decision) error {
	if err := w.scales.set(ctx, w.of.Namespace, w.resource, w.target, d.Replicas); err != nil {
		w.events.Eventf(w.of, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", d.Replicas, d.Reason, err)
		w.condition(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", fmt.Sprintf("the HPA controller was unable to update the target scale: %v", err))
		return fmt.Errorf("failed to rescale %s/%s: %w", w.of.Spec.ScaleTargetRef.Kind, w.of.Spec.ScaleTargetRef.Name, err)
	}
	w.condition(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", fmt.Sprintf("the HPA controller was able to update the target scale to %d", d.Replicas))
	w.events.Eventf(w.of, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", d.Replicas, d.Reason)
	w.of.Status.LastScaleTime = stamp(w.now)
	return nil
}

// noteZero notes whether the target has no replicas because the autoscaler wanted none: only then it may give it some again.
func (w *scaling) noteZero(from, to int32, may bool) {
	switch {
	case from > 0 && to == 0 && may:
		w.condition(autoscalingv2.ScaledToZero, corev1.ConditionTrue, "ScaledToZero", "the HPA controller scaled the workload to zero")
	case from != to || from > 0 && w.has(autoscalingv2.ScaledToZero):
		w.condition(autoscalingv2.ScaledToZero, corev1.ConditionFalse, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
}

// selector is that of the target's pods, which must be nobody else's.
func (w *scaling) selector() (labels.Selector, error) {
	bad := func(event, reason string, err error, message string) error {
		w.warn(event, err)
		w.condition(autoscalingv2.ScalingActive, corev1.ConditionFalse, reason, message)
		w.warn("FailedComputeMetricsReplicas", err)
		return err
	}
	text := w.target.Status.Selector
	if text == "" {
		return nil, bad("SelectorRequired", "InvalidSelector", errors.New("selector is required"), "the HPA target's scale is missing a selector")
	}
	selector, err := labels.Parse(text)
	if err != nil {
		err = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err)
		return nil, bad("InvalidSelector", "InvalidSelector", err, err.Error())
	}
	w.remember(w.key, func(s *scaled) { s.selector = selector })
	if others := w.rivals(w.chosen(selector)); len(others) > 1 {
		err = fmt.Errorf("pods by selector %s are controlled by multiple HPAs: [%s]", text, strings.Join(others, " "))
		return nil, bad("AmbiguousSelector", "AmbiguousSelector", err, err.Error())
	}
	return selector, nil
}

// rivals are the autoscalers of the namespace whose targets have any of the pods.
func (w *scaling) rivals(pods []*corev1.Pod) (keys []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, s := range w.known {
		if s.selector == nil || !strings.HasPrefix(key, w.of.Namespace+"/") {
			continue
		}
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return s.selector.Matches(labels.Set(p.Labels)) }) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (w *scaling) chosen(selector labels.Selector) (out []*corev1.Pod) {
	all, err := w.pods.ByIndex(cache.NamespaceIndex, w.of.Namespace)
	if err != nil {
		return nil // there is such an index
	}
	for _, x := range all {
		if p := x.(*corev1.Pod); selector.Matches(labels.Set(p.Labels)) {
			out = append(out, p)
		}
	}
	return out
}
