package kinds

import (
	"maps"
	"math"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// maxVolumeErrorBytes is how long the message of an error of a volume may be.
const maxVolumeErrorBytes = 1024

func volumeAttachmentKind() *Kind {
	doc, source := storagev1.VolumeAttachmentSpec{}.SwaggerDoc(), storagev1.VolumeAttachmentSource{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("VolumeAttachment"), Resource: "volumeattachments", Singular: "volumeattachment",
		Place: "volumeattachments", New: func() Object { return &storagev1.VolumeAttachment{} },
		NewList:    func() runtime.Object { return &storagev1.VolumeAttachmentList{} },
		NameErrors: validation.NameIsDNSSubdomain,
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			{Name: "Attacher", Type: "string", Format: "name", Description: doc["attacher"]},
			textColumn("PV", source["persistentVolumeName"]),
			textColumn("Node", doc["nodeName"]),
			{Name: "Attached", Type: "boolean", Description: storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]},
			ageColumn,
		},
	}, Rules[*storagev1.VolumeAttachment]{
		Validate: validateVolumeAttachment,
		ValidateUpdate: func(o, old *storagev1.VolumeAttachment) field.ErrorList {
			var p problems
			p.fixed(field.NewPath("spec"), o.Spec, old.Spec)
			return p.list
		},
		ValidateStatus: func(o, _ *storagev1.VolumeAttachment) field.ErrorList { return validateVolumeAttachment(o) },
		Spec:           func(o *storagev1.VolumeAttachment) any { return &o.Spec }, Status: func(o *storagev1.VolumeAttachment) any { return &o.Status },
		Row: func(o *storagev1.VolumeAttachment, now time.Time) []any {
			return []any{o.Name, o.Spec.Attacher, ptr.Deref(o.Spec.Source.PersistentVolumeName, ""), o.Spec.NodeName, o.Status.Attached, age(o, now)}
		},
	})
}

func validateVolumeAttachment(o *storagev1.VolumeAttachment) field.ErrorList {
	var p problems
	spec, status := field.NewPath("spec"), field.NewPath("status")
	p.csiDriver(spec.Child("attacher"), o.Spec.Attacher)
	p.attachedVolume(spec.Child("source"), &o.Spec.Source)
	p.name(spec.Child("nodeName"), o.Spec.NodeName)
	size := 0
	for k, v := range maps.All(o.Status.AttachmentMetadata) {
		size += len(k) + len(v)
	}
	if size > maxParameterBytes {
		p.add(field.TooLong(status.Child("attachmentMetadata"), "", maxParameterBytes))
	}
	p.volumeError(status.Child("attachError"), o.Status.AttachError)
	p.volumeError(status.Child("detachError"), o.Status.DetachError)
	if n := o.Spec.Source.PersistentVolumeName; n != nil {
		p.name(spec.Child("source", "persistentVolumeName"), *n)
	}
	return p.list
}

// attachedVolume requires what is attached to be one thing.
func (p *problems) attachedVolume(at *field.Path, s *storagev1.VolumeAttachmentSource) {
	inline, name := s.InlineVolumeSpec, s.PersistentVolumeName
	const exactlyOne = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch {
	case inline == nil && name == nil:
		p.required(at, exactlyOne)
	case inline != nil && name != nil:
		p.forbidden(at, exactlyOne)
	case name != nil:
		if *name == "" {
			p.required(at.Child("persistentVolumeName"), "must specify non empty persistentVolumeName")
		}
	default:
		p.inlineVolume(at.Child("inlineVolumeSpec"), inline)
	}
}

// inlineVolume checks a volume that is no object: one of a driver.
func (p *problems) inlineVolume(at *field.Path, s *corev1.PersistentVolumeSpec) {
	if s.ClaimRef != nil {
		p.forbidden(at.Child("claimRef"), "may not be specified in the context of inline volumes")
	}
	if len(s.Capacity) != 0 {
		p.forbidden(at.Child("capacity"), "may not be specified in the context of inline volumes")
	}
	if s.CSI == nil {
		p.required(at.Child("csi"), "has to be specified in the context of inline volumes")
	}
	if len(s.AccessModes) == 0 {
		p.required(at.Child("accessModes"), "")
	}
	p.accessModes(at.Child("accessModes"), s.AccessModes)
	p.volumeSource(at, &corev1.PersistentVolume{Spec: *s})
	p.volumeMode(at.Child("volumeMode"), s.VolumeMode)
}

func (p *problems) volumeError(at *field.Path, e *storagev1.VolumeError) {
	if e == nil {
		return
	}
	if len(e.Message) > maxVolumeErrorBytes {
		p.add(field.TooLong(at.Child("message"), "", maxVolumeErrorBytes))
	}
	if c := e.ErrorCode; c != nil && *c < 0 {
		p.invalid(at.Child("errorCode"), *c, utilvalidation.InclusiveRangeError(0, math.MaxInt32))
	}
}

func volumeAttributesClassKind() *Kind {
	doc := storagev1.VolumeAttributesClass{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("VolumeAttributesClass"), Resource: "volumeattributesclasses",
		Singular: "volumeattributesclass", ShortNames: []string{"vac"}, Place: "volumeattributesclasses",
		New:     func() Object { return &storagev1.VolumeAttributesClass{} },
		NewList: func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },

		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true},
		Columns: []metav1.TableColumnDefinition{nameColumn, textColumn("DriverName", doc["driverName"]), ageColumn},
	}, Rules[*storagev1.VolumeAttributesClass]{
		Ratchets: true,
		Validate: validateVolumeAttributesClass,
		ValidateUpdate: func(o, old *storagev1.VolumeAttributesClass) field.ErrorList {
			var p problems
			if o.DriverName != old.DriverName {
				p.forbidden(field.NewPath("driverName"), "updates to driverName are forbidden.")
			}
			if !maps.Equal(o.Parameters, old.Parameters) {
				p.forbidden(field.NewPath("parameters"), "updates to parameters are forbidden.")
			}
			return append(p.list, validateVolumeAttributesClass(o)...)
		},
		Row: func(o *storagev1.VolumeAttributesClass, now time.Time) []any {
			return []any{o.Name, o.DriverName, age(o, now)}
		},
	})
}

func validateVolumeAttributesClass(o *storagev1.VolumeAttributesClass) field.ErrorList {
	var p problems
	if at := field.NewPath("driverName"); p.have(at, o.DriverName) {
		p.qualifiedName(at, strings.ToLower(o.DriverName))
	}
	if at := field.NewPath("parameters"); len(o.Parameters) == 0 {
		p.required(at, "must contain at least one key/value pair")
	} else {
		p.parameters(at, o.Parameters)
	}
	return p.list
}
