package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Delays of the replacement of a pod that failed: doubling with every failure in a row.
const (
	jobFirstBackoff = 10 * time.Second
	jobLastBackoff  = 10 * time.Minute
)

// completionIndexVariable is the environment variable that tells a container the index of its pod.
const completionIndexVariable = "JOB_COMPLETION_INDEX"

// manage makes pods that are missing and deletes those that are too many.
func (w *jobWork) manage(ctx context.Context) error {
	suspended := ptr.Deref(w.job.Spec.Suspend, false)
	if w.ending() || suspended {
		return w.drop(ctx, w.active)
	}
	if w.indexed() {
		if gone := w.misplaced(); len(gone) > 0 {
			return w.drop(ctx, gone)
		}
	}
	want := w.wanted()
	if len(w.active) > want {
		return w.drop(ctx, victims(w.active, min(len(w.active)-want, burst), w.now))
	}
	missing := want - len(w.active)
	if w.onlyFailed() {
		missing -= len(w.terminating)
	}
	if missing <= 0 {
		return nil
	}
	if w.indexed() {
		return w.createIndexes(ctx, missing)
	}
	if wait := backoff(w.failedPods(-1), w.now); wait > 0 {
		w.after(w.job, wait)
		return nil
	}
	return w.createNext(ctx, make([]*successor, min(missing, burst)))
}

// wanted is how many pods are to be active.
func (w *jobWork) wanted() int {
	parallelism := int(ptr.Deref(w.job.Spec.Parallelism, 1))
	if w.job.Spec.Completions == nil {
		if w.completions() > 0 {
			return min(len(w.active), parallelism)
		}
		return parallelism
	}
	left := int(*w.job.Spec.Completions) - int(w.completions())
	if w.perIndex() {
		left -= w.lost.count()
	}
	return max(0, min(parallelism, left))
}

// misplaced are active pods without an index, with one that is over, and all but one of an index.
func (w *jobWork) misplaced() (out []*corev1.Pod) {
	seen := map[int]bool{}
	limit := int(ptr.Deref(w.job.Spec.Completions, 0))
	pods := slices.Clone(w.active)
	slices.SortStableFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(order(isReady(a), isReady(b)), a.CreationTimestamp.Compare(b.CreationTimestamp.Time))
	})
	for _, p := range pods {
		i := completionIndex(p)
		if i < 0 || i >= limit || seen[i] || w.done.has(i) || w.lost.has(i) {
			out = append(out, p)
		}
		seen[i] = true
	}
	return out
}

// successor says what pod is to be made: of which index, after how many failures of it.
type successor struct {
	index            int
	counted, ignored int
}

// createIndexes makes pods of the lowest indexes that have none.
func (w *jobWork) createIndexes(ctx context.Context, missing int) error {
	busy := map[int]bool{}
	for _, p := range w.active {
		busy[completionIndex(p)] = true
	}
	if w.onlyFailed() {
		for _, p := range w.terminating {
			busy[completionIndex(p)] = true
		}
	}
	if !w.perIndex() {
		if wait := backoff(w.failedPods(-1), w.now); wait > 0 {
			w.after(w.job, wait)
			return nil
		}
	}
	var next []*successor
	for i := 0; i < int(ptr.Deref(w.job.Spec.Completions, 0)) && len(next) < min(missing, burst); i++ {
		if busy[i] || w.done.has(i) || w.lost.has(i) {
			continue
		}
		s := &successor{index: i}
		if w.perIndex() {
			failed := w.failedPods(i)
			if wait := backoff(failed, w.now); wait > 0 {
				w.after(w.job, wait)
				continue
			}
			for _, p := range failed {
				c, ig := w.failuresAfter(p)
				s.counted, s.ignored = max(s.counted, c), max(s.ignored, ig)
			}
		}
		next = append(next, s)
	}
	return w.createNext(ctx, next)
}

// failedPods are the job's failures, of one index or, with -1, of all, without those before the last success.
func (w *jobWork) failedPods(index int) (out []*corev1.Pod) {
	last := time.Time{}
	for _, p := range w.pods {
		if index < 0 && p.Status.Phase == corev1.PodSucceeded {
			if t := endOf(p, w.now); t.After(last) {
				last = t
			}
		}
	}
	for _, p := range w.pods {
		if w.hasFailed(p) && (index < 0 || completionIndex(p) == index) && endOf(p, w.now).After(last) {
			out = append(out, p)
		}
	}
	return out
}

// backoff is how long to wait after failures before the next try.
func backoff(failed []*corev1.Pod, now time.Time) time.Duration {
	if len(failed) == 0 {
		return 0
	}
	last, n := time.Time{}, len(failed)
	for _, p := range failed {
		if t := endOf(p, now); t.After(last) {
			last = t
		}
		c, _ := failures(p)
		n = max(n, c+1)
	}
	delay := jobLastBackoff
	if n < 7 {
		delay = min(delay, jobFirstBackoff<<(n-1))
	}
	return last.Add(delay).Sub(now)
}

// endOf is when a pod ended or, as long as its containers have not, when it ceased to be ready, or was deleted.
func endOf(p *corev1.Pod, now time.Time) time.Time {
	if end := lastEnd(p); !end.IsZero() {
		return end
	}
	if c := podCondition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	switch {
	case p.DeletionTimestamp != nil: // it says until when the pod may take
		return p.DeletionTimestamp.Add(-time.Duration(ptr.Deref(p.DeletionGracePeriodSeconds, 0)) * time.Second)
	case !p.CreationTimestamp.IsZero():
		return p.CreationTimestamp.Time
	}
	return now
}

// lastEnd is when the last container of a pod ended, sidecars among them; zero if one has not.
func lastEnd(p *corev1.Pod) (end time.Time) {
	all := slices.Clone(p.Status.ContainerStatuses)
	for _, s := range p.Status.InitContainerStatuses {
		if slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == s.Name && ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways
		}) {
			all = append(all, s)
		}
	}
	for _, s := range all {
		t := s.State.Terminated
		if t == nil || t.FinishedAt.IsZero() {
			return time.Time{}
		}
		if t.FinishedAt.After(end) {
			end = t.FinishedAt.Time
		}
	}
	return end
}

// createNext makes a pod per successor.
func (w *jobWork) createNext(ctx context.Context, next []*successor) error {
	return w.create(ctx, w.key, &w.owner, len(next), func(i int) *corev1.Pod { return w.pod(next[i]) })
}

// pod makes a pod of the job. s is nil if it has no index.
func (w *jobWork) pod(s *successor) *corev1.Pod {
	p := podFrom(&w.owner, &w.job.Spec.Template)
	p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	if s == nil {
		return p
	}
	index := strconv.Itoa(s.index)
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Annotations[batchv1.JobCompletionIndexAnnotation], p.Labels[batchv1.JobCompletionIndexAnnotation] = index, index
	if w.perIndex() {
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(s.counted)
		if s.ignored > 0 {
			p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation] = strconv.Itoa(s.ignored)
		}
	}
	p.GenerateName = podPrefix(fmt.Sprintf("%s-%d", w.job.Name, s.index))
	if p.Spec.Hostname == "" {
		p.Spec.Hostname = fmt.Sprintf("%s-%d", w.job.Name, s.index)
	}
	for _, all := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range all {
			if !slices.ContainsFunc(all[i].Env, func(e corev1.EnvVar) bool { return e.Name == completionIndexVariable }) {
				all[i].Env = append(all[i].Env, corev1.EnvVar{Name: completionIndexVariable, ValueFrom: &corev1.EnvVarSource{
					FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
				}})
			}
		}
	}
	return p
}

// drop deletes pods, and takes them from the active ones.
func (w *jobWork) drop(ctx context.Context, pods []*corev1.Pod) error {
	going, err := w.remove(ctx, w.key, &w.owner, pods)
	w.removed += going
	return err
}
