package apiserver

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// guard is the admission plugin that keeps users from giving rights that they have not.
type guard struct{ rights.Guard }

// Validate implements admission.Validator.
func (g *guard) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Operation == admission.Delete || a.Kind.Group != "rbac.authorization.k8s.io" || a.Subresource != "" {
		return nil
	}
	o, ok := a.Object.(kinds.Object)
	if !ok {
		return nil
	}
	old, _ := a.Old.(kinds.Object)
	return g.Check(ctx, a.User, a.Namespace, o, old)
}

// restriction is the admission plugin that keeps kubelets to their own node and pods.
type restriction struct {
	objects    Objects
	authorizer rights.Authorizer
}

// Validate implements admission.Validator.
func (r *restriction) Validate(ctx context.Context, a *admission.Attributes) error {
	check := rights.Restriction{Objects: byName{r.objects, ctx}, Authorizer: r.authorizer}
	return check.Check(ctx, &rights.Write{
		User: a.User, Operation: string(a.Operation), Resource: a.Kind.GroupVersionResource(), Subresource: a.Subresource,
		Namespace: a.Namespace, Name: a.Name, Object: a.Object, Old: a.Old,
	})
}

// ByKind implements admission.KindFinder.
func (o Objects) ByKind(k schema.GroupVersionKind) *kinds.Kind {
	for _, one := range o.table().kinds {
		if one.GroupVersionKind == k {
			return one
		}
	}
	return nil
}

// SetUsed implements admission.QuotaWriter.
func (o Objects) SetUsed(ctx context.Context, q *corev1.ResourceQuota) (*corev1.ResourceQuota, error) {
	c, err := o.collection(schema.GroupResource{Resource: "resourcequotas"}, q.Name)
	if err != nil {
		return nil, err
	}
	return admission.StoredQuotas{Objects: c}.SetUsed(ctx, q)
}

// schemas is the policy.TypeConverters of the built-in kinds. Of others it deduces what it can from objects.
type schemas struct {
	builtin func() (managedfields.TypeConverter, error)
}

// TypeConverter implements policy.TypeConverters.
func (s schemas) TypeConverter(k schema.GroupVersionKind) managedfields.TypeConverter {
	if !scheme.Scheme.Recognizes(k) {
		return managedfields.NewDeducedTypeConverter()
	}
	c, err := s.builtin()
	if err != nil {
		return nil
	}
	return c
}
