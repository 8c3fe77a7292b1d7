//go:build linux

package containers

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func inits() behaviours {
	return behaviours{
		"InitContainer should invoke init containers on a RestartAlways pod":                                           initAlways,
		"InitContainer should invoke init containers on a RestartNever pod":                                            initNever,
		"InitContainer should not start app containers and fail the pod if init containers fail on a RestartNever pod": initFails,
	}
}

// invoked shows that all init containers have ended well, one after the other.
func invoked(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	require.Equal(t, corev1.ConditionTrue, condition(pod, corev1.PodInitialized))
	require.Len(t, pod.Status.InitContainerStatuses, 2)
	var last *corev1.ContainerStateTerminated
	for _, s := range pod.Status.InitContainerStatuses {
		require.True(t, s.Ready)
		require.NotNil(t, s.State.Terminated)
		require.Zero(t, s.State.Terminated.ExitCode)
		if last != nil {
			require.False(t, s.State.Terminated.StartedAt.Before(&last.FinishedAt))
		}
		last = s.State.Terminated
	}
}

func initAlways(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "sleep")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.InitContainers = []corev1.Container{nodetest.Container("init1", "true"), nodetest.Container("init2", "true")}
	got := cluster.Started(t, ns, pod)
	require.Equal(t, corev1.PodRunning, got.Status.Phase)
	invoked(t, got)
}

func initNever(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "true")
	pod.Spec.InitContainers = []corev1.Container{nodetest.Container("init1", "true"), nodetest.Container("init2", "true")}
	got := cluster.Finished(t, ns, pod)
	require.Equal(t, corev1.PodSucceeded, got.Status.Phase)
	invoked(t, got)
}

func initFails(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "true")
	pod.Spec.InitContainers = []corev1.Container{nodetest.Container("init1", "true"), nodetest.Container("init2", "false")}
	got := cluster.Finished(t, ns, pod)
	require.Equal(t, corev1.PodFailed, got.Status.Phase)
	require.Equal(t, corev1.ConditionFalse, condition(got, corev1.PodInitialized))
	require.Zero(t, state(t, got.Status.InitContainerStatuses, "init1").State.Terminated.ExitCode)
	require.EqualValues(t, 1, state(t, got.Status.InitContainerStatuses, "init2").State.Terminated.ExitCode)
	main := state(t, got.Status.ContainerStatuses, "main")
	require.NotNil(t, main.State.Waiting, main)
	require.Equal(t, "PodInitializing", main.State.Waiting.Reason)
}
