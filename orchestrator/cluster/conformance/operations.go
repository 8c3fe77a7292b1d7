package conformance

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// Object is an object of a kind.
type Object interface {
	runtime.Object
	metav1.Object
}

// API is client-go's client of a kind, whose lists are of type L.
type API[T Object, L runtime.Object] interface {
	Updater[T]
	Create(ctx context.Context, x T, o metav1.CreateOptions) (T, error)
	List(ctx context.Context, o metav1.ListOptions) (L, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
	Patch(ctx context.Context, name string, pt types.PatchType, data []byte, o metav1.PatchOptions, sub ...string) (T, error)
	Delete(ctx context.Context, name string, o metav1.DeleteOptions) error
	DeleteCollection(ctx context.Context, o metav1.DeleteOptions, l metav1.ListOptions) error
}

// Operations are the operations of a kind's API, as far as they are the same for every kind.
type Operations[T Object, L runtime.Object] struct {
	Resource schema.GroupVersionResource
	Kind     string
	// Client works in the test's namespace, if the kind has namespaces. Everywhere works in all namespaces, for kinds that have
	// some; otherwise it is nil.
	Client, Everywhere API[T, L]
	// Make makes the i-th of some objects that differ. Its name and labels are set by Run.
	Make func(i int) T
}

// operationsLabel marks the objects of a run.
const operationsLabel = "conformance-operations"

// selected selects the objects of a run.
func selected(e *Env) metav1.ListOptions {
	return metav1.ListOptions{LabelSelector: operationsLabel + "=" + e.NS}
}

// Run creates three objects, finds them by get, list and watch, patches and updates one, and deletes one and then all. With,
// if not nil, is called with the changed object before the deletions. In the end none is left.
func (o Operations[T, L]) Run(t *testing.T, e *Env, with func(x T)) {
	o.discovered(t, e)
	t.Cleanup(func() {
		_ = o.Client.DeleteCollection(context.Background(), metav1.DeleteOptions{}, selected(e)) // what a failure left behind
	})
	before, err := o.Client.List(e.Ctx, selected(e))
	require.NoError(t, err)
	var all []T
	for i := range 3 {
		all = append(all, o.create(t, e, i))
	}
	got, err := o.Client.Get(e.Ctx, all[0].GetName(), metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, all[0].GetUID(), got.GetUID())
	require.Equal(t, all[0].GetCreationTimestamp().Time, got.GetCreationTimestamp().Time)
	for _, c := range []API[T, L]{o.Client, o.Everywhere} {
		if c == nil {
			continue
		}
		require.Len(t, o.list(t, e, c), 3)
		since := selected(e)
		since.ResourceVersion = resourceVersion(t, before)
		w := Observe[T](t, e, c.Watch, since)
		for _, x := range all {
			// Controllers may change the first while the others are made.
			require.Equal(t, x.GetName(), w.Until(watch.Added, x.GetName()+" is added", nil).GetName())
		}
	}
	x := o.change(t, e, all[0])
	if with != nil {
		with(x)
	}
	o.delete(t, e, all)
}

// discovered finds the kind in the discovery documents.
func (o Operations[T, L]) discovered(t *testing.T, e *Env) {
	groups, err := e.Client.Discovery().ServerGroups()
	require.NoError(t, err)
	var versions []string
	for _, g := range groups.Groups {
		if g.Name == o.Resource.Group {
			for _, v := range g.Versions {
				versions = append(versions, v.GroupVersion)
			}
		}
	}
	require.Contains(t, versions, o.Resource.GroupVersion().String())
	l, err := e.Client.Discovery().ServerResourcesForGroupVersion(o.Resource.GroupVersion().String())
	require.NoError(t, err)
	for _, r := range l.APIResources {
		if r.Name == o.Resource.Resource {
			require.Equal(t, o.Kind, r.Kind)
			require.Equal(t, o.Everywhere != nil, r.Namespaced)
			require.Subset(t, []string(r.Verbs), []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"})
			return
		}
	}
	require.Fail(t, "not in discovery", "%s", o.Resource)
}

func (o Operations[T, L]) create(t *testing.T, e *Env, i int) T {
	x := o.Make(i)
	if x.GetName() == "" {
		x.SetGenerateName(e.NS + "-")
	}
	x.SetLabels(map[string]string{operationsLabel: e.NS})
	x, err := o.Client.Create(e.Ctx, x, metav1.CreateOptions{})
	require.NoError(t, err)
	Revision(t, x)
	require.NotEmpty(t, x.GetUID())
	return x
}

func (o Operations[T, L]) list(t *testing.T, e *Env, c API[T, L]) []runtime.Object {
	l, err := c.List(e.Ctx, selected(e))
	require.NoError(t, err)
	items, err := meta.ExtractList(l)
	require.NoError(t, err)
	return items
}

// change patches and updates an object, and sees both by watches.
func (o Operations[T, L]) change(t *testing.T, e *Env, x T) T {
	since := selected(e)
	since.ResourceVersion = x.GetResourceVersion()
	var watches []*Watch[T]
	for _, c := range []API[T, L]{o.Client, o.Everywhere} {
		if c != nil {
			watches = append(watches, Observe[T](t, e, c.Watch, since))
		}
	}
	patched, err := o.Client.Patch(e.Ctx, x.GetName(), types.MergePatchType, []byte(`{"metadata":{"annotations":{"patched":"true"}}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	require.Equal(t, "true", patched.GetAnnotations()["patched"])
	Newer(t, patched, x)
	updated := Update(t, e, o.Client, x.GetName(), func(x T) {
		a := x.GetAnnotations()
		a["updated"] = "true"
		x.SetAnnotations(a)
	})
	require.Equal(t, map[string]string{"patched": "true", "updated": "true"}, updated.GetAnnotations())
	Newer(t, updated, patched)
	for _, w := range watches {
		for _, a := range []string{"patched", "updated"} {
			w.Until(watch.Modified, "the annotation "+a, func(y T) bool { return y.GetUID() == x.GetUID() && y.GetAnnotations()[a] == "true" })
		}
	}
	return updated
}

// delete deletes the last object and then the collection. Objects that a controller holds back by a finalizer may go later.
func (o Operations[T, L]) delete(t *testing.T, e *Env, all []T) {
	name := all[len(all)-1].GetName()
	require.NoError(t, o.Client.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	Eventually(t, e, name+" is gone", func() (bool, error) {
		x, err := o.Client.Get(e.Ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		require.NoError(t, err)
		require.NotNil(t, x.GetDeletionTimestamp())
		require.NotEmpty(t, x.GetFinalizers())
		return false, nil
	})
	require.Len(t, o.list(t, e, o.Client), len(all)-1)
	require.NoError(t, o.Client.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, selected(e)))
	Eventually(t, e, "the collection is gone", func() (bool, error) { return len(o.list(t, e, o.Client)) == 0, nil })
}

func resourceVersion(t *testing.T, l runtime.Object) string {
	m, err := meta.ListAccessor(l)
	require.NoError(t, err)
	require.NotEmpty(t, m.GetResourceVersion())
	return m.GetResourceVersion()
}
