package kinds

import (
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

func persistentVolumeKind() *Kind {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("PersistentVolume"), Resource: "persistentvolumes", Singular: "persistentvolume",
		ShortNames: []string{"pv"}, Place: "persistentvolumes",
		New: func() Object { return &corev1.PersistentVolume{} }, NewList: func() runtime.Object { return &corev1.PersistentVolumeList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true, ReturnDeleted: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Capacity", spec["capacity"]), textColumn("Access Modes", spec["accessModes"]),
			textColumn("Reclaim Policy", spec["persistentVolumeReclaimPolicy"]), textColumn("Status", status["phase"]), textColumn("Claim", spec["claimRef"]),
			textColumn("StorageClass", "StorageClass of the pv"), textColumn("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
			textColumn("Reason", status["reason"]), ageColumn, wideColumn("VolumeMode", spec["volumeMode"]),
		},
	}, Rules[*corev1.PersistentVolume]{
		Default: defaultPersistentVolume,
		Create: func(o *corev1.PersistentVolume) {
			o.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: ptr.To(o.CreationTimestamp)}
		},
		Stamp: stampPersistentVolume, Validate: validatePersistentVolume, ValidateUpdate: validatePersistentVolumeUpdate,
		ValidateStatus: validatePersistentVolumeStatus, Warnings: warnOfPersistentVolume,
		Spec:   func(o *corev1.PersistentVolume) any { return &o.Spec },
		Status: func(o *corev1.PersistentVolume) any { return &o.Status },
		Row:    persistentVolumeRow,
	})
}

func defaultPersistentVolume(o *corev1.PersistentVolume) {
	o.Status.Phase = corev1.PersistentVolumePhase(orText(string(o.Status.Phase), string(corev1.VolumePending)))
	s := &o.Spec
	s.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimPolicy(orText(string(s.PersistentVolumeReclaimPolicy), string(corev1.PersistentVolumeReclaimRetain)))
	if s.VolumeMode == nil {
		s.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
	roundQuantities(s.Capacity)
	if v := s.HostPath; v != nil && v.Type == nil {
		v.Type = ptr.To(corev1.HostPathUnset)
	}
	if v := s.RBD; v != nil {
		v.RBDPool, v.RadosUser, v.Keyring = orText(v.RBDPool, "rbd"), orText(v.RadosUser, "admin"), orText(v.Keyring, "/etc/ceph/keyring")
	}
	if v := s.ISCSI; v != nil {
		v.ISCSIInterface = orText(v.ISCSIInterface, "default")
	}
	if v := s.ScaleIO; v != nil {
		v.StorageMode, v.FSType = orText(v.StorageMode, "ThinProvisioned"), orText(v.FSType, "xfs")
	}
	if v := s.AzureDisk; v != nil {
		v.CachingMode = ptr.To(ptr.Deref(v.CachingMode, corev1.AzureDataDiskCachingReadWrite))
		v.Kind = ptr.To(ptr.Deref(v.Kind, corev1.AzureSharedBlobDisk))
		v.FSType, v.ReadOnly = ptr.To(ptr.Deref(v.FSType, "ext4")), ptr.To(ptr.Deref(v.ReadOnly, false))
	}
}

// stampPersistentVolume notes when the phase changed, unless the request did.
func stampPersistentVolume(o, old *corev1.PersistentVolume, now metav1.Time) {
	s, was := &o.Status, &old.Status
	switch {
	case s.Phase == was.Phase:
		if s.LastPhaseTransitionTime == nil {
			s.LastPhaseTransitionTime = was.LastPhaseTransitionTime.DeepCopy()
		}
	case s.LastPhaseTransitionTime == nil || s.LastPhaseTransitionTime.Equal(was.LastPhaseTransitionTime):
		s.LastPhaseTransitionTime = &now
	}
}

func persistentVolumeRow(o *corev1.PersistentVolume, now time.Time) []any {
	claim := ""
	if r := o.Spec.ClaimRef; r != nil {
		claim = r.Namespace + "/" + r.Name
	}
	phase := string(o.Status.Phase)
	if o.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	return []any{
		o.Name, o.Spec.Capacity.Storage().String(), accessModes(o.Spec.AccessModes), string(o.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		volume.GetPersistentVolumeClass(o), ptr.Deref(o.Spec.VolumeAttributesClassName, "<unset>"), o.Status.Reason, age(o, now),
		string(ptr.Deref(o.Spec.VolumeMode, "<unset>")),
	}
}

// accessModes abbreviates access modes.
func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	var all []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		text string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			all = append(all, m.text)
		}
	}
	return strings.Join(all, ",")
}

func persistentVolumeClaimKind() *Kind {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"), Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim",
		ShortNames: []string{"pvc"}, Namespaced: true, Place: "persistentvolumeclaims",
		New: func() Object { return &corev1.PersistentVolumeClaim{} }, NewList: func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true, ReturnDeleted: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn, textColumn("Status", status["phase"]), textColumn("Volume", spec["volumeName"]), textColumn("Capacity", status["capacity"]),
			textColumn("Access Modes", status["accessModes"]), textColumn("StorageClass", "StorageClass of the pvc"),
			textColumn("VolumeAttributesClass", "VolumeAttributesClass of the pvc"), ageColumn, wideColumn("VolumeMode", spec["volumeMode"]),
		},
	}, Rules[*corev1.PersistentVolumeClaim]{
		Default: func(o *corev1.PersistentVolumeClaim) {
			o.Status.Phase = corev1.PersistentVolumeClaimPhase(orText(string(o.Status.Phase), string(corev1.ClaimPending)))
			defaultClaimSpec(&o.Spec)
			roundQuantities(o.Status.Capacity, o.Status.AllocatedResources)
		},
		Create:   func(o *corev1.PersistentVolumeClaim) { prepareSource(&o.Spec, nil) },
		Update:   func(o, old *corev1.PersistentVolumeClaim) { prepareSource(&o.Spec, &old.Spec) },
		Validate: validatePersistentVolumeClaim, ValidateUpdate: validatePersistentVolumeClaimUpdate,
		ValidateStatus: validatePersistentVolumeClaimStatus, Warnings: warnOfPersistentVolumeClaim,
		Spec:   func(o *corev1.PersistentVolumeClaim) any { return &o.Spec },
		Status: func(o *corev1.PersistentVolumeClaim) any { return &o.Status },
		Row:    persistentVolumeClaimRow,
	})
}

// prepareSource makes the two ways the same in which a claim names what its volume is filled from. old is nil at a creation.
func prepareSource(s, old *corev1.PersistentVolumeClaimSpec) {
	had := old != nil && (old.DataSource != nil || old.DataSourceRef != nil)
	if r := s.DataSourceRef; r != nil && ptr.Deref(r.Namespace, "") != "" && (old == nil || old.DataSourceRef == nil) {
		s.DataSourceRef = nil // sources in other namespaces are an alpha feature
	}
	if !had && s.DataSourceRef == nil && !isOldSource(s.DataSource) {
		s.DataSource = nil
	}
	switch d, r := s.DataSource, s.DataSourceRef; {
	case d != nil && r == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: cloned(d.APIGroup), Kind: d.Kind, Name: d.Name}
	case r != nil && d == nil && ptr.Deref(r.Namespace, "") == "":
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: cloned(r.APIGroup), Kind: r.Kind, Name: r.Name}
	}
}

// isOldSource says that a source is of a kind that was allowed before there were others.
func isOldSource(d *corev1.TypedLocalObjectReference) bool {
	if d == nil {
		return false
	}
	group := ptr.Deref(d.APIGroup, "")
	return d.Kind == "PersistentVolumeClaim" && group == "" || d.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io"
}

func cloned(s *string) *string {
	if s == nil {
		return nil
	}
	return ptr.To(*s)
}

func persistentVolumeClaimRow(o *corev1.PersistentVolumeClaim, now time.Time) []any {
	phase := string(o.Status.Phase)
	if o.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity, modes := "", ""
	if o.Spec.VolumeName != "" {
		capacity, modes = o.Status.Capacity.Storage().String(), accessModes(o.Status.AccessModes)
	}
	return []any{
		o.Name, phase, o.Spec.VolumeName, capacity, modes, volume.GetPersistentVolumeClaimClass(o),
		ptr.Deref(o.Spec.VolumeAttributesClassName, "<unset>"), age(o, now), string(ptr.Deref(o.Spec.VolumeMode, "<unset>")),
	}
}
