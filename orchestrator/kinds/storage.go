package kinds

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
)

// Annotations of the class that a claim gets which names none.
const (
	defaultClass    = "storageclass.kubernetes.io/is-default-class"
	oldDefaultClass = "storageclass.beta.kubernetes.io/is-default-class"
)

// storageKinds are those of storage.k8s.io.
func storageKinds() []*Kind {
	return []*Kind{
		storageClassKind(), csiDriverKind(), csiNodeKind(), csiStorageCapacityKind(), volumeAttachmentKind(), volumeAttributesClassKind(),
	}
}

func storageClassKind() *Kind {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return with(Kind{
		GroupVersionKind: storagev1.SchemeGroupVersion.WithKind("StorageClass"), Resource: "storageclasses", Singular: "storageclass",
		ShortNames: []string{"sc"}, Place: "storageclasses",
		New: func() Object { return &storagev1.StorageClass{} }, NewList: func() runtime.Object { return &storagev1.StorageClassList{} },
		NameErrors: validation.NameIsDNSSubdomain, Lifecycle: Lifecycle{Unconditional: true},
		Columns: []metav1.TableColumnDefinition{
			nameColumn,
			textColumn("Provisioner", doc["provisioner"]),
			textColumn("ReclaimPolicy", doc["reclaimPolicy"]),
			textColumn("VolumeBindingMode", doc["volumeBindingMode"]),
			textColumn("AllowVolumeExpansion", doc["allowVolumeExpansion"]),
			ageColumn,
		},
	}, Rules[*storagev1.StorageClass]{
		Default: func(o *storagev1.StorageClass) {
			fill(&o.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
			fill(&o.VolumeBindingMode, storagev1.VolumeBindingImmediate)
		},
		Validate: validateStorageClass, ValidateUpdate: validateStorageClassUpdate, Warnings: storageClassWarnings,
		Row: func(o *storagev1.StorageClass, now time.Time) []any {
			name := o.Name
			if o.Annotations[defaultClass] == "true" || o.Annotations[oldDefaultClass] == "true" {
				name += " (default)"
			}
			return []any{
				name, o.Provisioner, string(ptr.Deref(o.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
				string(ptr.Deref(o.VolumeBindingMode, storagev1.VolumeBindingImmediate)), ptr.Deref(o.AllowVolumeExpansion, false), age(o, now),
			}
		},
	})
}
