package admission

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Lookup reads objects for plugins, from caches: what it returns may be a moment old, and is shared.
type Lookup interface {
	// Get returns an object. A status error NotFound says that there is none; fresh asks the store.
	Get(ctx context.Context, resource schema.GroupResource, namespace, name string, fresh bool) (kinds.Object, error)
	// List returns the objects of a namespace, "" for all.
	List(ctx context.Context, resource schema.GroupResource, namespace string) ([]kinds.Object, error)
}

// isResource says whether a request is about a resource itself, or one of its parts.
func (a *Attributes) isResource(group, resource, subresource string) bool {
	return a.Kind.Group == group && a.Kind.Resource == resource && a.Subresource == subresource
}

// objectOf returns an object as a type, if it is one.
func objectOf[T metav1.Object](o any) (t T, ok bool) {
	t, ok = o.(T)
	return t, ok
}
