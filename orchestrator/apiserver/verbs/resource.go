package verbs

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Resource is the objects of a kind, and what is needed to serve them.
type Resource struct {
	Kind      *kinds.Kind
	Objects   *objectstore.Collection
	Patcher   Patcher
	Admission *admission.Chain
	Clock     clock.Clock
	Reserver  Reserver // nil: objects of the kind take nothing
}

// Reserver reserves what objects of a kind take beside their own place in the store: the addresses of services.
type Reserver interface {
	// Reserve takes what an object needs and does not have, which it changes to say so. old is nil for a new one. Settle must
	// be called: with true when the object was stored, otherwise what was taken is given back.
	Reserve(ctx context.Context, o, old kinds.Object, dryRun bool) (settle func(stored bool), err error)
	// Release gives back what an object had that is gone.
	Release(ctx context.Context, o kinds.Object)
}

// reserve is Reserve, if there is a Reserver.
func (r *Resource) reserve(ctx context.Context, t *Target, o, old kinds.Object) (settle func(stored bool), err error) {
	if r.Reserver == nil || t.Subresource != "" {
		return func(bool) {}, nil
	}
	return r.Reserver.Reserve(ctx, o, old, t.DryRun)
}

// remove removes an object, and what it had taken.
func (r *Resource) remove(ctx context.Context, t *Target, from *objectstore.Item) (*objectstore.Item, error) {
	item, err := r.Objects.Delete(ctx, t.Namespace, t.Name, func(current *objectstore.Item) error {
		if current.Revision != from.Revision {
			return errRaced
		}
		return nil
	})
	if err == nil && r.Reserver != nil {
		r.Reserver.Release(ctx, item.Object)
	}
	return item, err
}

// Patcher applies patches to objects of a kind, and notes who manages which of their fields. It never changes what it is given.
type Patcher interface {
	// Apply returns a patched object. Warnings are about the patch's fields.
	Apply(ctx context.Context, current kinds.Object, body []byte, o PatchOptions) (changed kinds.Object, warnings []string, err error)
	// Track returns an object with the fields noted that differ from those of the current one, which is nil for a new one.
	Track(current, changed kinds.Object, o PatchOptions) (kinds.Object, error)
}

// PatchOptions say how a patch is meant.
type PatchOptions struct {
	Type        types.PatchType // "" for Track
	Manager     string          // of fields
	Force       bool            // take fields from other managers
	Validation  string          // of unknown fields: "Ignore", "Warn", "Strict"
	Subresource string
	Now         time.Time
}

// Target says which object a request is about, and how it is to be done.
type Target struct {
	Namespace   string
	Name        string // "" for a creation
	Subresource string // "", "status" or "scale"
	Manager     string // of fields
	Validation  string // of unknown fields: "Ignore", "Warn", "Strict"
	DryRun      bool
	User        *request.User
	Options     runtime.Object // as they came
	Warn        func(text string)
	Annotate    func(key, value string)

	tracked bool // it is noted who set which field
}

func (r *Resource) attributes(t *Target, op admission.Operation, o, old kinds.Object) *admission.Attributes {
	a := &admission.Attributes{
		Operation: op, Kind: r.Kind, ObjectKind: r.Kind.GroupVersionKind, Subresource: t.Subresource, Namespace: t.Namespace, Name: t.Name,
		Options: t.Options, DryRun: t.DryRun, User: t.User, Warn: t.Warn, Annotate: t.Annotate,
	}
	if o != nil {
		a.Object = o
	}
	if old != nil {
		a.Old = old
	}
	return a
}

// mutate runs the mutating admission over an object and returns what came of it, with defaults.
func (r *Resource) mutate(ctx context.Context, t *Target, op admission.Operation, o, old kinds.Object) (kinds.Object, error) {
	a := r.attributes(t, op, o, old)
	if err := r.Admission.Mutate(ctx, a); err != nil {
		return nil, err
	}
	o, ok := a.Object.(kinds.Object)
	if !ok {
		return nil, apierrors.NewInternalError(errNotAnObject)
	}
	r.applyDefaults(o)
	return o, nil
}

func (r *Resource) applyDefaults(o kinds.Object) {
	if r.Kind.Default != nil {
		r.Kind.Default(o)
	}
}

func (r *Resource) warn(t *Target, o, old kinds.Object) {
	if r.Kind.Warnings == nil || t.Warn == nil || t.Subresource == "status" {
		return
	}
	for _, w := range r.Kind.Warnings(o, old) {
		t.Warn(w)
	}
}

// Get returns an object.
func (r *Resource) Get(ctx context.Context, namespace, name, resourceVersion string) (*objectstore.Item, error) {
	return r.Objects.Get(ctx, namespace, name, resourceVersion)
}

// List returns a page of objects.
func (r *Resource) List(ctx context.Context, q objectstore.ListQuery) (*objectstore.Page, error) {
	return r.Objects.List(ctx, q)
}

// Watch follows changes.
func (r *Resource) Watch(ctx context.Context, q objectstore.WatchQuery) (*objectstore.Stream, error) {
	return r.Objects.Watch(ctx, q)
}

// track notes who changed what.
func (r *Resource) track(t *Target, current, changed kinds.Object) (kinds.Object, error) {
	return r.Patcher.Track(current, changed, PatchOptions{Manager: t.Manager, Subresource: t.Subresource, Now: r.Clock.Now()})
}

func (r *Resource) now() metav1.Time { return metav1.Time{Time: r.Clock.Now()} }
