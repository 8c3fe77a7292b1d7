package crd

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// kindsOf returns the kinds of a definition whose names are accepted.
func kindsOf(t testing.TB, text string) []*kinds.Kind {
	c := parse(t, text)
	apiextensionsv1.SetObjectDefaults_CustomResourceDefinition(c)
	c.Status.AcceptedNames = c.Spec.Names
	all, err := Kinds(c, nil)
	require.NoError(t, err)
	return all
}

func TestKinds(t *testing.T) {
	all := kindsOf(t, widgets)
	require.Len(t, all, 2)
	_, err := kinds.NewSet(append(kinds.Builtin(), all...)...)
	require.NoError(t, err)
	k := all[0]
	require.Equal(t, "example.com/widgets", k.Place)
	require.Equal(t, "example.com/v1, Kind=Widget", k.New().GetObjectKind().GroupVersionKind().String())
	require.Equal(t, "example.com/v1, Kind=WidgetList", k.NewList().GetObjectKind().GroupVersionKind().String())
	require.NotNil(t, k.Status)
	require.Nil(t, all[1].Status)
	require.Nil(t, all[1].Scale)
}

func TestTable(t *testing.T) {
	all := kindsOf(t, widgets)
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	u := widget(t, "a", "{color: red, replicas: 3}")
	u.SetCreationTimestamp(metav1.NewTime(now.Add(-90 * time.Minute)))
	var names []string
	for _, c := range all[0].Columns {
		names = append(names, c.Name)
	}
	require.Equal(t, []string{"Name", "Color", "Replicas", "Born"}, names)
	require.Equal(t, "Custom resource definition column (in JSONPath format): .spec.color", all[0].Columns[1].Description)
	require.Equal(t, []any{"a", "red", int64(3), "90m"}, all[0].Row(u, now))
	require.Equal(t, []any{"a", "90m"}, all[1].Row(u, now), "without columns there is the age")
	require.Equal(t, []any{"b", nil, nil, nil}, all[0].Row(widget(t, "b", "{}"), now))
}

func TestScale(t *testing.T) {
	k := kindsOf(t, widgets)[0]
	u := widget(t, "a", "{color: red, replicas: 3}")
	content(u).Object["status"] = map[string]any{"replicas": int64(2), "selector": "a=b"}
	require.EqualValues(t, 3, k.Scale.Replicas(u))
	require.EqualValues(t, 2, k.Scale.Observed(u))
	require.Equal(t, "a=b", k.Scale.Selector(u))
	k.Scale.SetReplicas(u, 7)
	require.EqualValues(t, 7, k.Scale.Replicas(u))
	content(u).Object["status"].(map[string]any)["replicas"] = int64(-2)
	require.ErrorContains(t, k.Validate(u).ToAggregate(), ".status.replicas: Invalid value: -2: should be a non-negative integer")
	content(u).Object["status"].(map[string]any)["replicas"] = int64(1 << 40)
	require.ErrorContains(t, k.Validate(u).ToAggregate(), "should be less than or equal to 2147483647")
}

func TestSelectableFields(t *testing.T) {
	w := start(t)
	w.establish(parse(t, widgets))
	r := w.of("example.com/v1", "Widget")
	for name, color := range map[string]string{"a": "red", "b": "blue", "c": "red"} {
		_, err := r.Create(t.Context(), in(""), widget(t, name, "{color: "+color+"}"))
		require.NoError(t, err)
	}
	require.Equal(t, []string{"spec.color"}, r.Kind.FieldNames)
	page, err := r.List(t.Context(), objectstore.ListQuery{Fields: fields.OneTermEqualSelector("spec.color", "red")})
	require.NoError(t, err)
	require.Len(t, page.Items, 2)
	stream, err := r.Watch(t.Context(), objectstore.WatchQuery{Fields: fields.OneTermEqualSelector("spec.color", "blue")})
	require.NoError(t, err)
	defer stream.Close()
	events, err := stream.Next(t.Context())
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, "b", events[0].Item.Object.GetName())
}

// What was wrong before, by another schema, may stay wrong as long as it is not touched.
func TestRatcheting(t *testing.T) {
	k := kindsOf(t, widgets)[0]
	old := widget(t, "a", "{color: pink, replicas: 99, ports: [{name: a}, {name: a}]}")
	o := old.DeepCopyObject().(kinds.Object)
	o.SetLabels(map[string]string{"a": "b"})
	require.Empty(t, k.ValidateUpdate(o, old))
	require.NotEmpty(t, k.Validate(o))
	_ = unstructured.SetNestedField(content(o).Object, "mauve", "spec", "color")
	require.ErrorContains(t, k.ValidateUpdate(o, old).ToAggregate(), `spec.color: Unsupported value: "mauve"`)
	o = old.DeepCopyObject().(kinds.Object)
	_ = unstructured.SetNestedField(content(o).Object, int64(98), "spec", "replicas")
	require.ErrorContains(t, k.ValidateUpdate(o, old).ToAggregate(), "too many")
}

func TestCoerce(t *testing.T) {
	k := kindsOf(t, widgets)[0]
	u := object(t, `
apiVersion: example.com/v1
kind: Widget
metadata: {name: a, labels: {a: b}, color: red, managedFields: []}
spec: {color: null, size: 1}
extra: {}
`)
	unknown, err := k.Coerce(u)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"metadata.color", "spec.size", "extra"}, unknown)
	require.Equal(t, map[string]any{}, u.Object["spec"], "null is not a text")
	bad := object(t, "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: a, labels: {a: 1}}")
	_, err = k.Coerce(bad)
	require.ErrorContains(t, err, "cannot unmarshal number into Go struct field ObjectMeta.labels of type string")
	k.Default(bad)
	require.Empty(t, bad.GetLabels(), "what was stored with bad metadata can be read")
}

func TestParts(t *testing.T) {
	k := kindsOf(t, widgets)[0]
	a := widget(t, "a", "{color: red}")
	content(a).Object["status"] = map[string]any{"phase": "x"}
	b := widget(t, "b", "{color: blue}")
	content(b).Object["top"] = "level"
	require.False(t, k.Spec.Same(a, b))
	k.Spec.Copy(a, b)
	require.True(t, k.Spec.Same(a, b))
	require.Equal(t, "a", a.GetName())
	require.False(t, k.Status.Same(a, b))
	k.Status.Copy(a, b)
	require.True(t, k.Status.Same(a, b))
	require.NotContains(t, content(a).Object, "status")
	_ = unstructured.SetNestedField(content(b).Object, "green", "spec", "color")
	require.False(t, k.Spec.Same(a, b), "they share nothing")
}

func TestFinalizerWarnings(t *testing.T) {
	k := kindsOf(t, widgets)[0]
	a, b := widget(t, "a", "{}"), widget(t, "a", "{}")
	a.SetFinalizers([]string{"old"})
	b.SetFinalizers([]string{"old", "new", "example.com", "example.com/fine", "foregroundDeletion"})
	require.Equal(t, []string{
		`metadata.finalizers: "example.com": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers`,
		`metadata.finalizers: "new": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers`,
	}, k.Warnings(b, a))
}
