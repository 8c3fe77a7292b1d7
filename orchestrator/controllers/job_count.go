package controllers

import (
	"context"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// mostUncounted is how many pods a status names before they are counted.
const mostUncounted = 500

// jobWork is one look at a job. The job is a copy, of which the status is brought up to date.
type jobWork struct {
	*jobController
	key   string
	job   *batchv1.Job
	was   *batchv1.JobStatus
	owner owner
	now   time.Time

	pods        []*corev1.Pod
	active      []*corev1.Pod // that run, or will
	terminating []*corev1.Pod // that are being deleted and have not ended
	succeeded   []*corev1.Pod // that are not counted, nor named in the status as such
	failed      []*corev1.Pod // likewise
	done, lost  indexSet      // indexes that are completed, that have failed for good
	removed     int           // of the active pods, those that were deleted just now
	forgiven    []types.UID   // failures that do not count
}

// look finds the pods of the job.
func (w *jobWork) look(ctx context.Context) (err error) {
	w.pods, err = w.control.claimed(ctx, &w.owner)
	return err
}

func (w *jobWork) indexed() bool {
	return ptr.Deref(w.job.Spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

// perIndex says whether every index has a limit of failures of its own.
func (w *jobWork) perIndex() bool { return w.job.Spec.BackoffLimitPerIndex != nil }

// ending says whether it is decided how the job ends.
func (w *jobWork) ending() bool {
	return jobIs(w.job, batchv1.JobFailureTarget) || jobIs(w.job, batchv1.JobSuccessCriteriaMet)
}

// onlyFailed says whether a pod is replaced only when it has ended, not when it begins to.
func (w *jobWork) onlyFailed() bool {
	return ptr.Deref(w.job.Spec.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed
}

// hasFailed says whether a pod counts as failed.
func (w *jobWork) hasFailed(p *corev1.Pod) bool {
	switch {
	case p.Status.Phase == corev1.PodFailed:
		return true
	case p.Status.Phase == corev1.PodSucceeded || p.DeletionTimestamp == nil:
		return false
	case w.onlyFailed(): // one that never ran has nobody who would say that it ended
		return p.Spec.NodeName == ""
	}
	return true
}

// count sorts the pods, and moves those that lost their finalizer from the list of the uncounted into the counts.
func (w *jobWork) count() {
	s := &w.job.Status
	limit := int(ptr.Deref(w.job.Spec.Completions, 0))
	w.done, w.lost = parseIndexSet(s.CompletedIndexes, limit), parseIndexSet(ptr.Deref(s.FailedIndexes, ""), limit)
	if s.UncountedTerminatedPods == nil {
		s.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	tracked := map[types.UID]bool{}
	for _, p := range w.pods {
		if slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
			tracked[p.UID] = true
		}
	}
	settle := func(uids []types.UID, counter *int32) []types.UID {
		return slices.DeleteFunc(uids, func(uid types.UID) bool {
			if !tracked[uid] {
				*counter++
			}
			return !tracked[uid]
		})
	}
	u := s.UncountedTerminatedPods
	if u.Succeeded = settle(u.Succeeded, &s.Succeeded); len(u.Succeeded) == 0 {
		u.Succeeded = nil
	}
	if u.Failed = settle(u.Failed, &s.Failed); len(u.Failed) == 0 {
		u.Failed = nil
	}
	if w.indexed() {
		s.Succeeded = int32(w.done.count())
	}
	for _, p := range w.pods {
		// One that was deleted has failed, however it ends after that: it is named once.
		ours := tracked[p.UID] && !slices.Contains(u.Succeeded, p.UID) && !slices.Contains(u.Failed, p.UID)
		switch {
		case p.Status.Phase == corev1.PodSucceeded:
			if ours {
				w.succeeded = append(w.succeeded, p)
			}
		case w.hasFailed(p):
			if ours {
				w.failed = append(w.failed, p)
			}
		case p.DeletionTimestamp == nil:
			w.active = append(w.active, p)
		}
		if p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
			w.terminating = append(w.terminating, p)
		}
	}
	w.name()
}

// name puts the pods that ended into the status. Of an index that has retries left, the last failure waits until its
// successor is there, which carries on its count.
func (w *jobWork) name() {
	s := &w.job.Status
	u := s.UncountedTerminatedPods
	var done []int
	for _, p := range w.succeeded {
		if len(u.Succeeded)+len(u.Failed) >= mostUncounted {
			break
		}
		if w.indexed() {
			if i := completionIndex(p); i >= 0 && i < int(ptr.Deref(w.job.Spec.Completions, 0)) && !w.lost.has(i) {
				done = append(done, i)
			}
		}
		u.Succeeded = append(u.Succeeded, p.UID)
	}
	w.done = w.done.with(done)
	if w.indexed() {
		s.CompletedIndexes, s.Succeeded = w.done.String(), int32(w.done.count())
	}
	w.loseIndexes()
	for _, p := range w.failed {
		if len(u.Succeeded)+len(u.Failed) >= mostUncounted {
			break
		}
		if w.perIndex() && !w.ending() && w.awaitsSuccessor(p) {
			continue
		}
		if w.verdict(p).action == batchv1.PodFailurePolicyActionIgnore {
			w.forgiven = append(w.forgiven, p.UID)
			continue
		}
		u.Failed = append(u.Failed, p.UID)
	}
}

// named are the pods that the written status names, or that do not count: their finalizers may go.
func (w *jobWork) named() (out []*corev1.Pod) {
	u := w.job.Status.UncountedTerminatedPods
	over := jobIs(w.job, batchv1.JobComplete) || jobIs(w.job, batchv1.JobFailed)
	for _, p := range w.pods {
		if over || slices.Contains(u.Succeeded, p.UID) || slices.Contains(u.Failed, p.UID) || slices.Contains(w.forgiven, p.UID) {
			out = append(out, p)
		}
	}
	return out
}

// total brings the numbers of the status up to date.
func (w *jobWork) total() {
	s := &w.job.Status
	ready := int32(0)
	for _, p := range w.active {
		if isReady(p) {
			ready++
		}
	}
	s.Active = int32(len(w.active) - w.removed)
	s.Ready, s.Terminating = ptr.To(min(ready, s.Active)), ptr.To(int32(len(w.terminating)+w.removed))
	if w.perIndex() {
		s.FailedIndexes = ptr.To(w.lost.String())
	}
}

// conclude ends the job once nothing of it runs and everything is counted.
func (w *jobWork) conclude() {
	s := &w.job.Status
	u := s.UncountedTerminatedPods
	if !w.ending() || s.Active > 0 || *s.Terminating > 0 || len(u.Succeeded)+len(u.Failed) > 0 || w.unnamed() {
		return
	}
	if s.StartTime == nil { // it is suspended
		s.StartTime = w.began()
	}
	if c := jobCondition(w.job, batchv1.JobFailureTarget); c != nil && c.Status == corev1.ConditionTrue {
		w.setCondition(batchv1.JobFailed, corev1.ConditionTrue, c.Reason, c.Message)
		return
	}
	c := jobCondition(w.job, batchv1.JobSuccessCriteriaMet)
	w.setCondition(batchv1.JobComplete, corev1.ConditionTrue, c.Reason, c.Message)
	s.CompletionTime = ptr.To(metav1.NewTime(w.now))
}

// began is when the first pod was made, now if there is none.
func (w *jobWork) began() *metav1.Time {
	first := metav1.NewTime(w.now)
	for _, p := range w.pods {
		if p.CreationTimestamp.Before(&first) {
			first = p.CreationTimestamp
		}
	}
	return &first
}

// unnamed says whether pods have ended that the status does not account for yet.
func (w *jobWork) unnamed() bool {
	u := w.job.Status.UncountedTerminatedPods
	for _, p := range append(slices.Clone(w.succeeded), w.failed...) {
		if !slices.Contains(u.Succeeded, p.UID) && !slices.Contains(u.Failed, p.UID) && !slices.Contains(w.forgiven, p.UID) {
			return true
		}
	}
	return false
}
