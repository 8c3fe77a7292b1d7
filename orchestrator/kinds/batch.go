package kinds

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/utils/ptr"
)

const (
	defaultBackoffLimit   = 6
	defaultKeptSucceeded  = 3
	defaultKeptFailed     = 1
	successfulField       = "status.successful"
	oldJobNameLabel       = "job-name"
	oldControllerUIDLabel = "controller-uid"
)

// batchKinds are those of batch.
func batchKinds() []*Kind { return []*Kind{cronJobKind(), jobKind()} }

func jobKind() *Kind {
	return with(Kind{
		GroupVersionKind: batchv1.SchemeGroupVersion.WithKind("Job"), Resource: "jobs", Singular: "job",
		Categories: []string{"all"}, Namespaced: true, Place: "jobs",
		New: func() Object { return &batchv1.Job{} }, NewList: func() runtime.Object { return &batchv1.JobList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true, Orphan: true},
		FieldNames: []string{successfulField},
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Status", "Status of the job."),
			textColumn("Completions", batchv1.JobStatus{}.SwaggerDoc()["succeeded"]),
			textColumn("Duration", "Time required to complete the job."),
			ageColumn,
		}, podsColumns(batchv1.JobSpec{}.SwaggerDoc()["selector"])...),
	}, Rules[*batchv1.Job]{
		Default: defaultJob,
		Create: func(o *batchv1.Job) {
			prepareJobTemplate(&o.Spec)
			selectJobPods(o)
		},
		Update:   func(o, _ *batchv1.Job) { prepareJobTemplate(&o.Spec) },
		Ratchets: true, Validate: validateJob, ValidateUpdate: validateJobUpdate, ValidateStatus: validateJobStatus,
		Warnings: func(o, old *batchv1.Job) []string { return podNameWarnings(o, old == nil) },
		Spec:     func(o *batchv1.Job) any { return &o.Spec }, Status: func(o *batchv1.Job) any { return &o.Status },
		Fields: func(o *batchv1.Job) map[string]string {
			return map[string]string{successfulField: strconv.Itoa(int(o.Status.Succeeded))}
		},
		Row: func(o *batchv1.Job, now time.Time) []any {
			names, images := templateCells(&o.Spec.Template)
			return []any{
				o.Name, jobState(o), completionsCell(o), jobDuration(o, now), age(o, now), names, images, metav1.FormatLabelSelector(o.Spec.Selector),
			}
		},
	})
}

// prepareJobTemplate drops what there is in no version of Kubernetes that is not experimental.
func prepareJobTemplate(s *batchv1.JobSpec) {
	prepareTemplate(&s.Template)
	s.Scheduling = nil
}

func defaultJob(o *batchv1.Job) {
	defaultJobSpec(&o.Spec)
	s := &o.Spec
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions = ptr.To[int32](1)
	}
	fill(&s.Parallelism, 1)
	limit := int32(defaultBackoffLimit)
	if s.BackoffLimitPerIndex != nil {
		limit = math.MaxInt32
	}
	fill(&s.BackoffLimit, limit)
	if len(o.Labels) == 0 && s.Template.Labels != nil {
		o.Labels = maps.Clone(s.Template.Labels)
	}
	fill(&s.CompletionMode, batchv1.NonIndexedCompletion)
	fill(&s.Suspend, false)
	replacement := batchv1.TerminatingOrFailed
	if s.PodFailurePolicy != nil {
		replacement = batchv1.Failed
	}
	fill(&s.PodReplacementPolicy, replacement)
	fill(&s.ManualSelector, false)
}

// defaultJobSpec fills in what is filled in for the template of a CronJob, too.
func defaultJobSpec(s *batchv1.JobSpec) {
	defaultTemplate(&s.Template)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		patterns := s.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range patterns {
			fillZero(&patterns[j].Status, corev1.ConditionTrue)
		}
	}
}

// selectJobPods makes a job select its own pods, by its UID, unless it says how.
func selectJobPods(o *batchv1.Job) {
	if ptr.Deref(o.Spec.ManualSelector, false) {
		return
	}
	t := &o.Spec.Template
	if t.Labels == nil {
		t.Labels = make(map[string]string)
	}
	for key, value := range map[string]string{
		oldJobNameLabel: o.Name, batchv1.JobNameLabel: o.Name,
		oldControllerUIDLabel: string(o.UID), batchv1.ControllerUidLabel: string(o.UID),
	} {
		if _, ok := t.Labels[key]; !ok {
			t.Labels[key] = value
		}
	}
	fill(&o.Spec.Selector, metav1.LabelSelector{})
	if o.Spec.Selector.MatchLabels == nil {
		o.Spec.Selector.MatchLabels = make(map[string]string)
	}
	if _, ok := o.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !ok {
		o.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(o.UID)
	}
}

func jobIs(o *batchv1.Job, t batchv1.JobConditionType) bool {
	return slices.ContainsFunc(o.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == t && c.Status == corev1.ConditionTrue })
}

func jobState(o *batchv1.Job) string {
	switch {
	case jobIs(o, batchv1.JobComplete):
		return "Complete"
	case jobIs(o, batchv1.JobFailed):
		return "Failed"
	case o.DeletionTimestamp != nil:
		return "Terminating"
	case jobIs(o, batchv1.JobSuspended):
		return "Suspended"
	case jobIs(o, batchv1.JobFailureTarget):
		return "FailureTarget"
	case jobIs(o, batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	}
	return "Running"
}

func completionsCell(o *batchv1.Job) string {
	if n := o.Spec.Completions; n != nil {
		return fmt.Sprintf("%d/%d", o.Status.Succeeded, *n)
	}
	if n := ptr.Deref(o.Spec.Parallelism, 0); n > 1 {
		return fmt.Sprintf("%d/1 of %d", o.Status.Succeeded, n)
	}
	return fmt.Sprintf("%d/1", o.Status.Succeeded)
}

func jobDuration(o *batchv1.Job, now time.Time) string {
	start, end := o.Status.StartTime, o.Status.CompletionTime
	switch {
	case start == nil:
		return ""
	case end != nil:
		now = end.Time
	}
	return duration.HumanDuration(now.Sub(start.Time))
}

func cronJobKind() *Kind {
	doc := batchv1.CronJobSpec{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: batchv1.SchemeGroupVersion.WithKind("CronJob"), Resource: "cronjobs", Singular: "cronjob",
		ShortNames: []string{"cj"}, Categories: []string{"all"}, Namespaced: true, Place: "cronjobs",
		New: func() Object { return &batchv1.CronJob{} }, NewList: func() runtime.Object { return &batchv1.CronJobList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Generation: true, Unconditional: true},
		Columns: append([]metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Schedule", doc["schedule"]),
			textColumn("Timezone", doc["timeZone"]),
			{Name: "Suspend", Type: "boolean", Description: doc["suspend"]},
			countColumn("Active", batchv1.CronJobStatus{}.SwaggerDoc()["active"]),
			textColumn("Last Schedule", batchv1.CronJobStatus{}.SwaggerDoc()["lastScheduleTime"]),
			ageColumn,
		}, podsColumns(batchv1.JobSpec{}.SwaggerDoc()["selector"])...),
	}, Rules[*batchv1.CronJob]{
		Create: func(o *batchv1.CronJob) { prepareJobTemplate(&o.Spec.JobTemplate.Spec) },
		Update: func(o, _ *batchv1.CronJob) { prepareJobTemplate(&o.Spec.JobTemplate.Spec) },
		Default: func(o *batchv1.CronJob) {
			defaultJobSpec(&o.Spec.JobTemplate.Spec)
			fillZero(&o.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
			fill(&o.Spec.Suspend, false)
			fill(&o.Spec.SuccessfulJobsHistoryLimit, defaultKeptSucceeded)
			fill(&o.Spec.FailedJobsHistoryLimit, defaultKeptFailed)
		},
		Ratchets: true, Validate: validateCronJob, ValidateUpdate: validateCronJobUpdate,
		Warnings: cronJobWarnings,
		Spec:     func(o *batchv1.CronJob) any { return &o.Spec }, Status: func(o *batchv1.CronJob) any { return &o.Status },
		Row: func(o *batchv1.CronJob, now time.Time) []any {
			last := noCell
			if t := o.Status.LastScheduleTime; t != nil {
				last = since(t.Time, now)
			}
			suspended := unsetCell
			if s := o.Spec.Suspend; s != nil {
				suspended = map[bool]string{true: "True", false: "False"}[*s]
			}
			job := &o.Spec.JobTemplate.Spec
			names, images := templateCells(&job.Template)
			return []any{
				o.Name, o.Spec.Schedule, ptr.Deref(o.Spec.TimeZone, noCell), suspended, int64(len(o.Status.Active)), last, age(o, now),
				names, images, metav1.FormatLabelSelector(job.Selector),
			}
		},
	})
}

func cronJobWarnings(o, old *batchv1.CronJob) []string {
	l := podNameWarnings(o, old == nil)
	if old != nil && strings.Contains(o.Spec.Schedule, "TZ") {
		l = append(l, "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, "+
			"see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	return l
}
