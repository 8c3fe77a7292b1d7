//go:build linux

package containers

import (
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

var cluster *nodetest.Cluster

func TestMain(m *testing.M) {
	os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
}

// script is a pod that runs a script.
func script(name, text string) *corev1.Pod { return nodetest.Pod(name, "sh", "-c", text) }

// with changes the container of a pod.
func with(pod *corev1.Pod, change func(*corev1.Container)) *corev1.Pod {
	change(&pod.Spec.Containers[0])
	return pod
}

// secured is with for the security context.
func secured(pod *corev1.Pod, s corev1.SecurityContext) *corev1.Pod {
	return with(pod, func(c *corev1.Container) { c.SecurityContext = &s })
}

func ptr[T any](v T) *T { return &v }

// volume mounts a volume into all containers of a pod.
func volume(pod *corev1.Pod, name, path string, source corev1.VolumeSource) *corev1.Pod {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	for _, all := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range all {
			all[i].VolumeMounts = append(all[i].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
		}
	}
	return pod
}

// empty is a directory that lives as long as the pod.
func empty() corev1.VolumeSource {
	return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
}

// status is that of a container of a pod.
func status(pod *corev1.Pod, name string) corev1.ContainerStatus {
	for _, all := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		for _, s := range all {
			if s.Name == name {
				return s
			}
		}
	}
	return corev1.ContainerStatus{}
}
