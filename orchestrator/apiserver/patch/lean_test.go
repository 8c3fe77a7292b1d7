package patch

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/keelson-io/keelson/orchestrator/apiserver/verbs"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

func kindOf(t testing.TB, name string) *kinds.Kind {
	for _, k := range kinds.Builtin() {
		if k.Kind == name && k.Group == "" {
			return k
		}
	}
	t.Fatal("no such kind: " + name)
	return nil
}

func pod(image string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", Labels: map[string]string{"a": "b"}, OwnerReferences: []metav1.OwnerReference{{UID: "u", Name: "o"}}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "c", Image: image, Env: []corev1.EnvVar{{Name: "X", Value: "1"}, {Name: "X", Value: "2"}}, // duplicates are allowed
				Ports: []corev1.ContainerPort{{ContainerPort: 80, Protocol: "TCP"}, {ContainerPort: 80, Protocol: "UDP"}},
			}},
			Tolerations: []corev1.Toleration{{Key: "k"}},
		},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: "Ready", Status: "True", LastTransitionTime: metav1.NewTime(time.Unix(1, 0))}}},
	}
	p.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	return p
}

// history makes and changes a pod as several managers do, and tells who manages what in the end.
func history(t testing.TB, k *kinds.Kind, types func() (managedfields.TypeConverter, error), wrap func(*Patcher)) []metav1.ManagedFieldsEntry {
	p := New(k, types)
	wrap(p)
	at := time.Unix(100, 0)
	one, err := p.Track(nil, pod("one"), verbs.PatchOptions{Manager: "maker", Now: at})
	require.NoError(t, err)
	next := pod("two")
	next.Labels["c"], next.Spec.Tolerations = "d", nil
	two, err := p.Track(one, next, verbs.PatchOptions{Manager: "changer", Now: at})
	require.NoError(t, err)
	changed := two.DeepCopyObject().(*corev1.Pod)
	changed.Status.Conditions[0].Status = "False"
	changed.Status.PodIP = "10.0.0.1"
	three, err := p.Track(two, changed, verbs.PatchOptions{Manager: "kubelet", Subresource: "status", Now: at})
	require.NoError(t, err)
	body := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"ns","labels":{"e":"f"}},"spec":{"containers":[{"name":"c","image":"two"}]}}`
	four, _, err := p.Apply(t.Context(), three, []byte(body), verbs.PatchOptions{Type: "application/apply-patch+yaml", Manager: "applier", Now: at})
	require.NoError(t, err)
	out := four.GetManagedFields()
	for i := range out {
		out[i].Time = nil // of the wall clock
	}
	return out
}

// TestLeanIsTheSame compares what is noted with what the field manager notes by itself.
func TestLeanIsTheSame(t *testing.T) {
	tc := applyconfigurations.NewTypeConverter(scheme.Scheme)
	types := func() (managedfields.TypeConverter, error) { return tc, nil }
	k := kindOf(t, "Pod")
	got := history(t, k, types, func(*Patcher) {})
	want := history(t, k, types, func(p *Patcher) {
		for _, sub := range []string{"", "status"} {
			m, err := managedfields.NewDefaultCRDFieldManager(tc, converter{p.versions}, defaulter{k}, creater{k}, k.GroupVersionKind, k.GroupVersion(), sub, p.reset(sub))
			require.NoError(t, err)
			p.managers[sub] = m
		}
	})
	require.Len(t, want, 4)
	require.Equal(t, want, got)
	var all strings.Builder
	for _, e := range got {
		fmt.Fprintf(&all, "%s %s\n", e.Manager, e.FieldsV1.GetRawString())
	}
	require.NotContains(t, all.String(), "managedFields")
}

// counting counts the objects that are converted in the costly way.
type counting struct {
	managedfields.TypeConverter
	n       int
	managed bool
}

func (c *counting) ObjectToTyped(o runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	c.n++
	if m, ok := o.(metav1.Object); ok && len(m.GetManagedFields()) > 0 {
		c.managed = true
	}
	return c.TypeConverter.ObjectToTyped(o, opts...)
}

// TestLeanIsLean converts one object of a struct type in the costly way, and never one with managed fields.
func TestLeanIsLean(t *testing.T) {
	c := &counting{TypeConverter: applyconfigurations.NewTypeConverter(scheme.Scheme)}
	l := newLean(c)
	p := pod("x")
	p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: metav1.NewFieldsV1("not JSON")}}
	for range 3 {
		v, err := l.ObjectToTyped(p, typed.AllowDuplicates)
		require.NoError(t, err)
		set, err := v.ToFieldSet()
		require.NoError(t, err)
		require.NotContains(t, set.String(), "managedFields")
	}
	require.Equal(t, 1, c.n)
	require.Len(t, p.ManagedFields, 1, "the object is as it was")

	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "p", "managedFields": []any{map[string]any{"manager": "m"}}}}}
	_, err := l.ObjectToTyped(u)
	require.NoError(t, err)
	require.False(t, c.managed)
	require.Len(t, u.GetManagedFields(), 1)

	unknown := &corev1.Pod{}
	unknown.SetGroupVersionKind(schema.GroupVersionKind{Version: "v9", Kind: "Unknown"})
	_, err = l.ObjectToTyped(unknown)
	require.Error(t, err)
}

func BenchmarkTrackUpdate(b *testing.B) {
	tc := applyconfigurations.NewTypeConverter(scheme.Scheme)
	p := New(kindOf(b, "Pod"), func() (managedfields.TypeConverter, error) { return tc, nil })
	current, err := p.Track(nil, pod("one"), verbs.PatchOptions{Manager: "maker"})
	require.NoError(b, err)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		next := pod(fmt.Sprint("image", i))
		if _, err := p.Track(current, next, verbs.PatchOptions{Manager: "changer"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTrackCreate(b *testing.B) {
	tc := applyconfigurations.NewTypeConverter(scheme.Scheme)
	p := New(kindOf(b, "Pod"), func() (managedfields.TypeConverter, error) { return tc, nil })
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Track(nil, pod("one"), verbs.PatchOptions{Manager: "maker"}); err != nil {
			b.Fatal(err)
		}
	}
}
