package controllers

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func job(change func(s *batchv1.JobSpec)) *batchv1.Job {
	labels := map[string]string{batchv1.ControllerUidLabel: "job"}
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j", UID: "job", Generation: 1},
		Spec: batchv1.JobSpec{
			Parallelism: ptr.To[int32](1), Completions: ptr.To[int32](1), BackoffLimit: ptr.To[int32](6),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}, RestartPolicy: corev1.RestartPolicyNever},
			},
		},
	}
	change(&j.Spec)
	return j
}

func indexed(completions, parallelism int32, change func(s *batchv1.JobSpec)) *batchv1.Job {
	return job(func(s *batchv1.JobSpec) {
		s.CompletionMode, s.Completions, s.Parallelism = ptr.To(batchv1.IndexedCompletion), &completions, &parallelism
		if change != nil {
			change(s)
		}
	})
}

// running waits until so many pods have not ended, and returns them by their order of index and name.
func (w *world) running(n int) (out []corev1.Pod) {
	w.t.Helper()
	eventually(w.t, func() error {
		out = nil
		for _, p := range w.pods() {
			if isActive(&p) {
				out = append(out, p)
			}
		}
		if len(out) != n {
			return fmt.Errorf("%d pods run, not %d", len(out), n)
		}
		return nil
	})
	slices.SortFunc(out, func(a, b corev1.Pod) int { return completionIndex(&a) - completionIndex(&b) })
	return out
}

// end ends a pod with an exit code, long ago: whoever waits after a failure has waited.
func (w *world) end(p corev1.Pod, code int32) {
	w.t.Helper()
	eventually(w.t, func() error {
		now, err := w.client.CoreV1().Pods("ns").Get(w.ctx, p.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		now = now.DeepCopy()
		now.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			now.Status.Phase = corev1.PodFailed
		}
		now.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(time.Now().Add(-time.Hour))},
		}}}
		_, err = w.client.CoreV1().Pods("ns").UpdateStatus(w.ctx, now, metav1.UpdateOptions{})
		return err
	})
}

// job waits until the job is as wanted, and no ended pod has a finalizer.
func (w *world) job(want string) {
	w.t.Helper()
	eventually(w.t, func() error {
		j, err := w.client.BatchV1().Jobs("ns").Get(w.ctx, "j", metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := &j.Status
		got := fmt.Sprintf("active %d succeeded %d failed %d", s.Active, s.Succeeded, s.Failed)
		if s.CompletedIndexes != "" {
			got += " completed " + s.CompletedIndexes
		}
		if s.FailedIndexes != nil && *s.FailedIndexes != "" {
			got += " lost " + *s.FailedIndexes
		}
		for _, c := range s.Conditions {
			if c.Status == corev1.ConditionTrue {
				got += fmt.Sprintf(" %s(%s)", c.Type, c.Reason)
			}
		}
		if got != want {
			return fmt.Errorf("%s, not %s", got, want)
		}
		return nil
	})
}

func TestJobRunsToCompletion(t *testing.T) {
	w := start(t, NewJob, job(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](3), ptr.To[int32](2) }))
	pods := w.running(2)
	require.Contains(t, pods[0].Finalizers, batchv1.JobTrackingFinalizer)
	w.end(pods[0], 1)
	w.end(pods[1], 0)
	w.job("active 2 succeeded 1 failed 1")
	for _, p := range w.running(2) {
		w.end(p, 0)
	}
	w.job("active 0 succeeded 3 failed 1 SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)")
	eventually(t, func() error {
		for _, p := range w.pods() {
			if len(p.Finalizers) > 0 {
				return fmt.Errorf("%s has %v", p.Name, p.Finalizers)
			}
		}
		return nil
	})
}

// TestJobBacksOff has a failure just now: it is not replaced at once.
func TestJobBacksOff(t *testing.T) {
	failed := func(ago ...time.Duration) (out []*corev1.Pod) {
		for _, d := range ago {
			out = append(out, &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{{
				State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1, FinishedAt: metav1.NewTime(now.Add(-d))}},
			}}}})
		}
		return out
	}
	require.Zero(t, backoff(nil, now))
	require.Equal(t, 9*time.Second, backoff(failed(time.Second), now))
	require.Equal(t, 20*time.Second, backoff(failed(time.Hour, 0), now))
	require.Equal(t, 320*time.Second, backoff(failed(5, 4, 3, 2, 1, 0), now))
	require.Equal(t, 10*time.Minute, backoff(failed(6, 5, 4, 3, 2, 1, 0), now))
}

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestJobBacksOffFrom: the pause after a failure begins when the pod has ended, or was deleted, however long it may take to go.
func TestJobBacksOffFrom(t *testing.T) {
	at := func(seconds int) metav1.Time { return metav1.NewTime(now.Add(time.Duration(seconds) * time.Second)) }
	ended := func(seconds int) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "c", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: at(seconds)}}}
	}
	deleted := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(-100), DeletionTimestamp: ptr.To(at(58)), DeletionGracePeriodSeconds: ptr.To[int64](60)}}
		p.Spec.InitContainers = []corev1.Container{{Name: "side", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}, {Name: "once"}}
		change(p)
		return p
	}
	ready := func(s corev1.ConditionStatus, seconds int) []corev1.PodCondition {
		return []corev1.PodCondition{{Type: corev1.PodReady, Status: s, LastTransitionTime: at(seconds)}}
	}
	for name, c := range map[string]struct {
		pod  *corev1.Pod
		want int // seconds from now
	}{
		"deleted just now":   {deleted(func(p *corev1.Pod) { p.Status.Conditions = ready(corev1.ConditionTrue, -50) }), -2},
		"never ran":          {deleted(func(*corev1.Pod) {}), -2},
		"ceased to be ready": {deleted(func(p *corev1.Pod) { p.Status.Conditions = ready(corev1.ConditionFalse, -1) }), -1},
		"one of two runs":    {deleted(func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{ended(-30), {Name: "d"}} }), -2},
		"both have ended":    {deleted(func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{ended(-30), ended(-20)} }), -20},
		"its sidecar has not": {deleted(func(p *corev1.Pod) {
			p.Status.ContainerStatuses, p.Status.InitContainerStatuses = []corev1.ContainerStatus{ended(-30)}, []corev1.ContainerStatus{{Name: "side"}, {Name: "once"}}
		}), -2},
		"its sidecar has": {deleted(func(p *corev1.Pod) {
			side := ended(-5)
			side.Name = "side"
			p.Status.ContainerStatuses, p.Status.InitContainerStatuses = []corev1.ContainerStatus{ended(-30)}, []corev1.ContainerStatus{side, {Name: "once"}}
		}), -5},
	} {
		require.Equal(t, at(c.want).Time, endOf(c.pod, now), name)
	}
}

func TestJobFails(t *testing.T) {
	w := start(t, NewJob, job(func(s *batchv1.JobSpec) {
		s.BackoffLimit, s.Completions, s.Parallelism = ptr.To[int32](0), ptr.To[int32](2), ptr.To[int32](2)
	}))
	w.end(w.running(2)[0], 1)
	// The other one is deleted; the fake API server does so at once, and nobody says that it failed.
	w.job("active 0 succeeded 0 failed 1 FailureTarget(BackoffLimitExceeded) Failed(BackoffLimitExceeded)")
	w.running(0)
}

func TestJobFailurePolicy(t *testing.T) {
	rules := []batchv1.PodFailurePolicyRule{
		{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}},
		{Action: batchv1.PodFailurePolicyActionIgnore, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{7}}},
	}
	w := start(t, NewJob, job(func(s *batchv1.JobSpec) {
		s.PodFailurePolicy, s.PodReplacementPolicy = &batchv1.PodFailurePolicy{Rules: rules}, ptr.To(batchv1.Failed)
	}))
	p := w.running(1)[0]
	w.end(p, 7) // does not count
	eventually(t, func() error {
		if q := w.running(1)[0]; q.UID == p.UID {
			return fmt.Errorf("not replaced")
		}
		return nil
	})
	w.job("active 1 succeeded 0 failed 0")
	w.end(w.running(1)[0], 42)
	w.job("active 0 succeeded 0 failed 1 FailureTarget(PodFailurePolicy) Failed(PodFailurePolicy)")
	j, err := w.client.BatchV1().Jobs("ns").Get(w.ctx, "j", metav1.GetOptions{})
	require.NoError(t, err)
	require.Regexp(t, `^Container c for pod ns/j-\d+ failed with exit code 42 matching FailJob rule at index 0$`, j.Status.Conditions[0].Message)
}

func TestJobIndexes(t *testing.T) {
	w := start(t, NewJob, indexed(4, 2, nil))
	pods := w.running(2)
	require.Equal(t, []string{"0", "1"}, []string{pods[0].Annotations[batchv1.JobCompletionIndexAnnotation], pods[1].Labels[batchv1.JobCompletionIndexAnnotation]})
	require.Equal(t, "j-1", pods[1].Spec.Hostname)
	require.Equal(t, completionIndexVariable, pods[1].Spec.Containers[0].Env[0].Name)
	w.end(pods[1], 0)
	w.job("active 2 succeeded 1 failed 0 completed 1")
	for _, p := range w.running(2) { // 0 and 2
		w.end(p, 0)
	}
	w.job("active 1 succeeded 3 failed 0 completed 0-2")
	w.end(w.running(1)[0], 0)
	w.job("active 0 succeeded 4 failed 0 completed 0-3 SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)")
}

func TestJobBackoffLimitPerIndex(t *testing.T) {
	w := start(t, NewJob, indexed(2, 2, func(s *batchv1.JobSpec) {
		s.BackoffLimitPerIndex, s.BackoffLimit = ptr.To[int32](1), ptr.To[int32](1<<31-1)
	}))
	pods := w.running(2)
	w.end(pods[0], 1)
	w.job("active 2 succeeded 0 failed 1")
	again := w.running(2)[0]
	require.Equal(t, "1", again.Annotations[batchv1.JobIndexFailureCountAnnotation])
	w.end(again, 1)
	w.job("active 1 succeeded 0 failed 2 lost 0")
	w.end(pods[1], 0)
	w.job("active 0 succeeded 1 failed 2 completed 1 lost 0 FailureTarget(FailedIndexes) Failed(FailedIndexes)")
}

func TestJobSuccessPolicy(t *testing.T) {
	w := start(t, NewJob, indexed(5, 5, func(s *batchv1.JobSpec) {
		s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{
			{SucceededIndexes: ptr.To("0-1")}, {SucceededIndexes: ptr.To("2-4"), SucceededCount: ptr.To[int32](2)},
		}}
	}))
	pods := w.running(5)
	w.end(pods[0], 0)
	w.end(pods[3], 0)
	w.job("active 3 succeeded 2 failed 0 completed 0,3")
	w.end(pods[4], 0)
	w.job("active 0 succeeded 3 failed 0 completed 0,3,4 SuccessCriteriaMet(SuccessPolicy) Complete(SuccessPolicy)")
}

func TestJobSuspended(t *testing.T) {
	w := start(t, NewJob, job(func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) }))
	w.job("active 0 succeeded 0 failed 0 Suspended(JobSuspended)")
	suspend := func(v bool) {
		eventually(t, func() error {
			j, err := w.client.BatchV1().Jobs("ns").Get(w.ctx, "j", metav1.GetOptions{})
			if err != nil {
				return err
			}
			j = j.DeepCopy()
			j.Spec.Suspend = &v
			_, err = w.client.BatchV1().Jobs("ns").Update(w.ctx, j, metav1.UpdateOptions{})
			return err
		})
	}
	suspend(false)
	w.running(1)
	w.job("active 1 succeeded 0 failed 0")
	suspend(true)
	w.running(0)
}

// TestJobSuspendedAtTheEnd has its last pod succeed while the job is suspended: it is complete, and has begun, as any that is over.
func TestJobSuspendedAtTheEnd(t *testing.T) {
	j := job(func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) })
	began := metav1.NewTime(now.Add(-time.Minute).Truncate(time.Second))
	w := start(t, NewJob, j, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "p", UID: "p", CreationTimestamp: began, Labels: j.Spec.Template.Labels, Finalizers: []string{batchv1.JobTrackingFinalizer},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(j, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Status: corev1.PodStatus{Phase: corev1.PodSucceeded},
	})
	w.job("active 0 succeeded 1 failed 0 SuccessCriteriaMet(CompletionsReached) Complete(CompletionsReached)")
	got, err := w.client.BatchV1().Jobs("ns").Get(w.ctx, "j", metav1.GetOptions{})
	require.NoError(t, err)
	require.True(t, began.Equal(got.Status.StartTime), "%v", got.Status.StartTime)
}

// TestJobNamesOnce has a pod that was deleted, and named as failed for that, succeed all the same.
func TestJobNamesOnce(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "p", Finalizers: []string{batchv1.JobTrackingFinalizer}}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}
	j := job(func(*batchv1.JobSpec) {})
	j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"p"}}
	w := &jobWork{job: j, pods: []*corev1.Pod{p}, now: now}
	w.count()
	require.Equal(t, batchv1.UncountedTerminatedPods{Failed: []types.UID{"p"}}, *j.Status.UncountedTerminatedPods)
}

// TestJobStray has a pod with a finalizer whose job is not there.
func TestJobStray(t *testing.T) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "p", UID: "p", Finalizers: []string{batchv1.JobTrackingFinalizer, "mine"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "gone", UID: "gone", Controller: ptr.To(true)}},
	}}
	w := start(t, NewJob, p)
	eventually(t, func() error {
		if f := w.pods()[0].Finalizers; !slices.Equal(f, []string{"mine"}) {
			return fmt.Errorf("%v", f)
		}
		return nil
	})
}

func TestIndexSets(t *testing.T) {
	for _, c := range []struct{ in, out string }{{"", ""}, {"3", "3"}, {"1,2", "1,2"}, {"0,1,2", "0-2"}, {"5,1-3,4", "1-5"}, {"1-20", "1-9"}, {"x,2,-1,y-3", "2"}} {
		require.Equal(t, c.out, parseIndexSet(c.in, 10).String(), c.in)
	}
	require.Equal(t, "2,3", parseIndexSet("0-3", 10).both(parseIndexSet("2-8", 10)).String())
}

// TestJobAdopts has an orphan that is not tracked: it is adopted, tracked and counted. One that is not selected any more is
// released, and not tracked any more.
func TestJobAdopts(t *testing.T) {
	labels := map[string]string{batchv1.ControllerUidLabel: "job"}
	w := start(t, NewJob, job(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](2), ptr.To[int32](2) }), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "orphan", UID: "orphan", Labels: labels},
	})
	pods := w.running(2)
	eventually(t, func() error {
		p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, "orphan", metav1.GetOptions{})
		if err == nil && (metav1.GetControllerOf(p) == nil || !slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)) {
			err = fmt.Errorf("%v %v", p.OwnerReferences, p.Finalizers)
		}
		return err
	})
	i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == "orphan" })
	w.end(pods[i], 0)
	w.job("active 1 succeeded 1 failed 0")
	other := pods[1-i].DeepCopy()
	other.Labels = nil
	_, err := w.client.CoreV1().Pods("ns").Update(w.ctx, other, metav1.UpdateOptions{})
	require.NoError(t, err)
	eventually(t, func() error {
		p, err := w.client.CoreV1().Pods("ns").Get(w.ctx, other.Name, metav1.GetOptions{})
		if err == nil && len(p.OwnerReferences)+len(p.Finalizers) > 0 {
			err = fmt.Errorf("%v %v", p.OwnerReferences, p.Finalizers)
		}
		return err
	})
}
