package conformance

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
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
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

// Object is an object of a kind.
type Object interface {
	runtime.Object
	metav1.Object
}

// Patch is a change of an object.
type Patch struct {
	Type types.PatchType
	Data string // in JSON; of an apply patch all but what names the object
}

// Operations are the operations of a kind's API, as far as they are the same for every kind.
type Operations[T Object] struct {
	Resource   schema.GroupVersionResource
	Kind       string
	Namespaced bool
	// Make makes the i-th of some objects that differ. Without a name it gets one; its labels are set by Run.
	Make func(i int) T
	// Update changes an object, and Patches do the same. Without them a label and an annotation are set.
	Update  func(T)
	Patches []Patch
	// Status changes an object's status, and StatusPatches do the same; nil: the kind has no status, or With looks at it.
	Status        func(T)
	StatusPatches []Patch
	// With, if not nil, is called with an object that was changed, before all are deleted.
	With func(x T)
}

// operationsLabel marks the objects of a run.
const operationsLabel = "conformance-operations"

// selected selects the objects of a run.
func selected(e *Env) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: operationsLabel + "=" + e.NS}
}

// operations are running Operations.
type operations[T Object] struct {
	Operations[T]
	t       *testing.T
	e       *Env
	client  dynamic.ResourceInterface
	clients []dynamic.ResourceInterface // the same, and of a kind with namespaces that of all of them
	watches []*Watch[*unstructured.Unstructured]
}

// Run creates three objects, finds them by get, list and watch, updates one and its status, tries each patch on an object of
// its own, and deletes one and then all. What was written must be in what is read; there may be more. In the end none is left.
func (o Operations[T]) Run(t *testing.T, e *Env) {
	if o.Update == nil {
		o.Update = func(x T) {
			x.SetLabels(map[string]string{operationsLabel: e.NS, "changed": "true"})
			x.SetAnnotations(map[string]string{"changed": "true"})
		}
		o.Patches = []Patch{{Type: types.MergePatchType, Data: `{"metadata":{"labels":{"changed":"true"},"annotations":{"changed":"true"}}}`}}
	}
	r := &operations[T]{Operations: o, t: t, e: e}
	all := e.Dynamic(t).Resource(o.Resource)
	r.client = all
	r.clients = []dynamic.ResourceInterface{all}
	if o.Namespaced {
		r.client = all.Namespace(e.NS)
		r.clients = append(r.clients, r.client)
	}
	r.discovered()
	t.Cleanup(func() {
		_ = r.client.DeleteCollection(e.Outlive().Ctx, metav1.DeleteOptions{}, selected(e)) // what a failure left behind
	})
	since := selected(e)
	since.ResourceVersion = r.listed(0)
	for _, c := range r.clients {
		r.watches = append(r.watches, Observe[*unstructured.Unstructured](t, e, c.Watch, since))
	}
	var made []*unstructured.Unstructured
	for i := range 3 {
		made = append(made, r.create(i))
	}
	_, err := r.client.Create(e.Ctx, r.initial(0), metav1.CreateOptions{})
	require.True(t, apierrors.IsAlreadyExists(err), "%v", err)
	r.listed(3)
	r.change(made[0])
	require.NoError(t, r.client.Delete(e.Ctx, made[2].GetName(), metav1.DeleteOptions{}))
	r.gone(made[2])
	r.listed(2)
	require.NoError(t, r.client.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, selected(e)))
	for _, u := range made[:2] {
		r.gone(u)
	}
	r.listed(0)
}

// change changes the first object in every way.
func (r *operations[T]) change(first *unstructured.Unstructured) {
	got, err := r.client.Get(r.e.Ctx, first.GetName(), metav1.GetOptions{})
	require.NoError(r.t, err)
	require.Equal(r.t, first.GetUID(), got.GetUID())
	require.Equal(r.t, first.GetCreationTimestamp(), got.GetCreationTimestamp())
	last := r.update(got, r.Update)
	if r.Status != nil {
		last = r.update(last, r.Status, "status")
		got, err := r.client.Get(r.e.Ctx, first.GetName(), metav1.GetOptions{}, "status")
		require.NoError(r.t, err)
		r.contains(got, last)
	}
	for _, p := range r.Patches {
		last = r.patch(r.again(), p, r.Update)
	}
	for _, p := range r.StatusPatches {
		last = r.patch(r.update(r.again(), r.Update), p, r.Status, "status")
	}
	if r.With != nil {
		r.With(r.typed(last))
	}
}

// again deletes the first object and makes it anew.
func (r *operations[T]) again() *unstructured.Unstructured {
	u := r.initial(0)
	require.NoError(r.t, r.client.Delete(r.e.Ctx, u.GetName(), metav1.DeleteOptions{}))
	r.gone(u)
	return r.create(0)
}

// listed requires that there are so many objects, and returns the resource version of the list.
func (r *operations[T]) listed(count int) (revision string) {
	for _, c := range r.clients {
		l, err := c.List(r.e.Ctx, selected(r.e))
		require.NoError(r.t, err)
		require.Len(r.t, l.Items, count)
		revision = l.GetResourceVersion()
	}
	return revision
}

func (r *operations[T]) initial(i int) *unstructured.Unstructured {
	u := r.unstructured(r.Make(i))
	if u.GetName() == "" {
		u.SetName(fmt.Sprintf("%s-%d", r.e.NS, i))
	}
	u.SetLabels(map[string]string{operationsLabel: r.e.NS})
	return u
}

func (r *operations[T]) unstructured(o T) *unstructured.Unstructured {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	require.NoError(r.t, err)
	u := &unstructured.Unstructured{Object: m}
	u.SetGroupVersionKind(r.Resource.GroupVersion().WithKind(r.Kind))
	return u
}

func (r *operations[T]) typed(u *unstructured.Unstructured) T {
	o := reflect.New(reflect.TypeFor[T]().Elem()).Interface().(T)
	require.NoError(r.t, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, o))
	return o
}

// changed is an object after a change by code.
func (r *operations[T]) changed(u *unstructured.Unstructured, change func(T)) *unstructured.Unstructured {
	o := r.typed(u)
	change(o)
	return r.unstructured(o)
}

// discovered finds the kind in the discovery documents.
func (r *operations[T]) discovered() {
	groups, err := r.e.Client.Discovery().ServerGroups()
	require.NoError(r.t, err)
	require.True(r.t, slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool {
		return g.Name == r.Resource.Group && slices.ContainsFunc(g.Versions, func(v metav1.GroupVersionForDiscovery) bool {
			return v.Version == r.Resource.Version
		})
	}))
	l, err := r.e.Client.Discovery().ServerResourcesForGroupVersion(r.Resource.GroupVersion().String())
	require.NoError(r.t, err)
	found := map[string]metav1.APIResource{}
	for _, x := range l.APIResources {
		found[x.Name] = x
	}
	have := found[r.Resource.Resource]
	require.Equal(r.t, r.Kind, have.Kind)
	require.Equal(r.t, r.Namespaced, have.Namespaced)
	require.Subset(r.t, []string(have.Verbs), []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"})
	if _, status := found[r.Resource.Resource+"/status"]; r.With == nil {
		require.Equal(r.t, r.Status != nil, status)
	}
}

// happened sees an event of an object in all watches.
func (r *operations[T]) happened(typ watch.EventType, name, revision string) {
	for _, w := range r.watches {
		w.Until(typ, fmt.Sprintf("%s of %s at %s", typ, name, revision), func(u *unstructured.Unstructured) bool {
			return u.GetName() == name && (revision == "" || u.GetResourceVersion() == revision)
		})
	}
}

func (r *operations[T]) create(i int) *unstructured.Unstructured {
	want := r.initial(i)
	u, err := r.client.Create(r.e.Ctx, want, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	require.NoError(r.t, err)
	require.NotEmpty(r.t, u.GetUID())
	r.contains(u, want)
	r.happened(watch.Added, u.GetName(), u.GetResourceVersion())
	return u
}

// update changes an object by code, again when a controller has changed it at the same time.
func (r *operations[T]) update(u *unstructured.Unstructured, change func(T), sub ...string) (out *unstructured.Unstructured) {
	var want *unstructured.Unstructured
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		if want != nil {
			if u, err = r.client.Get(r.e.Ctx, u.GetName(), metav1.GetOptions{}); err != nil {
				return err
			}
		}
		want = r.changed(u, change)
		out, err = r.client.Update(r.e.Ctx, want, metav1.UpdateOptions{FieldValidation: metav1.FieldValidationStrict}, sub...)
		return err
	})
	require.NoError(r.t, err)
	r.written(out, want, u, sub...)
	return out
}

// patch does to an object what change does.
func (r *operations[T]) patch(u *unstructured.Unstructured, p Patch, change func(T), sub ...string) *unstructured.Unstructured {
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
	r.written(out, r.changed(u, change), u, sub...)
	return out
}

// written checks the result of a change. Of the status it does so if that was written: controllers write it, too.
func (r *operations[T]) written(out, want, before *unstructured.Unstructured, sub ...string) {
	if len(sub) == 0 {
		want = want.DeepCopy()
		delete(want.Object, "status")
	}
	Newer(r.t, out, before)
	r.contains(out, want)
	r.happened(watch.Modified, out.GetName(), out.GetResourceVersion())
}

// gone waits until an object that was deleted is gone: somebody may hold it back for a while.
func (r *operations[T]) gone(u *unstructured.Unstructured) {
	Eventually(r.t, r.e, u.GetName()+" is gone", func() (bool, error) {
		_, err := r.client.Get(r.e.Ctx, u.GetName(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
	r.happened(watch.Deleted, u.GetName(), "")
}

// contains checks that what is wanted is there, but for what every change changes.
func (r *operations[T]) contains(have, want *unstructured.Unstructured) {
	want = want.DeepCopy()
	for _, field := range []string{"resourceVersion", "generation", "managedFields"} {
		unstructured.RemoveNestedField(want.Object, "metadata", field)
	}
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
