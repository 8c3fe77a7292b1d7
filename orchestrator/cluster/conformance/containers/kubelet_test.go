//go:build linux

package containers

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func kubelet() behaviours {
	return behaviours{
		"Kubelet when scheduling a busybox command in a pod should print the output to logs":         printed,
		"Kubelet when scheduling a read only busybox container should not write to root filesystem":  readOnly,
		"Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts": aliases,
		"KubeletManagedEtcHosts should test kubelet managed /etc/hosts file":                         hosts,
		"Ephemeral Containers will start an ephemeral container in an existing pod":                  ephemeral,
	}
}

func printed(t *testing.T, ns string) {
	require.Equal(t, "Hello World\n", cluster.Run(t, ns, nodetest.Pod("app", "sh", "-c", "echo 'Hello World'; sleep 0.1")))
}

func readOnly(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "sh", "-c", "touch /file || exit 3")
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(true)}
	got := cluster.Finished(t, ns, pod)
	require.EqualValues(t, 3, got.Status.ContainerStatuses[0].State.Terminated.ExitCode)
	require.Contains(t, cluster.Log(t, ns, "app", "main"), "read-only file system")
}

func aliases(t *testing.T, ns string) {
	pod := nodetest.Pod("app", "cat", "/etc/hosts")
	pod.Spec.HostAliases = []corev1.HostAlias{{IP: "123.45.67.89", Hostnames: []string{"foo", "bar"}}, {IP: "123.45.67.90", Hostnames: []string{"baz"}}}
	all := lines(cluster.Run(t, ns, pod))
	require.Contains(t, all, "123.45.67.89\tfoo\tbar")
	require.Contains(t, all, "123.45.67.90\tbaz")
}

// hosts shows whose /etc/hosts a container has: the node's, unless it mounts one itself, or has the host's network.
func hosts(t *testing.T, ns string) {
	const managed = "# Kubernetes-managed hosts file.\n"
	file := []corev1.Volume{{Name: "hosts", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/etc/hosts", Type: ptr.To(corev1.HostPathFile)}}}}
	mount := []corev1.VolumeMount{{Name: "hosts", MountPath: "/etc/hosts"}}
	pod := nodetest.Pod("own", "sleep")
	pod.Spec.Volumes = file
	pod.Spec.Containers = append(pod.Spec.Containers, nodetest.Container("second", "sleep"), nodetest.Container("mounts", "sleep"))
	pod.Spec.Containers[2].VolumeMounts = mount
	host := nodetest.Pod("host", "sleep")
	host.Spec.HostNetwork = true
	cluster.Create(t, ns, host)
	got := cluster.Started(t, ns, pod)
	for _, c := range []string{"main", "second"} {
		text := cluster.Exec(t, ns, "own", c, "cat", "/etc/hosts")
		require.Contains(t, text, managed)
		require.Contains(t, lines(text), got.Status.PodIP+"\town")
	}
	machines, err := os.ReadFile("/etc/hosts")
	require.NoError(t, err)
	require.Equal(t, string(machines), cluster.Exec(t, ns, "own", "mounts", "cat", "/etc/hosts"))
	cluster.Await(t, ns, "host", "is ready", nodetest.Ready)
	text := cluster.Exec(t, ns, "host", "main", "cat", "/etc/hosts")
	require.NotContains(t, text, managed)
	require.Contains(t, text, string(machines))
}

func ephemeral(t *testing.T, ns string) {
	cluster.Started(t, ns, nodetest.Pod("app", "sleep"))
	pods := cluster.Client.CoreV1().Pods(ns)
	pod, err := pods.Get(t.Context(), "app", metav1.GetOptions{})
	require.NoError(t, err)
	c := nodetest.Container("debugger", "sleep")
	pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: c.Name, Image: c.Image, ImagePullPolicy: c.ImagePullPolicy, Command: c.Command, Stdin: true, TTY: true, TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}}}
	_, err = pods.UpdateEphemeralContainers(t.Context(), "app", pod, metav1.UpdateOptions{})
	require.NoError(t, err)
	got := cluster.Await(t, ns, "app", "the debugger runs", func(p *corev1.Pod) bool {
		all := p.Status.EphemeralContainerStatuses
		return len(all) == 1 && all[0].State.Running != nil
	})
	require.Zero(t, got.Status.ContainerStatuses[0].RestartCount)
	require.Equal(t, "marco\n", cluster.Exec(t, ns, "app", "debugger", "echo", "marco"))
}
