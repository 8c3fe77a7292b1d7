package kinds

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func validatePersistentVolumeClaim(o *corev1.PersistentVolumeClaim) field.ErrorList {
	var p problems
	p.claimSpec(field.NewPath("spec"), &o.Spec)
	return p.list
}

// claimSpec checks a claim for a volume.
func (p *problems) claimSpec(at *field.Path, s *corev1.PersistentVolumeClaimSpec) {
	if len(s.AccessModes) == 0 {
		p.required(at.Child("accessModes"), "at least 1 access mode is required")
	}
	if s.Selector != nil {
		p.add(metav1validation.ValidateLabelSelector(s.Selector, metav1validation.LabelSelectorValidationOptions{}, at.Child("selector"))...)
	}
	p.accessModes(at.Child("accessModes"), s.AccessModes)
	storage := at.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		p.required(storage, "")
	} else if p.quantityPositive(storage, q) {
		p.resourceValue(storage, corev1.ResourceStorage, q)
	}
	p.optionalName(at.Child("storageClassName"), s.StorageClassName)
	p.volumeMode(at.Child("volumeMode"), s.VolumeMode)
	d, r := s.DataSource, s.DataSourceRef
	if d != nil {
		p.dataSource(at.Child("dataSource"), d.Name, d.Kind, d.APIGroup)
	}
	elsewhere := r != nil && ptr.Deref(r.Namespace, "") != ""
	if r != nil {
		p.dataSource(at.Child("dataSourceRef"), r.Name, r.Kind, r.APIGroup)
		if elsewhere {
			p.each(at.Child("dataSourceRef", "namespace"), *r.Namespace, validation.ValidateNamespaceName(*r.Namespace, false))
		}
	}
	switch {
	case d == nil || r == nil:
	case elsewhere:
		p.invalid(at, at.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified")
	case d.Kind != r.Kind || d.Name != r.Name || !ptr.Equal(d.APIGroup, r.APIGroup):
		p.invalid(at, at.Child("dataSource"), "must match dataSourceRef")
	}
	p.optionalName(at.Child("volumeAttributesClassName"), s.VolumeAttributesClassName)
}

// optionalName checks the name of another object, if there is one.
func (p *problems) optionalName(at *field.Path, name *string) {
	if n := ptr.Deref(name, ""); n != "" {
		p.name(at, n)
	}
}

func (p *problems) dataSource(at *field.Path, name, kind string, group *string) {
	p.needs(at, "name", name, "kind", kind)
	switch g := ptr.Deref(group, ""); {
	case g != "":
		p.subdomain(at.Child("apiGroup"), g)
	case kind != "PersistentVolumeClaim":
		p.invalid(at, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
	}
}

// validatePersistentVolumeClaimUpdate lets a claim be bound, grow, and change its class of attributes; the rest stays.
func validatePersistentVolumeClaimUpdate(o, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var p problems
	is, was := o.Spec.DeepCopy(), old.Spec.DeepCopy()
	prepareSource(was, was)
	if was.VolumeName == "" {
		was.VolumeName = is.VolumeName
	}
	p.classChange(o, old, is)
	if o.Status.Phase == corev1.ClaimBound {
		if is.Resources.Requests != nil {
			is.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		is.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	spec := field.NewPath("spec")
	if !equality.Semantic.DeepEqual(is, was) {
		p.forbidden(spec, fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(*was, *is)))
	}
	size, before := o.Spec.Resources.Requests.Storage(), old.Spec.Resources.Requests.Storage()
	if size.Cmp(*before) < 0 && size.Cmp(*old.Status.Capacity.Storage()) <= 0 {
		p.forbidden(spec.Child("resources", "requests", "storage"), "field can not be less than status.capacity")
	}
	p.add(validation.ValidateImmutableField(o.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if c := o.Spec.VolumeAttributesClassName; old.Status.CurrentVolumeAttributesClassName != nil && !ptr.Equal(c, old.Spec.VolumeAttributesClassName) {
		switch at := spec.Child("volumeAttributesClassName"); {
		case c == nil:
			p.forbidden(at, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil")
		case *c == "":
			p.forbidden(at, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil")
		}
	}
	return p.list
}

// classChange checks a change of the storage class. It may be set once, by a default, or moved from the annotation to the spec;
// then is, the new spec, gets the old one's.
func (p *problems) classChange(o, old *corev1.PersistentVolumeClaim, is *corev1.PersistentVolumeClaimSpec) {
	note, noted := old.Annotations[corev1.BetaStorageClassAnnotation]
	now, still := o.Annotations[corev1.BetaStorageClassAnnotation]
	set := old.Spec.StorageClassName == nil && is.StorageClassName != nil && (!noted || *is.StorageClassName == note)
	if moved := set && noted && !still; now != note && !moved {
		p.invalid(field.NewPath("metadata", "annotations", corev1.BetaStorageClassAnnotation), now, validation.FieldImmutableErrorMsg)
	}
	if set {
		is.StorageClassName = nil
	}
}

func validatePersistentVolumeClaimStatus(o, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var p problems
	p.have(field.NewPath("resourceVersion"), o.ResourceVersion)
	if len(o.Spec.AccessModes) == 0 {
		p.required(field.NewPath("Spec", "accessModes"), "")
	}
	inNames(o.Status.Capacity, func(name corev1.ResourceName, q resource.Quantity) {
		p.basicQuantity(field.NewPath("status", "capacity").Key(string(name)), q)
	})
	at := field.NewPath("status", "allocatedResourceStatuses")
	known := []corev1.ClaimResourceStatus{
		corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
	}
	for _, name := range slices.Sorted(maps.Keys(o.Status.AllocatedResourceStatuses)) {
		p.claimResource(at, name)
		if !slices.Contains(known, o.Status.AllocatedResourceStatuses[name]) {
			p.add(field.NotSupported(at, name, known))
		}
	}
	at = field.NewPath("status", "allocatedResources")
	inNames(o.Status.AllocatedResources, func(name corev1.ResourceName, q resource.Quantity) {
		if p.claimResource(at, name) {
			p.basicQuantity(at.Key(string(name)), q)
		}
	})
	return p.list
}

// claimResource checks the name of something that a claim has: storage, or a resource with a prefix.
func (p *problems) claimResource(at *field.Path, name corev1.ResourceName) bool {
	before := len(p.list)
	p.each(at, string(name), utilvalidation.IsQualifiedName(string(name)))
	if len(p.list) == before && nativeResource(name) && name != corev1.ResourceStorage {
		p.add(field.NotSupported(at, string(name), []corev1.ResourceName{corev1.ResourceStorage}))
	}
	return len(p.list) == before
}
