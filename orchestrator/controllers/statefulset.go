package controllers

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// statefulController keeps pods that have names, and storage of their own, for stateful sets.
type statefulController struct {
	*podOwners
	claims  cache.Indexer
	history history
}

// NewStatefulSet makes the controller of stateful sets.
func NewStatefulSet(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	ci, hi := i.Core().V1().PersistentVolumeClaims().Informer(), i.Apps().V1().ControllerRevisions().Informer()
	owners, err := newPodOwners(ownerKind{
		kind: "StatefulSet", informer: i.Apps().V1().StatefulSets().Informer(),
		selector: func(o any) (labels.Selector, error) {
			return metav1.LabelSelectorAsSelector(o.(*appsv1.StatefulSet).Spec.Selector)
		},
		minReady: func(o any) int32 { return o.(*appsv1.StatefulSet).Spec.MinReadySeconds },
	}, client, i, events, c, lg)
	if err != nil {
		return nil, err
	}
	s := &statefulController{podOwners: owners, claims: ci.GetIndexer(), history: history{client: client, revisions: hi.GetIndexer()}}
	s.sync = s.syncOne
	return s, errors.Join(s.watch(ci, cache.ResourceEventHandlerFuncs{}), s.watch(hi, cache.ResourceEventHandlerFuncs{}))
}

// Run works until ctx ends.
func (s *statefulController) Run(ctx context.Context) error { return s.run(ctx, 5) }

func (s *statefulController) syncOne(ctx context.Context, key string) error {
	x, exists, err := s.informer.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return err
	}
	set := x.(*appsv1.StatefulSet).DeepCopy()
	sel, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || sel.Empty() {
		s.control.events.Event(set, corev1.EventTypeWarning, "SelectingAll", "This stateful set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	r := &statefulRollout{
		statefulController: s, set: set,
		owner: owner{
			object: set, meta: set, kind: appsv1.SchemeGroupVersion.WithKind("StatefulSet"), selector: sel,
			fresh: again(s.client.AppsV1().StatefulSets(set.Namespace).Get, set.Name),
		},
	}
	if err := r.look(ctx); err != nil {
		return err
	}
	var failed error
	if set.DeletionTimestamp == nil {
		failed = r.proceed(ctx)
	}
	if err := r.updateStatus(ctx); err != nil {
		return errors.Join(failed, err)
	}
	if failed != nil {
		return failed
	}
	return s.history.truncate(ctx, r.revisions, r.used, ptr.Deref(set.Spec.RevisionHistoryLimit, 10))
}

// updateStatus counts the pods.
func (r *statefulRollout) updateStatus(ctx context.Context) error {
	set, now, later := r.set, r.clock.Now(), false
	s := appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, Conditions: set.Status.Conditions,
		CurrentRevision: r.current.Name, UpdateRevision: r.latest.Name, CollisionCount: ptr.To(r.collisions),
	}
	ready := func(p *corev1.Pod) {
		if !isReady(p) || p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil {
			return
		}
		s.ReadyReplicas++
		if isAvailable(p, set.Spec.MinReadySeconds, now) {
			s.AvailableReplicas++
		} else {
			later = true
		}
	}
	for _, p := range r.all() {
		s.Replicas++
		ready(p)
		if p.DeletionTimestamp != nil {
			continue
		}
		if revisionLabel(p) == r.current.Name {
			s.CurrentReplicas++
		}
		if revisionLabel(p) == r.latest.Name {
			s.UpdatedReplicas++
		}
	}
	if u := set.Spec.UpdateStrategy; u.Type == appsv1.RollingUpdateStatefulSetStrategyType && s.UpdatedReplicas == s.Replicas && s.ReadyReplicas == s.Replicas && s.Replicas == *set.Spec.Replicas {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
	if later {
		r.after(set, time.Duration(set.Spec.MinReadySeconds)*time.Second)
	}
	if equality.Semantic.DeepEqual(s, set.Status) {
		return nil
	}
	c := set.DeepCopy()
	c.Status = s
	_, err := r.client.AppsV1().StatefulSets(c.Namespace).UpdateStatus(ctx, c, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
