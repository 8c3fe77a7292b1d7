//go:build linux

package containers

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// limited gives the container of a pod limits.
func limited(pod *corev1.Pod, limits map[corev1.ResourceName]string) *corev1.Pod {
	return with(pod, func(c *corev1.Container) {
		c.Resources.Limits = corev1.ResourceList{}
		for name, text := range limits {
			c.Resources.Limits[name] = resource.MustParse(text)
		}
	})
}

// A container that takes more memory than it may is killed, and that is told; one beside it goes on.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := limited(nodetest.Pod("greedy", "mem", "200"), map[corev1.ResourceName]string{corev1.ResourceMemory: "64Mi"})
	pod.Spec.Containers = append(pod.Spec.Containers, nodetest.Container("modest", "mem", "10"))
	cluster.Create(t, ns, pod)
	got := cluster.Await(t, ns, "greedy", "was killed", func(p *corev1.Pod) bool {
		return status(p, "main").State.Terminated != nil && status(p, "modest").State.Running != nil
	})
	ended := status(got, "main").State.Terminated
	require.Equal(t, "OOMKilled", ended.Reason)
	require.EqualValues(t, 137, ended.ExitCode)
	cluster.Logs(t, ns, "greedy", "modest", "holding 10\n")
}

// It is told, too, if what is killed is not the first process: whether that goes on is up to the version of cgroups.
func TestMemoryOfChild(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := limited(script("parent", "mem 200"), map[corev1.ResourceName]string{corev1.ResourceMemory: "64Mi"})
	got := cluster.Finished(t, ns, pod)
	require.Equal(t, "OOMKilled", status(got, "main").State.Terminated.Reason, "%+v", got.Status)
}

// A container that wants more than its share of the processors is slowed down.
func TestProcessorLimit(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	log := cluster.Run(t, ns, limited(script("busy", "burn 1; cat /sys/fs/cgroup/cpu/cpu.stat || cat /sys/fs/cgroup/cpu.stat"), map[corev1.ResourceName]string{corev1.ResourceCPU: "100m"}))
	m := regexp.MustCompile(`nr_throttled (\d+)`).FindStringSubmatch(log)
	require.NotNil(t, m, log)
	n, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	require.Positive(t, n, log)
}

// A container learns its limits and requests.
func TestLimitsAsVariables(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	of := func(name, what, divisor string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: what, Divisor: resource.MustParse(divisor)}}}
	}
	pod := limited(script("limits", "echo $CPU $MIB $REQUESTED"), map[corev1.ResourceName]string{corev1.ResourceMemory: "64Mi", corev1.ResourceCPU: "250m"})
	with(pod, func(c *corev1.Container) {
		c.Env = []corev1.EnvVar{of("CPU", "limits.cpu", "1m"), of("MIB", "limits.memory", "1Mi"), of("REQUESTED", "requests.cpu", "1m")}
	})
	require.Equal(t, "250 64 250\n", cluster.Run(t, ns, pod))
}

// A pod that runs for longer than it may fails.
func TestDeadline(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	pod := nodetest.Pod("late", "sleep", "infinity")
	pod.Spec.ActiveDeadlineSeconds = ptr(int64(1))
	got := cluster.Finished(t, ns, pod)
	require.Equal(t, corev1.PodFailed, got.Status.Phase)
	require.Equal(t, "DeadlineExceeded", got.Status.Reason)
}
