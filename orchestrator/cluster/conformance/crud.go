package conformance

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/utils/ptr"
)

// Patch is a change of an object.
type Patch struct {
	Type types.PatchType
	Data string // in JSON; of an apply patch all but what names the object
}

// CRUD creates, reads, updates, patches and deletes one object of a kind, and its status.
type CRUD[T Object] struct {
	Resource   schema.GroupVersionResource
	Kind       string
	Namespaced bool
	// Initial is what is created. Without a name it gets one.
	Initial T
	// Update changes it, and Status its status; without a status it is nil.
	Update, Status func(T)
	// Patches do what Update does, and StatusPatches what Status does.
	Patches, StatusPatches []Patch
}

// crud is a running CRUD.
type crud[T Object] struct {
	CRUD[T]
	t       *testing.T
	e       *Env
	client  dynamic.ResourceInterface
	initial *unstructured.Unstructured
	watches []*Watch[*unstructured.Unstructured]
}

// Run does it. Each patch is tried on an object of its own. What was written must be in what is read; there may be more.
func (c CRUD[T]) Run(t *testing.T, e *Env) {
	r := &crud[T]{CRUD: c, t: t, e: e}
	all := e.Dynamic(t).Resource(c.Resource)
	r.client = all
	if c.Namespaced {
		r.client = all.Namespace(e.NS)
	}
	r.initial = r.unstructured(c.Initial)
	if r.initial.GetName() == "" {
		r.initial.SetName("test-" + e.NS)
	}
	r.initial.SetLabels(map[string]string{operationsLabel: e.NS})
	r.discovered()
	t.Cleanup(func() { _ = r.client.Delete(context.Background(), r.initial.GetName(), metav1.DeleteOptions{}) }) // what a failure left behind
	l, err := all.List(e.Ctx, selected(e))
	require.NoError(t, err)
	require.Empty(t, l.Items)
	since := selected(e)
	since.ResourceVersion = l.GetResourceVersion()
	r.watches = append(r.watches, Observe[*unstructured.Unstructured](t, e, all.Watch, since))
	if c.Namespaced {
		r.watches = append(r.watches, Observe[*unstructured.Unstructured](t, e, r.client.Watch, since))
	}
	made := r.create()
	got, err := r.client.Get(e.Ctx, made.GetName(), metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, made.GetUID(), got.GetUID())
	updated := r.update(got)
	if c.Status != nil {
		r.updateStatus(updated)
	}
	for _, p := range c.Patches {
		r.delete()
		r.patch(r.create(), p, r.Update)
	}
	for _, p := range c.StatusPatches {
		r.delete()
		r.patch(r.update(r.create()), p, r.Status, "status")
	}
	for _, from := range []dynamic.ResourceInterface{all, r.client} {
		l, err := from.List(e.Ctx, selected(e))
		require.NoError(t, err)
		require.Len(t, l.Items, 1)
	}
	require.NoError(t, r.client.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, selected(e)))
	r.gone()
}

func (r *crud[T]) unstructured(o T) *unstructured.Unstructured {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	require.NoError(r.t, err)
	u := &unstructured.Unstructured{Object: m}
	u.SetGroupVersionKind(r.Resource.GroupVersion().WithKind(r.Kind))
	return u
}

// changed is an object after a change by code.
func (r *crud[T]) changed(u *unstructured.Unstructured, change func(T)) *unstructured.Unstructured {
	o := r.Initial.DeepCopyObject().(T)
	require.NoError(r.t, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o))
	change(o)
	return r.unstructured(o)
}

func (r *crud[T]) discovered() {
	l, err := r.e.Client.Discovery().ServerResourcesForGroupVersion(r.Resource.GroupVersion().String())
	require.NoError(r.t, err)
	found := map[string]bool{}
	for _, x := range l.APIResources {
		found[x.Name] = x.Kind == r.Kind && x.Namespaced == r.Namespaced
	}
	require.True(r.t, found[r.Resource.Resource], "%+v", l.APIResources)
	require.Equal(r.t, r.Status != nil, found[r.Resource.Resource+"/status"])
}

// happened sees an event of the object in all watches.
func (r *crud[T]) happened(typ watch.EventType, revision string) {
	for _, w := range r.watches {
		w.Until(typ, string(typ)+" at "+revision, func(u *unstructured.Unstructured) bool {
			return u.GetName() == r.initial.GetName() && (revision == "" || u.GetResourceVersion() == revision)
		})
	}
}

func (r *crud[T]) create() *unstructured.Unstructured {
	u, err := r.client.Create(r.e.Ctx, r.initial, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	require.NoError(r.t, err)
	r.contains(u, r.initial)
	r.happened(watch.Added, u.GetResourceVersion())
	return u
}

func (r *crud[T]) update(u *unstructured.Unstructured) *unstructured.Unstructured {
	want := r.changed(u, r.Update)
	out, err := r.client.Update(r.e.Ctx, want, metav1.UpdateOptions{FieldValidation: metav1.FieldValidationStrict})
	require.NoError(r.t, err)
	r.written(out, want, u)
	return out
}

func (r *crud[T]) updateStatus(u *unstructured.Unstructured) {
	want := r.changed(u, r.Status)
	out, err := r.client.Update(r.e.Ctx, want, metav1.UpdateOptions{}, "status")
	require.NoError(r.t, err)
	r.written(out, want, u)
	got, err := r.client.Get(r.e.Ctx, u.GetName(), metav1.GetOptions{}, "status")
	require.NoError(r.t, err)
	require.Equal(r.t, out, got)
}

// patch does to an object what change does.
func (r *crud[T]) patch(u *unstructured.Unstructured, p Patch, change func(T), sub ...string) {
	o, data := metav1.PatchOptions{FieldValidation: metav1.FieldValidationStrict}, []byte(p.Data)
	if p.Type == types.ApplyPatchType {
		o.FieldManager, o.Force = "conformance", ptr.To(true)
		apply := &unstructured.Unstructured{}
		require.NoError(r.t, json.Unmarshal(data, &apply.Object))
		apply.SetGroupVersionKind(u.GroupVersionKind())
		apply.SetName(u.GetName())
		var err error
		data, err = apply.MarshalJSON()
		require.NoError(r.t, err)
	}
	out, err := r.client.Patch(r.e.Ctx, u.GetName(), p.Type, data, o, sub...)
	require.NoError(r.t, err, "%s", data)
	r.written(out, r.changed(u, change), u)
}

// written checks the result of a change.
func (r *crud[T]) written(out, want, before *unstructured.Unstructured) {
	Newer(r.t, out, before)
	want = want.DeepCopy()
	for _, field := range []string{"resourceVersion", "generation", "managedFields"} {
		unstructured.RemoveNestedField(want.Object, "metadata", field)
	}
	r.contains(out, want)
	r.happened(watch.Modified, out.GetResourceVersion())
}

func (r *crud[T]) delete() {
	require.NoError(r.t, r.client.Delete(r.e.Ctx, r.initial.GetName(), metav1.DeleteOptions{}))
	r.gone()
}

func (r *crud[T]) gone() {
	Eventually(r.t, r.e, "it is gone", func() (bool, error) {
		_, err := r.client.Get(r.e.Ctx, r.initial.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	r.happened(watch.Deleted, "")
}

// contains checks that what is wanted is there.
func (r *crud[T]) contains(have, want *unstructured.Unstructured) {
	require.Equal(r.t, want.Object, common(have.Object, want.Object))
}

// common is what of a value another one has, too; what the other has and is empty is taken to be there.
func common(have, want any) any {
	switch w := want.(type) {
	case map[string]any:
		h, ok := have.(map[string]any)
		if !ok && (have != nil || len(w) > 0) {
			return have
		}
		out := make(map[string]any, len(w))
		for k, v := range w {
			if x, ok := h[k]; ok || !hollow(v) {
				out[k] = common(x, v)
			} else {
				out[k] = v
			}
		}
		return out
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(w) {
			return have
		}
		out := make([]any, len(w))
		for i := range w {
			out[i] = common(h[i], w[i])
		}
		return out
	}
	return have
}

// hollow says whether a value is none, or a map with no values in it.
func hollow(v any) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return v == nil
	}
	for _, x := range m {
		if !hollow(x) {
			return false
		}
	}
	return true
}
