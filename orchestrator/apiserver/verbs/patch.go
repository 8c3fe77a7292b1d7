package verbs

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Patch changes an object, or a subresource of it. Server-side apply creates what does not exist; created says so.
func (r *Resource) Patch(ctx context.Context, t *Target, kind types.PatchType, body []byte, force bool) (item *objectstore.Item, created bool, err error) {
	o := PatchOptions{Type: kind, Manager: t.Manager, Force: force, Validation: t.Validation, Subresource: t.Subresource, Now: r.Clock.Now()}
	item, err = r.change(ctx, t, func(current kinds.Object) (kinds.Object, error) {
		return r.patched(ctx, t, current, body, o)
	})
	if kind != types.ApplyPatchType || t.Subresource != "" || !apierrors.IsNotFound(err) {
		return item, false, err
	}
	empty := r.Kind.New()
	empty.GetObjectKind().SetGroupVersionKind(r.Kind.GroupVersionKind)
	empty.SetName(t.Name)
	if r.Kind.Namespaced { // a request about a namespace names that
		empty.SetNamespace(t.Namespace)
	}
	made, warnings, err := r.Patcher.Apply(ctx, empty, body, o)
	if err != nil {
		return nil, false, err
	}
	t.warnAll(warnings)
	if made.GetUID() != "" {
		return nil, false, apierrors.NewConflict(r.Kind.GroupResource(), t.Name, errUIDOfNew)
	}
	applied := *t
	applied.tracked = true
	item, err = r.Create(ctx, &applied, made)
	return item, true, err
}

func (r *Resource) patched(ctx context.Context, t *Target, current kinds.Object, body []byte, o PatchOptions) (kinds.Object, error) {
	changed, warnings, err := r.Patcher.Apply(ctx, current, body, o)
	if err != nil {
		return nil, err
	}
	t.warnAll(warnings)
	if err := nameMatches(changed, t.Name); err != nil {
		return nil, err
	}
	if err := namespaceMatches(r.Kind, changed, t.Namespace); err != nil {
		return nil, err
	}
	if err := r.sameVersion(changed, current); err != nil {
		return nil, err
	}
	r.applyDefaults(changed)
	changed = r.prepare(t, changed, current)
	if o.Type == types.ApplyPatchType {
		return changed, nil
	}
	return r.track(t, current, changed)
}

func (t *Target) warnAll(texts []string) {
	if t.Warn == nil {
		return
	}
	for _, w := range texts {
		t.Warn(w)
	}
}
