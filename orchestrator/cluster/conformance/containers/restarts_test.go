//go:build linux

package containers

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// restarts are those that wait for the back-off of restarts, first: they take the longest.
func restarts() behaviours {
	return behaviours{
		"Probing container should have monotonically increasing restart count":                                                         countsUp,
		"InitContainer should not start app containers if init containers fail on a RestartAlways pod":                                 initFailsAgain,
		"Container Runtime blackbox test when starting a container that exits should run with the expected status":                     policies,
		"Kubelet when scheduling a busybox command that always fails in a pod should be possible to delete":                            failingDeleted,
		"Kubelet when scheduling a busybox command that always fails in a pod should have an terminated reason":                        failingReason,
		"Probing container with readiness probe should not be ready before initial delay and never restart":                            delayed,
		"Probing container with readiness probe that fails should never be ready and never restart":                                    neverReady,
		"PreStop should call prestop when killing a pod":                                                                               preStop,
		"Variable Expansion should verify that a failing subpath expansion can be modified during the lifecycle of a container [Slow]": subpathMended,
	}
}

func countsUp(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "sh", "-c", "sleep 2")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.Containers[0].LivenessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}})
	cluster.Create(t, ns, pod)
	var last int32
	cluster.Await(t, ns, "app", "has been restarted thrice", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) == 0 {
			return false
		}
		now := p.Status.ContainerStatuses[0].RestartCount
		require.GreaterOrEqual(t, now, last)
		last = now
		return now >= 3
	})
}

func initFailsAgain(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "sleep")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	pod.Spec.InitContainers = []corev1.Container{nodetest.Container("init1", "false"), nodetest.Container("init2", "true")}
	cluster.Create(t, ns, pod)
	got := cluster.Await(t, ns, "app", "the first init container has been restarted thrice", func(p *corev1.Pod) bool {
		return len(p.Status.InitContainerStatuses) > 0 && p.Status.InitContainerStatuses[0].RestartCount >= 3
	})
	require.Equal(t, corev1.PodPending, got.Status.Phase)
	require.Equal(t, corev1.ConditionFalse, condition(got, corev1.PodInitialized))
	for _, s := range []corev1.ContainerStatus{state(t, got.Status.InitContainerStatuses, "init2"), state(t, got.Status.ContainerStatuses, "main")} {
		require.NotNil(t, s.State.Waiting, s)
		require.Equal(t, "PodInitializing", s.State.Waiting.Reason)
		require.Zero(t, s.RestartCount)
	}
}

// policies run a container that fails, then succeeds, then goes on, under each policy.
func policies(t *testing.T, ns string) {
	const script = `
echo >> /data/runs
case $(wc < /data/runs) in
1) exit 1 ;;
2) exit 0 ;;
esac
sleep`
	for _, c := range []struct {
		name     string
		policy   corev1.RestartPolicy
		phase    corev1.PodPhase
		restarts int32
		running  bool
	}{
		{"always", corev1.RestartPolicyAlways, corev1.PodRunning, 2, true},
		{"on-failure", corev1.RestartPolicyOnFailure, corev1.PodSucceeded, 1, false},
		{"never", corev1.RestartPolicyNever, corev1.PodFailed, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pod := nodetest.Pod(c.name, "sh", "-c", script)
			pod.Spec.RestartPolicy = c.policy
			pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}}}
			pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
			cluster.Create(t, ns, pod)
			cluster.Await(t, ns, c.name, "as the policy wants it", func(p *corev1.Pod) bool {
				if len(p.Status.ContainerStatuses) == 0 {
					return false
				}
				s := p.Status.ContainerStatuses[0]
				require.LessOrEqual(t, s.RestartCount, c.restarts)
				return s.RestartCount == c.restarts && p.Status.Phase == c.phase && nodetest.Ready(p) == c.running &&
					(s.State.Running != nil) == c.running && (s.State.Terminated != nil) != c.running
			})
			cluster.Delete(t, ns, c.name)
		})
	}
}

func failing() *corev1.Pod {
	pod := nodetest.Pod("app", "false")
	pod.Spec.RestartPolicy = corev1.RestartPolicyAlways
	return pod
}

func failingDeleted(t *testing.T, ns string) {
	cluster.Create(t, ns, failing())
	cluster.Delete(t, ns, "app")
}

func failingReason(t *testing.T, ns string) {
	cluster.Create(t, ns, failing())
	var ended *corev1.ContainerStateTerminated
	cluster.Await(t, ns, "app", "has ended", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) > 0 {
			s := p.Status.ContainerStatuses[0]
			if ended = s.State.Terminated; ended == nil {
				ended = s.LastTerminationState.Terminated
			}
		}
		return ended != nil
	})
	require.EqualValues(t, 1, ended.ExitCode)
	require.Equal(t, "Error", ended.Reason)
}

func delayed(t *testing.T, ns string) {
	const delay = 4
	pod := nodetest.Pod("app", "sleep")
	pod.Spec.Containers[0].ReadinessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}})
	pod.Spec.Containers[0].ReadinessProbe.InitialDelaySeconds = delay
	got := cluster.Started(t, ns, pod)
	var ready metav1.Time
	for _, c := range got.Status.Conditions {
		if c.Type == corev1.PodReady {
			ready = c.LastTransitionTime
		}
	}
	s := got.Status.ContainerStatuses[0]
	// Both times are cut to seconds.
	require.Greater(t, ready.Sub(s.State.Running.StartedAt.Time), (delay-1)*time.Second)
	require.Zero(t, s.RestartCount)
}

func neverReady(t *testing.T, ns string) {
	pod := nodetest.Server("app")
	pod.Spec.Containers[0].ReadinessProbe = probe(corev1.ProbeHandler{HTTPGet: httpGet("/status?code=500")})
	cluster.Create(t, ns, pod)
	cluster.Await(t, ns, "app", "runs", restarted(0))
	nodetest.Until(t, "several probes", func() (bool, any) {
		n := cluster.Hits(t, ns, "app", "/status")
		return n > 3, n
	})
	got := cluster.Await(t, ns, "app", "is there", func(*corev1.Pod) bool { return true })
	require.False(t, nodetest.Ready(got))
	require.Equal(t, corev1.PodRunning, got.Status.Phase)
	require.Zero(t, got.Status.ContainerStatuses[0].RestartCount)
}
