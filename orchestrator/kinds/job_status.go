package kinds

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func jobFinished(o *batchv1.Job) bool {
	return jobIs(o, batchv1.JobComplete) || jobIs(o, batchv1.JobFailed)
}

// jobChange is a change of the status of a job. What was wrong before, and has not changed, is let pass: it may be that the
// spec has changed, and the controller has not yet caught up.
type jobChange struct {
	problems
	is, was *batchv1.Job
	at      *field.Path
}

func validateJobStatus(o, old *batchv1.Job) field.ErrorList {
	c := jobChange{is: o, was: old, at: field.NewPath("status")}
	c.counts()
	c.completion()
	c.finish()
	c.indexes()
	c.conditions()
	c.progress()
	return c.list
}

// flipped says that one of some conditions has changed.
func (c *jobChange) flipped(conditions ...batchv1.JobConditionType) bool {
	for _, t := range conditions {
		if jobIs(c.is, t) != jobIs(c.was, t) {
			return true
		}
	}
	return false
}

func (c *jobChange) wrong(child, detail string) {
	c.invalid(c.at.Child(child), field.OmitValueType{}, detail)
}

func (c *jobChange) counts() {
	s := &c.is.Status
	c.notNegative(c.at.Child("active"), int64(s.Active))
	c.notNegative(c.at.Child("succeeded"), int64(s.Succeeded))
	c.notNegative(c.at.Child("failed"), int64(s.Failed))
	optionalNotNegative(&c.problems, c.at.Child("ready"), s.Ready)
	optionalNotNegative(&c.problems, c.at.Child("terminating"), s.Terminating)
	if s.UncountedTerminatedPods == nil {
		return
	}
	at, seen := c.at.Child("uncountedTerminatedPods"), map[types.UID]bool{}
	for _, l := range []struct {
		name string
		uids []types.UID
	}{{"succeeded", s.UncountedTerminatedPods.Succeeded}, {"failed", s.UncountedTerminatedPods.Failed}} {
		for i, uid := range l.uids {
			if uid == "" {
				c.invalid(at.Child(l.name).Index(i), "", "must not be empty")
				continue
			}
			unique(&c.problems, seen, at.Child(l.name).Index(i), uid)
		}
	}
}

// completion checks the conditions and the times of the end.
func (c *jobChange) completion() {
	s, was := &c.is.Status, &c.was.Status
	complete, failed := jobIs(c.is, batchv1.JobComplete), jobIs(c.is, batchv1.JobFailed)
	target, met := jobIs(c.is, batchv1.JobFailureTarget), jobIs(c.is, batchv1.JobSuccessCriteriaMet)
	started, completed := !s.StartTime.Equal(was.StartTime), !s.CompletionTime.Equal(was.CompletionTime)
	if c.flipped(batchv1.JobComplete, batchv1.JobFailed) && complete && failed {
		c.wrong("conditions", "cannot set Complete=True and Failed=true conditions")
	}
	if c.flipped(batchv1.JobComplete, batchv1.JobFailureTarget) && complete && target {
		c.wrong("conditions", "cannot set Complete=True and FailureTarget=true conditions")
	}
	if c.flipped(batchv1.JobComplete) || completed {
		switch {
		case s.CompletionTime != nil && !complete:
			c.invalid(c.at.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		case s.CompletionTime == nil && complete:
			c.required(c.at.Child("completionTime"), "completionTime is required for Complete jobs")
		}
	}
	if (started || completed) && s.StartTime != nil && s.CompletionTime.Before(s.StartTime) && s.CompletionTime != nil {
		c.invalid(c.at.Child("completionTime"), s.CompletionTime, "must be equal to or after `startTime`")
	}
	if (c.flipped(batchv1.JobFailed) || !ptr.Equal(s.FailedIndexes, was.FailedIndexes)) && failed && !target {
		c.wrong("conditions", "cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if c.flipped(batchv1.JobComplete, batchv1.JobSuccessCriteriaMet) && complete && !met {
		c.wrong("conditions", "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
}

// finish checks that nothing is left of a job that is over.
func (c *jobChange) finish() {
	s, was, over := &c.is.Status, &c.was.Status, jobFinished(c.is)
	changed := over != jobFinished(c.was)
	if (changed || s.Active != was.Active) && s.Active > 0 && over {
		c.invalid(c.at.Child("active"), s.Active, "active>0 is invalid for finished job")
	}
	neverStarted := ptr.Deref(c.is.Spec.Suspend, false) && ptr.Equal(c.is.Spec.Completions, ptr.To[int32](0))
	if (changed || !s.StartTime.Equal(was.StartTime)) && !neverStarted && s.StartTime == nil && over {
		c.required(c.at.Child("startTime"), "startTime is required for finished job")
	}
	if u := s.UncountedTerminatedPods; over && u != nil && len(u.Failed)+len(u.Succeeded) > 0 &&
		(changed || !equality.Semantic.DeepEqual(u, was.UncountedTerminatedPods)) {
		c.invalid(c.at.Child("uncountedTerminatedPods"), u, "must be empty for finished job")
	}
}

func (c *jobChange) indexes() {
	s, was, spec := &c.is.Status, &c.was.Status, &c.is.Spec
	completed, failed := s.CompletedIndexes != was.CompletedIndexes, !ptr.Equal(s.FailedIndexes, was.FailedIndexes)
	limit, failedText := ptr.Deref(spec.Completions, 0), ptr.Deref(s.FailedIndexes, "")
	done, err := parseIndexes(s.CompletedIndexes, limit)
	if completed && spec.Completions != nil && err != nil {
		c.invalid(c.at.Child("completedIndexes"), s.CompletedIndexes, "error parsing completedIndexes: "+err.Error())
	}
	lost, err := parseIndexes(failedText, limit)
	if failed && spec.Completions != nil && spec.BackoffLimitPerIndex != nil && err != nil {
		c.invalid(c.at.Child("failedIndexes"), failedText, "error parsing failedIndexes: "+err.Error())
	}
	if completed && s.CompletedIndexes != "" && !isIndexed(spec) {
		c.invalid(c.at.Child("completedIndexes"), s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if failed && s.FailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		c.invalid(c.at.Child("failedIndexes"), failedText, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	}
	if index, both := done.overlap(lost); (completed || failed) && both {
		c.invalid(c.at.Child("failedIndexes"), failedText, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", index))
	}
}

// conditions checks which conditions there are together, whether they have changed or not.
func (c *jobChange) conditions() {
	s, was, over := &c.is.Status, &c.was.Status, jobFinished(c.is)
	terminating := !ptr.Equal(s.Terminating, was.Terminating) || over != jobFinished(c.was)
	if n := s.Terminating; terminating && n != nil && *n > 0 && over {
		c.invalid(c.at.Child("terminating"), *n, "terminating>0 is invalid for finished job")
	}
	if n := s.Ready; (!ptr.Equal(n, was.Ready) || s.Active != was.Active) && n != nil && *n > s.Active {
		c.invalid(c.at.Child("ready"), *n, "cannot set more ready pods than active")
	}
	met := jobIs(c.is, batchv1.JobSuccessCriteriaMet)
	if met && jobIs(c.is, batchv1.JobFailed) {
		c.wrong("conditions", "cannot set SuccessCriteriaMet=True and Failed=true conditions")
	}
	if met && jobIs(c.is, batchv1.JobFailureTarget) {
		c.wrong("conditions", "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	}
	if c.is.Spec.SuccessPolicy != nil && !met && jobIs(c.is, batchv1.JobComplete) {
		c.wrong("conditions", "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	}
}

// progress allows no way back.
func (c *jobChange) progress() {
	s, was, spec := &c.is.Status, &c.was.Status, &c.is.Spec
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if jobIs(c.was, t) && !jobIs(c.is, t) {
			c.wrong("conditions", "cannot disable the terminal "+string(t)+"=True condition")
		}
	}
	if s.Failed < was.Failed {
		c.invalid(c.at.Child("failed"), s.Failed, "cannot decrease the failed counter")
	}
	elastic := isIndexed(spec) && ptr.Equal(spec.Completions, spec.Parallelism)
	if s.Succeeded < was.Succeeded && !elastic {
		c.invalid(c.at.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter")
	}
	if s.CompletionTime != nil && was.CompletionTime != nil && !s.CompletionTime.Equal(was.CompletionTime) {
		c.invalid(c.at.Child("completionTime"), s.CompletionTime, "field is immutable")
	}
	if was.StartTime != nil && !s.StartTime.Equal(was.StartTime) && !ptr.Deref(spec.Suspend, false) && !c.resumed() {
		c.invalid(c.at.Child("startTime"), s.StartTime, "field is immutable for unsuspended job once set")
	}
	met, wasMet := jobIs(c.is, batchv1.JobSuccessCriteriaMet), jobIs(c.was, batchv1.JobSuccessCriteriaMet)
	if wasMet && !met {
		c.wrong("conditions", "cannot disable the SuccessCriteriaMet=True condition")
	}
	if jobIs(c.was, batchv1.JobComplete) && !wasMet && met {
		c.wrong("conditions", "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	}
}

// resumed says that the job goes on after it was suspended.
func (c *jobChange) resumed() bool {
	if !jobIs(c.was, batchv1.JobSuspended) {
		return false
	}
	for i := range c.is.Status.Conditions {
		if o := &c.is.Status.Conditions[i]; o.Type == batchv1.JobSuspended && o.Status == corev1.ConditionFalse {
			return true
		}
	}
	return false
}
