package apimachinery

import (
	"encoding/json"
	"maps"
	"testing"

	"github.com/stretchr/testify/require"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// crud goes through the operations on an object outside of namespaces, and watches it. The watch shows every one of them.
type crud struct {
	t        *testing.T
	e        *conformance.Env
	client   dynamic.ResourceInterface
	w        watch.Interface
	initial  *unstructured.Unstructured
	version  string
	selected metav1.ListOptions
}

// shown checks what an operation returned, and that the watch shows the same.
func (c *crud) shown(of watch.EventType, o *unstructured.Unstructured, err error) *unstructured.Unstructured {
	c.t.Helper()
	require.NoError(c.t, err)
	require.Equal(c.t, c.initial.GetName(), o.GetName())
	ev := next(c.t, c.e, c.w)
	require.Equal(c.t, of, ev.Type)
	m, ok := ev.Object.(*unstructured.Unstructured)
	require.True(c.t, ok)
	require.Equal(c.t, o.GetUID(), m.GetUID())
	if c.version != "" {
		n, err := resourceversion.CompareResourceVersion(c.version, m.GetResourceVersion())
		require.NoError(c.t, err)
		require.Negative(c.t, n)
	}
	c.version = m.GetResourceVersion()
	return o
}

func (c *crud) create() *unstructured.Unstructured {
	c.t.Helper()
	o, err := c.client.Create(c.e.Ctx, c.initial, metav1.CreateOptions{FieldValidation: "Strict"})
	return c.shown(watch.Added, o, err)
}

func (c *crud) get(subresources ...string) *unstructured.Unstructured {
	c.t.Helper()
	o, err := c.client.Get(c.e.Ctx, c.initial.GetName(), metav1.GetOptions{}, subresources...)
	require.NoError(c.t, err)
	require.Equal(c.t, c.version, o.GetResourceVersion())
	return o
}

func (c *crud) gone(o *unstructured.Unstructured, err error) {
	c.t.Helper()
	require.NoError(c.t, err)
	c.shown(watch.Deleted, o, nil)
	_, err = c.client.Get(c.e.Ctx, o.GetName(), metav1.GetOptions{})
	require.True(c.t, apierrors.IsNotFound(err), "%v", err)
}

// patches are the same change in every form. What is applied has to say what it is of, too.
func (c *crud) patches(merge map[string]any, op string) map[types.PatchType]string {
	c.t.Helper()
	applied := maps.Clone(merge)
	applied["apiVersion"], applied["kind"] = c.initial.GetAPIVersion(), c.initial.GetKind()
	text := func(v any) string {
		b, err := json.Marshal(v)
		require.NoError(c.t, err)
		return string(b)
	}
	return map[types.PatchType]string{
		types.StrategicMergePatchType: text(merge), types.MergePatchType: text(merge), types.JSONPatchType: op, types.ApplyYAMLPatchType: text(applied),
	}
}

func (c *crud) patch(as types.PatchType, text string, subresources ...string) *unstructured.Unstructured {
	c.t.Helper()
	o := metav1.PatchOptions{FieldValidation: "Strict"}
	if as == types.ApplyYAMLPatchType {
		force := true
		o.FieldManager, o.Force = "test-apply", &force
	}
	p, err := c.client.Patch(c.e.Ctx, c.initial.GetName(), as, []byte(text), o, subresources...)
	return c.shown(watch.Modified, p, err)
}

func migrations(t *testing.T, e *conformance.Env) {
	name := "test-" + e.NS
	c := &crud{
		t: t, e: e, client: e.Dynamic(t).Resource(storagemigrationv1.SchemeGroupVersion.WithResource("storageversionmigrations")),
		selected: metav1.ListOptions{LabelSelector: "e2e=" + e.NS},
		initial: &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "storagemigration.k8s.io/v1", "kind": "StorageVersionMigration",
			"metadata": map[string]any{"name": name, "labels": map[string]any{"e2e": e.NS}},
			"spec":     map[string]any{"resource": map[string]any{"group": "", "resource": "foo"}},
		}},
	}
	l, err := e.Client.Discovery().ServerResourcesForGroupVersion("storagemigration.k8s.io/v1")
	require.NoError(t, err)
	require.Equal(t, "storageversionmigrations", l.APIResources[0].Name)
	c.w, err = c.client.Watch(e.Ctx, c.selected)
	require.NoError(t, err)
	defer c.w.Stop()
	t.Cleanup(func() { _ = c.client.Delete(t.Context(), name, metav1.DeleteOptions{}) })

	c.create()
	o := c.get()
	labels := o.GetLabels()
	labels["test"] = "test"
	o.SetLabels(labels)
	o, err = c.client.Update(e.Ctx, o, metav1.UpdateOptions{})
	o = c.shown(watch.Modified, o, err)
	condition := map[string]any{"type": "TestCondition", "status": "True", "reason": "TestReason", "message": "TestMessage", "lastTransitionTime": "2026-01-01T00:00:00Z"}
	require.NoError(t, unstructured.SetNestedSlice(o.Object, []any{condition}, "status", "conditions"))
	o, err = c.client.Update(e.Ctx, o, metav1.UpdateOptions{}, "status")
	c.shown(watch.Modified, o, err)
	got, _, err := unstructured.NestedSlice(c.get("status").Object, "status", "conditions")
	require.NoError(t, err)
	require.Equal(t, []any{condition}, got)
	c.gone(c.get(), c.client.Delete(e.Ctx, name, metav1.DeleteOptions{}))

	for as, text := range c.patches(map[string]any{"metadata": map[string]any{"labels": map[string]any{"test": "test"}}}, `[{"op":"add","path":"/metadata/labels/test","value":"test"}]`) {
		c.create()
		require.Equal(t, "test", c.patch(as, text).GetLabels()["test"], as)
		c.gone(c.get(), c.client.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	}
	const status = `{"conditions":[{"type":"TestCondition","status":"True","reason":"TestReason","message":"TestMessage","lastTransitionTime":"2026-01-01T00:00:00Z"}]}`
	for as, text := range c.patches(map[string]any{"status": map[string]any{"conditions": []any{condition}}}, `[{"op":"add","path":"/status","value":`+status+`}]`) {
		c.create()
		got, _, err := unstructured.NestedSlice(c.patch(as, text, "status").Object, "status", "conditions")
		require.NoError(t, err)
		require.Equal(t, []any{condition}, got, as)
		c.gone(c.get(), c.client.Delete(e.Ctx, name, metav1.DeleteOptions{}))
	}

	c.create()
	all, err := c.client.List(e.Ctx, c.selected)
	require.NoError(t, err)
	require.Len(t, all.Items, 1)
	c.gone(&all.Items[0], c.client.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, c.selected))
}
