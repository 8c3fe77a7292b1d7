//go:build linux

package volumes

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// downwardVolume makes a volume of facts about a pod.
type downwardVolume func(mode *int32, files ...corev1.DownwardAPIVolumeFile) corev1.VolumeSource

func downwardAPI(mode *int32, files ...corev1.DownwardAPIVolumeFile) corev1.VolumeSource {
	return corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: files, DefaultMode: mode}}
}

func projectedDownward(mode *int32, files ...corev1.DownwardAPIVolumeFile) corev1.VolumeSource {
	return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		Sources: []corev1.VolumeProjection{{DownwardAPI: &corev1.DownwardAPIProjection{Items: files}}}, DefaultMode: mode,
	}}
}

func field(path, of string) corev1.DownwardAPIVolumeFile {
	return corev1.DownwardAPIVolumeFile{Path: path, FieldRef: &corev1.ObjectFieldSelector{FieldPath: of}}
}

func amountOf(of string) corev1.DownwardAPIVolumeFile {
	return corev1.DownwardAPIVolumeFile{Path: "amount", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: of}}
}

func downward() behaviours {
	return behaviours{
		"Downward API volume should provide container's cpu limit":                                                       resourceOf(downwardAPI, "limits.cpu", "2"),
		"Downward API volume should provide container's cpu request":                                                     resourceOf(downwardAPI, "requests.cpu", "1"),
		"Downward API volume should provide container's memory limit":                                                    resourceOf(downwardAPI, "limits.memory", "67108864"),
		"Downward API volume should provide container's memory request":                                                  resourceOf(downwardAPI, "requests.memory", "33554432"),
		"Downward API volume should provide node allocatable (cpu) as default cpu limit if the limit is not set":         allocatable(downwardAPI, corev1.ResourceCPU),
		"Downward API volume should provide node allocatable (memory) as default memory limit if the limit is not set":   allocatable(downwardAPI, corev1.ResourceMemory),
		"Downward API volume should provide podname only":                                                                podName(downwardAPI, nil, nil, "-rw-r--r-- 0644 0 0 5"),
		"Downward API volume should set DefaultMode on files":                                                            podName(downwardAPI, ptr.To[int32](0o400), nil, "-r-------- 0400 0 0 5"),
		"Downward API volume should set mode on item file":                                                               podName(downwardAPI, nil, ptr.To[int32](0o400), "-r-------- 0400 0 0 5"),
		"Downward API volume should update annotations on modification":                                                  metadataChanges(downwardAPI, "annotations"),
		"Downward API volume should update labels on modification":                                                       metadataChanges(downwardAPI, "labels"),
		"Projected downwardAPI should provide container's cpu limit":                                                     resourceOf(projectedDownward, "limits.cpu", "2"),
		"Projected downwardAPI should provide container's cpu request":                                                   resourceOf(projectedDownward, "requests.cpu", "1"),
		"Projected downwardAPI should provide container's memory limit":                                                  resourceOf(projectedDownward, "limits.memory", "67108864"),
		"Projected downwardAPI should provide container's memory request":                                                resourceOf(projectedDownward, "requests.memory", "33554432"),
		"Projected downwardAPI should provide node allocatable (cpu) as default cpu limit if the limit is not set":       allocatable(projectedDownward, corev1.ResourceCPU),
		"Projected downwardAPI should provide node allocatable (memory) as default memory limit if the limit is not set": allocatable(projectedDownward, corev1.ResourceMemory),
		"Projected downwardAPI should provide podname only":                                                              podName(projectedDownward, nil, nil, "-rw-r--r-- 0644 0 0 5"),
		"Projected downwardAPI should set DefaultMode on files":                                                          podName(projectedDownward, ptr.To[int32](0o400), nil, "-r-------- 0400 0 0 5"),
		"Projected downwardAPI should set mode on item file":                                                             podName(projectedDownward, nil, ptr.To[int32](0o400), "-r-------- 0400 0 0 5"),
		"Projected downwardAPI should update annotations on modification":                                                metadataChanges(projectedDownward, "annotations"),
		"Projected downwardAPI should update labels on modification":                                                     metadataChanges(projectedDownward, "labels"),
	}
}

// podName reads the pod's name, and the mode of the file.
func podName(make downwardVolume, mode, itemMode *int32, is string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		f := field("name", "metadata.name")
		f.Mode = itemMode
		row{volumes: []corev1.VolumeSource{make(mode, f)}, script: "cat /v0/name; echo; stat /v0/..data/name",
			log: "facts\n" + is + " /v0/..data/name\n"}.holds(t, ns)
	}
}

// resourceOf reads what the container requests, or may have: in whole cores and bytes, rounded up.
func resourceOf(make downwardVolume, of, is string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		row{volumes: []corev1.VolumeSource{make(nil, amountOf(of))}, script: "cat /v0/amount", log: is, change: func(s *corev1.PodSpec) {
			s.Containers[0].Resources = corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("32Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1250m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			}
		}}.holds(t, ns)
	}
}

// allocatable reads the limit of a container without one: it is what the node has.
func allocatable(make downwardVolume, of corev1.ResourceName) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		r := row{volumes: []corev1.VolumeSource{make(nil, amountOf("limits."+string(of)))}, script: "cat /v0/amount"}
		log := cluster.Run(t, ns, r.pod("facts"))
		pod, err := cluster.Client.CoreV1().Pods(ns).Get(t.Context(), "facts", metav1.GetOptions{})
		require.NoError(t, err)
		node, err := cluster.Client.CoreV1().Nodes().Get(t.Context(), pod.Spec.NodeName, metav1.GetOptions{})
		require.NoError(t, err)
		amount := node.Status.Allocatable[of]
		require.Positive(t, amount.Value())
		require.Equal(t, fmt.Sprint(amount.Value()), log)
	}
}

// metadataChanges changes labels or annotations of a pod that has them in a file.
func metadataChanges(make downwardVolume, what string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		patch := func(value string) {
			_, err := cluster.Client.CoreV1().Pods(ns).Patch(t.Context(), "stays", types.MergePatchType,
				fmt.Appendf(nil, `{"metadata":{%q:{"builder":%q}}}`, what, value), metav1.PatchOptions{})
			require.NoError(t, err)
		}
		row{volumes: []corev1.VolumeSource{make(nil, field("them", "metadata."+what))}}.stays(t, ns)
		for _, value := range []string{"bar", "foo"} {
			patch(value)
			shows(t, ns, fmt.Sprintf("builder=%q", value), "cat", "/v0/them")
		}
	}
}
