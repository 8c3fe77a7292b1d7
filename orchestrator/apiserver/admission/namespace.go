package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// NamespaceLifecycle keeps objects out of namespaces that do not exist or are being deleted, and some namespaces from being
// deleted at all.
type NamespaceLifecycle struct {
	Lookup Lookup
	// Immortal namespaces are never deleted.
	Immortal []string
}

var namespacesResource = schema.GroupResource{Resource: "namespaces"}

// Mutate checks: before any other plugin does something about a namespace that is not there.
func (p *NamespaceLifecycle) Mutate(ctx context.Context, a *Attributes) error { return p.check(ctx, a) }

// Validate checks deletions, which no plugin mutates.
func (p *NamespaceLifecycle) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation != Delete {
		return nil
	}
	return p.check(ctx, a)
}

func (p *NamespaceLifecycle) check(ctx context.Context, a *Attributes) error {
	if a.Kind.Resource == "namespaces" && a.Kind.Group == "" {
		if a.Operation == Delete && slices.Contains(p.Immortal, a.Name) {
			return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, errors.New("this namespace may not be deleted"))
		}
		return nil
	}
	if a.Operation != Create || a.Namespace == "" || a.Kind.Group == "authorization.k8s.io" {
		return nil
	}
	o, err := p.Lookup.Get(ctx, namespacesResource, "", a.Namespace, false)
	if apierrors.IsNotFound(err) { // it may just have been made
		o, err = p.Lookup.Get(ctx, namespacesResource, "", a.Namespace, true)
	}
	if err != nil {
		return err
	}
	ns, ok := objectOf[*corev1.Namespace](o)
	if !ok || ns.Status.Phase != corev1.NamespaceTerminating && ns.DeletionTimestamp == nil {
		return nil
	}
	denied := apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("unable to create new content in namespace %s because it is being terminated", a.Namespace))
	denied.ErrStatus.Details.Causes = append(denied.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: corev1.NamespaceTerminatingCause, Message: fmt.Sprintf("namespace %s is being terminated", a.Namespace), Field: "metadata.namespace",
	})
	return denied
}
