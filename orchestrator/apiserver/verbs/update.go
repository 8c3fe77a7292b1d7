package verbs

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

const modified = "the object has been modified; please apply your changes to the latest version and try again"

// errEmptied ends an update whose result has nothing left that keeps it from being removed.
var errEmptied = errors.New("nothing holds the object any more")

// errDryRun ends an update that is not to be done.
var errDryRun = errors.New("dry run")

// Update replaces an object, or the part of it that a subresource is. The object becomes the callee's. Created says that
// there was none.
func (r *Resource) Update(ctx context.Context, t *Target, o kinds.Object) (item *objectstore.Item, created bool, err error) {
	if err := namespaceMatches(r.Kind, o, t.Namespace); err != nil {
		return nil, false, err
	}
	if err := nameMatches(o, t.Name); err != nil {
		return nil, false, err
	}
	item, err = r.change(ctx, t, func(current kinds.Object) (kinds.Object, error) {
		changed := o.DeepCopyObject().(kinds.Object)
		if err := r.sameVersion(changed, current); err != nil {
			return nil, err
		}
		r.applyDefaults(changed)
		return r.track(t, current, r.prepare(t, changed, current))
	})
	if r.Kind.CreateOnUpdate && t.Subresource == "" && apierrors.IsNotFound(err) && o.GetResourceVersion() == "" {
		item, err = r.Create(ctx, t, o)
		return item, true, err
	}
	return item, false, err
}

// sameVersion checks that an update was made from the current object.
func (r *Resource) sameVersion(o, current kinds.Object) error {
	switch rv := o.GetResourceVersion(); {
	case rv == "" && !r.Kind.Unconditional:
		return invalid(r.Kind, o, field.ErrorList{field.Invalid(field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update")})
	case rv == "":
		o.SetResourceVersion(current.GetResourceVersion())
	case rv != current.GetResourceVersion():
		return apierrors.NewConflict(r.Kind.GroupResource(), current.GetName(), errors.New(modified))
	}
	if uid := o.GetUID(); uid != "" && uid != current.GetUID() {
		return apierrors.NewConflict(r.Kind.GroupResource(), current.GetName(),
			failedPrecondition("UID", string(uid), string(current.GetUID())))
	}
	return nil
}

// prepare gives a changed object what the request may not change.
func (r *Resource) prepare(t *Target, o, current kinds.Object) kinds.Object {
	if t.Subresource == "status" {
		return r.prepareStatus(o, current)
	}
	carryOver(o, current)
	if s := r.Kind.Subresource(t.Subresource); s != nil && s.Prepare != nil {
		s.Prepare(o, current)
		r.stamp(o, current)
		countGeneration(r.Kind, o, current)
		return o
	}
	copyPart(r.Kind.Status, o, current)
	if r.Kind.Update != nil {
		r.Kind.Update(o, current)
	}
	countGeneration(r.Kind, o, current)
	return o
}

// prepareStatus gives an object whose status was changed all but that.
func (r *Resource) prepareStatus(o, current kinds.Object) kinds.Object {
	carryOver(o, current)
	copyPart(r.Kind.Spec, o, current)
	if r.Kind.UpdateStatus != nil {
		r.Kind.UpdateStatus(o, current)
	}
	r.stamp(o, current)
	return o
}

// stamp gives the time to what has changed in an object.
func (r *Resource) stamp(o, current kinds.Object) {
	if r.Kind.Stamp != nil {
		r.Kind.Stamp(o, current, metav1.Time{Time: r.Clock.Now().Truncate(time.Second)})
	}
}

// change runs make on the current object until its result is stored, or removes the object if nothing holds it any more.
func (r *Resource) change(ctx context.Context, t *Target, make func(current kinds.Object) (kinds.Object, error)) (*objectstore.Item, error) {
	for {
		var from *objectstore.Item
		var last kinds.Object
		settle := func(bool) {}
		item, err := r.Objects.Update(ctx, t.Namespace, t.Name, func(current *objectstore.Item) (kinds.Object, error) {
			from = current
			o, err := make(current.Object)
			if err != nil {
				return nil, err
			}
			settle(false) // the attempt before lost a race
			last, settle, err = r.admitted(ctx, t, o, current.Object)
			return last, err
		})
		settle(err == nil)
		switch {
		case errors.Is(err, errDryRun):
			return objectstore.NewItem(last, from.Revision), nil
		case !errors.Is(err, errEmptied):
			return item, err
		case t.DryRun:
			return objectstore.NewItem(last, from.Revision), nil
		}
		item, err = r.remove(ctx, t, from)
		if errors.Is(err, errRaced) {
			continue
		}
		return item, err
	}
}

// errRaced: somebody else was faster.
var errRaced = errors.New("the object has changed meanwhile")

// admitted takes a changed object through admission and validation. With errEmptied and errDryRun it returns it, too.
func (r *Resource) admitted(ctx context.Context, t *Target, o, current kinds.Object) (_ kinds.Object, settle func(bool), err error) {
	settle = func(bool) {}
	if o, err = r.mutate(ctx, t, admission.Update, o, current); err != nil {
		return nil, settle, err
	}
	if settle, err = r.reserve(ctx, t, o, current); err != nil {
		return nil, func(bool) {}, err
	}
	if err := validateChange(r.Kind, o, current, t.Subresource); err != nil {
		return nil, settle, err
	}
	r.warn(t, o, current)
	if err := r.Admission.Validate(ctx, r.attributes(t, admission.Update, o, current)); err != nil {
		return nil, settle, err
	}
	switch {
	case emptied(r.Kind, o, current):
		return o, settle, errEmptied
	case t.DryRun:
		return o, settle, errDryRun
	}
	return o, settle, nil
}

// emptied says that an object which is being deleted has lost what held it: its finalizers, and its time.
func emptied(k *kinds.Kind, o, current kinds.Object) bool {
	if k.Held != nil && k.Held(o) {
		return false
	}
	return current.GetDeletionTimestamp() != nil && len(o.GetFinalizers()) == 0 &&
		(o.GetDeletionGracePeriodSeconds() == nil || *o.GetDeletionGracePeriodSeconds() == 0)
}

// Change changes an object by code: for subresources that are objects of their own. What make returns gets what a request may
// not change, and is admitted, validated and stored.
func (r *Resource) Change(ctx context.Context, t *Target, make func(current kinds.Object) (kinds.Object, error)) (*objectstore.Item, error) {
	return r.change(ctx, t, func(current kinds.Object) (kinds.Object, error) {
		o, err := make(current)
		if err != nil {
			return nil, err
		}
		countGeneration(r.Kind, o, current)
		return r.track(t, current, o)
	})
}
