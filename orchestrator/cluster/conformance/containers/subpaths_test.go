//go:build linux

package containers

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func subpaths() behaviours {
	return behaviours{
		"Variable Expansion should allow substituting values in a volume subpath":                   subpathMade,
		"Variable Expansion should fail substituting values in a volume subpath with backticks":     subpathRefused(".."),
		"Variable Expansion should fail substituting values in a volume subpath with absolute path": subpathRefused("/tmp"),
		"Variable Expansion should succeed in writing subpaths in container":                        subpathWritten,
	}
}

// mounted is a pod with a volume as a whole in /all, and a path below it in /part. The path is made from variables: NAME, which
// is the pod's name, and NOTE, which is an annotation.
func mounted(path string, command ...string) *corev1.Pod {
	pod := nodetest.Pod("app", command...)
	pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	c := &pod.Spec.Containers[0]
	c.Env = []corev1.EnvVar{field("NAME", "metadata.name"), field("NOTE", "metadata.annotations['path']")}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/all"}, {Name: "data", MountPath: "/part", SubPathExpr: path}}
	return pod
}

func annotate(t *testing.T, ns, value string) {
	t.Helper()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{"path": value}}})
	require.NoError(t, err)
	_, err = cluster.Client.CoreV1().Pods(ns).Patch(t.Context(), "app", types.MergePatchType, patch, metav1.PatchOptions{})
	require.NoError(t, err)
}

func subpathMade(t *testing.T, ns string) {
	log := cluster.Run(t, ns, mounted("$(NAME)", "sh", "-c", "[ -d /all/app ] && touch /part/file && [ -e /all/app/file ] && echo so"))
	require.Equal(t, "so\n", log)
}

func refusedMount(pod *corev1.Pod) bool {
	all := pod.Status.ContainerStatuses
	return len(all) > 0 && all[0].State.Waiting != nil && all[0].State.Waiting.Reason == "CreateContainerConfigError"
}

func subpathRefused(value string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		pod := mounted("$(NOTE)", "sleep")
		pod.Annotations = map[string]string{"path": value}
		cluster.Create(t, ns, pod)
		cluster.Await(t, ns, "app", "is refused", refusedMount)
		cluster.Delete(t, ns, "app")
	}
}

func subpathMended(t *testing.T, ns string) {
	cluster.Create(t, ns, mounted("$(NOTE)/$(NAME)", "sleep")) // without the annotation the path is absolute
	cluster.Await(t, ns, "app", "is refused", refusedMount)
	annotate(t, ns, "mine")
	cluster.Await(t, ns, "app", "is ready", nodetest.Ready)
	cluster.Exec(t, ns, "app", "main", "sh", "-c", "touch /part/file; stat /all/mine/app/file")
	cluster.Delete(t, ns, "app")
}

func subpathWritten(t *testing.T, ns string) {
	pod := mounted("$(NOTE)/$(NAME)", "sleep")
	pod.Annotations = map[string]string{"path": "mine"}
	cluster.Started(t, ns, pod)
	cluster.Exec(t, ns, "app", "main", "sh", "-c", "touch /all/mine/app/file; stat /part/file")
	annotate(t, ns, "another") // the container goes on, and the volume is given back whatever the path would be now
	got := cluster.Await(t, ns, "app", "is ready", nodetest.Ready)
	require.Zero(t, got.Status.ContainerStatuses[0].RestartCount)
	cluster.Delete(t, ns, "app")
}
