//go:build linux

package volumes

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func subpaths() behaviours {
	return behaviours{
		"Subpath Atomic writer volumes should support subpaths with configmap pod":                                 within(func(t *testing.T, ns string) corev1.VolumeSource { return mappedTo(t, ns, configMap()) }, "/mnt/file"),
		"Subpath Atomic writer volumes should support subpaths with configmap pod with mountPath of existing file": within(func(t *testing.T, ns string) corev1.VolumeSource { return mappedTo(t, ns, configMap()) }, "/etc/resolv.conf"),
		"Subpath Atomic writer volumes should support subpaths with downward pod": within(func(*testing.T, string) corev1.VolumeSource {
			return downwardAPI(nil, field("dir/file", "metadata.labels['app']"))
		}, "/mnt/file"),
		"Subpath Atomic writer volumes should support subpaths with projected pod": within(func(t *testing.T, ns string) corev1.VolumeSource { return mappedTo(t, ns, projected(secret())) }, "/mnt/file"),
		"Subpath Atomic writer volumes should support subpaths with secret pod":    within(func(t *testing.T, ns string) corev1.VolumeSource { return mappedTo(t, ns, secret()) }, "/mnt/file"),
	}
}

// mappedTo has a file "dir/file" in a volume.
func mappedTo(t *testing.T, ns string, k kind) corev1.VolumeSource {
	k.put(t, ns, "o", map[string]string{"key": "facts"})
	return k.volume("o", options{items: []corev1.KeyToPath{{Key: "key", Path: "dir/file"}}})
}

// within mounts a file and a directory of a volume by their paths in it, and reads the file again and again.
func within(make func(t *testing.T, ns string) corev1.VolumeSource, path string) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		row{volumes: []corev1.VolumeSource{make(t, ns)}, script: "for i in 1 2 3 4 5 6 7 8 9 10; do cat " + path + "; echo; sleep 0.1s; done; cat /dir/file; ls /dir",
			log: "facts\nfacts\nfacts\nfacts\nfacts\nfacts\nfacts\nfacts\nfacts\nfacts\nfacts-rw-r--r-- 0644 0 0 5 file\n",
			change: func(s *corev1.PodSpec) {
				s.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v0", MountPath: path, SubPath: "dir/file"}, {Name: "v0", MountPath: "/dir", SubPath: "dir"}}
			}}.holds(t, ns)
	}
}
