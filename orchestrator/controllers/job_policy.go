package controllers

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// verdict is what a job's failure policy says of a failed pod.
type verdict struct {
	action batchv1.PodFailurePolicyAction
	why    string
}

// verdict looks a failed pod up in the failure policy. Without a rule that matches it counts.
func (w *jobWork) verdict(p *corev1.Pod) verdict {
	counts := verdict{action: batchv1.PodFailurePolicyActionCount}
	if w.job.Spec.PodFailurePolicy == nil || p.Status.Phase != corev1.PodFailed {
		return counts
	}
	for i, rule := range w.job.Spec.PodFailurePolicy.Rules {
		tail := fmt.Sprintf("matching %s rule at index %d", rule.Action, i)
		if rule.OnExitCodes != nil {
			if c := exitMatch(p, rule.OnExitCodes); c != nil {
				return verdict{rule.Action, fmt.Sprintf("Container %s for pod %s failed with exit code %d %s", c.Name, keyOf(p), c.State.Terminated.ExitCode, tail)}
			}
			continue
		}
		for _, want := range rule.OnPodConditions {
			if c := podCondition(p, want.Type); c != nil && c.Status == want.Status {
				return verdict{rule.Action, fmt.Sprintf("Pod %s has condition %s %s", keyOf(p), want.Type, tail)}
			}
		}
	}
	return counts
}

// exitMatch is the container whose exit code a rule speaks of; nil: there is none.
func exitMatch(p *corev1.Pod, rule *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	all := append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...)
	for i := range all {
		c := &all[i]
		if rule.ContainerName != nil && *rule.ContainerName != c.Name || c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 {
			continue
		}
		if slices.Contains(rule.Values, c.State.Terminated.ExitCode) == (rule.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
			return c
		}
	}
	return nil
}

// failures is how often an index has failed when a pod of it has.
func failures(p *corev1.Pod) (counted, ignored int) {
	return max(0, annotatedNumber(p, batchv1.JobIndexFailureCountAnnotation)), max(0, annotatedNumber(p, batchv1.JobIndexIgnoredFailureCountAnnotation))
}

// failuresAfter counts the failure of a pod itself, too.
func (w *jobWork) failuresAfter(p *corev1.Pod) (counted, ignored int) {
	counted, ignored = failures(p)
	if w.verdict(p).action == batchv1.PodFailurePolicyActionIgnore {
		return counted, ignored + 1
	}
	return counted + 1, ignored
}

// loseIndexes gives up the indexes that have failed too often, or whose failure says so itself.
func (w *jobWork) loseIndexes() {
	if !w.perIndex() {
		return
	}
	var lost []int
	for _, p := range w.failed {
		i := completionIndex(p)
		if i < 0 || w.done.has(i) {
			continue
		}
		n, _ := w.failuresAfter(p)
		if n > int(*w.job.Spec.BackoffLimitPerIndex) || w.verdict(p).action == batchv1.PodFailurePolicyActionFailIndex {
			lost = append(lost, i)
		}
	}
	w.lost = w.lost.with(lost)
}

// awaitsSuccessor says whether the next pod of a failed pod's index is still to be made.
func (w *jobWork) awaitsSuccessor(p *corev1.Pod) bool {
	i := completionIndex(p)
	if i < 0 || w.done.has(i) || w.lost.has(i) {
		return false
	}
	counted, ignored := w.failuresAfter(p)
	return !slices.ContainsFunc(w.pods, func(o *corev1.Pod) bool {
		if o.UID == p.UID || completionIndex(o) != i {
			return false
		}
		c, ig := failures(o)
		return c+ig >= counted+ignored
	})
}

// judge decides whether the job has failed or succeeded. What is decided stays.
func (w *jobWork) judge() {
	if w.ending() {
		return
	}
	fail := func(reason, message string) {
		w.setCondition(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message)
	}
	if why := w.failJob(); why != "" {
		fail(batchv1.JobReasonPodFailurePolicy, why)
		return
	}
	if i, ok := w.succeeds(); ok {
		w.setCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i))
		return
	}
	switch spec := &w.job.Spec; {
	case w.beyondLimit():
		fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case w.beyondDeadline():
		fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case spec.MaxFailedIndexes != nil && w.lost.count() > int(*spec.MaxFailedIndexes):
		fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	case w.perIndex() && w.lost.count() > 0 && w.lost.count()+w.done.count() >= int(*spec.Completions):
		fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
	case w.complete():
		w.setCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	}
}

// failJob is why the failure policy ends the job, "" if it does not.
func (w *jobWork) failJob() string {
	for _, p := range w.pods {
		if p.Status.Phase == corev1.PodFailed {
			if v := w.verdict(p); v.action == batchv1.PodFailurePolicyActionFailJob {
				return v.why
			}
		}
	}
	return ""
}

// succeeds is the rule of the success policy that is met.
func (w *jobWork) succeeds() (int, bool) {
	if w.job.Spec.SuccessPolicy == nil {
		return 0, false
	}
	for i, rule := range w.job.Spec.SuccessPolicy.Rules {
		of := w.done
		if rule.SucceededIndexes != nil {
			want := parseIndexSet(*rule.SucceededIndexes, int(*w.job.Spec.Completions))
			of = want.both(w.done)
			if rule.SucceededCount == nil && of.count() == want.count() {
				return i, true
			}
		}
		if rule.SucceededCount != nil && of.count() >= int(*rule.SucceededCount) {
			return i, true
		}
	}
	return 0, false
}

// beyondLimit says whether too many pods have failed, or too many containers of pods that restart them.
func (w *jobWork) beyondLimit() bool {
	limit, s := ptr.Deref(w.job.Spec.BackoffLimit, 6), &w.job.Status
	if s.Failed+int32(len(s.UncountedTerminatedPods.Failed)) > limit {
		return true
	}
	if w.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	total := int32(0)
	for _, p := range w.active {
		if p.Status.Phase != corev1.PodRunning && p.Status.Phase != corev1.PodPending {
			continue
		}
		for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
			total += c.RestartCount
		}
	}
	if limit == 0 {
		return total > 0
	}
	return total >= limit
}

func (w *jobWork) beyondDeadline() bool {
	d, start := w.job.Spec.ActiveDeadlineSeconds, w.job.Status.StartTime
	return d != nil && start != nil && !ptr.Deref(w.job.Spec.Suspend, false) && w.now.Sub(start.Time) >= time.Duration(*d)*time.Second
}

// complete says whether everything is done.
func (w *jobWork) complete() bool {
	s := &w.job.Status
	if w.job.Spec.Completions == nil { // one that succeeds ends it, once the others have ended
		return s.Succeeded+int32(len(s.UncountedTerminatedPods.Succeeded)) > 0 && len(w.active)+len(w.terminating) == 0
	}
	return w.completions() >= *w.job.Spec.Completions
}

// completions is how many there have been.
func (w *jobWork) completions() int32 {
	if w.indexed() {
		return int32(w.done.count())
	}
	return w.job.Status.Succeeded + int32(len(w.job.Status.UncountedTerminatedPods.Succeeded))
}
