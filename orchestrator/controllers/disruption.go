package controllers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// disruptedFor is how long a pod whose eviction was allowed is waited for.
const disruptedFor = 2 * time.Minute

// staleDisruption is how long a pod may be said to be disrupted without being deleted.
const staleDisruption = 2 * time.Minute

// disruptionController counts how many pods of each disruption budget may be disrupted.
type disruptionController struct {
	*loop
	client  kubernetes.Interface
	scales  Scales
	budgets cache.Indexer
	pods    cache.Indexer
	sets    cache.Indexer
	stale   *loop // of pods that were said to be disrupted
	events  record.EventRecorder
	clock   clock.Clock
}

// NewDisruption makes the controller of disruption budgets.
func NewDisruption(client kubernetes.Interface, scales Scales, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	bi, pi, si := i.Policy().V1().PodDisruptionBudgets().Informer(), i.Core().V1().Pods().Informer(), i.Apps().V1().ReplicaSets().Informer()
	d := &disruptionController{
		loop: newLoop("disruption", lg), client: client, scales: scales, budgets: bi.GetIndexer(), pods: pi.GetIndexer(), sets: si.GetIndexer(),
		stale: newLoop("disruption-stale", lg), events: events, clock: c,
	}
	d.sync, d.stale.sync = d.syncOne, d.syncStale
	owners := func(o metav1.Object) { d.wakeNamespace(o.GetNamespace()) }
	return d, errors.Join(
		d.watch(bi, objects(func(b *policyv1.PodDisruptionBudget) { d.add(b) })),
		d.watch(pi, cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { d.podSeen(o) },
			UpdateFunc: func(old, o any) {
				if a, b := old.(*corev1.Pod), o.(*corev1.Pod); !equality.Semantic.DeepEqual(a.Labels, b.Labels) {
					d.podSeen(a)
				}
				d.podSeen(o)
			},
			DeleteFunc: func(o any) { d.podSeen(o) },
		}),
		// Their sizes count.
		d.watch(i.Apps().V1().Deployments().Informer(), resized(func(o *appsv1.Deployment) *int32 { return o.Spec.Replicas }, owners)),
		d.watch(i.Apps().V1().StatefulSets().Informer(), resized(func(o *appsv1.StatefulSet) *int32 { return o.Spec.Replicas }, owners)),
		d.watch(si, resized(func(o *appsv1.ReplicaSet) *int32 { return o.Spec.Replicas }, owners)),
		d.watch(i.Core().V1().ReplicationControllers().Informer(), resized(func(o *corev1.ReplicationController) *int32 { return o.Spec.Replicas }, owners)),
	)
}

// resized calls f for objects whose wanted number of pods has changed.
func resized[T metav1.Object](of func(T) *int32, f func(metav1.Object)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{UpdateFunc: func(old, o any) {
		a, ok := old.(T)
		b, ok2 := o.(T)
		if ok && ok2 && !ptr.Equal(of(a), of(b)) {
			f(b)
		}
	}}
}

// Run works until ctx ends.
func (d *disruptionController) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- d.stale.run(ctx, 1) }()
	return errors.Join(d.run(ctx, 2), <-done)
}

// podSeen looks at the budgets of a pod.
func (d *disruptionController) podSeen(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	p, ok := o.(*corev1.Pod)
	if !ok {
		return
	}
	if c := podCondition(p, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
		d.stale.after(p, max(0, staleDisruption-d.clock.Now().Sub(c.LastTransitionTime.Time)))
	}
	all, err := d.budgets.ByIndex(cache.NamespaceIndex, p.Namespace)
	if err != nil {
		return
	}
	for _, x := range all {
		if s, err := metav1.LabelSelectorAsSelector(x.(*policyv1.PodDisruptionBudget).Spec.Selector); err == nil && s.Matches(labels.Set(p.Labels)) {
			d.add(x)
		}
	}
}

func (d *disruptionController) wakeNamespace(namespace string) {
	all, err := d.budgets.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return
	}
	for _, x := range all {
		d.add(x)
	}
}

// syncStale takes back that a pod is about to be disrupted, if nobody has deleted it.
func (d *disruptionController) syncStale(ctx context.Context, key string) error {
	x, exists, err := d.pods.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	p := x.(*corev1.Pod)
	c := podCondition(p, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return nil
	}
	if wait := staleDisruption - d.clock.Now().Sub(c.LastTransitionTime.Time); wait > 0 {
		d.stale.after(p, wait)
		return nil
	}
	p = p.DeepCopy()
	now := metav1.NewTime(d.clock.Now())
	*podCondition(p, corev1.DisruptionTarget) = corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, LastTransitionTime: now, ObservedGeneration: p.Generation}
	_, err = d.client.CoreV1().Pods(p.Namespace).UpdateStatus(ctx, p, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (d *disruptionController) syncOne(ctx context.Context, key string) error {
	x, exists, err := d.budgets.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	b := x.(*policyv1.PodDisruptionBudget).DeepCopy()
	was := b.Status.DeepCopy()
	if err := d.count(ctx, b); err != nil {
		d.events.Eventf(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		b.Status.DisruptionsAllowed = 0
		meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: err.Error(), ObservedGeneration: b.Generation,
		})
	}
	if equality.Semantic.DeepEqual(was, &b.Status) {
		return nil
	}
	_, err = d.client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, b, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// count brings the status of a budget up to date.
func (d *disruptionController) count(ctx context.Context, b *policyv1.PodDisruptionBudget) error {
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return err
	}
	all, err := d.pods.ByIndex(cache.NamespaceIndex, b.Namespace)
	if err != nil {
		return err
	}
	var pods []*corev1.Pod
	for _, x := range all {
		if p := x.(*corev1.Pod); sel.Matches(labels.Set(p.Labels)) && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		d.events.Event(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	expected, desired, err := d.expected(ctx, b, pods)
	if err != nil {
		return err
	}
	now := d.clock.Now()
	disrupted, recheck := stillDisrupted(b, pods, now)
	if recheck > 0 {
		d.after(b, recheck)
	}
	healthy := int32(0)
	for _, p := range pods {
		if _, going := disrupted[p.Name]; p.DeletionTimestamp == nil && !going && isReady(p) {
			healthy++
		}
	}
	s := &b.Status
	s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptedPods, s.ObservedGeneration = healthy, desired, expected, disrupted, b.Generation
	s.DisruptionsAllowed = max(0, healthy-desired)
	if expected <= 0 {
		s.DisruptionsAllowed = 0
	}
	c := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason, ObservedGeneration: b.Generation}
	if s.DisruptionsAllowed == 0 {
		c.Status, c.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	meta.SetStatusCondition(&s.Conditions, c)
	return nil
}

// stillDisrupted are the pods whose eviction was allowed and that have not begun to go. recheck is when the first of them will
// have been waited for too long; 0: there is none.
func stillDisrupted(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, now time.Time) (left map[string]metav1.Time, recheck time.Duration) {
	for _, p := range pods {
		since, ok := b.Status.DisruptedPods[p.Name]
		if !ok || p.DeletionTimestamp != nil {
			continue
		}
		wait := since.Add(disruptedFor).Sub(now)
		if wait <= 0 {
			continue
		}
		if left == nil {
			left = map[string]metav1.Time{}
		}
		left[p.Name] = since
		if recheck == 0 || wait < recheck {
			recheck = wait
		}
	}
	return left, recheck
}

// expected is how many pods there are to be, and how many of these are to be healthy.
func (d *disruptionController) expected(ctx context.Context, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) (expected, desired int32, err error) {
	if m := b.Spec.MinAvailable; b.Spec.MaxUnavailable == nil && (m == nil || m.Type == intstr.Int) {
		return int32(len(pods)), int32(intstr.ValueOrDefault(m, intstr.FromInt32(0)).IntValue()), nil
	}
	if expected, err = d.scaleOf(ctx, pods); err != nil {
		return 0, 0, err
	}
	if b.Spec.MaxUnavailable != nil {
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(expected), true)
		if err != nil {
			return 0, 0, err
		}
		return expected, max(0, expected-int32(n)), nil
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(expected), true)
	return expected, int32(n), err
}

// scaleOf is how many pods the controllers of some pods want together. Pods without a controller do not count.
func (d *disruptionController) scaleOf(ctx context.Context, pods []*corev1.Pod) (total int32, err error) {
	seen := map[types.UID]bool{}
	for _, p := range pods {
		ref := metav1.GetControllerOf(p)
		if ref == nil {
			continue
		}
		if ref.Kind == "ReplicaSet" && strings.HasPrefix(ref.APIVersion, appsv1.GroupName+"/") {
			if x, exists, err := d.sets.GetByKey(p.Namespace + "/" + ref.Name); err == nil && exists {
				if up := metav1.GetControllerOf(x.(*appsv1.ReplicaSet)); up != nil && up.Kind == "Deployment" {
					ref = up
				}
			}
		}
		if seen[ref.UID] {
			continue
		}
		seen[ref.UID] = true
		s, _, err := d.scales.find(ctx, p.Namespace, ref.APIVersion, ref.Kind, ref.Name)
		if err != nil {
			return 0, fmt.Errorf("found no scale of %s %q of pod %q: %w", ref.Kind, ref.Name, p.Name, err)
		}
		total += s.Spec.Replicas
	}
	return total, nil
}
