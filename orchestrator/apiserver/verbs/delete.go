package verbs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/apiserver/admission"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

var errUIDOfNew = errors.New("uid mismatch: the provided object specified a uid, but no existing object was found")

// errGone ends the marking of an object that can be removed at once.
var errGone = errors.New("nothing holds the object")

// Delete removes an object, or marks it if it has time left or finalizers. Removed says which.
func (r *Resource) Delete(ctx context.Context, t *Target, o *metav1.DeleteOptions) (item *objectstore.Item, removed bool, err error) {
	if err := checkDeleteOptions(o); err != nil {
		return nil, false, err
	}
	for {
		item, removed, err = r.delete(ctx, t, o)
		if !errors.Is(err, errRaced) {
			return item, removed, err
		}
	}
}

func (r *Resource) delete(ctx context.Context, t *Target, o *metav1.DeleteOptions) (*objectstore.Item, bool, error) {
	var from *objectstore.Item
	var last kinds.Object
	item, err := r.Objects.Update(ctx, t.Namespace, t.Name, func(current *objectstore.Item) (kinds.Object, error) {
		from = current
		if err := r.Preconditions(current.Object, o.Preconditions); err != nil {
			return nil, err
		}
		if err := r.admitDelete(ctx, t, current.Object); err != nil {
			return nil, err
		}
		last = current.Object.DeepCopyObject().(kinds.Object)
		switch holds := r.mark(last, o); {
		case !holds:
			return nil, errGone
		case t.DryRun:
			return nil, errDryRun
		}
		return last, nil
	})
	switch {
	case errors.Is(err, errDryRun):
		return objectstore.NewItem(last, from.Revision), false, nil
	case errors.Is(err, errGone) && t.DryRun:
		return from, true, nil
	case !errors.Is(err, errGone):
		return item, false, err
	}
	item, err = r.remove(ctx, t, from)
	return item, true, err
}

// admitDelete asks all plugins: mutating ones have nothing to change, but may refuse.
func (r *Resource) admitDelete(ctx context.Context, t *Target, current kinds.Object) error {
	if err := r.Admission.Mutate(ctx, r.attributes(t, admission.Delete, nil, current)); err != nil {
		return err
	}
	return r.Admission.Validate(ctx, r.attributes(t, admission.Delete, nil, current))
}

func checkDeleteOptions(o *metav1.DeleteOptions) error {
	switch {
	case o.PropagationPolicy != nil && o.OrphanDependents != nil:
		return apierrors.NewBadRequest("orphanDependents and deletionPropagation cannot be both set")
	case o.PropagationPolicy == nil:
		return nil
	}
	switch p := *o.PropagationPolicy; p {
	case metav1.DeletePropagationForeground, metav1.DeletePropagationBackground, metav1.DeletePropagationOrphan:
		return nil
	default:
		return apierrors.NewBadRequest(fmt.Sprintf("invalid propagation policy %q", p))
	}
}

// Preconditions is a conflict if an object is not the one that a deletion is for.
func (r *Resource) Preconditions(o kinds.Object, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != o.GetUID() {
		return apierrors.NewConflict(r.Kind.GroupResource(), o.GetName(),
			failedPrecondition("UID", string(*p.UID), string(o.GetUID())))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != o.GetResourceVersion() {
		return apierrors.NewConflict(r.Kind.GroupResource(), o.GetName(),
			failedPrecondition("ResourceVersion", *p.ResourceVersion, o.GetResourceVersion()))
	}
	return nil
}

// failedPrecondition has the words that clients look for.
func failedPrecondition(what, want, have string) error {
	return errors.New("Precondition failed: " + what + " in precondition: " + want + ", " + what + " in object meta: " + have)
}

// mark makes an object one that is being deleted, and says whether anything holds it.
func (r *Resource) mark(o kinds.Object, opts *metav1.DeleteOptions) bool {
	if r.Kind.Delete != nil && o.GetDeletionTimestamp() == nil {
		r.Kind.Delete(o)
	}
	o.SetFinalizers(finalizers(r.Kind, o, opts))
	grace := int64(0)
	if r.Kind.Grace != nil {
		if g := r.Kind.Grace(o, opts.GracePeriodSeconds); g != nil {
			grace = max(0, *g)
		}
	}
	if len(o.GetFinalizers()) == 0 && grace == 0 && (r.Kind.Held == nil || !r.Kind.Held(o)) {
		return false
	}
	if was := o.GetDeletionTimestamp(); was != nil {
		// It ends sooner if somebody wants so, never later.
		left := ptr.Deref(o.GetDeletionGracePeriodSeconds(), 0)
		if opts.GracePeriodSeconds == nil && r.Kind.Grace != nil || grace >= left {
			return true
		}
		begun := was.Add(-time.Duration(left) * time.Second)
		o.SetDeletionTimestamp(&metav1.Time{Time: begun.Add(time.Duration(grace) * time.Second)})
	} else {
		now := r.now()
		o.SetDeletionTimestamp(&metav1.Time{Time: now.Add(time.Duration(grace) * time.Second).Truncate(time.Second)})
		if r.Kind.Generation {
			o.SetGeneration(o.GetGeneration() + 1)
		}
	}
	o.SetDeletionGracePeriodSeconds(&grace)
	return true
}

// finalizers are those of an object after a request to delete it said what becomes of its dependents.
func finalizers(k *kinds.Kind, o kinds.Object, opts *metav1.DeleteOptions) []string {
	orphan, foreground := k.Orphan, false
	have := o.GetFinalizers()
	switch {
	case opts.OrphanDependents != nil:
		orphan = *opts.OrphanDependents
	case opts.PropagationPolicy != nil:
		orphan = *opts.PropagationPolicy == metav1.DeletePropagationOrphan
		foreground = *opts.PropagationPolicy == metav1.DeletePropagationForeground
	case slices.Contains(have, metav1.FinalizerOrphanDependents):
		orphan = true
	case slices.Contains(have, metav1.FinalizerDeleteDependents):
		orphan, foreground = false, true
	}
	var out []string
	for _, f := range have {
		if f != metav1.FinalizerOrphanDependents && f != metav1.FinalizerDeleteDependents {
			out = append(out, f)
		}
	}
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// DeleteCollection deletes all objects that a query finds, and returns them.
func (r *Resource) DeleteCollection(ctx context.Context, t *Target, q objectstore.ListQuery, o *metav1.DeleteOptions) (*objectstore.Page, error) {
	page, err := r.Objects.List(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, item := range page.Items {
		one := *t
		one.Namespace, one.Name = item.Object.GetNamespace(), item.Object.GetName()
		if _, _, err := r.Delete(ctx, &one, o.DeepCopy()); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	return page, nil
}
