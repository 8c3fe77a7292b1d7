//go:build linux

package batch

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// exits is a failure policy of one rule about exit codes of containers.
func exits(action batchv1.PodFailurePolicyAction, codes ...int32) *batchv1.PodFailurePolicy {
	return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
		Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: codes},
	}}}
}

// disrupted is one about pods that were driven away.
func disrupted(action batchv1.PodFailurePolicyAction) *batchv1.PodFailurePolicy {
	return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
		Action: action, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
	}}}
}

// secondTry fails the first try of an index, by what the job's controller tells of it.
const secondTry = `test "$FAILURES" = 1`

// failures is the variable of secondTry.
var failures = corev1.EnvVar{Name: "FAILURES", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{
	FieldPath: "metadata.annotations['" + batchv1.JobIndexFailureCountAnnotation + "']",
}}}

// outcomes are jobs that end by themselves, and how.
var outcomes = []struct {
	name, script string
	change       func(*batchv1.JobSpec)

	end               batchv1.JobConditionType
	reason, message   string // message: a part of it
	succeeded, failed int32
	completed, lost   string // indexes
}{
	{
		name: "all", script: "exit 0",
		change: func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr[int32](3), ptr[int32](2) },
		end:    batchv1.JobComplete, reason: "CompletionsReached", succeeded: 3,
	},
	{
		name: "queue", script: "exit 0", // without completions one that succeeds ends it, once the others have ended
		change: func(s *batchv1.JobSpec) { s.Parallelism = ptr[int32](2) },
		end:    batchv1.JobComplete, reason: "CompletionsReached", succeeded: 2,
	},
	{
		name: "limit", script: "exit 3",
		change: func(s *batchv1.JobSpec) { s.BackoffLimit = ptr[int32](1) },
		end:    batchv1.JobFailed, reason: "BackoffLimitExceeded", message: "reached the specified backoff limit", failed: 2,
	},
	{
		name: "restarts", script: "exit 3", // restarts of containers count, too
		change: func(s *batchv1.JobSpec) {
			s.BackoffLimit, s.Template.Spec.RestartPolicy = ptr[int32](1), corev1.RestartPolicyOnFailure
		},
		end: batchv1.JobFailed, reason: "BackoffLimitExceeded", failed: 1,
	},
	{
		name: "restarted", script: "stat /data/been || { touch /data/been; exit 1; }",
		change: func(s *batchv1.JobSpec) {
			pod := &s.Template.Spec
			pod.RestartPolicy = corev1.RestartPolicyOnFailure
			pod.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			pod.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		},
		end: batchv1.JobComplete, reason: "CompletionsReached", succeeded: 1,
	},
	{
		name: "deadline", script: "sleep infinity",
		change: func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr[int64](1) },
		end:    batchv1.JobFailed, reason: "DeadlineExceeded", message: "active longer than specified deadline", failed: 1,
	},
	{
		name: "index-lost", script: `exit $JOB_COMPLETION_INDEX`, // the others go on to their end
		change: func(s *batchv1.JobSpec) { indexed(s, 2); s.BackoffLimitPerIndex = ptr[int32](0) },
		end:    batchv1.JobFailed, reason: "FailedIndexes", message: "failed indexes", succeeded: 1, failed: 1, completed: "0", lost: "1",
	},
	{
		name: "index-again", script: secondTry,
		change: func(s *batchv1.JobSpec) {
			indexed(s, 2)
			s.BackoffLimitPerIndex, s.Template.Spec.Containers[0].Env = ptr[int32](1), []corev1.EnvVar{failures}
		},
		end: batchv1.JobComplete, reason: "CompletionsReached", succeeded: 2, failed: 2, completed: "0,1",
	},
	{
		name: "indexes-lost", script: `[ $JOB_COMPLETION_INDEX = 1 ] && exit 1; sleep infinity`,
		change: func(s *batchv1.JobSpec) {
			indexed(s, 3)
			s.BackoffLimitPerIndex, s.MaxFailedIndexes = ptr[int32](0), ptr[int32](0)
		},
		end: batchv1.JobFailed, reason: "MaxFailedIndexesExceeded", message: "maximal number of failed indexes", failed: 3, lost: "0-2",
	},
	{
		name: "policy-fails", script: "exit 42",
		change: func(s *batchv1.JobSpec) { s.PodFailurePolicy = exits(batchv1.PodFailurePolicyActionFailJob, 7, 42) },
		end:    batchv1.JobFailed, reason: "PodFailurePolicy", message: "failed with exit code 42 matching FailJob rule at index 0", failed: 1,
	},
	{
		name: "policy-counts", script: "exit 42",
		change: func(s *batchv1.JobSpec) {
			s.BackoffLimit, s.PodFailurePolicy = ptr[int32](0), exits(batchv1.PodFailurePolicyActionCount, 42)
		},
		end: batchv1.JobFailed, reason: "BackoffLimitExceeded", failed: 1,
	},
	{
		name: "policy-other", script: "exit 1", // no rule speaks of it
		change: func(s *batchv1.JobSpec) {
			s.BackoffLimit, s.PodFailurePolicy = ptr[int32](0), exits(batchv1.PodFailurePolicyActionIgnore, 42)
		},
		end: batchv1.JobFailed, reason: "BackoffLimitExceeded", failed: 1,
	},
	{
		name: "policy-index", script: `exit $(( JOB_COMPLETION_INDEX * 5 ))`,
		change: func(s *batchv1.JobSpec) {
			indexed(s, 2)
			s.BackoffLimitPerIndex, s.PodFailurePolicy = ptr[int32](5), exits(batchv1.PodFailurePolicyActionFailIndex, 5)
		},
		end: batchv1.JobFailed, reason: "FailedIndexes", succeeded: 1, failed: 1, completed: "0", lost: "1",
	},
	{
		name: "leader", script: `[ $JOB_COMPLETION_INDEX = 0 ] || sleep infinity`,
		change: func(s *batchv1.JobSpec) {
			indexed(s, 3)
			s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr[int32](3)}, {SucceededIndexes: ptr("0")}}}
		},
		end: batchv1.JobComplete, reason: "SuccessPolicy", message: "Matched rules at index 1", succeeded: 1, failed: 2, completed: "0",
	},
}

// TestOutcomes: jobs end as they should, count their pods right, and leave none that runs nor one that is held.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	for _, o := range outcomes {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			create(t, ns, job(o.name, o.script, o.change))
			got := ended(t, ns, o.name)
			end, s := over(got), got.Status
			require.Equal(t, o.end, end.Type, "%+v", end)
			require.Equal(t, o.reason, end.Reason)
			require.Contains(t, end.Message, o.message)
			lost := ""
			if s.FailedIndexes != nil {
				lost = *s.FailedIndexes
			}
			require.Equal(t, []any{o.succeeded, o.failed, o.completed, o.lost}, []any{s.Succeeded, s.Failed, s.CompletedIndexes, lost}, "%+v", s)
			require.Equal(t, []int32{0, 0, 0}, []int32{s.Active, *s.Terminating, *s.Ready})
			require.Equal(t, o.end == batchv1.JobComplete, s.CompletionTime != nil)
			nodetest.Until(t, "no pod is held", func() (bool, any) {
				all := pods(t, ns, o.name)
				return !slices.ContainsFunc(all, func(p corev1.Pod) bool { return len(p.Finalizers) > 0 || !nodetest.Ended(&p) }), all
			})
		})
	}
}

// TestIndexes: each pod of an indexed job knows its index by a variable, by its host name and by its labels, and finds the others.
func TestIndexes(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	_, err := cluster.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "crew"},
		Spec:       corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{batchv1.JobNameLabel: "crew"}, PublishNotReadyAddresses: true},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	create(t, ns, job("crew", `
		echo $JOB_COMPLETION_INDEX $(hostname)
		[ $JOB_COMPLETION_INDEX = 0 ] && exec serve -http :8080
		until get http://crew-0.crew:8080/; do sleep 0.2; done
		get "http://crew-0.crew:8080/exit?code=0" || true`, func(s *batchv1.JobSpec) {
		indexed(s, 2)
		s.Template.Spec.Subdomain = "crew"
	}))
	require.Equal(t, "0,1", ended(t, ns, "crew").Status.CompletedIndexes)
	for _, p := range pods(t, ns, "crew") {
		index := p.Labels[batchv1.JobCompletionIndexAnnotation]
		require.True(t, strings.HasPrefix(p.Name, "crew-"+index+"-"), p.Name)
		require.Equal(t, index, p.Annotations[batchv1.JobCompletionIndexAnnotation])
		log := cluster.Log(t, ns, p.Name, "main")
		require.True(t, strings.HasPrefix(log, fmt.Sprintf("%s crew-%s\n", index, index)), log)
		if index == "1" {
			require.Contains(t, log, "\ncrew-0\n")
		}
	}
}

// TestParallelism: never more pods than it says are active; it may change while the job runs.
func TestParallelism(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	w, err := cluster.Client.BatchV1().Jobs(ns).Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	defer w.Stop()
	create(t, ns, job("some", "exec sleep infinity", func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr[int32](5), ptr[int32](1) }))
	running(t, ns, "some", 1)
	patch(t, ns, "jobs", "some", `{"spec":{"parallelism":3}}`)
	three := running(t, ns, "some", 3)
	finish(t, ns, three[0].Name, "1") // it ends with 0
	await(t, ns, "some", "has one", func(j *batchv1.Job) bool { return j.Status.Succeeded == 1 && *j.Status.Ready == 3 })
	patch(t, ns, "jobs", "some", `{"spec":{"parallelism":0}}`)
	await(t, ns, "some", "rests", func(j *batchv1.Job) bool { return j.Status.Active == 0 && *j.Status.Terminating == 0 })
	patch(t, ns, "jobs", "some", `{"spec":{"parallelism":5}}`)
	for _, p := range running(t, ns, "some", 4) {
		finish(t, ns, p.Name, "1")
	}
	require.NotNil(t, condition(ended(t, ns, "some"), batchv1.JobComplete))
	for e := range w.ResultChan() {
		j := e.Object.(*batchv1.Job)
		require.LessOrEqual(t, j.Status.Active, int32(4), "%+v", j.Status)
		if e.Type == watch.Modified && over(j) != nil {
			require.EqualValues(t, 5, j.Status.Succeeded)
			return
		}
	}
}

// TestSuspend: a job that is suspended has no pods, and may be given others before it goes on.
func TestSuspend(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	create(t, ns, job("sleeps", "sleep infinity", func(s *batchv1.JobSpec) { s.Suspend = ptr(true) }))
	asleep := func(j *batchv1.Job) bool {
		return condition(j, batchv1.JobSuspended) != nil && j.Status.Active == 0 && j.Status.StartTime == nil
	}
	await(t, ns, "sleeps", "is suspended", asleep)
	require.Empty(t, pods(t, ns, "sleeps"))
	patch(t, ns, "jobs", "sleeps", `{"spec":{"template":{"metadata":{"labels":{"queue":"fast"}}}}}`)
	patch(t, ns, "jobs", "sleeps", `{"spec":{"suspend":false}}`)
	first := running(t, ns, "sleeps", 1)[0]
	require.Equal(t, "fast", first.Labels["queue"])
	awake := await(t, ns, "sleeps", "goes on", func(j *batchv1.Job) bool { return j.Status.Active == 1 && j.Status.StartTime != nil })
	require.Nil(t, condition(awake, batchv1.JobSuspended))
	patch(t, ns, "jobs", "sleeps", `{"spec":{"suspend":true}}`)
	await(t, ns, "sleeps", "is suspended again", asleep)
	patch(t, ns, "jobs", "sleeps", `{"spec":{"suspend":false}}`)
	second := running(t, ns, "sleeps", 1)[0]
	require.NotEqual(t, first.UID, second.UID)
	finish(t, ns, second.Name, "-1")
	got := ended(t, ns, "sleeps")
	require.NotNil(t, condition(got, batchv1.JobComplete))
	for _, reason := range []string{"Suspended", "Resumed", "Completed"} {
		told(t, ns, "sleeps", reason)
	}
}

// TestDisruption drives pods away: the failure policy ignores it, or gives the job up for it.
func TestDisruption(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	away := func(name string) {
		p := running(t, ns, name, 1)[0]
		require.NoError(t, cluster.Client.PolicyV1().Evictions(ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: ns}}))
	}
	for name, action := range map[string]batchv1.PodFailurePolicyAction{"ignores": batchv1.PodFailurePolicyActionIgnore, "fails": batchv1.PodFailurePolicyActionFailJob} {
		create(t, ns, job(name, "/bin/trap 0; exit 1", func(s *batchv1.JobSpec) { s.BackoffLimit, s.PodFailurePolicy = ptr[int32](0), disrupted(action) }))
	}
	away("fails")
	away("ignores")
	failed := ended(t, ns, "fails")
	require.Equal(t, "PodFailurePolicy", over(failed).Reason)
	require.Contains(t, over(failed).Message, "has condition DisruptionTarget matching FailJob rule at index 0")
	again := running(t, ns, "ignores", 1)[0]
	require.Zero(t, await(t, ns, "ignores", "runs", func(j *batchv1.Job) bool { return *j.Status.Ready == 1 }).Status.Failed)
	finish(t, ns, again.Name, "-1") // it ends with 1
	require.Equal(t, "BackoffLimitExceeded", over(ended(t, ns, "ignores")).Reason, "a failure of its own counts")
}

// TestReplacement deletes pods that take a while to end. By default another one comes beside it; with the policy Failed only
// when the first has ended.
func TestReplacement(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	for name, policy := range map[string]batchv1.PodReplacementPolicy{"beside": batchv1.TerminatingOrFailed, "after": batchv1.Failed} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			grace := map[string]int64{"beside": 25, "after": 4}[name]
			create(t, ns, job(name, "exec /bin/trap", func(s *batchv1.JobSpec) {
				s.PodReplacementPolicy, s.Template.Spec.TerminationGracePeriodSeconds = &policy, &grace
			}))
			first := running(t, ns, name, 1)[0]
			require.NoError(t, cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), first.Name, metav1.DeleteOptions{}))
			leaving := await(t, ns, name, "has one that is to go", func(j *batchv1.Job) bool { return *j.Status.Terminating == 1 })
			require.Zero(t, leaving.Status.Active)
			running(t, ns, name, 1)
			there := slices.ContainsFunc(pods(t, ns, name), func(p corev1.Pod) bool { return p.UID == first.UID && !nodetest.Ended(&p) })
			require.Equal(t, name == "beside", there)
			got := await(t, ns, name, "has another", func(j *batchv1.Job) bool { return j.Status.Active == 1 && j.Status.Failed == 1 })
			if there {
				require.EqualValues(t, 1, *got.Status.Terminating)
			}
		})
	}
}

// TestLifetime: a job that has ended goes with its pods when its time is over.
func TestLifetime(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	create(t, ns, job("short", "exit 0", func(s *batchv1.JobSpec) { s.TTLSecondsAfterFinished = ptr[int32](2) }))
	ended(t, ns, "short")
	gone(t, ns, "short")
}
