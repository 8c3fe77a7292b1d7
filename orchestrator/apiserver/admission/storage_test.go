package admission

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func storageClass(name string, isDefault bool, age time.Duration, expands bool) *storagev1.StorageClass {
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1000, 0).Add(-age))}, AllowVolumeExpansion: &expands}
	if isDefault {
		c.Annotations = map[string]string{defaultStorageClass: "true"}
	}
	return c
}

func TestDefaultClass(t *testing.T) {
	p := &DefaultClass{Lookup: table{all: map[string]kinds.Object{
		"storageclasses.storage.k8s.io//old":   storageClass("old", true, time.Hour, true),
		"storageclasses.storage.k8s.io//new":   storageClass("new", true, time.Minute, true),
		"storageclasses.storage.k8s.io//other": storageClass("other", false, 0, true),
	}}}
	for given, want := range map[*string]*string{nil: ptr.To("new"), ptr.To("other"): ptr.To("other"), ptr.To(""): ptr.To("")} {
		c := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: given}}
		require.NoError(t, p.Mutate(t.Context(), &Attributes{Operation: Create, Kind: kind("", "persistentvolumeclaims"), Object: c}))
		require.Equal(t, want, c.Spec.StorageClassName)
	}
	i := &networkingv1.Ingress{} // there is no class of these
	require.NoError(t, p.Mutate(t.Context(), &Attributes{Operation: Create, Kind: kind("networking.k8s.io", "ingresses"), Object: i}))
	require.Nil(t, i.Spec.IngressClassName)
}

func TestStorageProtection(t *testing.T) {
	c, v := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"a"}}}
	require.NoError(t, StorageProtection{}.Mutate(t.Context(), &Attributes{Operation: Create, Kind: kind("", "persistentvolumeclaims"), Object: c}))
	require.NoError(t, StorageProtection{}.Mutate(t.Context(), &Attributes{Operation: Create, Kind: kind("", "persistentvolumes"), Object: v}))
	require.Equal(t, []string{claimProtection}, c.Finalizers)
	require.Equal(t, []string{"a", volumeProtection}, v.Finalizers)
}

func TestClaimResize(t *testing.T) {
	p := &ClaimResize{Lookup: table{all: map[string]kinds.Object{
		"storageclasses.storage.k8s.io//grows": storageClass("grows", false, 0, true), "storageclasses.storage.k8s.io//fixed": storageClass("fixed", false, 0, false),
	}}}
	of := func(class, size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
			}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: phase},
		}
	}
	check := func(class, from, to string, phase corev1.PersistentVolumeClaimPhase) error {
		return p.Validate(t.Context(), &Attributes{Operation: Update, Kind: kind("", "persistentvolumeclaims"), Object: of(class, to, phase), Old: of(class, from, phase)})
	}
	require.NoError(t, check("grows", "1Gi", "2Gi", corev1.ClaimBound))
	require.NoError(t, check("fixed", "1Gi", "1Gi", corev1.ClaimBound))
	require.ErrorContains(t, check("fixed", "1Gi", "2Gi", corev1.ClaimBound), "must support resize")
	require.ErrorContains(t, check("none", "1Gi", "2Gi", corev1.ClaimBound), "must support resize")
	require.ErrorContains(t, check("", "1Gi", "2Gi", corev1.ClaimBound), "must support resize")
	require.ErrorContains(t, check("grows", "1Gi", "2Gi", corev1.ClaimPending), "Only bound")
}
