package controllers

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// jobController runs the pods of jobs to completion.
//
// No end of a pod is lost or counted twice: pods have a finalizer, which is removed only after the status of the job names
// the pod among those that are not counted yet; once the finalizer is gone the pod goes from there into the count.
type jobController struct {
	*podOwners
	strays *loop // of pods with that finalizer whose job is gone
}

// NewJob makes the controller of jobs.
func NewJob(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	ji, pi := i.Batch().V1().Jobs().Informer(), i.Core().V1().Pods().Informer()
	owners, err := newPodOwners(ownerKind{
		kind: "Job", informer: ji,
		selector: func(o any) (labels.Selector, error) {
			return metav1.LabelSelectorAsSelector(o.(*batchv1.Job).Spec.Selector)
		},
	}, client, i, events, c, lg)
	if err != nil {
		return nil, err
	}
	j := &jobController{podOwners: owners, strays: newLoop("job-strays", lg)}
	j.sync, j.strays.sync = j.syncOne, j.syncStray
	stray := func(p *corev1.Pod) {
		if slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) && j.ownerKey(p) == "" {
			j.strays.add(p)
		}
	}
	return j, errors.Join(
		j.strays.watch(pi, objects(stray)),
		j.strays.watch(ji, cache.ResourceEventHandlerFuncs{DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if job, ok := o.(*batchv1.Job); ok {
				own, _ := pi.GetIndexer().ByIndex(podsByOwner, string(job.UID)) // the index is there
				for _, p := range own {
					j.strays.add(p)
				}
			}
		}}),
	)
}

// Run works until ctx ends.
func (j *jobController) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- j.strays.run(ctx, 2) }()
	return errors.Join(j.run(ctx, 5), <-done)
}

// syncStray releases a pod whose job is gone.
func (j *jobController) syncStray(ctx context.Context, key string) error {
	x, exists, err := j.control.pods.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	p := x.(*corev1.Pod)
	if !slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
		return nil
	}
	if ref := metav1.GetControllerOf(p); ref != nil {
		if ref.Kind != "Job" {
			return nil
		}
		job, err := j.client.BatchV1().Jobs(p.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err == nil && job.UID == ref.UID || err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return j.untrack(ctx, p)
}

// untrack removes the finalizer of a pod.
func (j *jobController) untrack(ctx context.Context, p *corev1.Pod) error {
	left := slices.DeleteFunc(slices.Clone(p.Finalizers), func(f string) bool { return f == batchv1.JobTrackingFinalizer })
	b, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID, "resourceVersion": p.ResourceVersion, "finalizers": left}})
	if err != nil {
		return err
	}
	_, err = j.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.MergePatchType, b, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (j *jobController) syncOne(ctx context.Context, key string) error {
	x, exists, err := j.informer.GetIndexer().GetByKey(key)
	if err != nil {
		return err
	}
	if !exists {
		j.expects.forget(key)
		return nil
	}
	job := x.(*batchv1.Job).DeepCopy()
	if m := job.Spec.ManagedBy; m != nil && *m != batchv1.JobControllerName {
		return nil
	}
	sel, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil {
		return nil
	}
	w := &jobWork{
		jobController: j, key: key, job: job, was: job.Status.DeepCopy(), now: j.clock.Now(),
		owner: owner{
			object: job, meta: job, kind: batchv1.SchemeGroupVersion.WithKind("Job"), selector: sel, finalizer: batchv1.JobTrackingFinalizer,
			fresh: again(j.client.BatchV1().Jobs(job.Namespace).Get, job.Name),
		},
	}
	settled := j.expects.fulfilled(key)
	if err := w.look(ctx); err != nil {
		return err
	}
	if jobIs(job, batchv1.JobComplete) || jobIs(job, batchv1.JobFailed) {
		return w.release(ctx, w.pods)
	}
	return w.proceed(ctx, settled)
}

// jobIs says whether a job has a condition.
func jobIs(job *batchv1.Job, t batchv1.JobConditionType) bool {
	c := jobCondition(job, t)
	return c != nil && c.Status == corev1.ConditionTrue
}

func jobCondition(job *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if job.Status.Conditions[i].Type == t {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

// setCondition gives the job a condition.
func (w *jobWork) setCondition(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(w.now)
	if c := jobCondition(w.job, t); c != nil {
		if c.Status != status {
			c.Status, c.Reason, c.Message, c.LastProbeTime, c.LastTransitionTime = status, reason, message, now, now
		}
		return
	}
	w.job.Status.Conditions = append(w.job.Status.Conditions, batchv1.JobCondition{
		Type: t, Status: status, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now,
	})
}

// proceed counts what ended, decides how the job goes on, and makes and deletes pods.
func (w *jobWork) proceed(ctx context.Context, settled bool) error {
	w.count()
	w.start()
	w.judge()
	var failed error
	if w.job.DeletionTimestamp == nil && settled {
		failed = w.manage(ctx)
	}
	w.total()
	w.conclude()
	if err := w.write(ctx); err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(failed, w.release(ctx, w.named()))
}

// write writes the status, if it has changed.
func (w *jobWork) write(ctx context.Context) error {
	if equality.Semantic.DeepEqual(w.job.Status, *w.was) {
		return nil
	}
	_, err := w.client.BatchV1().Jobs(w.job.Namespace).UpdateStatus(ctx, w.job, metav1.UpdateOptions{})
	if err == nil {
		w.announce()
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// announce tells what has become of the job.
func (w *jobWork) announce() {
	before := &batchv1.Job{Status: *w.was}
	for _, t := range []struct {
		condition batchv1.JobConditionType
		kind      string
		reason    string
	}{{batchv1.JobComplete, corev1.EventTypeNormal, "Completed"}, {batchv1.JobFailed, corev1.EventTypeWarning, ""}} {
		c := jobCondition(w.job, t.condition)
		if c == nil || c.Status != corev1.ConditionTrue || jobIs(before, t.condition) {
			continue
		}
		reason, message := t.reason, "Job completed"
		if reason == "" {
			reason, message = c.Reason, c.Message
		}
		w.control.events.Event(w.job, t.kind, reason, message)
	}
	switch s := jobIs(w.job, batchv1.JobSuspended); {
	case s && !jobIs(before, batchv1.JobSuspended):
		w.control.events.Event(w.job, corev1.EventTypeNormal, "Suspended", "Job suspended")
	case !s && jobIs(before, batchv1.JobSuspended):
		w.control.events.Event(w.job, corev1.EventTypeNormal, "Resumed", "Job resumed")
	}
}

// release removes the finalizers of pods that are accounted for.
func (w *jobWork) release(ctx context.Context, pods []*corev1.Pod) error {
	var tracked []*corev1.Pod
	for _, p := range pods {
		if slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
			tracked = append(tracked, p)
		}
	}
	next := make(chan *corev1.Pod, len(tracked))
	for _, p := range tracked {
		next <- p
	}
	_, err := slowStart(len(tracked), func() error { return w.untrack(ctx, <-next) })
	return err
}

// start notes when the job began, or that it is suspended, and comes back at its deadline.
func (w *jobWork) start() {
	s, suspended := &w.job.Status, ptr.Deref(w.job.Spec.Suspend, false)
	switch {
	case w.ending() || suspended && w.complete(): // its last pod may have succeeded while it was suspended
	case suspended:
		w.setCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		s.StartTime = nil
	case jobIs(w.job, batchv1.JobSuspended):
		w.setCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		s.StartTime = ptr.To(metav1.NewTime(w.now))
	case s.StartTime == nil:
		s.StartTime = ptr.To(metav1.NewTime(w.now))
	}
	if d := w.job.Spec.ActiveDeadlineSeconds; d != nil && s.StartTime != nil {
		if left := s.StartTime.Add(time.Duration(*d) * time.Second).Sub(w.now); left > 0 {
			w.after(w.job, left)
		}
	}
}
