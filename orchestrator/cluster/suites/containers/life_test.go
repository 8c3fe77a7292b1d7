//go:build linux

package containers

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// follow reads the log of a container until it ends.
func follow(t *testing.T, ns, pod, container string) func() string {
	t.Helper()
	stream, err := cluster.Client.CoreV1().Pods(ns).GetLogs(pod, &corev1.PodLogOptions{Container: container, Follow: true}).Stream(t.Context())
	require.NoError(t, err)
	var b bytes.Buffer
	done := make(chan error, 1)
	go func() {
		_, err := io.Copy(&b, stream)
		done <- err
	}()
	return func() string {
		t.Helper()
		require.NoError(t, <-done)
		_ = stream.Close()
		return b.String()
	}
}

// restarting makes a container of a pod one that accompanies it.
func restarting(c corev1.Container) corev1.Container {
	c.RestartPolicy = ptr(corev1.ContainerRestartPolicyAlways)
	return c
}

// What prepares a pod runs one after the other, before its containers.
func TestInit(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := script("prepared", "cat /data/log")
	pod.Spec.InitContainers = []corev1.Container{
		nodetest.Container("first", "sh", "-c", "sleep 0.2; echo first >> /data/log"),
		nodetest.Container("second", "sh", "-c", "echo second >> /data/log"),
	}
	require.Equal(t, "first\nsecond\n", cluster.Run(t, ns, volume(pod, "data", "/data", empty())))
}

// If that fails, the containers never run, and without restarts the pod has failed.
func TestInitFails(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("unprepared", "true")
	pod.Spec.InitContainers = []corev1.Container{nodetest.Container("fails", "exit", "3"), nodetest.Container("after", "true")}
	got := cluster.Finished(t, ns, pod)
	require.Equal(t, corev1.PodFailed, got.Status.Phase)
	require.EqualValues(t, 3, status(got, "fails").State.Terminated.ExitCode)
	for _, name := range []string{"after", "main"} {
		require.NotNil(t, status(got, name).State.Waiting, name)
	}
	retried := nodetest.Pod("retried", "true")
	retried.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	retried.Spec.InitContainers = []corev1.Container{nodetest.Container("flaky", "sh", "-c", "stat /data/been || { touch /data/been; exit 1; }")}
	cluster.Run(t, ns, volume(retried, "data", "/data", empty()))
}

// Containers that accompany a pod run before the others do, and end after them, the last one first.
func TestSidecars(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	first := restarting(nodetest.Container("first", "sh", "-c", "sleep 0.3; touch /data/started; exec trap 0.5"))
	first.StartupProbe = probe(command("stat", "/data/started"))
	first.StartupProbe.FailureThreshold = 60
	second := restarting(nodetest.Container("second", "trap", "0.5"))
	pod := script("accompanied", "stat /data/started; sleep 0.5")
	pod.Spec.TerminationGracePeriodSeconds = ptr(int64(20))
	pod.Spec.InitContainers = []corev1.Container{first, second}
	got := cluster.Finished(t, ns, volume(pod, "data", "/data", empty()))
	require.Equal(t, corev1.PodSucceeded, got.Status.Phase, "%+v", got.Status)
	for _, name := range []string{"first", "second"} {
		require.Contains(t, cluster.Log(t, ns, "accompanied", name), "got SIGTERM\ndone\n", name)
		require.EqualValues(t, 0, status(got, name).State.Terminated.ExitCode)
	}
	of := func(name string) *corev1.ContainerStateTerminated { return status(got, name).State.Terminated }
	require.False(t, of("main").StartedAt.Before(ptr(of("first").StartedAt)))
	require.False(t, of("second").FinishedAt.Before(ptr(of("main").FinishedAt)))
	require.False(t, of("first").FinishedAt.Before(ptr(of("second").FinishedAt)), "%v %v", of("first"), of("second"))
}

// Hooks run after the start and before the end of a container, which waits for both.
func TestHooks(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("hooked", "trap", "0")
	pod.Spec.TerminationGracePeriodSeconds = ptr(int64(30))
	with(pod, func(c *corev1.Container) {
		c.Lifecycle = &corev1.Lifecycle{
			PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "sleep 0.3; echo post > /proc/1/fd/1; touch /tmp/post"}}},
			PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "sleep 0.3; echo pre > /proc/1/fd/1"}}},
		}
	})
	cluster.Started(t, ns, pod)
	cluster.Exec(t, ns, "hooked", "main", "stat", "/tmp/post")
	log := follow(t, ns, "hooked", "main")
	cluster.Delete(t, ns, "hooked")
	require.Regexp(t, `(?s)post\n.*pre\n.*got SIGTERM\ndone\n$`, log())
	broken := with(nodetest.Pod("broken", "sleep", "infinity"), func(c *corev1.Container) {
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}}
	})
	cluster.Finished(t, ns, broken)
	told(t, ns, "broken", "FailedPostStartHook")
}

// A container that does not end when it is asked to is killed once its time is over.
func TestGrace(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("stubborn", "trap")
	pod.Spec.TerminationGracePeriodSeconds = ptr(int64(1))
	pod.Finalizers = []string{"example.com/look"}
	cluster.Started(t, ns, pod)
	cluster.Logs(t, ns, "stubborn", "main", "ready\n")
	require.NoError(t, cluster.Client.CoreV1().Pods(ns).Delete(t.Context(), "stubborn", metav1.DeleteOptions{}))
	got := cluster.Await(t, ns, "stubborn", "was killed", func(p *corev1.Pod) bool { return status(p, "main").State.Terminated != nil })
	require.EqualValues(t, 137, status(got, "main").State.Terminated.ExitCode)
	require.Equal(t, "ready\ngot SIGTERM\n", cluster.Log(t, ns, "stubborn", "main"))
	_, err := cluster.Client.CoreV1().Pods(ns).Patch(t.Context(), "stubborn", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	require.NoError(t, err)
}

// What a container has to say at its end is in its status: what it wrote to the file, or the end of its log.
func TestTerminationMessage(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := script("says", "echo bye > /dev/termination-log; exit 4")
	pod.Spec.Containers = append(pod.Spec.Containers, nodetest.Container("log", "sh", "-c", "echo the log; exit 5"), nodetest.Container("path", "sh", "-c", "echo -n here > /tmp/message"))
	pod.Spec.Containers[1].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	pod.Spec.Containers[2].TerminationMessagePath = "/tmp/message"
	got := cluster.Finished(t, ns, pod)
	require.Equal(t, corev1.PodFailed, got.Status.Phase)
	for name, want := range map[string]corev1.ContainerStateTerminated{
		"main": {ExitCode: 4, Reason: "Error", Message: "bye\n"},
		"log":  {ExitCode: 5, Reason: "Error", Message: "the log\n"},
		"path": {ExitCode: 0, Reason: "Completed", Message: "here"},
	} {
		s := status(got, name).State.Terminated
		require.Equal(t, want, corev1.ContainerStateTerminated{ExitCode: s.ExitCode, Reason: s.Reason, Message: s.Message}, name)
	}
}

// Containers that fail are started again, more and more seldom. The log of the one before is kept.
func TestRestarts(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := script("fails", "echo run; exit 9")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	cluster.Create(t, ns, pod)
	got := cluster.Await(t, ns, "fails", "backs off", func(p *corev1.Pod) bool {
		w := status(p, "main").State.Waiting
		return w != nil && w.Reason == "CrashLoopBackOff"
	})
	require.Equal(t, corev1.PodRunning, got.Status.Phase)
	require.EqualValues(t, 9, status(got, "main").LastTerminationState.Terminated.ExitCode)
	cluster.Await(t, ns, "fails", "was started again", func(p *corev1.Pod) bool { return status(p, "main").RestartCount > 0 })
	before, err := cluster.TryLog(t.Context(), ns, "fails", &corev1.PodLogOptions{Previous: true})
	require.NoError(t, err)
	require.Equal(t, "run\n", before)

	once := script("once", "stat /data/been || { touch /data/been; exit 1; }")
	once.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	cluster.Run(t, ns, volume(once, "data", "/data", empty()))
}

// An image that is not there, and must not be pulled, and a command that is not in it.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	cluster.Create(t, ns, with(nodetest.Pod("image", "true"), func(c *corev1.Container) { c.Image = "absent:1" }))
	cluster.Await(t, ns, "image", "has no image", func(p *corev1.Pod) bool {
		w := status(p, "main").State.Waiting
		return w != nil && w.Reason == "ErrImageNeverPull"
	})
	got := cluster.Finished(t, ns, nodetest.Pod("command", "absent"))
	require.Equal(t, corev1.PodFailed, got.Status.Phase)
	ended := status(got, "main").State.Terminated
	require.True(t, ended.ExitCode == 127 || ended.ExitCode == 128, "%+v", ended)
	require.True(t, strings.Contains(ended.Message, "absent"), "%+v", ended)
}
