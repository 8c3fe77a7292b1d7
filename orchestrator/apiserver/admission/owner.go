package admission

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/rights"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// KindFinder finds kinds by their names.
type KindFinder interface {
	// ByKind returns a kind, nil if there is none.
	ByKind(k schema.GroupVersionKind) *kinds.Kind
}

// OwnerReferences lets only those change an object's owners who may delete the object, and only those block the deletion of
// an owner who may set its finalizers.
type OwnerReferences struct {
	Authorizer rights.Authorizer
	Kinds      KindFinder
}

// Validate checks what is new in an object's owner references.
func (p *OwnerReferences) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation != Create && a.Operation != Update || a.isResource("", "pods", "status") {
		return nil
	}
	refs, old, ok := ownerReferences(a.Object, a.Old)
	if !ok || equality.Semantic.DeepEqual(refs, old) {
		return nil
	}
	if a.Operation == Update {
		may := rights.Attributes{
			User: a.User, Verb: "delete", IsResource: true, Group: a.Kind.Group, Version: a.Kind.Version,
			Resource: a.Kind.Resource, Subresource: a.Subresource, Namespace: a.Namespace, Name: a.Name,
		}
		if d, reason, err := p.Authorizer.Authorize(ctx, may); d != rights.Allow {
			return Forbidden(a, fmt.Errorf("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, err)) //nolint:errorlint // its text is wanted
		}
	}
	blocking := newlyBlocking(refs, old)
	if len(blocking) == 0 {
		return nil
	}
	anything := rights.Attributes{
		User: a.User, Verb: "update", IsResource: true, Group: "*", Version: "*", Resource: "*", Subresource: "finalizers", Name: "*",
	}
	if d, _, _ := p.Authorizer.Authorize(ctx, anything); d == rights.Allow {
		return nil
	}
	for _, ref := range blocking {
		if err := p.mayBlock(ctx, a, ref); err != nil {
			return Forbidden(a, err)
		}
	}
	return nil
}

// mayBlock asks whether the user may set finalizers of an owner.
func (p *OwnerReferences) mayBlock(ctx context.Context, a *Attributes, ref metav1.OwnerReference) error {
	unknown := func(err error) error {
		return fmt.Errorf("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: %w", ref.APIVersion, ref.Kind, err)
	}
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return unknown(err)
	}
	k := p.Kinds.ByKind(gv.WithKind(ref.Kind))
	if k == nil {
		return unknown(&meta.NoKindMatchError{GroupKind: gv.WithKind(ref.Kind).GroupKind(), SearchedVersions: []string{gv.Version}})
	}
	may := rights.Attributes{
		User: a.User, Verb: "update", IsResource: true, Group: k.Group, Version: k.Version, Resource: k.Resource,
		Subresource: "finalizers", Name: ref.Name,
	}
	if k.Namespaced { // an owner is in the same namespace
		may.Namespace = a.Namespace
	}
	if d, reason, err := p.Authorizer.Authorize(ctx, may); d != rights.Allow {
		return fmt.Errorf("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %v", reason, err) //nolint:errorlint // its text is wanted
	}
	return nil
}

// ownerReferences returns those of an object and of the one before. Not every object has metadata.
func ownerReferences(o, old runtime.Object) (refs, was []metav1.OwnerReference, ok bool) {
	if o == nil {
		return nil, nil, false
	}
	m, err := meta.Accessor(o)
	if err != nil {
		return nil, nil, false
	}
	if old == nil {
		return m.GetOwnerReferences(), nil, true
	}
	before, err := meta.Accessor(old)
	if err != nil {
		return nil, nil, false
	}
	return m.GetOwnerReferences(), before.GetOwnerReferences(), true
}

// newlyBlocking are references that block the deletion of their owner, and did not before.
func newlyBlocking(refs, old []metav1.OwnerReference) (out []metav1.OwnerReference) {
	blocks := func(r metav1.OwnerReference) bool { return ptr.Deref(r.BlockOwnerDeletion, false) }
	for _, ref := range refs {
		was := slices.ContainsFunc(old, func(o metav1.OwnerReference) bool { return o.UID == ref.UID && blocks(o) })
		if blocks(ref) && !was {
			out = append(out, ref)
		}
	}
	return out
}
