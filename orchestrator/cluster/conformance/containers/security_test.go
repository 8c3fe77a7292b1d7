//go:build linux

package containers

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func security() behaviours {
	return behaviours{
		"Security Context When creating a container with runAsUser should run the container with uid 65534": secured{
			container: &corev1.SecurityContext{RunAsUser: ptr.To[int64](65534)}, command: []string{"id"}, want: "uid=65534 gid=0 groups=[0]",
		}.run,
		"Security Context should support container.SecurityContext.RunAsUser And container.SecurityContext.RunAsGroup": secured{
			pod:       &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](5), RunAsGroup: ptr.To[int64](6)},
			container: &corev1.SecurityContext{RunAsUser: ptr.To[int64](1001), RunAsGroup: ptr.To[int64](2002)}, command: []string{"id"}, want: "uid=1001 gid=2002 groups=[2002]",
		}.run,
		"Security Context should support pod.Spec.SecurityContext.RunAsUser And pod.Spec.SecurityContext.RunAsGroup": secured{
			pod: &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1001), RunAsGroup: ptr.To[int64](2002)}, command: []string{"id"}, want: "uid=1001 gid=2002 groups=[2002]",
		}.run,
		"Security Context When creating a pod with privileged should run the container as unprivileged when false": secured{
			container: &corev1.SecurityContext{Privileged: ptr.To(false)}, command: []string{"syscall", "mount"}, want: "mount EPERM",
		}.run,
		"Security Context When creating a pod with readOnlyRootFilesystem should run the container with writable rootfs when readOnlyRootFilesystem=false": secured{
			container: &corev1.SecurityContext{ReadOnlyRootFilesystem: ptr.To(false)}, command: []string{"sh", "-c", "touch /file; ls /file"}, want: "-rw-r--r-- 0644 0 0 0 /file",
		}.run,
		"Security Context when creating containers with AllowPrivilegeEscalation should not allow privilege escalation when false": escalation,
		"Sysctls should support sysctls [Environment:NotInUserNS]": secured{
			pod:     &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.shm_rmid_forced", Value: "1"}}},
			command: []string{"cat", "/proc/sys/kernel/shm_rmid_forced"}, want: "1",
		}.run,
	}
}

// secured is a container that shows the effect of a security context by the first line that it prints.
type secured struct {
	pod       *corev1.PodSecurityContext
	container *corev1.SecurityContext
	command   []string
	want      string
}

func (s secured) run(t *testing.T, ns string) {
	pod := nodetest.Pod("app", s.command...)
	pod.Spec.SecurityContext, pod.Spec.Containers[0].SecurityContext = s.pod, s.container
	require.Equal(t, s.want, lines(cluster.Run(t, ns, pod))[0])
}

// escalation has a program that runs as its owner, root, and an ordinary user who starts it.
func escalation(t *testing.T, ns string) {
	shared := []corev1.VolumeMount{{Name: "shared", MountPath: "/shared"}}
	pod := nodetest.Pod("app", "/shared/status", "Uid")
	pod.Spec.Volumes = []corev1.Volume{{Name: "shared", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	pod.Spec.InitContainers = []corev1.Container{nodetest.Container("program", "sh", "-c", "cat /bin/toolbox > /shared/status; chmod 4755 /shared/status")}
	pod.Spec.Containers = append(pod.Spec.Containers, nodetest.Container("allowed", "/shared/status", "Uid"))
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].VolumeMounts = shared
		pod.Spec.Containers[i].SecurityContext = &corev1.SecurityContext{RunAsUser: ptr.To[int64](1000), AllowPrivilegeEscalation: ptr.To(i > 0)}
	}
	pod.Spec.InitContainers[0].VolumeMounts = shared
	require.Equal(t, "Uid 1000\t1000\t1000\t1000\n", cluster.Run(t, ns, pod))
	require.Equal(t, "Uid 1000\t0\t0\t0\n", cluster.Log(t, ns, "app", "allowed"))
}
