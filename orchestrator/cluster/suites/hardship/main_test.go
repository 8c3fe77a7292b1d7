//go:build linux

package hardship

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// What the node "disk" has and keeps free, and what pods of the node "memory" may have, and what of that is kept free. MiB.
const (
	disk, diskFree     = 512, 128
	memory, memoryFree = 384, 128
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{
		Nodes: []string{"disk", "memory", "power"},
		Args: []string{
			"--node-monitor-grace-period", "20s", "--node-monitor-period", "1s",
			"--metric-resolution", "2s", "--horizontal-pod-autoscaler-sync-period", "1s", "--horizontal-pod-autoscaler-initial-readiness-delay", "1s",
		},
		Special: map[string]nodetest.Special{
			"disk": {Disk: disk << 20, Args: []string{"--eviction-hard", fmt.Sprintf("nodefs.available<%dMi", diskFree), "--eviction-pressure-transition-period", "8s"}},
			"memory": {Args: []string{
				"--system-reserved", fmt.Sprintf("memory=%dMi", machineMemory()-memory),
				"--eviction-hard", fmt.Sprintf("memory.available<%dMi", memoryFree), "--eviction-pressure-transition-period", "8s",
			}},
		},
	}, func(c *nodetest.Cluster) { cluster = c }))
}

// machineMemory is that of the machine, in MiB; 0 if it cannot be read.
func machineMemory() int {
	b, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kib, _ := strconv.Atoi(f[1]) // the kernel writes numbers
			return kib >> 10
		}
	}
	return 0
}

// on places a pod on a node.
func on(node string, pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	return pod
}

// guaranteed gives a pod what it asks for, and no more.
func guaranteed(pod *corev1.Pod) *corev1.Pod {
	all := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
	pod.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: all, Requests: all}
	return pod
}

// scratch gives a pod a directory on its node's disk, with a limit if that is not "".
func scratch(pod *corev1.Pod, limit string) *corev1.Pod {
	dir := &corev1.EmptyDirVolumeSource{}
	if limit != "" {
		q := resource.MustParse(limit)
		dir.SizeLimit = &q
	}
	pod.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: dir}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "scratch", MountPath: "/scratch"}}
	return pod
}

// nodeIs waits until a node is as it should be.
func nodeIs(t *testing.T, name, what string, is func(*corev1.Node) bool) (n *corev1.Node) {
	t.Helper()
	nodetest.Until(t, fmt.Sprintf("node %s: %s", name, what), func() (bool, any) {
		var err error
		if n, err = cluster.Client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return false, err
		}
		return is(n), fmt.Sprintf("%+v %+v", n.Spec.Taints, n.Status.Conditions)
	})
	return n
}

// has says whether a node has a condition and the taint that belongs to it.
func has(n *corev1.Node, condition corev1.NodeConditionType, taint string) (both, neither bool) {
	is, tainted := false, false
	for _, c := range n.Status.Conditions {
		is = is || c.Type == condition && c.Status == corev1.ConditionTrue
	}
	for _, x := range n.Spec.Taints {
		tainted = tainted || x.Key == taint && x.Effect == corev1.TaintEffectNoSchedule
	}
	return is && tainted, !is && !tainted
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

// evicted waits until a pod was, and returns why.
func evicted(t *testing.T, ns, name string) string {
	t.Helper()
	p := cluster.Await(t, ns, name, "has ended", nodetest.Ended)
	require.Equal(t, []any{corev1.PodFailed, "Evicted"}, []any{p.Status.Phase, p.Status.Reason}, "%+v", p.Status)
	return p.Status.Message
}
