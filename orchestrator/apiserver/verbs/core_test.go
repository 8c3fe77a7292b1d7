package verbs

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func builtin(t *testing.T, kind string) *kinds.Kind {
	s, err := kinds.NewSet(kinds.Builtin()...)
	require.NoError(t, err)
	return s.ByKind(corev1.SchemeGroupVersion.WithKind(kind))
}

// TestNamespace takes a namespace through its life: it is held until nothing is left in it.
func TestNamespace(t *testing.T) {
	r := start(t, builtin(t, "Namespace"))
	item, err := r.Create(t.Context(), &Target{}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "n-"}})
	require.NoError(t, err)
	o := item.Object.(*corev1.Namespace)
	require.Equal(t, map[string]string{"kubernetes.io/metadata.name": o.Name}, o.Labels)
	require.Equal(t, []corev1.FinalizerName{"kubernetes"}, o.Spec.Finalizers)
	require.Equal(t, corev1.NamespaceActive, o.Status.Phase)

	change := o.DeepCopy()
	change.Labels, change.Spec.Finalizers = nil, nil
	item, _, err = r.Update(t.Context(), &Target{Name: o.Name}, change)
	require.NoError(t, err)
	require.Equal(t, o.Labels, item.Object.GetLabels())
	require.Equal(t, o.Spec, item.Object.(*corev1.Namespace).Spec)

	item, removed, err := r.Delete(t.Context(), &Target{Name: o.Name}, &metav1.DeleteOptions{})
	require.NoError(t, err)
	require.False(t, removed)
	require.Equal(t, corev1.NamespaceTerminating, item.Object.(*corev1.Namespace).Status.Phase)

	change = item.Object.(*corev1.Namespace).DeepCopy()
	change.Spec.Finalizers = []corev1.FinalizerName{"kubernetes", "mine"}
	_, _, err = r.Update(t.Context(), &Target{Name: o.Name, Subresource: "finalize"}, change)
	require.ErrorContains(t, err, `spec.finalizers[1]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified`)
	change.Spec.Finalizers = nil
	_, _, err = r.Update(t.Context(), &Target{Name: o.Name, Subresource: "finalize"}, change)
	require.NoError(t, err)
	_, err = r.Get(t.Context(), "", o.Name, "")
	require.True(t, apierrors.IsNotFound(err), "%v", err)
}

// TestObjectsInNoNamespace applies a namespace, as requests about one do: they name it twice. A namespace in the body of an object
// that is in none is ignored.
func TestObjectsInNoNamespace(t *testing.T) {
	r := start(t, builtin(t, "Namespace"))
	for _, body := range []string{`{}`, `{"metadata":{"namespace":"other"}}`} {
		item, _, err := r.Patch(t.Context(), &Target{Namespace: "a", Name: "a"}, types.ApplyPatchType, []byte(body), false)
		require.NoError(t, err, body)
		require.Empty(t, item.Object.GetNamespace())
	}
	item, err := r.Create(t.Context(), &Target{}, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "b", Namespace: "other"}})
	require.NoError(t, err)
	require.Empty(t, item.Object.GetNamespace())
}

// TestStatusAtCreation registers a node as its agent does: with its status.
func TestStatusAtCreation(t *testing.T) {
	r := start(t, builtin(t, "Node"))
	size := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")}
	item, err := r.Create(t.Context(), &Target{}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Capacity: size}})
	require.NoError(t, err)
	require.Equal(t, "4", item.Object.(*corev1.Node).Status.Allocatable.Cpu().String())
}
