package controllers

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// ttlController deletes jobs when they have been over for as long as they say.
type ttlController struct {
	*loop
	client kubernetes.Interface
	jobs   cache.Indexer
	events record.EventRecorder
	clock  clock.Clock
}

// NewTTLAfterFinished makes the controller that deletes jobs some time after they have finished.
func NewTTLAfterFinished(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	ji := i.Batch().V1().Jobs().Informer()
	t := &ttlController{loop: newLoop("ttl-after-finished", lg), client: client, jobs: ji.GetIndexer(), events: events, clock: c}
	t.sync = t.syncOne
	return t, t.watch(ji, objects(func(o *batchv1.Job) {
		if o.Spec.TTLSecondsAfterFinished != nil && over(o) != "" {
			t.add(o)
		}
	}))
}

// Run works until ctx ends.
func (t *ttlController) Run(ctx context.Context) error { return t.run(ctx, 2) }

func (t *ttlController) syncOne(ctx context.Context, key string) error {
	x, exists, err := t.jobs.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	job := x.(*batchv1.Job)
	if wait, ok := t.left(job); !ok || wait > 0 {
		if ok {
			t.after(job, wait)
		}
		return nil
	}
	// What is deleted is gone: look at how it is now.
	job, err = t.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ttl-after-finished: %w", err)
	}
	if wait, ok := t.left(job); !ok || wait > 0 {
		return nil // the informer will tell
	}
	err = t.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{
		PropagationPolicy: ptr.To(metav1.DeletePropagationForeground),
		Preconditions:     &metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// left is how long a job is to be kept yet; ok is false if it is not to be deleted at all.
func (t *ttlController) left(job *batchv1.Job) (wait time.Duration, ok bool) {
	end := over(job)
	if end == "" || job.Spec.TTLSecondsAfterFinished == nil || job.DeletionTimestamp != nil {
		return 0, false
	}
	since := jobCondition(job, end).LastTransitionTime.Time
	return since.Add(time.Duration(*job.Spec.TTLSecondsAfterFinished) * time.Second).Sub(t.clock.Now()), true
}
