//go:build linux

package volumes

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/nodetest"
)

// None of what follows has a name in Kubernetes' list: its tests bring drivers of their own.

func claimSpec(size string) corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}
}

func claimed(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

// makeClaim makes a claim of the default class.
func makeClaim(t *testing.T, ns, size string, change func(*corev1.PersistentVolumeClaimSpec)) {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: claimSpec(size)}
	if change != nil {
		change(&c.Spec)
	}
	_, err := cluster.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), c, metav1.CreateOptions{})
	require.NoError(t, err)
}

// volumeOf is the bound volume of a claim, and where it is on its node.
func volumeOf(t *testing.T, ns, claim string) (v *corev1.PersistentVolume, path string) {
	c, err := cluster.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), claim, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, corev1.ClaimBound, c.Status.Phase)
	v, err = cluster.Client.CoreV1().PersistentVolumes().Get(t.Context(), c.Spec.VolumeName, metav1.GetOptions{})
	require.NoError(t, err)
	return v, v.Spec.CSI.VolumeAttributes["path"]
}

// disappears waits until nothing is left of a volume, neither the object nor what is on the disk.
func disappears(t *testing.T, v *corev1.PersistentVolume, path string) {
	nodetest.Until(t, "the volume is gone", func() (bool, any) {
		now, err := cluster.Client.CoreV1().PersistentVolumes().Get(t.Context(), v.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), now
	})
	_, err := os.Stat(path)
	require.ErrorIs(t, err, os.ErrNotExist)
}

// step runs a pod with the claim, and lets it go.
func step(t *testing.T, ns, name, script string, change func(*corev1.PodSpec)) string {
	log := cluster.Run(t, ns, row{volumes: []corev1.VolumeSource{claimed("data")}, script: script, change: change}.pod(name))
	cluster.Delete(t, ns, name)
	return log
}

// fill has the pod that stays write until there is no room, and tells how many bytes there were room for.
func fill(t *testing.T, ns string) int64 {
	log := cluster.Exec(t, ns, "stays", "main", "sh", "-c", "cat /dev/zero > /v0/zeros 2>/dev/null || cat /v0/zeros | wc; rm /v0/zeros")
	n, err := strconv.ParseInt(strings.TrimSpace(log), 10, 64)
	require.NoError(t, err)
	return n
}

// TestClaim follows a claim of the default class: made on the node of its first pod, kept from pod to pod, as large as was asked
// for and no larger, grown, and gone with its last pod once it is deleted.
func TestClaim(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	makeClaim(t, ns, "32Mi", nil)
	require.Equal(t, "written\n", step(t, ns, "writer", "echo kept > /v0/file && sync && echo written", nil))
	v, path := volumeOf(t, ns, "data")
	require.DirExists(t, path)
	require.Equal(t, "kept\n", step(t, ns, "reader", "cat /v0/file", nil))
	row{volumes: []corev1.VolumeSource{claimed("data")}}.stays(t, ns)
	require.Less(t, fill(t, ns), int64(32<<20))
	cluster.Delete(t, ns, "stays")

	api := cluster.Client.CoreV1().PersistentVolumeClaims(ns)
	nodetest.Until(t, "the claim asks for more", func() (bool, any) {
		c, err := api.Get(t.Context(), "data", metav1.GetOptions{})
		require.NoError(t, err)
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("96Mi")
		_, err = api.Update(t.Context(), c, metav1.UpdateOptions{})
		return err == nil, err
	})
	nodetest.Until(t, "the volume has grown", func() (bool, any) {
		now, err := cluster.Client.CoreV1().PersistentVolumes().Get(t.Context(), v.Name, metav1.GetOptions{})
		require.NoError(t, err)
		return now.Spec.Capacity.Storage().Equal(resource.MustParse("96Mi")), now.Spec.Capacity
	})
	p := row{volumes: []corev1.VolumeSource{claimed("data")}}.stays(t, ns)
	nodetest.Until(t, "the claim has grown", func() (bool, any) {
		c, err := api.Get(t.Context(), "data", metav1.GetOptions{})
		require.NoError(t, err)
		return c.Status.Capacity.Storage().Equal(resource.MustParse("96Mi")) && len(c.Status.Conditions) == 0, c.Status
	})
	grown := fill(t, ns)
	require.Greater(t, grown, int64(64<<20))
	require.Less(t, grown, int64(96<<20))

	require.NoError(t, api.Delete(t.Context(), "data", metav1.DeleteOptions{}))
	c, err := api.Get(t.Context(), "data", metav1.GetOptions{})
	require.NoError(t, err, "a pod uses it")
	require.NotNil(t, c.DeletionTimestamp)
	cluster.Delete(t, ns, p.Name)
	disappears(t, v, path)
}

// TestClaimOfAUser lets a user who is not root write on a volume, by way of the group of the pod's volumes.
func TestClaimOfAUser(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	makeClaim(t, ns, "16Mi", nil)
	log := step(t, ns, "writer", "echo mine > /v0/file && stat /v0/file && stat /v0", asUserOfGroup)
	require.Regexp(t, "^-rw-r--r-- 0644 1000 1001 5 /v0/file\ndgrwxrwxr-x 2775 0 1001 ", log)
}

// TestEphemeralClaim has a volume that is made for a pod, and goes with it.
func TestEphemeralClaim(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	spec := claimSpec("16Mi")
	source := corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: spec}}}
	row{volumes: []corev1.VolumeSource{source}}.stays(t, ns)
	require.Equal(t, "ext4 /v0", cluster.Exec(t, ns, "stays", "main", "sh", "-c", "mounts /v0")[:8])
	v, path := volumeOf(t, ns, "stays-v0")
	cluster.Delete(t, ns, "stays")
	disappears(t, v, path)
}

// TestBlockClaim has a volume as a block device.
func TestBlockClaim(t *testing.T) {
	t.Parallel()
	ns := cluster.Namespace(t)
	makeClaim(t, ns, "8Mi", func(s *corev1.PersistentVolumeClaimSpec) { s.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })
	run := func(name, script string) string {
		p := nodetest.Pod(name, "sh", "-c", script)
		p.Spec.Volumes = []corev1.Volume{{Name: "raw", VolumeSource: claimed("data")}}
		p.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "raw", DevicePath: "/dev/raw"}}
		log := cluster.Run(t, ns, p)
		cluster.Delete(t, ns, name)
		return log
	}
	require.Equal(t, "8388608\n", run("size", "cat /dev/raw | wc"))
	require.Equal(t, "written\n", run("writer", "echo marked > /dev/raw && sync && echo written"))
	require.Equal(t, "marked\n", run("reader", "read line < /dev/raw; echo $line"))
}
