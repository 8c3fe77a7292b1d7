//go:build linux

package volumes

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// options say how keys become files.
type options struct {
	items    []corev1.KeyToPath
	mode     *int32
	optional *bool
}

// kind is a kind of object whose keys are files in volumes.
type kind struct {
	// put creates an object or replaces what is in it.
	put    func(t *testing.T, ns, name string, data map[string]string)
	remove func(t *testing.T, ns, name string)
	volume func(name string, o options) corev1.VolumeSource
}

func configMap() kind {
	return kind{put: putConfigMap, remove: func(t *testing.T, ns, name string) {
		require.NoError(t, cluster.Client.CoreV1().ConfigMaps(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}, volume: func(name string, o options) corev1.VolumeSource {
		return corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: o.items, DefaultMode: o.mode, Optional: o.optional}}
	}}
}

func putConfigMap(t *testing.T, ns, name string, data map[string]string) {
	api := cluster.Client.CoreV1().ConfigMaps(ns)
	o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	_, err := api.Create(t.Context(), o, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		_, err = api.Update(t.Context(), o, metav1.UpdateOptions{})
	}
	require.NoError(t, err)
}

func secret() kind {
	return kind{put: putSecret, remove: func(t *testing.T, ns, name string) {
		require.NoError(t, cluster.Client.CoreV1().Secrets(ns).Delete(t.Context(), name, metav1.DeleteOptions{}))
	}, volume: func(name string, o options) corev1.VolumeSource {
		return corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, Items: o.items, DefaultMode: o.mode, Optional: o.optional}}
	}}
}

func putSecret(t *testing.T, ns, name string, data map[string]string) {
	api := cluster.Client.CoreV1().Secrets(ns)
	o := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}
	_, err := api.Create(t.Context(), o, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		o.StringData, o.Data = nil, map[string][]byte{}
		for k, v := range data {
			o.Data[k] = []byte(v)
		}
		_, err = api.Update(t.Context(), o, metav1.UpdateOptions{})
	}
	require.NoError(t, err)
}

// projected puts the files of a kind into a projection.
func projected(k kind) kind {
	plain := k.volume
	k.volume = func(name string, o options) corev1.VolumeSource {
		mode := o.mode
		o.mode = nil
		var p corev1.VolumeProjection
		switch v := plain(name, o); {
		case v.ConfigMap != nil:
			p.ConfigMap = &corev1.ConfigMapProjection{LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: o.items, Optional: o.optional}
		case v.Secret != nil:
			p.Secret = &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Items: o.items, Optional: o.optional}
		}
		return corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{p}, DefaultMode: mode}}
	}
	return k
}

func data() map[string]string {
	return map[string]string{"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"}
}

const (
	readFile = "cat /v0/data-1; echo; stat /v0/..data/data-1"
)

func configMaps() behaviours {
	return behaviours{
		"ConfigMap binary data should be reflected in volume":                                        binary,
		"ConfigMap optional updates should be reflected in volume":                                   optionalUpdates(configMap()),
		"ConfigMap should be consumable from pods in volume":                                         plainly(configMap(), nil),
		"ConfigMap should be consumable from pods in volume as non-root":                             plainly(configMap(), asUser),
		"ConfigMap should be consumable from pods in volume with defaultMode set":                    withMode(configMap(), 0o400, "-r-------- 0400 0 0 7", nil),
		"ConfigMap should be consumable from pods in volume with mappings":                           mapped(configMap(), nil),
		"ConfigMap should be consumable from pods in volume with mappings and Item mode set":         mappedWithMode(configMap()),
		"ConfigMap should be consumable from pods in volume with mappings as non-root":               mapped(configMap(), asUser),
		"ConfigMap should be consumable in multiple volumes in the same pod":                         twice(configMap()),
		"ConfigMap updates should be reflected in volume":                                            updates(configMap()),
		"EmptyDir wrapper volumes should not cause race condition when used for configmaps [Serial]": manyVolumes,
	}
}

func secrets() behaviours {
	return behaviours{
		"Secrets optional updates should be reflected in volume":                                                                      optionalUpdates(secret()),
		"Secrets should be able to mount in a volume regardless of a different secret existing with same name in different namespace": namesake,
		"Secrets should be consumable from pods in volume":                                                                            plainly(secret(), nil),
		"Secrets should be consumable from pods in volume as non-root with defaultMode and fsGroup set":                               withMode(secret(), 0o440, "-r--r----- 0440 0 1001 7", asUserOfGroup),
		"Secrets should be consumable from pods in volume with defaultMode set":                                                       withMode(secret(), 0o400, "-r-------- 0400 0 0 7", nil),
		"Secrets should be consumable from pods in volume with mappings":                                                              mapped(secret(), nil),
		"Secrets should be consumable from pods in volume with mappings and Item Mode set":                                            mappedWithMode(secret()),
		"Secrets should be consumable in multiple volumes in a pod":                                                                   twice(secret()),
	}
}

func projections() behaviours {
	return behaviours{
		"Projected combined should project all components that make up the projection API [Projection]":          combined,
		"Projected configMap optional updates should be reflected in volume":                                     optionalUpdates(projected(configMap())),
		"Projected configMap should be consumable from pods in volume":                                           plainly(projected(configMap()), nil),
		"Projected configMap should be consumable from pods in volume as non-root":                               plainly(projected(configMap()), asUser),
		"Projected configMap should be consumable from pods in volume with defaultMode set":                      withMode(projected(configMap()), 0o400, "-r-------- 0400 0 0 7", nil),
		"Projected configMap should be consumable from pods in volume with mappings":                             mapped(projected(configMap()), nil),
		"Projected configMap should be consumable from pods in volume with mappings and Item mode set":           mappedWithMode(projected(configMap())),
		"Projected configMap should be consumable from pods in volume with mappings as non-root":                 mapped(projected(configMap()), asUser),
		"Projected configMap should be consumable in multiple volumes in the same pod":                           twice(projected(configMap())),
		"Projected configMap updates should be reflected in volume":                                              updates(projected(configMap())),
		"Projected secret optional updates should be reflected in volume":                                        optionalUpdates(projected(secret())),
		"Projected secret should be consumable from pods in volume":                                              plainly(projected(secret()), nil),
		"Projected secret should be consumable from pods in volume as non-root with defaultMode and fsGroup set": withMode(projected(secret()), 0o440, "-r--r----- 0440 0 1001 7", asUserOfGroup),
		"Projected secret should be consumable from pods in volume with defaultMode set":                         withMode(projected(secret()), 0o400, "-r-------- 0400 0 0 7", nil),
		"Projected secret should be consumable from pods in volume with mappings":                                mapped(projected(secret()), nil),
		"Projected secret should be consumable from pods in volume with mappings and Item Mode set":              mappedWithMode(projected(secret())),
		"Projected secret should be consumable in multiple volumes in a pod":                                     twice(projected(secret())),
	}
}

// plainly reads a file with the usual mode.
func plainly(k kind, change func(*corev1.PodSpec)) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		k.put(t, ns, "o", data())
		row{volumes: []corev1.VolumeSource{k.volume("o", options{})}, script: readFile, change: change,
			log: "value-1\n-rw-r--r-- 0644 0 0 7 /v0/..data/data-1\n"}.holds(t, ns)
	}
}

// withMode reads a file with a mode of all files.
func withMode(k kind, mode int32, is string, change func(*corev1.PodSpec)) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		k.put(t, ns, "o", data())
		row{volumes: []corev1.VolumeSource{k.volume("o", options{mode: &mode})}, script: readFile, change: change,
			log: "value-1\n" + is + " /v0/..data/data-1\n"}.holds(t, ns)
	}
}

// mapped reads one key at a path of its own. The others are not there.
func mapped(k kind, change func(*corev1.PodSpec)) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		k.put(t, ns, "o", data())
		items := []corev1.KeyToPath{{Key: "data-2", Path: "path/to/data-2"}}
		row{volumes: []corev1.VolumeSource{k.volume("o", options{items: items})}, script: "cat /v0/path/to/data-2; echo; stat /v0/path/to/data-2; cat /v0/data-1 2>/dev/null || echo no other",
			change: change, log: "value-2\n-rw-r--r-- 0644 0 0 7 /v0/path/to/data-2\nno other\n"}.holds(t, ns)
	}
}

func mappedWithMode(k kind) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		k.put(t, ns, "o", data())
		items := []corev1.KeyToPath{{Key: "data-2", Path: "path/to/data-2", Mode: ptr.To[int32](0o400)}}
		row{volumes: []corev1.VolumeSource{k.volume("o", options{items: items})}, script: "cat /v0/path/to/data-2; echo; stat /v0/path/to/data-2",
			log: "value-2\n-r-------- 0400 0 0 7 /v0/path/to/data-2\n"}.holds(t, ns)
	}
}

// twice mounts an object in two volumes.
func twice(k kind) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		k.put(t, ns, "o", data())
		row{volumes: []corev1.VolumeSource{k.volume("o", options{}), k.volume("o", options{})}, script: "cat /v0/data-1 /v1/data-1", log: "value-1value-1"}.holds(t, ns)
	}
}

// updates changes an object that a pod has mounted.
func updates(k kind) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		k.put(t, ns, "o", map[string]string{"data-1": "value-1"})
		row{volumes: []corev1.VolumeSource{k.volume("o", options{})}}.stays(t, ns)
		shows(t, ns, "value-1", "cat", "/v0/data-1")
		k.put(t, ns, "o", map[string]string{"data-1": "value-2"})
		shows(t, ns, "value-2", "cat", "/v0/data-1")
	}
}

// optionalUpdates deletes one object that a pod has mounted, changes another, and creates one that was not there.
func optionalUpdates(k kind) func(t *testing.T, ns string) {
	return func(t *testing.T, ns string) {
		k.put(t, ns, "deleted", map[string]string{"data-1": "value-1"})
		k.put(t, ns, "changed", map[string]string{"data-1": "value-1"})
		o := options{optional: ptr.To(true)}
		row{volumes: []corev1.VolumeSource{k.volume("deleted", o), k.volume("changed", o), k.volume("created", o)}}.stays(t, ns)
		shows(t, ns, "value-1", "cat", "/v0/data-1")
		lacks(t, ns, "/v1/data-3")
		lacks(t, ns, "/v2/data-1")
		k.remove(t, ns, "deleted")
		k.put(t, ns, "changed", map[string]string{"data-3": "value-3"})
		k.put(t, ns, "created", map[string]string{"data-1": "value-1"})
		shows(t, ns, "value-1", "cat", "/v2/data-1")
		shows(t, ns, "value-3", "cat", "/v1/data-3")
		lacks(t, ns, "/v1/data-1")
		lacks(t, ns, "/v0/data-1")
	}
}

// binary has bytes in a file that are no text.
func binary(t *testing.T, ns string) {
	bytes := []byte{0xde, 0xca, 0xfe, 0xba, 0xd0, 0xfe, 0xff}
	_, err := cluster.Client.CoreV1().ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "o"}, Data: data(), BinaryData: map[string][]byte{"dump.bin": bytes},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	row{volumes: []corev1.VolumeSource{configMap().volume("o", options{})}}.stays(t, ns)
	require.Equal(t, "value-1", cluster.Exec(t, ns, "stays", "main", "cat", "/v0/data-1"))
	require.Equal(t, bytes, []byte(cluster.Exec(t, ns, "stays", "main", "cat", "/v0/dump.bin")))
}

// namesake mounts a secret while another namespace has one of its name.
func namesake(t *testing.T, ns string) {
	putSecret(t, cluster.Namespace(t), "o", map[string]string{"data-1": "theirs"})
	plainly(secret(), nil)(t, ns)
}

// combined has files of three kinds in one volume.
func combined(t *testing.T, ns string) {
	putConfigMap(t, ns, "o", map[string]string{"config": "from the map"})
	putSecret(t, ns, "o", map[string]string{"secret": "from the secret"})
	ref := corev1.LocalObjectReference{Name: "o"}
	row{volumes: []corev1.VolumeSource{{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "config", Path: "of/config"}}}},
		{Secret: &corev1.SecretProjection{LocalObjectReference: ref, Items: []corev1.KeyToPath{{Key: "secret", Path: "of/secret"}}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "of/pod", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
	}}}}, script: "for f in config secret pod; do cat /v0/of/$f; echo; done", log: "from the map\nfrom the secret\nfacts\n"}.holds(t, ns)
}
