package storage

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Behaviours{
		"CSIInlineVolumes should run through the lifecycle of a CSIDriver":                     csiDriver,
		"CSIInlineVolumes should support CSIVolumeSource in Pod API":                           inlineVolumes,
		"CSINodes CSI Conformance should run through the lifecycle of a csinode":               csiNode,
		"CSIStorageCapacity should support CSIStorageCapacities API operations":                storageCapacity,
		"ConfigMap should be immutable if `immutable` field is set":                            immutableConfigMap,
		"PersistentVolumes CSI Conformance should apply changes to a pv/pvc status":            volumeStatus,
		"PersistentVolumes CSI Conformance should run through the lifecycle of a PV and a PVC": volumeLifecycle,
		"Secrets should be immutable if `immutable` field is set":                              immutableSecret,
		"StorageClasses CSI Conformance should run through the lifecycle of a StorageClass":    storageClass,
		"VolumeAttachment Conformance should apply changes to a volumeattachment status":       attachmentStatus,
		"VolumeAttachment Conformance should run through the lifecycle of a VolumeAttachment":  attachmentLifecycle,
		"VolumeAttributesClass should run through the lifecycle of a VolumeAttributesClass":    attributesClass,
	})
}

// lifecycle creates an object, reads it, labels it by a patch, lists and deletes it; then another one, which is labelled by an
// update and deleted as a collection.
func lifecycle[T conformance.Object, L runtime.Object](t *testing.T, e *conformance.Env, c conformance.API[T, L], name string, make func(name string) T, items func(L) int) {
	count := func(label string) int {
		l, err := c.List(e.Ctx, metav1.ListOptions{LabelSelector: label})
		require.NoError(t, err)
		return items(l)
	}
	gone := func(label string) {
		conformance.Eventually(t, e, "nothing is left of "+label, func() (bool, error) { return count(label) == 0, nil })
	}
	t.Cleanup(func() {
		_ = c.Delete(context.Background(), name+"-1", metav1.DeleteOptions{}) // what a failure left behind
		_ = c.Delete(context.Background(), name+"-2", metav1.DeleteOptions{})
	})
	first, err := c.Create(e.Ctx, make(name+"-1"), metav1.CreateOptions{})
	require.NoError(t, err)
	conformance.Revision(t, first)
	_, err = c.Create(e.Ctx, make(name+"-1"), metav1.CreateOptions{})
	require.True(t, apierrors.IsAlreadyExists(err), "%v", err)
	got, err := c.Get(e.Ctx, first.GetName(), metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, first.GetUID(), got.GetUID())
	patched, err := c.Patch(e.Ctx, first.GetName(), types.StrategicMergePatchType, []byte(`{"metadata":{"labels":{"`+name+`":"patched"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", patched.GetLabels()[name])
	conformance.Newer(t, patched, first)
	require.Equal(t, 1, count(name+"=patched"))
	require.NoError(t, c.Delete(e.Ctx, first.GetName(), metav1.DeleteOptions{}))
	gone(name + "=patched")

	second, err := c.Create(e.Ctx, make(name+"-2"), metav1.CreateOptions{})
	require.NoError(t, err)
	updated := conformance.Update(t, e, c, second.GetName(), func(o T) { o.SetLabels(map[string]string{name: "updated"}) })
	require.Equal(t, "updated", updated.GetLabels()[name])
	conformance.Newer(t, updated, second)
	require.Equal(t, 1, count(name+"=updated"))
	require.NoError(t, c.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: name + "=updated"}))
	gone(name + "=updated")
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func csiDriver(t *testing.T, e *conformance.Env) {
	lifecycle(t, e, e.Client.StorageV1().CSIDrivers(), "inline-driver-"+e.NS, func(name string) *storagev1.CSIDriver {
		return &storagev1.CSIDriver{ObjectMeta: named(name), Spec: storagev1.CSIDriverSpec{
			VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral},
			FSGroupPolicy:        ptr.To(storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy),
		}}
	}, func(l *storagev1.CSIDriverList) int { return len(l.Items) })
}

func csiNode(t *testing.T, e *conformance.Env) {
	lifecycle(t, e, e.Client.StorageV1().CSINodes(), "csinode-"+e.NS, func(name string) *storagev1.CSINode {
		return &storagev1.CSINode{ObjectMeta: named(name)}
	}, func(l *storagev1.CSINodeList) int { return len(l.Items) })
}

func storageClass(t *testing.T, e *conformance.Env) {
	lifecycle(t, e, e.Client.StorageV1().StorageClasses(), "class-"+e.NS, func(name string) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: named(name), Provisioner: "e2e-fake-provisioner"}
	}, func(l *storagev1.StorageClassList) int { return len(l.Items) })
}

func attributesClass(t *testing.T, e *conformance.Env) {
	lifecycle(t, e, e.Client.StorageV1().VolumeAttributesClasses(), "attributes-"+e.NS, func(name string) *storagev1.VolumeAttributesClass {
		return &storagev1.VolumeAttributesClass{ObjectMeta: named(name), DriverName: "e2e-fake-driver", Parameters: map[string]string{"foo": "bar"}}
	}, func(l *storagev1.VolumeAttributesClassList) int { return len(l.Items) })
}

func attachment(name string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{ObjectMeta: named(name), Spec: storagev1.VolumeAttachmentSpec{
		Attacher: "e2e-test.storage.k8s.io", NodeName: "hollow-0", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv-" + name)},
	}}
}

func attachmentLifecycle(t *testing.T, e *conformance.Env) {
	lifecycle(t, e, e.Client.StorageV1().VolumeAttachments(), "va-"+e.NS, attachment,
		func(l *storagev1.VolumeAttachmentList) int { return len(l.Items) })
}

func attachmentStatus(t *testing.T, e *conformance.Env) {
	c := e.Client.StorageV1().VolumeAttachments()
	made := attachment("status-" + e.NS)
	made.Status.Attached = true // nobody may say so yet
	created, err := c.Create(e.Ctx, made, metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Delete(context.Background(), created.Name, metav1.DeleteOptions{}) })
	patched, err := c.Patch(e.Ctx, created.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"`+created.Name+`":"patched"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "patched", patched.Labels[created.Name])
	var read storagev1.VolumeAttachment
	readStatus(t, e, "storage.k8s.io", "volumeattachments", "", created.Name, &read)
	require.False(t, read.Status.Attached)
	patched, err = c.Patch(e.Ctx, created.Name, types.MergePatchType, []byte(`{"status":{"attached":true}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.True(t, patched.Status.Attached)
	updated := conformance.UpdateStatus(t, e, c, created.Name, func(o *storagev1.VolumeAttachment) { o.Status.Attached = false })
	require.False(t, updated.Status.Attached)
	require.NoError(t, c.Delete(e.Ctx, created.Name, metav1.DeleteOptions{}))
	conformance.Eventually(t, e, "it is gone", func() (bool, error) {
		_, err := c.Get(e.Ctx, created.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), nil
	})
}

func storageCapacity(t *testing.T, e *conformance.Env) {
	conformance.Operations[*storagev1.CSIStorageCapacity, *storagev1.CSIStorageCapacityList]{
		Resource: storagev1.SchemeGroupVersion.WithResource("csistoragecapacities"), Kind: "CSIStorageCapacity",
		Client: e.Client.StorageV1().CSIStorageCapacities(e.NS), Everywhere: e.Client.StorageV1().CSIStorageCapacities(""),
		Make: func(int) *storagev1.CSIStorageCapacity {
			return &storagev1.CSIStorageCapacity{StorageClassName: "e2e.example.com"}
		},
	}.Run(t, e, nil)
}

func inlineVolumes(t *testing.T, e *conformance.Env) {
	const driver = "e2e.example.com"
	pods := e.Client.CoreV1().Pods(e.NS)
	pod := &corev1.Pod{ObjectMeta: named("pod-csi-inline-volumes"), Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{
			{Name: "vol1", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: driver}}},
			{Name: "vol2", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: driver, FSType: ptr.To("ext4"), ReadOnly: ptr.To(true)}}},
		},
		Containers: []corev1.Container{{
			Name: "c", Image: "registry.k8s.io/pause:3.10",
			VolumeMounts: []corev1.VolumeMount{{Name: "vol1", MountPath: "/mnt/vol1"}, {Name: "vol2", MountPath: "/mnt/vol2"}},
		}},
	}}
	created, err := pods.Create(e.Ctx, pod, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = pods.Create(e.Ctx, pod, metav1.CreateOptions{})
	require.True(t, apierrors.IsAlreadyExists(err), "%v", err)
	got, err := pods.Get(e.Ctx, pod.Name, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, created.UID, got.UID)
	for i, v := range pod.Spec.Volumes {
		require.Equal(t, v.CSI, got.Spec.Volumes[i].CSI)
	}
	l, err := pods.List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, l.Items, 1)
	patched, err := pods.Patch(e.Ctx, pod.Name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "true", patched.Annotations["patched"])
	require.NoError(t, pods.Delete(e.Ctx, pod.Name, metav1.DeleteOptions{}))
	got, err = pods.Get(e.Ctx, pod.Name, metav1.GetOptions{})
	if err == nil {
		require.NotNil(t, got.DeletionTimestamp)
		return
	}
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}
