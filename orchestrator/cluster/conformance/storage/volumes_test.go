package storage

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// readStatus reads an object by its subresource status.
func readStatus(t *testing.T, e *conformance.Env, group, resource, namespace, name string, into any) {
	var c dynamic.ResourceInterface = e.Dynamic(t).Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource})
	if namespace != "" {
		c = e.Dynamic(t).Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}).Namespace(namespace)
	}
	u, err := c.Get(e.Ctx, name, metav1.GetOptions{}, "status")
	require.NoError(t, err)
	require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into))
}

func volume(e *conformance.Env) func(name string) *corev1.PersistentVolume {
	return func(name string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"volume": e.NS}},
			Spec: corev1.PersistentVolumeSpec{
				Capacity:         corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
				AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				StorageClassName: e.NS, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "e2e-driver-" + e.NS, VolumeHandle: "conformance"}},
			},
		}
	}
}

func claim(e *conformance.Env) func(name string) *corev1.PersistentVolumeClaim {
	return func(name string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: named(name), Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To(e.NS), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}},
		}}
	}
}

func volumeLifecycle(t *testing.T, e *conformance.Env) {
	conformance.Operations[*corev1.PersistentVolume]{
		Resource: corev1.SchemeGroupVersion.WithResource("persistentvolumes"), Kind: "PersistentVolume",
		Make: func(int) *corev1.PersistentVolume { return volume(e)("") },
		With: func(v *corev1.PersistentVolume) { phases(t, e, v.Name, "") },
	}.Run(t, e)
	conformance.Operations[*corev1.PersistentVolumeClaim]{
		Resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), Kind: "PersistentVolumeClaim", Namespaced: true,
		Make: func(int) *corev1.PersistentVolumeClaim { return claim(e)("") },
		With: func(c *corev1.PersistentVolumeClaim) { phases(t, e, "", c.Name) },
	}.Run(t, e)
}

// phases reads the status of a volume, of a claim or of both.
func phases(t *testing.T, e *conformance.Env, volume, claim string) {
	t.Helper()
	if claim != "" {
		var c corev1.PersistentVolumeClaim
		readStatus(t, e, "", "persistentvolumeclaims", e.NS, claim, &c)
		require.Contains(t, []corev1.PersistentVolumeClaimPhase{corev1.ClaimPending, corev1.ClaimBound}, c.Status.Phase)
	}
	if volume != "" {
		var v corev1.PersistentVolume
		readStatus(t, e, "", "persistentvolumes", "", volume, &v)
		require.Contains(t, []corev1.PersistentVolumePhase{corev1.VolumeAvailable, corev1.VolumeBound, corev1.VolumePending}, v.Status.Phase)
	}
}

func volumeStatus(t *testing.T, e *conformance.Env) {
	volumes, claims := e.Client.CoreV1().PersistentVolumes(), e.Client.CoreV1().PersistentVolumeClaims(e.NS)
	name := "status-" + e.NS
	_, err := volumes.Create(e.Ctx, volume(e)(name), metav1.CreateOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = volumes.Delete(context.Background(), name, metav1.DeleteOptions{}) })
	_, err = claims.Create(e.Ctx, claim(e)(name), metav1.CreateOptions{})
	require.NoError(t, err)
	lv, err := volumes.List(e.Ctx, metav1.ListOptions{LabelSelector: "volume=" + e.NS})
	require.NoError(t, err)
	require.Len(t, lv.Items, 1)
	lc, err := claims.List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, lc.Items, 1)
	phases(t, e, name, name)

	patched, err := claims.Patch(e.Ctx, name, types.MergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"StatusPatched","status":"True","reason":"Patched","message":"by a test"}]}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.Len(t, patched.Status.Conditions, 1)
	require.EqualValues(t, "StatusPatched", patched.Status.Conditions[0].Type)
	require.Equal(t, "by a test", patched.Status.Conditions[0].Message)
	patchedVolume, err := volumes.Patch(e.Ctx, name, types.MergePatchType, []byte(`{"status":{"message":"StatusPatched","reason":"Patched"}}`), metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.Equal(t, []string{"Patched", "StatusPatched"}, []string{patchedVolume.Status.Reason, patchedVolume.Status.Message})

	updated := conformance.UpdateStatus(t, e, claims, name, func(o *corev1.PersistentVolumeClaim) {
		o.Status.Conditions = append(o.Status.Conditions, corev1.PersistentVolumeClaimCondition{Type: "StatusUpdated", Status: corev1.ConditionTrue, Reason: "Updated"})
	})
	require.Len(t, updated.Status.Conditions, 2)
	require.Equal(t, "Updated", updated.Status.Conditions[1].Reason)
	updatedVolume := conformance.UpdateStatus(t, e, volumes, name, func(o *corev1.PersistentVolume) {
		o.Status.Reason, o.Status.Message = "Updated", "StatusUpdated"
	})
	require.Equal(t, []string{"Updated", "StatusUpdated"}, []string{updatedVolume.Status.Reason, updatedVolume.Status.Message})
}

// keeper is a client of objects that can be immutable.
type keeper[T conformance.Object] interface {
	conformance.Updater[T]
	Create(ctx context.Context, o T, options metav1.CreateOptions) (T, error)
	Delete(ctx context.Context, name string, options metav1.DeleteOptions) error
}

// immutable makes an object immutable, and then changes what may be changed and what may not.
func immutable[T conformance.Object](t *testing.T, e *conformance.Env, c keeper[T], made T, put func(o T, key string), flag func(o T, b bool)) {
	change := func(change func(o T)) error {
		o, err := c.Get(e.Ctx, made.GetName(), metav1.GetOptions{})
		require.NoError(t, err)
		change(o)
		_, err = c.Update(e.Ctx, o, metav1.UpdateOptions{})
		return err
	}
	put(made, "data-1")
	_, err := c.Create(e.Ctx, made, metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, change(func(o T) { put(o, "data-4") }))
	require.NoError(t, change(func(o T) { flag(o, true) }))
	require.True(t, apierrors.IsInvalid(change(func(o T) { put(o, "data-5") })))
	require.True(t, apierrors.IsInvalid(change(func(o T) { flag(o, false) })))
	require.NoError(t, change(func(o T) { o.SetLabels(map[string]string{"label1": "value1"}) }))
	require.NoError(t, c.Delete(e.Ctx, made.GetName(), metav1.DeleteOptions{}))
}

func immutableConfigMap(t *testing.T, e *conformance.Env) {
	immutable(t, e, e.Client.CoreV1().ConfigMaps(e.NS), &corev1.ConfigMap{ObjectMeta: named("immutable"), Data: map[string]string{}},
		func(o *corev1.ConfigMap, key string) { o.Data[key] = "value" }, func(o *corev1.ConfigMap, b bool) { o.Immutable = &b })
}

func immutableSecret(t *testing.T, e *conformance.Env) {
	immutable(t, e, e.Client.CoreV1().Secrets(e.NS), &corev1.Secret{ObjectMeta: named("immutable"), Data: map[string][]byte{}},
		func(o *corev1.Secret, key string) { o.Data[key] = []byte("value") }, func(o *corev1.Secret, b bool) { o.Immutable = &b })
}
