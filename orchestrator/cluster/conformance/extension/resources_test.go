package extension

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// definitions are behaviours of definitions and of their objects.
func definitions() conformance.Behaviours {
	return conformance.Behaviours{
		"CustomResourceDefinition Watch CustomResourceDefinition Watch watch on custom resource definition objects":                                         watchObjects,
		"CustomResourceDefinition resources Simple CustomResourceDefinition creating/deleting custom resource definition objects works":                     createDefinition,
		"CustomResourceDefinition resources Simple CustomResourceDefinition getting/updating/patching custom resource definition status sub-resource works": definitionStatus,
		"CustomResourceDefinition resources Simple CustomResourceDefinition listing custom resource definition objects works":                               listDefinitions,
		"CustomResourceDefinition resources custom resource defaulting for requests and from storage works":                                                 defaulting,
		"CustomResourceDefinition resources should include custom resource definition resources in discovery documents":                                     definitionDiscovery,
	}
}

// quiet is for how long a watch is listened to that is to have no event. An event that comes later is found at the next one
// that is expected.
const quiet = 200 * time.Millisecond

func watchObjects(t *testing.T, e *conformance.Env) {
	d := define(t, e, definition(apiextensions.ClusterScoped, "", version("v1beta1", true, anything())))
	c := objects(t, e, d, "v1beta1")
	names := []string{"name1", "name2"}
	watches := map[string]watch.Interface{}
	for _, name := range names {
		w, err := c.Watch(e.Ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		require.NoError(t, err)
		defer w.Stop()
		watches[name] = w
	}
	only := func(name string, want watch.EventType) *unstructured.Unstructured {
		event := next(t, watches[name])
		require.Equal(t, want, event.Type)
		for _, other := range names {
			if other == name {
				continue
			}
			select {
			case event := <-watches[other].ResultChan():
				require.FailNow(t, "an event of another object", "%v", event)
			case <-time.After(quiet):
			}
		}
		return event.Object.(*unstructured.Unstructured)
	}
	for _, name := range names {
		made, err := c.Create(e.Ctx, object(d, "v1beta1", name, map[string]any{"content": map[string]any{"key": "value"}}), metav1.CreateOptions{})
		require.NoError(t, err)
		require.NotEmpty(t, made.GetUID())
		require.Equal(t, d.Spec.Group+"/v1beta1", made.GetAPIVersion())
		require.Equal(t, d.Spec.Names.Kind, made.GetKind())
		require.Equal(t, made, only(name, watch.Added))
	}
	for _, name := range names {
		_, err := c.Patch(e.Ctx, name, types.JSONPatchType, []byte(`[{"op": "add", "path": "/dummy", "value": "test"}]`), metav1.PatchOptions{})
		require.NoError(t, err)
		require.Equal(t, "test", only(name, watch.Modified).Object["dummy"])
	}
	for _, name := range names {
		require.NoError(t, c.Delete(e.Ctx, name, metav1.DeleteOptions{}))
		only(name, watch.Deleted)
	}
}

func createDefinition(t *testing.T, e *conformance.Env) {
	d := define(t, e, definition(apiextensions.ClusterScoped, ""))
	_, err := objects(t, e, d, "v1").List(e.Ctx, metav1.ListOptions{})
	require.NoError(t, err)
	undefine(t, e, d.Name)
	_, err = objects(t, e, d, "v1").List(e.Ctx, metav1.ListOptions{})
	require.ErrorContains(t, err, "could not find the requested resource")
}

func listDefinitions(t *testing.T, e *conformance.Env) {
	c := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions()
	made := map[string]*apiextensions.CustomResourceDefinition{}
	for range many {
		d := definition(apiextensions.ClusterScoped, "")
		d.Labels = map[string]string{"list": e.NS}
		made[d.Name] = define(t, e, d)
	}
	other := define(t, e, definition(apiextensions.ClusterScoped, ""))
	mine := metav1.ListOptions{LabelSelector: "list=" + e.NS}
	list, err := c.List(e.Ctx, mine)
	require.NoError(t, err)
	require.Len(t, list.Items, many)
	for _, d := range list.Items {
		require.Contains(t, made, d.Name)
		require.Equal(t, made[d.Name].Spec, d.Spec)
	}
	require.NoError(t, c.DeleteCollection(e.Ctx, metav1.DeleteOptions{}, mine))
	poll(t, e.Ctx, func() (bool, error) {
		list, err := c.List(e.Ctx, mine)
		return err == nil && len(list.Items) == 0, err
	})
	_, err = c.Get(e.Ctx, other.Name, metav1.GetOptions{})
	require.NoError(t, err)
}

func definitionStatus(t *testing.T, e *conformance.Env) {
	d := define(t, e, definition(apiextensions.ClusterScoped, ""))
	c := e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions()
	updated := apiextensions.CustomResourceDefinitionCondition{Message: "updated"}
	require.NoError(t, retry.RetryOnConflict(retry.DefaultRetry, func() error {
		read, err := e.Dynamic(t).Resource(apiextensions.SchemeGroupVersion.WithResource("customresourcedefinitions")).Get(e.Ctx, d.Name, metav1.GetOptions{}, "status")
		if err != nil {
			return err
		}
		now := &apiextensions.CustomResourceDefinition{}
		require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(read.Object, now))
		require.Equal(t, d.Spec, now.Spec)
		now.Status.Conditions = append(now.Status.Conditions, updated)
		now.Spec.Names.ShortNames = []string{"not-through-the-status"}
		out, err := c.UpdateStatus(e.Ctx, now, metav1.UpdateOptions{})
		if err == nil {
			require.Contains(t, out.Status.Conditions, updated)
			require.Equal(t, d.Spec, out.Spec)
		}
		return err
	}))
	patch := []byte(`[{"op": "add", "path": "/status/conditions", "value": [{"message": "patched"}]}]`)
	out, err := c.Patch(e.Ctx, d.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
	require.NoError(t, err)
	require.Contains(t, out.Status.Conditions, apiextensions.CustomResourceDefinitionCondition{Message: "patched"})
	require.NotContains(t, out.Status.Conditions, updated)
}

func definitionDiscovery(t *testing.T, e *conformance.Env) {
	discovers(t, e, apiextensions.SchemeGroupVersion, "customresourcedefinitions", "customresourcedefinitions/status")
}

func defaulting(t *testing.T, e *conformance.Env) {
	text := apiextensions.JSONSchemaProps{Type: "string"}
	s := anything()
	s.Properties = map[string]apiextensions.JSONSchemaProps{"a": text, "b": text}
	d := define(t, e, definition(apiextensions.ClusterScoped, "", version("v1", true, s)))
	c, definitions := objects(t, e, d, "v1"), e.Extensions(t).ApiextensionsV1().CustomResourceDefinitions()
	_, err := c.Create(e.Ctx, object(d, "v1", "one", nil), metav1.CreateOptions{})
	require.NoError(t, err)
	patch := func(ops ...map[string]any) {
		b, err := json.Marshal(ops)
		require.NoError(t, err)
		_, err = definitions.Patch(e.Ctx, d.Name, types.JSONPatchType, b, metav1.PatchOptions{})
		require.NoError(t, err)
	}
	has := func(name, field, value string) *unstructured.Unstructured {
		var o *unstructured.Unstructured
		poll(t, e.Ctx, func() (bool, error) {
			var err error
			if o, err = c.Get(e.Ctx, name, metav1.GetOptions{}); err != nil {
				return false, err
			}
			if got, ok := o.Object[field]; ok && got != value {
				return false, errors.New("another value")
			}
			return o.Object[field] == value, nil
		})
		return o
	}
	const at = "/spec/versions/0/schema/openAPIV3Schema/properties/"
	patch(map[string]any{"op": "add", "path": at + "a/default", "value": "A"})
	first := has("one", "a", "A")

	second, err := c.Create(e.Ctx, object(d, "v1", "two", nil), metav1.CreateOptions{})
	require.NoError(t, err)
	require.Equal(t, "A", second.Object["a"], "at the creation")
	patch(map[string]any{"op": "remove", "path": at + "a/default"}, map[string]any{"op": "add", "path": at + "b/default", "value": "B"})
	second = has("two", "b", "B")
	require.Equal(t, "A", second.Object["a"], "it is stored")
	require.NotContains(t, has("one", "b", "B").Object, "a", "it was not")
	require.NotEqual(t, first.GetResourceVersion(), second.GetResourceVersion())
	require.False(t, slices.Contains([]string{"", "0"}, first.GetResourceVersion()))
}
