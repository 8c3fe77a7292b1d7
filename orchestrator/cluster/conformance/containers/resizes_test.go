//go:build linux

package containers

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func resizes() behaviours {
	return behaviours{
		"Pod InPlace Resize Container burstable pods - extended 6 containers - various operations performed (including adding limits and requests)": various,
		"Pod InPlace Resize Container burstable pods - extended resize with equivalents":                                                            equivalents,
		"Pod InPlace Resize Container resize pod via the replace endpoint":                                                                          replaced,
	}
}

// shares are what a container asks for and how much it may take at most.
func shares(cpu, memory, cpuLimit, memoryLimit string) corev1.ResourceRequirements {
	r := corev1.ResourceRequirements{Requests: quantities(cpu, memory)}
	if limits := quantities(cpuLimit, memoryLimit); len(limits) > 0 {
		r.Limits = limits
	}
	return r
}

// sized starts a pod with a container for each of some resources: c1, c2 and so on.
func sized(t *testing.T, ns string, all []corev1.ResourceRequirements) {
	t.Helper()
	pod := nodetest.Pod("app")
	pod.Spec.Containers = nil
	for i, r := range all {
		c := nodetest.Container(fmt.Sprintf("c%d", i+1), "sleep")
		c.Resources = r
		pod.Spec.Containers = append(pod.Spec.Containers, c)
	}
	got := cluster.Started(t, ns, pod)
	require.EqualValues(t, 1, got.Generation)
	inEffect(t, ns, all)
}

// patched asks for other resources.
func patched(t *testing.T, ns string, all []corev1.ResourceRequirements) {
	t.Helper()
	var containers []map[string]any
	for i, r := range all {
		containers = append(containers, map[string]any{"name": fmt.Sprintf("c%d", i+1), "resources": r})
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"containers": containers}})
	require.NoError(t, err)
	_, err = cluster.Client.CoreV1().Pods(ns).Patch(t.Context(), "app", types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "resize")
	require.NoError(t, err)
	inEffect(t, ns, all)
}

// inEffect waits until the containers have resources, and looks what their cgroups say. None was restarted.
func inEffect(t *testing.T, ns string, all []corev1.ResourceRequirements) {
	t.Helper()
	got := cluster.Await(t, ns, "app", "has the resources", func(p *corev1.Pod) bool {
		if len(p.Status.ContainerStatuses) != len(all) || condition(p, corev1.PodResizePending) != "" || condition(p, corev1.PodResizeInProgress) != "" {
			return false
		}
		for i, r := range all {
			s := p.Status.ContainerStatuses[i]
			if s.Resources == nil || !equality.Semantic.DeepEqual(*s.Resources, r) || !equality.Semantic.DeepEqual(s.AllocatedResources, r.Requests) {
				return false
			}
		}
		return true
	})
	for i, r := range all {
		require.Zero(t, got.Status.ContainerStatuses[i].RestartCount)
		name := fmt.Sprintf("c%d", i+1)
		if cpu := r.Limits.Cpu().MilliValue(); cpu > 0 {
			// A quota for each tenth of a second; the kernel takes no less than 1 ms.
			require.Equal(t, fmt.Sprint(max(cpu*100, 1000)), cgroup(t, ns, name, "cpu.max", "cpu/cpu.cfs_quota_us"))
		}
		if memory := r.Limits.Memory().Value(); memory > 0 {
			require.Equal(t, fmt.Sprint(memory), cgroup(t, ns, name, "memory.max", "memory/memory.limit_in_bytes"))
		}
	}
}

// cgroup is the first word of a file of a container's cgroup, which has two names.
func cgroup(t *testing.T, ns, container, v2, v1 string) string {
	t.Helper()
	script := fmt.Sprintf("f=/sys/fs/cgroup/%s; [ -e $f ] || f=/sys/fs/cgroup/%s; cat $f", v2, v1)
	return strings.Fields(cluster.Exec(t, ns, "app", container, "sh", "-c", script))[0]
}

func various(t *testing.T, ns string) {
	sized(t, ns, []corev1.ResourceRequirements{
		shares("20m", "", "", ""), shares("", "35Mi", "", ""), shares("20m", "35Mi", "", ""), shares("20m", "", "", ""), shares("", "35Mi", "", ""), shares("20m", "35Mi", "30m", "45Mi"),
	})
	patched(t, ns, []corev1.ResourceRequirements{
		shares("25m", "", "35m", ""), shares("", "30Mi", "", "50Mi"), shares("20m", "30Mi", "", ""), shares("15m", "35Mi", "", ""), shares("20m", "40Mi", "", ""), shares("15m", "40Mi", "35m", "50Mi"),
	})
}

func equivalents(t *testing.T, ns string) {
	before, after := []corev1.ResourceRequirements{shares("2m", "", "10m", "")}, []corev1.ResourceRequirements{shares("1m", "", "5m", "")}
	sized(t, ns, before)
	patched(t, ns, after)
	patched(t, ns, before)
}

func replaced(t *testing.T, ns string) {
	after := shares("25m", "40Mi", "", "")
	sized(t, ns, []corev1.ResourceRequirements{shares("20m", "35Mi", "", "")})
	pods := cluster.Client.CoreV1().Pods(ns)
	pod, err := pods.Get(t.Context(), "app", metav1.GetOptions{})
	require.NoError(t, err)
	pod.Spec.Containers[0].Resources = after
	updated, err := pods.UpdateResize(t.Context(), "app", pod, metav1.UpdateOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 2, updated.Generation)
	inEffect(t, ns, []corev1.ResourceRequirements{after})
	nodetest.Until(t, "the pod and its resize subresource are the same", func() (bool, any) {
		pod, err := pods.Get(t.Context(), "app", metav1.GetOptions{})
		require.NoError(t, err)
		var other corev1.Pod
		require.NoError(t, cluster.Client.CoreV1().RESTClient().Get().Namespace(ns).Resource("pods").Name("app").SubResource("resize").Do(t.Context()).Into(&other))
		return equality.Semantic.DeepEqual(pod, &other), other
	})
}
