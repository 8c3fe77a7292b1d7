package apiserver

import (
	"context"

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
