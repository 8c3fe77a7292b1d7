package apps

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func cronJobs() conformance.Behaviours {
	return conformance.Behaviours{
		"CronJob should support CronJob API operations": cronJobOperations,
	}
}

func cronJobOperations(t *testing.T, e *conformance.Env) {
	jobs := e.Client.BatchV1().CronJobs(e.NS)
	conformance.Operations[*batchv1.CronJob, *batchv1.CronJobList]{
		Resource: batchv1.SchemeGroupVersion.WithResource("cronjobs"), Kind: "CronJob", Client: jobs, Everywhere: e.Client.BatchV1().CronJobs(""),
		Make: func(int) *batchv1.CronJob {
			pod := template(nil, image)
			pod.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
			return &batchv1.CronJob{Spec: batchv1.CronJobSpec{
				Schedule: "* */1 * * ?", ConcurrencyPolicy: batchv1.AllowConcurrent, JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: pod}},
			}}
		},
	}.Run(t, e, func(x *batchv1.CronJob) {
		at := metav1.NewTime(time.Now().Add(-time.Hour)).Rfc3339Copy()
		patch := `{"metadata":{"annotations":{"patchedstatus":"true"}},"status":{"lastScheduleTime":"` + at.UTC().Format(time.RFC3339) + `"}}`
		p, err := jobs.Patch(e.Ctx, x.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		require.NoError(t, err)
		require.True(t, p.Status.LastScheduleTime.Equal(&at))
		require.Equal(t, "true", p.Annotations["patchedstatus"])
		now := metav1.Now().Rfc3339Copy()
		u := conformance.UpdateStatus(t, e, jobs, x.Name, func(x *batchv1.CronJob) { x.Status.LastScheduleTime = &now })
		require.True(t, u.Status.LastScheduleTime.Equal(&now))
		got, err := e.Dynamic(t).Resource(batchv1.SchemeGroupVersion.WithResource("cronjobs")).Namespace(e.NS).Get(e.Ctx, x.Name, metav1.GetOptions{}, "status")
		require.NoError(t, err)
		require.Equal(t, x.UID, got.GetUID())
	})
}
