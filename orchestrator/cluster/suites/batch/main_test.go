//go:build linux

package batch

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("test.parallel", "32") // they wait for pauses between tries, at the same time
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

func ptr[T any](v T) *T { return &v }

// job is a job whose pods run a script once each.
func job(name, text string, change func(*batchv1.JobSpec)) *batchv1.Job {
	pod := nodetest.Pod(name, "sh", "-c", text)
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels}, Spec: pod.Spec}},
	}
	if change != nil {
		change(&j.Spec)
	}
	return j
}

// indexed makes a job one of so many indexes, all at once.
func indexed(s *batchv1.JobSpec, n int32) {
	s.CompletionMode, s.Completions, s.Parallelism = ptr(batchv1.IndexedCompletion), &n, &n
}

func create(t *testing.T, ns string, j *batchv1.Job) *batchv1.Job {
	t.Helper()
	made, err := cluster.Client.BatchV1().Jobs(ns).Create(t.Context(), j, metav1.CreateOptions{})
	require.NoError(t, err)
	return made
}

// condition is that of a job, nil if it is not true.
func condition(j *batchv1.Job, of batchv1.JobConditionType) *batchv1.JobCondition {
	for i, c := range j.Status.Conditions {
		if c.Type == of && c.Status == corev1.ConditionTrue {
			return &j.Status.Conditions[i]
		}
	}
	return nil
}

// over is how a job has ended, nil if it has not.
func over(j *batchv1.Job) *batchv1.JobCondition {
	if c := condition(j, batchv1.JobComplete); c != nil {
		return c
	}
	return condition(j, batchv1.JobFailed)
}

// await waits until a job is as it should be.
func await(t *testing.T, ns, name, what string, is func(*batchv1.Job) bool) (j *batchv1.Job) {
	t.Helper()
	nodetest.Until(t, "job "+name+": "+what, func() (bool, any) {
		var err error
		if j, err = cluster.Client.BatchV1().Jobs(ns).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return false, err
		}
		status, err := json.Marshal(j.Status)
		return is(j), fmt.Sprint(string(status), err)
	})
	return j
}

// ended waits until a job is over.
func ended(t *testing.T, ns, name string) *batchv1.Job {
	t.Helper()
	return await(t, ns, name, "has ended", func(j *batchv1.Job) bool { return over(j) != nil })
}

// pods are those of a job.
func pods(t *testing.T, ns, job string) []corev1.Pod {
	t.Helper()
	all, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + job})
	require.NoError(t, err)
	return all.Items
}

// running waits until so many pods of a job are ready and not to go, and returns them.
func running(t *testing.T, ns, job string, n int) (found []corev1.Pod) {
	t.Helper()
	nodetest.Until(t, fmt.Sprintf("%d pods of job %s run", n, job), func() (bool, any) {
		found = nil
		all := pods(t, ns, job)
		for _, p := range all {
			if nodetest.Ready(&p) && p.DeletionTimestamp == nil {
				found = append(found, p)
			}
		}
		return len(found) == n, all
	})
	return found
}

// finish asks a process of a container to end, or with -1 all but the first. The command may end with the container: it is no error.
func finish(t *testing.T, ns, pod, process string) {
	t.Helper()
	if _, err := cluster.TryExec(t.Context(), ns, pod, "main", "kill", "-15", process); err != nil {
		t.Log(err)
	}
}

// patch changes an object by a merge patch.
func patch(t *testing.T, ns, resource, name, text string, sub ...string) {
	t.Helper()
	err := cluster.Client.BatchV1().RESTClient().Patch(types.MergePatchType).Namespace(ns).Resource(resource).Name(name).SubResource(sub...).
		Body([]byte(text)).Do(t.Context()).Error()
	require.NoError(t, err)
}

// told waits for an event about an object.
func told(t *testing.T, ns, name, reason string) {
	t.Helper()
	nodetest.Until(t, reason+" of "+name, func() (bool, any) {
		all, err := cluster.Client.CoreV1().Events(ns).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return false, err
		}
		for _, e := range all.Items {
			if e.Reason == reason {
				return true, nil
			}
		}
		return false, all.Items
	})
}

// gone waits until there is no such job, nor a pod of it.
func gone(t *testing.T, ns, name string) {
	t.Helper()
	nodetest.Until(t, "job "+name+" is gone", func() (bool, any) {
		_, err := cluster.Client.BatchV1().Jobs(ns).Get(t.Context(), name, metav1.GetOptions{})
		left := pods(t, ns, name)
		return apierrors.IsNotFound(err) && len(left) == 0, left
	})
}
