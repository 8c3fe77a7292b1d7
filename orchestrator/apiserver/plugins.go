package apiserver

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/patch"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// rulesOf reads the rules of the role that a binding refers to, from the store.
func rulesOf(objects Objects) func(context.Context, rbacv1.RoleRef, string) ([]rbacv1.PolicyRule, error) {
	return func(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
		resource := "roles"
		if ref.Kind == "ClusterRole" {
			resource, namespace = "clusterroles", ""
		}
		o, err := objects.Get(ctx, schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}, namespace, ref.Name, true)
		switch o := o.(type) {
		case *rbacv1.ClusterRole:
			return o.Rules, err
		case *rbacv1.Role:
			return o.Rules, err
		}
		return nil, err
	}
}

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

// restriction is the admission plugin that keeps kubelets to their own node and pods. As in Kubernetes it looks at what was
// asked for, before anything is filled in.
type restriction struct {
	objects    Objects
	authorizer rights.Authorizer
}

// Mutate implements admission.Mutator.
func (r *restriction) Mutate(ctx context.Context, a *admission.Attributes) error {
	check := rights.Restriction{Objects: byName{r.objects, ctx}, Authorizer: r.authorizer}
	return check.Check(ctx, writeOf(a))
}

// writeOf is what is asked for as package rights looks at it.
func writeOf(a *admission.Attributes) *rights.Write {
	return &rights.Write{
		User: a.User, Operation: string(a.Operation), Resource: a.Kind.GroupVersionResource(), Subresource: a.Subresource,
		Namespace: a.Namespace, Name: a.Name, Object: a.Object, Old: a.Old,
	}
}

// signers is the admission plugin that asks for rights on the signers of certificates.
type signers struct{ rights.Signers }

// Validate implements admission.Validator.
func (s *signers) Validate(ctx context.Context, a *admission.Attributes) error {
	return s.Check(ctx, writeOf(a))
}

// devices is the admission plugin that keeps claims of devices to who may have them.
type devices struct {
	objects    Objects
	authorizer rights.Authorizer
}

// Validate implements admission.Validator.
func (d *devices) Validate(ctx context.Context, a *admission.Attributes) error {
	check := rights.Devices{Authorizer: d.authorizer, Labels: func(ctx context.Context, namespace string) (map[string]string, error) {
		ns, err := d.objects.Get(ctx, namespaceResource, "", namespace, false)
		if err != nil {
			return nil, err
		}
		return ns.GetLabels(), nil
	}}
	verb := strings.ToLower(string(a.Operation))
	if i := request.InfoFrom(ctx); i != nil {
		verb = i.Verb
	}
	return check.Check(ctx, writeOf(a), verb)
}

// ByKind implements admission.KindFinder.
func (o Objects) ByKind(k schema.GroupVersionKind) *kinds.Kind {
	if r := o.table().byKind(k); r != nil {
		return r.Kind
	}
	return nil
}

// byKind returns what serves a kind, nil if nothing does.
func (t *table) byKind(k schema.GroupVersionKind) *verbs.Resource {
	for _, r := range t.resources {
		if r.Kind.GroupVersionKind == k {
			return r
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

// TypeConverter implements policy.TypeConverters.
func (o Objects) TypeConverter(k schema.GroupVersionKind) managedfields.TypeConverter {
	r := o.table().byKind(k)
	if r == nil {
		return nil
	}
	p, ok := r.Patcher.(*patch.Patcher)
	if !ok {
		return nil
	}
	if c, err := p.Types(); err == nil {
		return c
	}
	return nil
}
