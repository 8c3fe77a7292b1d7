package apps

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// Annotations of the pods of hollow nodes; with an index behind them they are for the pods of that completion index.
const (
	runFor    = "hollow.keelson.io/run-for"
	exitCode  = "hollow.keelson.io/exit-code"
	failFirst = "hollow.keelson.io/fail-first"
)

func jobs() conformance.Behaviours {
	return conformance.Behaviours{
		"Job should adopt matching orphans and release non-matching pods":                          jobAdopts,
		"Job should apply changes to a job status":                                                 jobStatus,
		"Job should create pods for an Indexed job with completion indexes and specified hostname": jobIndexes,
		"Job should delete a job":                  jobDelete,
		"Job should manage the lifecycle of a job": jobLifecycle,
		"Job should run a job to completion when tasks sometimes fail and are locally restarted":                jobRestarts,
		"Job should allow to use a pod failure policy to ignore failure matching on DisruptionTarget condition": jobIgnoresDisruption,
		"Job should allow to use the pod failure policy on exit code to fail the job early":                     jobFailsEarly,
		"Job should execute all indexes despite some failing when using backoffLimitPerIndex":                   jobLimitPerIndex,
		"Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy":            jobFailsIndex,
		"Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes":         jobTooManyFailedIndexes,
		"Job with successPolicy should succeeded when all indexes succeeded":                                    jobSuccessPolicyAll,
		"Job with successPolicy succeededCount rule should succeeded even when some indexes remain pending":     jobSuccessPolicyCount,
		"Job with successPolicy succeededIndexes rule should succeeded even when some indexes remain pending":   jobSuccessPolicyIndexes,
	}
}

// job has four pods to complete, two at a time, which run for ever unless their annotations say otherwise.
func job(annotations map[string]string, change func(*batchv1.JobSpec)) *batchv1.Job {
	t := template(map[string]string{"name": "app"}, image)
	t.Annotations, t.Spec.RestartPolicy = annotations, corev1.RestartPolicyNever
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "job", Labels: map[string]string{"name": "app"}},
		Spec:       batchv1.JobSpec{Parallelism: ptr.To(int32(2)), Completions: ptr.To(int32(4)), BackoffLimit: ptr.To(int32(6)), Template: t},
	}
	if change != nil {
		change(&j.Spec)
	}
	return j
}

// indexed changes a job to one with completion indexes.
func indexed(change func(*batchv1.JobSpec)) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) {
		s.CompletionMode = ptr.To(batchv1.IndexedCompletion)
		if change != nil {
			change(s)
		}
	}
}

// jobEnds waits until the job has ended by a condition, for a reason if one is given, and returns it.
func jobEnds(t *testing.T, e *conformance.Env, by batchv1.JobConditionType, reason string) *batchv1.Job {
	t.Helper()
	return conformance.Until(t, e, fmt.Sprintf("the job is %s", by), func() (*batchv1.Job, error) {
		return e.Client.BatchV1().Jobs(e.NS).Get(e.Ctx, "job", metav1.GetOptions{})
	}, func(j *batchv1.Job) bool {
		for _, c := range j.Status.Conditions {
			if c.Status == corev1.ConditionTrue && (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) {
				require.Equal(t, by, c.Type, "%+v", j.Status)
				if reason != "" {
					require.Equal(t, reason, c.Reason, "%+v", j.Status)
				}
				return true
			}
		}
		return false
	})
}

func jobPods(t *testing.T, e *conformance.Env) []corev1.Pod {
	t.Helper()
	l, err := e.Client.CoreV1().Pods(e.NS).List(e.Ctx, metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=job"})
	require.NoError(t, err)
	return l.Items
}

func jobAdopts(t *testing.T, e *conformance.Env) {
	j := create(t, e, e.Client.BatchV1().Jobs(e.NS), job(nil, nil))
	pods := conformance.PodsRunning(t, e, "name=app", 2)
	orphan := conformance.Update(t, e, e.Client.CoreV1().Pods(e.NS), pods[0].Name, func(p *corev1.Pod) { p.OwnerReferences = nil })
	conformance.Until(t, e, "the orphan is adopted, and tracked", func() (*corev1.Pod, error) {
		return e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, orphan.Name, metav1.GetOptions{})
	}, func(p *corev1.Pod) bool {
		return metav1.IsControlledBy(p, j) && slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
	})
	released(t, e, orphan.Name)
	conformance.Until(t, e, "the released pod is not tracked any more", func() (*corev1.Pod, error) {
		return e.Client.CoreV1().Pods(e.NS).Get(e.Ctx, orphan.Name, metav1.GetOptions{})
	}, func(p *corev1.Pod) bool { return len(p.Finalizers) == 0 })
	conformance.PodsRunning(t, e, "name=app", 2)
}

func jobStatus(t *testing.T, e *conformance.Env) {
	jobs := e.Client.BatchV1().Jobs(e.NS)
	create(t, e, jobs, job(nil, nil))
	conformance.PodsRunning(t, e, "name=app", 2)
	has := func(j *batchv1.Job, typ batchv1.JobConditionType) bool {
		return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool { return c.Type == typ })
	}
	patched, err := jobs.Patch(e.Ctx, "job", types.MergePatchType, []byte(`{"metadata":{"annotations":{"patchedstatus":"true"}},
		"status":{"conditions":[{"type":"Patched","status":"True"}]}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.Equal(t, "true", patched.Annotations["patchedstatus"])
	require.True(t, has(patched, "Patched"))
	updated := conformance.UpdateStatus(t, e, jobs, "job", func(j *batchv1.Job) {
		j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: "Updated", Status: corev1.ConditionTrue})
	})
	require.True(t, has(updated, "Patched") && has(updated, "Updated"))
	got := &batchv1.Job{}
	require.NoError(t, e.Client.BatchV1().RESTClient().Get().Namespace(e.NS).Resource("jobs").Name("job").SubResource("status").Do(e.Ctx).Into(got))
	require.Equal(t, updated.UID, got.UID)
	require.True(t, has(got, "Patched") && has(got, "Updated"))
}

func jobIndexes(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.BatchV1().Jobs(e.NS), job(map[string]string{runFor: "1ms"}, indexed(nil)))
	require.Equal(t, "0-3", jobEnds(t, e, batchv1.JobComplete, "").Status.CompletedIndexes)
	seen := map[string]bool{}
	for _, p := range jobPods(t, e) {
		require.Equal(t, corev1.PodSucceeded, p.Status.Phase)
		index := p.Annotations[batchv1.JobCompletionIndexAnnotation]
		require.Equal(t, index, p.Labels[batchv1.JobCompletionIndexAnnotation])
		require.Equal(t, "job-"+index, p.Spec.Hostname)
		require.Equal(t, "JOB_COMPLETION_INDEX", p.Spec.Containers[0].Env[0].Name)
		seen[index] = true
	}
	require.Equal(t, map[string]bool{"0": true, "1": true, "2": true, "3": true}, seen)
}

func jobDelete(t *testing.T, e *conformance.Env) {
	jobs := e.Client.BatchV1().Jobs(e.NS)
	create(t, e, jobs, job(nil, nil))
	conformance.PodsRunning(t, e, "name=app", 2)
	require.NoError(t, jobs.Delete(e.Ctx, "job", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}))
	conformance.Eventually(t, e, "the job is gone", func() (bool, error) {
		_, err := jobs.Get(e.Ctx, "job", metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return false, err
		}
		return err != nil, nil
	})
	conformance.PodsRunning(t, e, "name=app", 0)
}

func jobLifecycle(t *testing.T, e *conformance.Env) {
	jobs, everywhere := e.Client.BatchV1().Jobs(e.NS), e.Client.BatchV1().Jobs("")
	j := job(nil, func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) })
	j.Labels = map[string]string{"lifecycle": e.NS}
	selector := metav1.ListOptions{LabelSelector: "lifecycle=" + e.NS}
	made := create(t, e, jobs, j)
	w := conformance.Observe[*batchv1.Job](t, e, everywhere.Watch, metav1.ListOptions{LabelSelector: selector.LabelSelector, ResourceVersion: made.ResourceVersion})
	patched, err := jobs.Patch(e.Ctx, "job", types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"stage":"patched"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", patched.Labels["stage"])
	w.Until(watch.Modified, "the label", func(j *batchv1.Job) bool { return j.Labels["stage"] == "patched" })
	conformance.Until(t, e, "the job is suspended", func() (*batchv1.Job, error) { return jobs.Get(e.Ctx, "job", metav1.GetOptions{}) }, func(j *batchv1.Job) bool {
		return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
			return c.Type == batchv1.JobSuspended && c.Status == corev1.ConditionTrue
		})
	})
	require.Empty(t, jobPods(t, e))
	conformance.Update(t, e, jobs, "job", func(j *batchv1.Job) {
		j.Annotations = map[string]string{"updated": "true"}
		j.Spec.Suspend = ptr.To(false)
	})
	w.Until(watch.Modified, "the annotation", func(j *batchv1.Job) bool { return j.Annotations["updated"] == "true" })
	w.Until(watch.Modified, "the job runs", func(j *batchv1.Job) bool { return j.Status.Active == 2 && ptr.Deref(j.Status.Ready, 0) == 2 })
	l, err := everywhere.List(e.Ctx, selector)
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	require.NoError(t, jobs.DeleteCollection(e.Ctx, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}, selector))
	w.Until(watch.Deleted, "the job", nil)
	require.Empty(t, jobPods(t, e), "they go before it")
}

// jobRestarts has containers that fail once and are restarted where they are.
func jobRestarts(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.BatchV1().Jobs(e.NS), job(map[string]string{runFor: "1ms", failFirst: "1"}, func(s *batchv1.JobSpec) {
		s.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	}))
	j := jobEnds(t, e, batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
	require.EqualValues(t, 4, j.Status.Succeeded)
	require.Zero(t, j.Status.Failed)
	pods := jobPods(t, e)
	require.Len(t, pods, 4)
	for _, p := range pods {
		require.EqualValues(t, 1, p.Status.ContainerStatuses[0].RestartCount)
	}
}
