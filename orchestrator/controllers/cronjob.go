package controllers

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	cron "github.com/robfig/cron/v3"
	"go.uber.org/zap"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// manyMissed is from how many missed times on somebody should look at the clocks.
const manyMissed = 100

// cronController makes jobs at the times that cron jobs say.
type cronController struct {
	*loop
	client kubernetes.Interface
	crons  cache.Indexer
	jobs   cache.Indexer
	events record.EventRecorder
	clock  clock.Clock
}

// NewCronJob makes the controller of cron jobs.
func NewCronJob(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, c clock.Clock, lg *zap.Logger) (Controller, error) {
	ci, ji := i.Batch().V1().CronJobs().Informer(), i.Batch().V1().Jobs().Informer()
	r := &cronController{loop: newLoop("cronjob", lg), client: client, crons: ci.GetIndexer(), jobs: ji.GetIndexer(), events: events, clock: c}
	r.sync = r.syncOne
	return r, errors.Join(
		r.watch(ci, objects(func(o *batchv1.CronJob) { r.add(o) })),
		r.watch(ji, objects(func(o *batchv1.Job) {
			if ref := metav1.GetControllerOf(o); ref != nil && ref.Kind == "CronJob" {
				r.queue.Add(o.Namespace + "/" + ref.Name)
			}
		})),
	)
}

// Run works until ctx ends.
func (r *cronController) Run(ctx context.Context) error { return r.run(ctx, 5) }

// cronWork is one look at a cron job. The cron job is a copy, of which the status is brought up to date.
type cronWork struct {
	*cronController
	cron *batchv1.CronJob
	jobs []*batchv1.Job // of the cron job
	now  time.Time
}

func (r *cronController) syncOne(ctx context.Context, key string) error {
	x, exists, err := r.crons.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	w := &cronWork{cronController: r, cron: x.(*batchv1.CronJob).DeepCopy(), now: r.clock.Now()}
	was := w.cron.Status.DeepCopy()
	all, err := r.jobs.ByIndex(cache.NamespaceIndex, w.cron.Namespace)
	if err != nil {
		return err
	}
	for _, x := range all {
		if job := x.(*batchv1.Job); metav1.IsControlledBy(job, w.cron) {
			w.jobs = append(w.jobs, job)
		}
	}
	errs := errors.Join(w.prune(ctx), w.reconcile(ctx))
	if errs == nil {
		errs = w.run(ctx)
	}
	if equality.Semantic.DeepEqual(was, &w.cron.Status) {
		return errs
	}
	_, err = r.client.BatchV1().CronJobs(w.cron.Namespace).UpdateStatus(ctx, w.cron, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return errors.Join(errs, err)
}

// over says how a job ended, "" if it has not.
func over(job *batchv1.Job) batchv1.JobConditionType {
	for _, t := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if jobIs(job, t) {
			return t
		}
	}
	return ""
}

// reconcile brings the list of active jobs up to date.
func (w *cronWork) reconcile(ctx context.Context) error {
	s, events := &w.cron.Status, w.events
	known := map[types.UID]bool{}
	for _, job := range w.jobs {
		known[job.UID] = true
		i := slices.IndexFunc(s.Active, func(r corev1.ObjectReference) bool { return r.UID == job.UID })
		switch end := over(job); {
		case end != "" && i >= 0:
			s.Active = slices.Delete(s.Active, i, i+1)
			events.Eventf(w.cron, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, end)
		case end == "" && i < 0:
			s.Active = append(s.Active, w.reference(job))
		}
		if t := job.Status.CompletionTime; jobIs(job, batchv1.JobComplete) && t != nil && (s.LastSuccessfulTime == nil || s.LastSuccessfulTime.Before(t)) {
			s.LastSuccessfulTime = t
		}
	}
	var err error
	s.Active = slices.DeleteFunc(s.Active, func(ref corev1.ObjectReference) bool {
		if known[ref.UID] {
			return false
		}
		job, gerr := w.client.BatchV1().Jobs(w.cron.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(gerr) || gerr == nil && job.UID != ref.UID:
			events.Eventf(w.cron, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			return true
		case gerr != nil:
			err = errors.Join(err, gerr)
		}
		return false
	})
	if len(s.Active) == 0 {
		s.Active = nil
	}
	return err
}

func (w *cronWork) reference(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}

// prune deletes the oldest jobs that have ended and are more than are to be kept.
func (w *cronWork) prune(ctx context.Context) error {
	var errs error
	for end, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: w.cron.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: w.cron.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		var ended []*batchv1.Job
		for _, job := range w.jobs {
			if over(job) == end && job.DeletionTimestamp == nil {
				ended = append(ended, job)
			}
		}
		slices.SortFunc(ended, func(a, b *batchv1.Job) int {
			if c := startOf(a).Compare(startOf(b)); c != 0 {
				return c
			}
			return strings.Compare(a.Name, b.Name)
		})
		for i := 0; i < len(ended)-int(*limit); i++ {
			errs = errors.Join(errs, w.drop(ctx, ended[i]))
		}
	}
	return errs
}

func startOf(job *batchv1.Job) time.Time {
	if job.Status.StartTime != nil {
		return job.Status.StartTime.Time
	}
	return job.CreationTimestamp.Time
}

// drop deletes a job and its pods.
func (w *cronWork) drop(ctx context.Context, job *batchv1.Job) error {
	err := w.client.BatchV1().Jobs(job.Namespace).Delete(ctx, job.Name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		w.events.Eventf(w.cron, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return err
	}
	w.events.Eventf(w.cron, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
	return nil
}

// run makes the job whose time has come, if the policy lets it, and comes back at the next time.
func (w *cronWork) run(ctx context.Context) error {
	if w.cron.DeletionTimestamp != nil || ptr.Deref(w.cron.Spec.Suspend, false) {
		return nil
	}
	schedule, err := parseSchedule(&w.cron.Spec)
	if err != nil {
		w.events.Eventf(w.cron, corev1.EventTypeWarning, "UnParseableCronJobSchedule", "unparseable schedule: %q: %v", w.cron.Spec.Schedule, err)
		return nil
	}
	defer func() {
		if next := schedule.Next(w.now); !next.IsZero() { // some never come
			w.after(w.cron, next.Sub(w.clock.Now())+cronSlack)
		}
	}()
	due, missed := w.due(schedule)
	if due.IsZero() {
		return nil
	}
	if missed > manyMissed {
		w.events.Eventf(w.cron, corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times: %d. Set or decrease .spec.startingDeadlineSeconds or check clock skew", missed)
	}
	if d := w.cron.Spec.StartingDeadlineSeconds; d != nil && due.Add(time.Duration(*d)*time.Second).Before(w.now) {
		w.events.Eventf(w.cron, corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", due.UTC().Format(time.RFC1123Z))
		return nil
	}
	name := w.jobName(due)
	if slices.ContainsFunc(w.cron.Status.Active, func(r corev1.ObjectReference) bool { return r.Name == name }) ||
		w.cron.Status.LastScheduleTime != nil && w.cron.Status.LastScheduleTime.Time.Equal(due) {
		return nil
	}
	switch w.cron.Spec.ConcurrencyPolicy {
	case batchv1.ForbidConcurrent:
		if n := len(w.cron.Status.Active); n > 0 {
			w.events.Eventf(w.cron, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return nil
		}
	case batchv1.ReplaceConcurrent:
		if err := w.replace(ctx); err != nil {
			return err
		}
	}
	return w.create(ctx, due)
}

// cronSlack makes sure that a time has passed when a cron job is looked at again for it.
const cronSlack = 100 * time.Millisecond

// replace deletes the jobs that run.
func (w *cronWork) replace(ctx context.Context) error {
	for _, job := range w.jobs {
		if over(job) == "" && job.DeletionTimestamp == nil {
			if err := w.drop(ctx, job); err != nil {
				return err
			}
		}
	}
	w.cron.Status.Active = nil
	return nil
}

// due is the last time that has passed without a job, and how many of them there are.
func (w *cronWork) due(schedule cron.Schedule) (last time.Time, missed int) {
	from := w.cron.CreationTimestamp.Time
	if t := w.cron.Status.LastScheduleTime; t != nil {
		from = t.Time
	}
	if d := w.cron.Spec.StartingDeadlineSeconds; d != nil {
		if earliest := w.now.Add(-time.Duration(*d) * time.Second); earliest.After(from) {
			from = earliest
		}
	}
	first := schedule.Next(from)
	if first.IsZero() || first.After(w.now) {
		return time.Time{}, 0
	}
	last, missed = first, 1
	second := schedule.Next(first)
	if second.IsZero() || second.After(w.now) {
		return last, missed
	}
	// Jump over what was missed: schedules are all but even, so begin a bit before now.
	period := second.Sub(first)
	missed = int(w.now.Sub(first)/period) + 1
	begin := first
	for back := 2 * period; ; back *= 4 {
		if begin = w.now.Add(-back); !begin.After(first) {
			begin = first
		}
		if t := schedule.Next(begin.Add(-time.Second)); !t.After(w.now) || begin.Equal(first) {
			break
		}
	}
	for t := schedule.Next(begin.Add(-time.Second)); !t.IsZero() && !t.After(w.now); t = schedule.Next(t) {
		last = t
	}
	return last, missed
}

// parseSchedule reads the schedule of a cron job, in its time zone.
func parseSchedule(s *batchv1.CronJobSpec) (cron.Schedule, error) {
	text := s.Schedule
	if s.TimeZone != nil && !strings.Contains(text, "TZ=") {
		if _, err := time.LoadLocation(*s.TimeZone); err != nil {
			return nil, fmt.Errorf("invalid timeZone: %q: %w", *s.TimeZone, err)
		}
		text = "TZ=" + *s.TimeZone + " " + text
	}
	return cron.ParseStandard(text)
}

// jobName is the name of the job of a time: the same however often it is tried.
func (w *cronWork) jobName(due time.Time) string {
	return fmt.Sprintf("%s-%d", w.cron.Name, due.Unix()/60)
}

// create makes the job of a time.
func (w *cronWork) create(ctx context.Context, due time.Time) error {
	t := &w.cron.Spec.JobTemplate
	zone := time.UTC
	if z := w.cron.Spec.TimeZone; z != nil {
		if l, err := time.LoadLocation(*z); err == nil {
			zone = l
		}
	}
	annotations := maps.Clone(t.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = due.In(zone).Format(time.RFC3339)
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: w.cron.Namespace, Name: w.jobName(due), Labels: copyMap(t.Labels), Annotations: annotations, CreationTimestamp: metav1.Time{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(w.cron, batchv1.SchemeGroupVersion.WithKind("CronJob"))},
		},
		Spec: *t.Spec.DeepCopy(),
	}
	made, err := w.client.BatchV1().Jobs(job.Namespace).Create(ctx, job, metav1.CreateOptions{})
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err):
		there, gerr := w.client.BatchV1().Jobs(job.Namespace).Get(ctx, job.Name, metav1.GetOptions{})
		if gerr != nil {
			return gerr
		}
		if !metav1.IsControlledBy(there, w.cron) {
			w.events.Eventf(w.cron, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
			return nil
		}
		made = there
	case err != nil:
		w.events.Eventf(w.cron, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return err
	default:
		w.events.Eventf(w.cron, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", made.Name)
	}
	s := &w.cron.Status
	s.LastScheduleTime = ptr.To(metav1.NewTime(due))
	if over(made) == "" && !slices.ContainsFunc(s.Active, func(r corev1.ObjectReference) bool { return r.UID == made.UID }) {
		s.Active = append(s.Active, w.reference(made))
	}
	return nil
}
