package apps

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func cronJobs() conformance.Behaviours {
	return conformance.Behaviours{
		"CronJob should not schedule jobs when suspended [Slow]":            cronSuspended,
		"CronJob should not schedule new jobs when ForbidConcurrent [Slow]": cronForbids,
		"CronJob should replace jobs when ReplaceConcurrent":                cronReplaces,
		"CronJob should schedule multiple jobs concurrently":                cronConcurrent,
		"CronJob should support CronJob API operations":                     cronJobOperations,
	}
}

func cronJobOperations(t *testing.T, e *conformance.Env) {
	at := metav1.NewTime(time.Now()).Rfc3339Copy()
	conformance.Operations[*batchv1.CronJob]{
		Resource: batchv1.SchemeGroupVersion.WithResource("cronjobs"), Kind: "CronJob", Namespaced: true,
		Make: func(int) *batchv1.CronJob {
			pod := template(nil, image)
			pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			return &batchv1.CronJob{Spec: batchv1.CronJobSpec{
				Schedule: "* */1 * * ?", ConcurrencyPolicy: batchv1.AllowConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pod}},
			}}
		},
		Status: func(x *batchv1.CronJob) {
			metav1.SetMetaDataAnnotation(&x.ObjectMeta, "changedstatus", "true")
			x.Status.LastScheduleTime = &at
		},
		StatusPatches: []conformance.Patch{{Type: types.MergePatchType, Data: `{"metadata":{"annotations":{"changedstatus":"true"}},
			"status":{"lastScheduleTime":"` + at.UTC().Format(time.RFC3339) + `"}}`}},
	}.Run(t, e)
}

const everyMinute = "* * * * *"

// daily is the schedule of one minute a day.
func daily(at time.Time) string { return fmt.Sprintf("%d %d * * *", at.Minute(), at.Hour()) }

// minutesAgo is the beginning of a minute that has passed, in UTC.
func minutesAgo(n int) time.Time {
	return time.Now().UTC().Truncate(time.Minute).Add(-time.Duration(n) * time.Minute)
}

// cron makes a cron job whose jobs run for ever, and which has missed the times of its schedule since a while.
func cron(t *testing.T, e *conformance.Env, name, schedule string, missedSince time.Time, change func(*batchv1.CronJobSpec)) {
	t.Helper()
	pod := template(map[string]string{"name": "app"}, image)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.CronJobSpec{
		Schedule: schedule, TimeZone: ptr.To("Etc/UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pod}},
	}}
	if change != nil {
		change(&c.Spec)
	}
	create(t, e, e.Client.BatchV1().CronJobs(e.NS), c)
	conformance.UpdateStatus(t, e, e.Client.BatchV1().CronJobs(e.NS), name, func(c *batchv1.CronJob) {
		c.Status.LastScheduleTime = ptr.To(metav1.NewTime(missedSince))
	})
}

// reschedule changes the schedule of the cron job "cron".
func reschedule(t *testing.T, e *conformance.Env, schedule string) {
	t.Helper()
	conformance.Update(t, e, e.Client.BatchV1().CronJobs(e.NS), "cron", func(c *batchv1.CronJob) { c.Spec.Schedule = schedule })
}

// activeJobs waits until what a cron job says of its active jobs is as awaited, and returns their names.
func activeJobs(t *testing.T, e *conformance.Env, name, what string, is func(names []string) bool) []string {
	t.Helper()
	return conformance.Until(t, e, what, func() (names []string, err error) {
		c, err := e.Client.BatchV1().CronJobs(e.NS).Get(e.Ctx, name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		for _, r := range c.Status.Active {
			names = append(names, r.Name)
		}
		return names, nil
	}, is)
}

func one(names []string) bool { return len(names) == 1 }

// madeJobs are the names of the jobs of cron jobs.
func madeJobs(t *testing.T, e *conformance.Env) (names []string) {
	t.Helper()
	l, err := e.Client.BatchV1().Jobs(e.NS).List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	for _, j := range l.Items {
		require.NotNil(t, metav1.GetControllerOf(&j))
		names = append(names, j.Name)
	}
	return names
}

// cronConcurrent has a job that was missed, and waits for the next full minute.
func cronConcurrent(t *testing.T, e *conformance.Env) {
	cron(t, e, "cron", everyMinute, minutesAgo(2), nil)
	first := activeJobs(t, e, "cron", "the missed job runs", one)
	both := activeJobs(t, e, "cron", "two jobs run", func(names []string) bool { return len(names) == 2 })
	require.Contains(t, both, first[0])
	require.ElementsMatch(t, both, madeJobs(t, e))
}

func cronSuspended(t *testing.T, e *conformance.Env) {
	cron(t, e, "cron", daily(minutesAgo(1)), minutesAgo(2), func(s *batchv1.CronJobSpec) { s.Suspend = ptr.To(true) })
	cron(t, e, "other", daily(minutesAgo(1)), minutesAgo(2), nil)
	activeJobs(t, e, "other", "one that is not suspended makes its job", one)
	require.Len(t, madeJobs(t, e), 1)
	conformance.Update(t, e, e.Client.BatchV1().CronJobs(e.NS), "cron", func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(false) })
	activeJobs(t, e, "cron", "one that is not suspended any more makes its job", one)
}

// cronForbids has a time pass while a job runs. Its own job is made when that one has ended.
func cronForbids(t *testing.T, e *conformance.Env) {
	cron(t, e, "cron", daily(minutesAgo(3)), minutesAgo(4), func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent })
	first := activeJobs(t, e, "cron", "the first job runs", one)[0]
	reschedule(t, e, daily(minutesAgo(1)))
	conformance.Eventually(t, e, "the cron job says that it waits", func() (bool, error) {
		l, err := e.Client.CoreV1().Events(e.NS).List(e.Ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=cron,reason=JobAlreadyActive"})
		return err == nil && len(l.Items) > 0, err
	})
	require.Equal(t, []string{first}, madeJobs(t, e))
	p := conformance.PodsRunning(t, e, "name=app", 1)[0]
	conformance.Update(t, e, e.Client.CoreV1().Pods(e.NS), p.Name, func(p *corev1.Pod) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, runFor, "1ms") })
	activeJobs(t, e, "cron", "the next job runs", func(names []string) bool { return one(names) && names[0] != first })
}

func cronReplaces(t *testing.T, e *conformance.Env) {
	cron(t, e, "cron", daily(minutesAgo(3)), minutesAgo(4), func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ReplaceConcurrent })
	first := activeJobs(t, e, "cron", "the first job runs", one)[0]
	reschedule(t, e, daily(minutesAgo(1)))
	second := activeJobs(t, e, "cron", "the next job runs", func(names []string) bool { return one(names) && names[0] != first })
	conformance.Eventually(t, e, "the first job is gone", func() (bool, error) {
		_, err := e.Client.BatchV1().Jobs(e.NS).Get(e.Ctx, first, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return false, err
		}
		return err != nil, nil
	})
	require.Equal(t, second, madeJobs(t, e))
	p := conformance.PodsRunning(t, e, "name=app", 1)[0]
	require.Equal(t, second[0], p.Labels[batchv1.JobNameLabel])
}
