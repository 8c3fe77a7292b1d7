package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	volumehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// DefaultClass gives claims of storage and ingresses that name no class the default one, if there is one. Of several defaults
// the youngest counts.
type DefaultClass struct {
	Lookup Lookup
}

var (
	storageClasses = schema.GroupResource{Group: storagev1.GroupName, Resource: "storageclasses"}
	ingressClasses = schema.GroupResource{Group: networkingv1.GroupName, Resource: "ingressclasses"}
)

// Annotations of default classes, and of objects that name their class in an older way.
const (
	defaultStorageClass = "storageclass.kubernetes.io/is-default-class"
	oldIngressClass     = "kubernetes.io/ingress.class"
)

// Mutate completes a new claim or ingress.
func (p *DefaultClass) Mutate(ctx context.Context, a *Attributes) error {
	if a.Operation != Create {
		return nil
	}
	if c, ok := objectOf[*corev1.PersistentVolumeClaim](a.Object); ok && a.isResource("", "persistentvolumeclaims", "") {
		if volumehelpers.PersistentVolumeClaimHasClass(c) {
			return nil
		}
		name, err := p.find(ctx, storageClasses, defaultStorageClass)
		if err == nil && name != "" {
			c.Spec.StorageClassName = &name
		}
		return err
	}
	if i, ok := objectOf[*networkingv1.Ingress](a.Object); ok && a.isResource(networkingv1.GroupName, "ingresses", "") {
		if i.Spec.IngressClassName != nil || i.Annotations[oldIngressClass] != "" {
			return nil
		}
		name, err := p.find(ctx, ingressClasses, networkingv1.AnnotationIsDefaultIngressClass)
		if err == nil && name != "" {
			i.Spec.IngressClassName = &name
		}
		return err
	}
	return nil
}

// find is the name of the default among classes, "" if there is none.
func (p *DefaultClass) find(ctx context.Context, of schema.GroupResource, annotation string) (string, error) {
	all, err := p.Lookup.List(ctx, of, "")
	if err != nil {
		return "", err
	}
	var best kinds.Object
	for _, o := range all {
		if o.GetAnnotations()[annotation] != "true" {
			continue
		}
		if best == nil || younger(o, best) {
			best = o
		}
	}
	if best == nil {
		return "", nil
	}
	return best.GetName(), nil
}

// younger orders by age, and what is of the same age by name.
func younger(a, b metav1.Object) bool {
	x, y := a.GetCreationTimestamp(), b.GetCreationTimestamp()
	if x.Equal(&y) {
		return a.GetName() < b.GetName()
	}
	return y.Before(&x)
}

// Finalizers of claims and volumes that are in use.
const (
	claimProtection  = "kubernetes.io/pvc-protection"
	volumeProtection = "kubernetes.io/pv-protection"
)

// StorageProtection gives new claims and volumes the finalizers that keep them while they are in use. A controller removes
// these.
type StorageProtection struct{}

// Mutate completes a new claim or volume.
func (StorageProtection) Mutate(_ context.Context, a *Attributes) error {
	o, ok := objectOf[metav1.Object](a.Object)
	if !ok || a.Operation != Create {
		return nil
	}
	var finalizer string
	switch {
	case a.isResource("", "persistentvolumeclaims", ""):
		finalizer = claimProtection
	case a.isResource("", "persistentvolumes", ""):
		finalizer = volumeProtection
	default:
		return nil
	}
	if !slices.Contains(o.GetFinalizers(), finalizer) {
		o.SetFinalizers(append(o.GetFinalizers(), finalizer))
	}
	return nil
}

// ClaimResize refuses to let claims grow whose class does not allow it.
type ClaimResize struct {
	Lookup Lookup
}

// Validate checks the change of a claim.
func (p *ClaimResize) Validate(ctx context.Context, a *Attributes) error {
	c, ok := objectOf[*corev1.PersistentVolumeClaim](a.Object)
	old, was := objectOf[*corev1.PersistentVolumeClaim](a.Old)
	if !ok || !was || a.Operation != Update || !a.isResource("", "persistentvolumeclaims", "") {
		return nil
	}
	want, have := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if want.Cmp(have) <= 0 {
		return nil
	}
	refuse := func(why string) error {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, errors.New(why))
	}
	if old.Status.Phase != corev1.ClaimBound {
		return refuse("Only bound persistent volume claims can be expanded")
	}
	const text = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"
	name := volumehelpers.GetPersistentVolumeClaimClass(c)
	if name == "" {
		return refuse(text)
	}
	o, err := p.Lookup.Get(ctx, storageClasses, "", name, false)
	switch {
	case apierrors.IsNotFound(err):
		return refuse(text)
	case err != nil:
		return err
	}
	class, ok := o.(*storagev1.StorageClass)
	if !ok {
		return fmt.Errorf("admission: unexpected %T", o)
	}
	if !ptr.Deref(class.AllowVolumeExpansion, false) {
		return refuse(text)
	}
	return nil
}
