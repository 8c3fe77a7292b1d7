//go:build linux

package volumes

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

func emptyDir(medium corev1.StorageMedium) corev1.VolumeSource {
	return corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium}}
}

const (
	onDisk   = corev1.StorageMediumDefault
	inMemory = corev1.StorageMediumMemory
)

func emptyDirs() behaviours {
	return behaviours{
		"EmptyDir volumes pod should support shared volumes between containers":  shared,
		"EmptyDir volumes should support (non-root,0644,default)":                written(asUser, "0644", "-rw-r--r--", onDisk),
		"EmptyDir volumes should support (non-root,0644,tmpfs)":                  written(asUser, "0644", "-rw-r--r--", inMemory),
		"EmptyDir volumes should support (non-root,0666,default)":                written(asUser, "0666", "-rw-rw-rw-", onDisk),
		"EmptyDir volumes should support (non-root,0666,tmpfs)":                  written(asUser, "0666", "-rw-rw-rw-", inMemory),
		"EmptyDir volumes should support (non-root,0777,default)":                written(asUser, "0777", "-rwxrwxrwx", onDisk),
		"EmptyDir volumes should support (non-root,0777,tmpfs)":                  written(asUser, "0777", "-rwxrwxrwx", inMemory),
		"EmptyDir volumes should support (root,0644,default)":                    written(nil, "0644", "-rw-r--r--", onDisk),
		"EmptyDir volumes should support (root,0644,tmpfs)":                      written(nil, "0644", "-rw-r--r--", inMemory),
		"EmptyDir volumes should support (root,0666,default)":                    written(nil, "0666", "-rw-rw-rw-", onDisk),
		"EmptyDir volumes should support (root,0666,tmpfs)":                      written(nil, "0666", "-rw-rw-rw-", inMemory),
		"EmptyDir volumes should support (root,0777,default)":                    written(nil, "0777", "-rwxrwxrwx", onDisk),
		"EmptyDir volumes should support (root,0777,tmpfs)":                      written(nil, "0777", "-rwxrwxrwx", inMemory),
		"EmptyDir volumes volume on default medium should have the correct mode": empty(onDisk),
		"EmptyDir volumes volume on tmpfs should have the correct mode":          empty(inMemory),
		"EmptyDir wrapper volumes should not conflict":                           wrapped,
	}
}

// medium prints whether a volume is in memory.
const mediumScript = `mounts /v0 | grep -q "tmpfs /v0" && echo memory || echo disk; `

func mediumName(m corev1.StorageMedium) string {
	return map[corev1.StorageMedium]string{onDisk: "disk\n", inMemory: "memory\n"}[m]
}

// written writes a file, and reads it.
func written(change func(*corev1.PodSpec), mode, is string, medium corev1.StorageMedium) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		owner := 0
		if change != nil {
			owner = user
		}
		row{volumes: []corev1.VolumeSource{emptyDir(medium)}, change: change,
			script: mediumScript + "echo content > /v0/file; chmod " + mode + " /v0/file; stat /v0/file; cat /v0/file",
			log:    fmt.Sprintf("%s%s %s %d %[4]d 8 /v0/file\ncontent\n", mediumName(medium), is, mode, owner)}.holds(t, ns)
	}
}

// empty looks at the directory: all may write, and nothing is in it. What is in memory is also sticky, as tmpfs is.
func empty(medium corev1.StorageMedium) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		r := row{volumes: []corev1.VolumeSource{emptyDir(medium)}, script: mediumScript + "stat /v0; ls /v0"}
		log := cluster.Run(t, ns, r.pod("facts"))
		mode := map[corev1.StorageMedium]string{onDisk: "drwxrwxrwx 0777", inMemory: "dtrwxrwxrwx 1777"}[medium]
		require.Regexp(t, "^"+mediumName(medium)+mode+" 0 0 [0-9]+ /v0\n$", log)
	}
}

// shared has one container write what another reads.
func shared(t *testing.T, ns string) {
	p := row{volumes: []corev1.VolumeSource{emptyDir(onDisk)}, script: "sleep 600"}.pod("stays")
	writer := nodetest.Container("writer", "sh", "-c", "echo from the other > /data/file; sleep 600")
	writer.VolumeMounts = []corev1.VolumeMount{{Name: "v0", MountPath: "/data"}}
	p.Spec.Containers = append(p.Spec.Containers, writer)
	cluster.Started(t, ns, p)
	shows(t, ns, "from the other\n", "cat", "/v0/file")
}

// wrapped has volumes of two kinds of objects in a pod.
func wrapped(t *testing.T, ns string) {
	putSecret(t, ns, "o", map[string]string{"data-1": "secret"})
	putConfigMap(t, ns, "o", map[string]string{"data-1": "config"})
	row{volumes: []corev1.VolumeSource{secret().volume("o", options{}), configMap().volume("o", options{})},
		script: "cat /v0/data-1 /v1/data-1", log: "secretconfig"}.holds(t, ns)
}

// manyVolumes starts pods of a controller with fifty volumes each, at the same time, and again.
func manyVolumes(t *testing.T, ns string) {
	const volumes, pods, rounds = 50, 5, 3
	var all []corev1.VolumeSource
	for i := range volumes {
		name := fmt.Sprint("racing-", i)
		putConfigMap(t, ns, name, map[string]string{"data-1": "value-1"})
		all = append(all, configMap().volume(name, options{items: []corev1.KeyToPath{{Key: "data-1", Path: "data-1"}}}))
	}
	p := row{volumes: all, script: "cat /v*/data-1 | wc; sleep 600"}.pod("racing")
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	for round := range rounds {
		name := fmt.Sprint("round-", round)
		labels := map[string]string{"round": name}
		_, err := cluster.Client.CoreV1().ReplicationControllers(ns).Create(t.Context(), &corev1.ReplicationController{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ReplicationControllerSpec{
				Replicas: ptr.To[int32](pods), Selector: labels, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: p.Spec},
			},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		nodetest.Until(t, "all pods run", func() (bool, any) {
			rc, err := cluster.Client.CoreV1().ReplicationControllers(ns).Get(t.Context(), name, metav1.GetOptions{})
			require.NoError(t, err)
			return rc.Status.ReadyReplicas == pods, rc.Status
		})
		require.NoError(t, cluster.Client.CoreV1().ReplicationControllers(ns).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
		nodetest.Until(t, "all pods are gone", func() (bool, any) {
			l, err := cluster.Client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{})
			require.NoError(t, err)
			return len(l.Items) == 0, len(l.Items)
		})
	}
}
