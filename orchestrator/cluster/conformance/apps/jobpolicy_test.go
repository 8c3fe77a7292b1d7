package apps

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// onExit is a failure policy for one exit code.
func onExit(code int32, action batchv1.PodFailurePolicyAction) *batchv1.PodFailurePolicy {
	return &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
		Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{code}},
	}}}
}

// jobIgnoresDisruption evicts a pod of every index of a job that may not fail once, and lets the pods after these succeed.
func jobIgnoresDisruption(t *testing.T, e *conformance.Env) {
	pods := e.Client.CoreV1().Pods(e.NS)
	create(t, e, e.Client.BatchV1().Jobs(e.NS), job(nil, indexed(func(s *batchv1.JobSpec) {
		s.BackoffLimit = ptr.To(int32(0))
		s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
			Action:          batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		}}}
	})))
	evicted := map[types.UID]bool{}
	for _, indexes := range [][]string{{"0", "1"}, {"2", "3"}} {
		// running waits for a pod of each of the indexes that was not evicted.
		running := func() (out []corev1.Pod) {
			conformance.Eventually(t, e, "pods run", func() (bool, error) {
				found := map[string]corev1.Pod{}
				for _, p := range jobPods(t, e) {
					if conformance.PodReady(&p) && !evicted[p.UID] {
						found[p.Labels[batchv1.JobCompletionIndexAnnotation]] = p
					}
				}
				out = nil
				for _, i := range indexes {
					if p, ok := found[i]; ok {
						out = append(out, p)
					}
				}
				return len(out) == len(indexes), nil
			})
			return out
		}
		for _, p := range running() {
			require.NoError(t, pods.EvictV1(e.Ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name}}))
			evicted[p.UID] = true
		}
		for _, p := range running() {
			conformance.Update(t, e, pods, p.Name, func(p *corev1.Pod) { metav1.SetMetaDataAnnotation(&p.ObjectMeta, runFor, "1ms") })
		}
	}
	j := jobEnds(t, e, batchv1.JobComplete, batchv1.JobReasonCompletionsReached)
	require.EqualValues(t, 4, j.Status.Succeeded)
	require.Zero(t, j.Status.Failed)
	require.Len(t, evicted, 4)
}

func jobFailsEarly(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.BatchV1().Jobs(e.NS), job(map[string]string{runFor + ".0": "1ms", exitCode + ".0": "42"}, indexed(func(s *batchv1.JobSpec) {
		s.PodFailurePolicy = onExit(42, batchv1.PodFailurePolicyActionFailJob)
	})))
	j := jobEnds(t, e, batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy)
	require.Zero(t, j.Status.Active)
	require.Zero(t, j.Status.Succeeded)
}

func jobLimitPerIndex(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.BatchV1().Jobs(e.NS), job(map[string]string{runFor: "1ms", exitCode + ".1": "1", exitCode + ".3": "1"}, indexed(func(s *batchv1.JobSpec) {
		s.BackoffLimit, s.BackoffLimitPerIndex = ptr.To(int32(math.MaxInt32)), ptr.To(int32(1))
	})))
	s := jobEnds(t, e, batchv1.JobFailed, batchv1.JobReasonFailedIndexes).Status
	require.Equal(t, "1,3", ptr.Deref(s.FailedIndexes, ""))
	require.Equal(t, "0,2", s.CompletedIndexes)
	require.EqualValues(t, 4, s.Failed, "each of two indexes twice")
	require.EqualValues(t, 2, s.Succeeded)
}

func jobFailsIndex(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.BatchV1().Jobs(e.NS), job(map[string]string{runFor: "1ms", exitCode + ".0": "42"}, indexed(func(s *batchv1.JobSpec) {
		s.Completions, s.BackoffLimit, s.BackoffLimitPerIndex = ptr.To(int32(2)), ptr.To(int32(math.MaxInt32)), ptr.To(int32(1))
		s.PodFailurePolicy = onExit(42, batchv1.PodFailurePolicyActionFailIndex)
	})))
	s := jobEnds(t, e, batchv1.JobFailed, batchv1.JobReasonFailedIndexes).Status
	require.Equal(t, "0", ptr.Deref(s.FailedIndexes, ""))
	require.Equal(t, "1", s.CompletedIndexes)
	require.EqualValues(t, 1, s.Failed, "it is not tried again")
	require.EqualValues(t, 1, s.Succeeded)
}

func jobTooManyFailedIndexes(t *testing.T, e *conformance.Env) {
	create(t, e, e.Client.BatchV1().Jobs(e.NS), job(map[string]string{runFor: "1ms", exitCode: "1"}, indexed(func(s *batchv1.JobSpec) {
		s.Parallelism, s.BackoffLimit = ptr.To(int32(1)), ptr.To(int32(math.MaxInt32))
		s.BackoffLimitPerIndex, s.MaxFailedIndexes = ptr.To(int32(0)), ptr.To(int32(0))
	})))
	s := jobEnds(t, e, batchv1.JobFailed, batchv1.JobReasonMaxFailedIndexesExceeded).Status
	require.Equal(t, "0", ptr.Deref(s.FailedIndexes, ""))
	require.Empty(t, s.CompletedIndexes)
	require.EqualValues(t, 1, s.Failed)
}

// succeeds runs a job of two indexes with a rule of success, and checks that it succeeds by that, with nothing left running.
func succeeds(t *testing.T, e *conformance.Env, rule batchv1.SuccessPolicyRule, annotations map[string]string, completed string, succeeded int32) {
	t.Helper()
	jobs := e.Client.BatchV1().Jobs(e.NS)
	made := create(t, e, jobs, job(annotations, indexed(func(s *batchv1.JobSpec) {
		s.Completions, s.SuccessPolicy = ptr.To(int32(2)), &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{rule}}
	})))
	w := conformance.Observe[*batchv1.Job](t, e, jobs.Watch, metav1.ListOptions{FieldSelector: "metadata.name=job", ResourceVersion: made.ResourceVersion})
	for _, typ := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		w.Until("MODIFIED", string(typ), func(j *batchv1.Job) bool {
			for _, c := range j.Status.Conditions {
				if c.Type == typ && c.Status == corev1.ConditionTrue {
					require.Equal(t, batchv1.JobReasonSuccessPolicy, c.Reason)
					return true
				}
			}
			return false
		})
	}
	s := jobEnds(t, e, batchv1.JobComplete, batchv1.JobReasonSuccessPolicy).Status
	require.Equal(t, completed, s.CompletedIndexes)
	require.Equal(t, succeeded, s.Succeeded)
	require.Zero(t, s.Active)
	require.Zero(t, ptr.Deref(s.Terminating, 0))
	require.Zero(t, ptr.Deref(s.Ready, 0))
	require.NotNil(t, s.CompletionTime)
}

func jobSuccessPolicyAll(t *testing.T, e *conformance.Env) {
	succeeds(t, e, batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0-1")}, map[string]string{runFor: "1ms"}, "0,1", 2)
}

func jobSuccessPolicyCount(t *testing.T, e *conformance.Env) {
	succeeds(t, e, batchv1.SuccessPolicyRule{SucceededCount: ptr.To(int32(1))}, map[string]string{runFor + ".0": "1ms"}, "0", 1)
}

func jobSuccessPolicyIndexes(t *testing.T, e *conformance.Env) {
	succeeds(t, e, batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("1")}, map[string]string{runFor + ".1": "1ms"}, "1", 1)
}
