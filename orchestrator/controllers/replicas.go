package controllers

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
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

// burst is how many pods of one owner are made or removed in one go.
const burst = 500

// replicated is an object that wants a number of pods of one template: a ReplicaSet or a ReplicationController.
type replicated struct {
	owner
	replicas   int32
	minReady   int32
	template   *corev1.PodTemplateSpec
	generation int64
	status     replicaStatus
}

// replicaStatus is the status that both kinds share.
type replicaStatus struct {
	Replicas, FullyLabeled, Ready, Available int32
	Terminating                              *int32
	Observed                                 int64
	Failure                                  *replicaFailure
}

// replicaFailure says why pods could not be made or removed.
type replicaFailure struct {
	Reason, Message string
	Since           metav1.Time
}

// replicaKind is what differs between the two kinds.
type replicaKind struct {
	kind     string
	informer cache.SharedIndexInformer
	convert  func(o any) (*replicated, error)
	// fresh reads an object's metadata from the API server.
	fresh func(ctx context.Context, namespace, name string) (metav1.Object, error)
	// update writes the status, on top of the object that it was computed from.
	update func(ctx context.Context, r *replicated, s replicaStatus) error
}

// replicaController keeps as many pods as its objects want.
type replicaController struct {
	*podOwners
	kind    replicaKind
	control podControl
	clock   clock.Clock
}

func newReplicaController(name string, client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger, kind replicaKind) (*replicaController, error) {
	pods := i.Core().V1().Pods().Informer()
	if err := indexPodsByOwner(pods); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r := &replicaController{
		podOwners: &podOwners{loop: newLoop(name, lg), kind: kind.kind, informer: kind.informer, expects: newExpectations(c), selector: func(o any) (labels.Selector, error) {
			x, err := kind.convert(o)
			if err != nil {
				return nil, err
			}
			return x.selector, nil
		}},
		kind: kind, clock: c, control: podControl{client: client, pods: pods.GetIndexer(), events: events},
	}
	r.sync, r.changed = r.syncOne, r.podChanged
	return r, r.follow(pods)
}

// Run works until ctx ends.
func (r *replicaController) Run(ctx context.Context) error { return r.run(ctx, 5) }

// podChanged looks again when a pod that became ready will have been so for long enough.
func (r *replicaController) podChanged(key string, old, p *corev1.Pod) {
	if o, err := r.get(key); err == nil && o != nil && o.minReady > 0 && !isReady(old) && isReady(p) {
		r.queue.AddAfter(key, time.Duration(o.minReady)*time.Second+time.Second)
	}
}

func (r *replicaController) get(key string) (*replicated, error) {
	x, exists, err := r.kind.informer.GetIndexer().GetByKey(key)
	if err != nil || !exists {
		return nil, err
	}
	return r.kind.convert(x)
}

func (r *replicaController) syncOne(ctx context.Context, key string) error {
	o, err := r.get(key)
	if err != nil {
		r.lg.Error("an object that cannot be understood is left alone", zap.String("key", key), zap.Error(err))
		return nil
	}
	if o == nil {
		r.expects.forget(key)
		return nil
	}
	settled := r.expects.fulfilled(key)
	pods, err := r.control.claimed(ctx, &o.owner, func(ctx context.Context) (metav1.Object, error) {
		return r.kind.fresh(ctx, o.meta.GetNamespace(), o.meta.GetName())
	})
	if err != nil {
		return err
	}
	var active []*corev1.Pod
	for _, p := range pods {
		if isActive(p) {
			active = append(active, p)
		}
	}
	var failed error
	if settled && o.meta.GetDeletionTimestamp() == nil {
		failed = r.manage(ctx, key, o, active)
	}
	status := r.statusOf(o, pods, active, failed)
	if !equality.Semantic.DeepEqual(status, o.status) {
		if err := r.kind.update(ctx, o, status); err != nil {
			return err
		}
	}
	if failed == nil && o.minReady > 0 && status.Ready == o.replicas && status.Available != o.replicas {
		r.queue.AddAfter(key, time.Duration(o.minReady)*time.Second)
	}
	return failed
}

// manage makes or removes pods until there are as many as wanted.
func (r *replicaController) manage(ctx context.Context, key string, o *replicated, active []*corev1.Pod) error {
	switch missing := int(o.replicas) - len(active); {
	case missing > 0:
		missing = min(missing, burst)
		r.expects.expectCreations(key, missing)
		done, err := slowStart(missing, func() error {
			err := r.control.create(ctx, &o.owner, o.template)
			if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
				r.expects.created(key) // nothing will come, and there is nothing to try again for
				return nil
			}
			return err
		})
		for range missing - done {
			r.expects.created(key)
		}
		return err
	case missing < 0:
		return r.remove(ctx, key, o, victims(active, min(-missing, burst), r.clock.Now()))
	}
	return nil
}

func (r *replicaController) remove(ctx context.Context, key string, o *replicated, pods []*corev1.Pod) error {
	for _, p := range pods {
		r.expects.expectDeletion(key, p.UID)
	}
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			if err := r.control.delete(ctx, &o.owner, p); err != nil {
				r.expects.deleted(key, p.UID)
				if !apierrors.IsNotFound(err) {
					errs[i] = err
				}
			}
		})
	}
	wg.Wait()
	if i := indexOfError(errs); i >= 0 {
		return errs[i]
	}
	return nil
}

// statusOf computes the status from an owner's pods.
func (r *replicaController) statusOf(o *replicated, pods, active []*corev1.Pod, failed error) replicaStatus {
	s := replicaStatus{Observed: o.generation, Failure: o.status.Failure}
	template := labels.Set(o.template.Labels).AsSelectorPreValidated()
	now := r.clock.Now()
	terminating := int32(0)
	for _, p := range pods {
		if p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			terminating++
		}
	}
	if o.status.Terminating != nil || o.kind.Kind == "ReplicaSet" {
		s.Terminating = ptr.To(terminating)
	}
	for _, p := range active {
		s.Replicas++
		if template.Matches(labels.Set(p.Labels)) {
			s.FullyLabeled++
		}
		if isReady(p) {
			s.Ready++
			if isAvailable(p, o.minReady, now) {
				s.Available++
			}
		}
	}
	switch {
	case failed == nil:
		s.Failure = nil
	case s.Failure == nil:
		reason := "FailedCreate"
		if int(o.replicas) < len(active) {
			reason = "FailedDelete"
		}
		s.Failure = &replicaFailure{Reason: reason, Message: failed.Error(), Since: metav1.Time{Time: now.Truncate(time.Second)}}
	}
	return s
}
