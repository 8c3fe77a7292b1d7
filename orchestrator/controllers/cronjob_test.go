package controllers

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

// cronJob was made a minute and a half ago and runs every minute.
func cronJob(change func(c *batchv1.CronJob)) *batchv1.CronJob {
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "cron", CreationTimestamp: metav1.NewTime(time.Now().Add(-90 * time.Second))},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", ConcurrencyPolicy: batchv1.AllowConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: job(func(*batchv1.JobSpec) {}).Spec},
			SuccessfulJobsHistoryLimit: ptr.To[int32](1), FailedJobsHistoryLimit: ptr.To[int32](1),
		},
	}
	if change != nil {
		change(c)
	}
	return c
}

// cronsJob is a job of that cron job, and how it ended.
func cronsJob(name string, end batchv1.JobConditionType) *batchv1.Job {
	j := job(func(*batchv1.JobSpec) {})
	j.Name, j.UID = name, types.UID(name)
	j.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "c", UID: "cron", Controller: ptr.To(true)}}
	if end != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: end, Status: corev1.ConditionTrue}}
	}
	return j
}

// cron waits until the cron job has so many active jobs, and there are so many jobs in all.
func (w *world) cron(active, all int) {
	w.t.Helper()
	eventually(w.t, func() error {
		c, err := w.client.BatchV1().CronJobs("ns").Get(w.ctx, "c", metav1.GetOptions{})
		if err != nil {
			return err
		}
		l, err := w.client.BatchV1().Jobs("ns").List(w.ctx, metav1.ListOptions{})
		if err == nil && (len(c.Status.Active) != active || len(l.Items) != all) {
			return fmt.Errorf("%d jobs, status %+v", len(l.Items), c.Status)
		}
		return err
	})
}

func TestCronJobMakesJobs(t *testing.T) {
	w := start(t, NewCronJob, cronJob(nil))
	w.cron(1, 1)
	l, err := w.client.BatchV1().Jobs("ns").List(w.ctx, metav1.ListOptions{})
	require.NoError(t, err)
	j := l.Items[0]
	due, err := time.Parse(time.RFC3339, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("c-%d", due.Unix()/60), j.Name)
	require.True(t, metav1.IsControlledBy(&j, &metav1.ObjectMeta{UID: "cron"}))
	c, err := w.client.BatchV1().CronJobs("ns").Get(w.ctx, "c", metav1.GetOptions{})
	require.NoError(t, err)
	require.True(t, c.Status.LastScheduleTime.Time.Equal(due))
}

// TestCronJobPolicies has a job that runs when the next time has come. A minute may pass while it looks.
func TestCronJobPolicies(t *testing.T) {
	old := cronsJob("old", "")
	t.Run("Allow", func(t *testing.T) { start(t, NewCronJob, cronJob(nil), old).cron(2, 2) })
	t.Run("Replace", func(t *testing.T) {
		start(t, NewCronJob, cronJob(func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ReplaceConcurrent }), old).cron(1, 1)
	})
	t.Run("Forbid", func(t *testing.T) {
		w := start(t, NewCronJob, cronJob(func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = batchv1.ForbidConcurrent }), old)
		w.cron(1, 1)
		require.Contains(t, <-w.events.Events, "JobAlreadyActive")
	})
	t.Run("too late", func(t *testing.T) {
		w := start(t, NewCronJob, cronJob(func(c *batchv1.CronJob) {
			c.Spec.Schedule = fmt.Sprintf("%d * * * *", time.Now().Add(-2*time.Minute).Minute())
			c.CreationTimestamp = metav1.NewTime(time.Now().Add(-time.Hour))
			c.Spec.StartingDeadlineSeconds = ptr.To[int64](30)
			c.Status.LastSuccessfulTime = nil
		}), old)
		w.cron(1, 1)
	})
	t.Run("suspended", func(t *testing.T) {
		start(t, NewCronJob, cronJob(func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(true) }), old).cron(1, 1)
	})
}

func TestCronJobForgets(t *testing.T) {
	w := start(t, NewCronJob, cronJob(func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(true) }),
		cronsJob("a", batchv1.JobComplete), cronsJob("b", batchv1.JobComplete), cronsJob("x", batchv1.JobFailed), cronsJob("y", batchv1.JobFailed), cronsJob("z", ""))
	w.cron(1, 3)
}

func TestCronJobDue(t *testing.T) {
	at := func(s string) time.Time {
		d, err := time.Parse("2006-01-02 15:04:05", s)
		require.NoError(t, err)
		return d
	}
	for _, c := range []struct {
		schedule, last, now, due string
		missed                   int
		deadline                 *int64
	}{
		{"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 10:59:59", "", 0, nil},
		{"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 11:00:00", "2026-01-01 11:00:00", 1, nil},
		{"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 13:30:00", "2026-01-01 13:00:00", 3, nil},
		{"0 10 * * 1-5", "2026-01-01 10:00:00", "2026-01-05 09:00:00", "2026-01-02 10:00:00", 1, nil},
		{"0 10 * * 1-5", "2025-12-01 10:00:00", "2026-01-04 09:00:00", "2026-01-02 10:00:00", 33, nil},
		{"* * * * *", "2020-01-01 10:00:00", "2026-01-01 10:00:30", "2026-01-01 10:00:00", 3156480, nil},
		{"0 * * * *", "2026-01-01 10:00:00", "2026-01-01 13:30:00", "", 0, ptr.To[int64](60)},
		{"0 0 30 2 *", "2026-01-01 10:00:00", "2026-01-01 13:30:00", "", 0, nil},
	} {
		w := &cronWork{cron: cronJob(func(o *batchv1.CronJob) {
			o.Spec.Schedule, o.Status.LastScheduleTime, o.Spec.StartingDeadlineSeconds = c.schedule, ptr.To(metav1.NewTime(at(c.last))), c.deadline
		}), now: at(c.now)}
		s, err := parseSchedule(&w.cron.Spec)
		require.NoError(t, err)
		due, missed := w.due(s)
		want := time.Time{}
		if c.due != "" {
			want = at(c.due)
		}
		require.Equal(t, want, due, "%+v", c)
		require.Equal(t, c.missed, missed, "%+v", c)
	}
}

// TestTTLAfterFinished deletes a job whose time has passed, and no other.
func TestTTLAfterFinished(t *testing.T) {
	ended := func(name string, ttl *int32, ago time.Duration) *batchv1.Job {
		j := cronsJob(name, batchv1.JobComplete)
		j.Spec.TTLSecondsAfterFinished = ttl
		j.Status.Conditions[0].LastTransitionTime = metav1.NewTime(time.Now().Add(-ago))
		return j
	}
	w := newWorld(t, ended("a", ptr.To[int32](60), time.Hour), ended("b", ptr.To[int32](7200), time.Hour), ended("c", nil, time.Hour))
	c, err := NewTTLAfterFinished(w.client, w.factory, w.events, clock.Real, nil)
	require.NoError(t, err)
	w.run(c)
	eventually(t, func() error {
		l, err := w.client.BatchV1().Jobs("ns").List(w.ctx, metav1.ListOptions{})
		if err != nil || len(l.Items) != 2 || l.Items[0].Name != "b" || l.Items[1].Name != "c" {
			return fmt.Errorf("%v %d", err, len(l.Items))
		}
		return nil
	})
}
