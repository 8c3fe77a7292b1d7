package storage

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func csiDriver(t *testing.T, e *conformance.Env) {
	conformance.Operations[*storagev1.CSIDriver]{
		Resource: storagev1.SchemeGroupVersion.WithResource("csidrivers"), Kind: "CSIDriver",
		Make: func(int) *storagev1.CSIDriver {
			return &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{
				VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral},
				FSGroupPolicy:        ptr.To(storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy),
			}}
		},
	}.Run(t, e)
}

func csiNode(t *testing.T, e *conformance.Env) {
	conformance.Operations[*storagev1.CSINode]{
		Resource: storagev1.SchemeGroupVersion.WithResource("csinodes"), Kind: "CSINode",
		Make: func(int) *storagev1.CSINode { return &storagev1.CSINode{} },
	}.Run(t, e)
}

func storageClass(t *testing.T, e *conformance.Env) {
	conformance.Operations[*storagev1.StorageClass]{
		Resource: storagev1.SchemeGroupVersion.WithResource("storageclasses"), Kind: "StorageClass",
		Make: func(int) *storagev1.StorageClass { return &storagev1.StorageClass{Provisioner: "e2e-fake-provisioner"} },
	}.Run(t, e)
}

func attributesClass(t *testing.T, e *conformance.Env) {
	conformance.Operations[*storagev1.VolumeAttributesClass]{
		Resource: storagev1.SchemeGroupVersion.WithResource("volumeattributesclasses"), Kind: "VolumeAttributesClass",
		Make: func(int) *storagev1.VolumeAttributesClass {
			return &storagev1.VolumeAttributesClass{DriverName: "e2e-fake-driver", Parameters: map[string]string{"foo": "bar"}}
		},
	}.Run(t, e)
}

func attachment(name string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{ObjectMeta: named(name), Spec: storagev1.VolumeAttachmentSpec{
		Attacher: "e2e-test.storage.k8s.io", NodeName: "hollow-0", Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: ptr.To("pv-" + name)},
	}}
}

func attachmentLifecycle(t *testing.T, e *conformance.Env) {
	conformance.Operations[*storagev1.VolumeAttachment]{
		Resource: storagev1.SchemeGroupVersion.WithResource("volumeattachments"), Kind: "VolumeAttachment",
		Make:          func(i int) *storagev1.VolumeAttachment { return attachment(fmt.Sprintf("%s-%d", e.NS, i)) },
		Status:        func(o *storagev1.VolumeAttachment) { o.Status.Attached = true },
		StatusPatches: []conformance.Patch{{Type: types.MergePatchType, Data: `{"status":{"attached":true}}`}},
	}.Run(t, e)
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
	conformance.Operations[*storagev1.CSIStorageCapacity]{
		Resource: storagev1.SchemeGroupVersion.WithResource("csistoragecapacities"), Kind: "CSIStorageCapacity", Namespaced: true,
		Make: func(int) *storagev1.CSIStorageCapacity {
			return &storagev1.CSIStorageCapacity{StorageClassName: "e2e.example.com"}
		},
	}.Run(t, e)
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
