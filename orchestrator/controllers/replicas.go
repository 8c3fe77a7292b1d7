package controllers

import (
	"context"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
	// update writes the status, on top of the object that it was computed from.
	update func(ctx context.Context, r *replicated, s replicaStatus) error
}

// replicaController keeps as many pods as its objects want.
type replicaController struct {
	*podOwners
	kind replicaKind
}

func newReplicaController(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger, kind replicaKind) (*replicaController, error) {
	owners, err := newPodOwners(ownerKind{
		kind: kind.kind, informer: kind.informer,
		selector: func(o any) (labels.Selector, error) {
			x, err := kind.convert(o)
			if err != nil {
				return nil, err
			}
			return x.selector, nil
		},
		minReady: func(o any) int32 {
			x, err := kind.convert(o)
			if err != nil {
				return 0
			}
			return x.minReady
		},
	}, client, i, events, c, lg)
	if err != nil {
		return nil, err
	}
	r := &replicaController{podOwners: owners, kind: kind}
	r.sync = r.syncOne
	return r, nil
}

// Run works until ctx ends.
func (r *replicaController) Run(ctx context.Context) error { return r.run(ctx, 5) }

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
	pods, err := r.control.claimed(ctx, &o.owner)
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
		return r.create(ctx, key, &o.owner, min(missing, burst), func(int) *corev1.Pod { return podFrom(&o.owner, o.template) })
	case missing < 0:
		_, err := r.remove(ctx, key, &o.owner, victims(active, min(-missing, burst), r.clock.Now()))
		return err
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
