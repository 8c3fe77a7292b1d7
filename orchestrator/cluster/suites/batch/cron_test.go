//go:build linux

package batch

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// hourly is a schedule of once an hour, the last time so many minutes ago. Schedules of tests are in the past: what was missed
// is caught up on at once, and nobody has to wait for the next minute.
func hourly(ago int) string {
	return fmt.Sprintf("%d * * * *", time.Now().Add(-time.Duration(ago)*time.Minute).UTC().Minute())
}

// missed makes a cron job that ran three hours ago for the last time, on the schedule that it has now.
func missed(t *testing.T, ns, name, script, schedule string, change func(*batchv1.CronJobSpec)) {
	t.Helper()
	c := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: batchv1.CronJobSpec{
		Schedule: schedule, TimeZone: ptr("Etc/UTC"), JobTemplate: batchv1.JobTemplateSpec{Spec: job(name, script, nil).Spec},
	}}
	if change != nil {
		change(&c.Spec)
	}
	_, err := cluster.Client.BatchV1().CronJobs(ns).Create(t.Context(), c, metav1.CreateOptions{})
	require.NoError(t, err)
	patch(t, ns, "cronjobs", name, fmt.Sprintf(`{"status":{"lastScheduleTime":%q}}`, time.Now().Add(-3*time.Hour).UTC().Format(time.RFC3339)), "status")
}

// reschedule gives a cron job another time that was missed, later than the one before.
func reschedule(t *testing.T, ns, name, schedule string) {
	t.Helper()
	patch(t, ns, "cronjobs", name, fmt.Sprintf(`{"spec":{"schedule":%q}}`, schedule))
}

// jobs waits until a cron job has so many jobs of which is holds, and returns them, the first scheduled first.
func jobs(t *testing.T, ns, cron string, n int, is func(*batchv1.Job) bool) (found []batchv1.Job) {
	t.Helper()
	nodetest.Until(t, fmt.Sprintf("%d jobs of %s", n, cron), func() (bool, any) {
		all, err := cluster.Client.BatchV1().Jobs(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false, err
		}
		found = slices.DeleteFunc(all.Items, func(j batchv1.Job) bool {
			by := metav1.GetControllerOf(&j)
			return by == nil || by.Name != cron || !is(&j)
		})
		slices.SortFunc(found, func(a, b batchv1.Job) int { return strings.Compare(scheduled(&a), scheduled(&b)) })
		return len(found) == n, all.Items
	})
	return found
}

// scheduled is the time that a job was made for.
func scheduled(j *batchv1.Job) string {
	return j.Annotations[batchv1.CronJobScheduledTimestampAnnotation]
}

// runs says whether a pod of a job is ready; done whether it has succeeded.
func runs(j *batchv1.Job) bool {
	return over(j) == nil && j.DeletionTimestamp == nil && j.Status.Ready != nil && *j.Status.Ready == 1
}

func done(j *batchv1.Job) bool { return condition(j, batchv1.JobComplete) != nil }

// cronIs waits until a cron job is as it should be.
func cronIs(t *testing.T, ns, name, what string, is func(*batchv1.CronJob) bool) {
	t.Helper()
	nodetest.Until(t, name+" "+what, func() (bool, any) {
		c, err := cluster.Client.BatchV1().CronJobs(ns).Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && is(c), fmt.Sprintf("%+v %v", c.Status, err)
	})
}

// TestConcurrency: what becomes of the time that comes while the job before still runs.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	for _, policy := range []batchv1.ConcurrencyPolicy{batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent} {
		t.Run(string(policy), func(t *testing.T) {
			t.Parallel()
			name := strings.ToLower(string(policy))
			missed(t, ns, name, "exec sleep infinity", hourly(20), func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = policy })
			first := jobs(t, ns, name, 1, runs)[0]
			reschedule(t, ns, name, hourly(10))
			active := 1
			switch policy {
			case batchv1.AllowConcurrent:
				active = 2
				require.Equal(t, first.UID, jobs(t, ns, name, 2, runs)[0].UID)
			case batchv1.ForbidConcurrent:
				told(t, ns, name, "JobAlreadyActive")
				jobs(t, ns, name, 1, runs)
				finish(t, ns, pods(t, ns, first.Name)[0].Name, "1")
				require.True(t, done(ended(t, ns, first.Name)))
				jobs(t, ns, name, 1, runs) // what was put off comes after it
			case batchv1.ReplaceConcurrent:
				gone(t, ns, first.Name)
				require.NotEqual(t, first.UID, jobs(t, ns, name, 1, runs)[0].UID)
			}
			cronIs(t, ns, name, "lists what runs", func(c *batchv1.CronJob) bool { return len(c.Status.Active) == active })
		})
	}
}

// TestHistory: of the jobs that have ended as many are kept as is said, the last ones, with their pods.
func TestHistory(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	for name, code := range map[string]string{"good": "0", "bad": "1"} {
		missed(t, ns, name, "exit "+code, hourly(30), func(s *batchv1.CronJobSpec) {
			s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit, s.JobTemplate.Spec.BackoffLimit = ptr[int32](1), ptr[int32](1), new(int32)
		})
		first := jobs(t, ns, name, 1, func(j *batchv1.Job) bool { return over(j) != nil })[0]
		reschedule(t, ns, name, hourly(20))
		gone(t, ns, first.Name)
		second := jobs(t, ns, name, 1, func(j *batchv1.Job) bool { return over(j) != nil })[0]
		require.Greater(t, scheduled(&second), scheduled(&first))
		require.Equal(t, code == "0", done(&second))
		require.Len(t, pods(t, ns, second.Name), 1)
		cronIs(t, ns, name, "has ended", func(c *batchv1.CronJob) bool {
			return len(c.Status.Active) == 0 && (c.Status.LastSuccessfulTime != nil) == (code == "0") &&
				c.Status.LastScheduleTime.UTC().Format(time.RFC3339) == scheduled(&second)
		})
	}
}

// TestMissed: a time that was missed counts for as long as is said, and not while the cron job is suspended. A job by hand always
// goes.
func TestMissed(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	missed(t, ns, "late", "exit 0", hourly(20), func(s *batchv1.CronJobSpec) { s.StartingDeadlineSeconds = ptr[int64](300) })
	missed(t, ns, "in-time", "exit 0", hourly(20), func(s *batchv1.CronJobSpec) { s.StartingDeadlineSeconds = ptr[int64](3000) })
	missed(t, ns, "suspended", "exit 0", hourly(20), func(s *batchv1.CronJobSpec) { s.Suspend = ptr(true) })
	there := hourly(20)
	missed(t, ns, "elsewhere", "exit 0", there, func(s *batchv1.CronJobSpec) { s.TimeZone = ptr("Asia/Kathmandu") })
	jobs(t, ns, "in-time", 1, done)
	kathmandu := jobs(t, ns, "elsewhere", 1, done)[0]
	minute, _, _ := strings.Cut(there, " ")
	require.Regexp(t, "T..:0?"+minute+":00[+]05:45$", scheduled(&kathmandu), "minutes are not those of UTC")

	cluster.Kubectl(t, "create", "job", "by-hand", "-n", ns, "--from=cronjob/suspended")
	require.True(t, done(ended(t, ns, "by-hand")))
	cronIs(t, ns, "suspended", "takes note of it", func(c *batchv1.CronJob) bool { return c.Status.LastSuccessfulTime != nil })
	jobs(t, ns, "suspended", 1, done)
	patch(t, ns, "cronjobs", "suspended", `{"spec":{"suspend":false}}`)
	jobs(t, ns, "suspended", 2, done)

	jobs(t, ns, "late", 0, func(*batchv1.Job) bool { return true })
	patch(t, ns, "cronjobs", "late", `{"spec":{"startingDeadlineSeconds":3000}}`)
	late := jobs(t, ns, "late", 1, done)[0]
	pod := pods(t, ns, late.Name)[0]
	require.Equal(t, corev1.PodSucceeded, pod.Status.Phase)
	require.NoError(t, cluster.Client.BatchV1().CronJobs(ns).Delete(t.Context(), "late", metav1.DeleteOptions{}))
	gone(t, ns, late.Name)
}
