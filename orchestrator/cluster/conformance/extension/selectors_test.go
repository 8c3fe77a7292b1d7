package extension

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

// fieldSelectors are behaviours of selectable fields.
func fieldSelectors() conformance.Behaviours {
	return conformance.Behaviours{
		"CustomResourceFieldSelectors CustomResourceFieldSelectors MUST list and watch custom resources matching the field selector": selectFields,
	}
}

// seen is the names of objects that were added and deleted.
type seen struct {
	what           string
	mu             sync.Mutex
	added, deleted sets.Set[string]
}

func newSeen(what string) *seen {
	return &seen{what: what, added: sets.New[string](), deleted: sets.New[string]()}
}

func (s *seen) note(set sets.Set[string], o any) {
	access, err := meta.Accessor(o)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set.Insert(access.GetName())
}

// is waits until exactly these were added and deleted.
func (s *seen) is(t *testing.T, e *conformance.Env, added, deleted []string) {
	t.Helper()
	t.Log(s.what)
	poll(t, e.Ctx, func() (bool, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.added.Equal(sets.New(added...)) && s.deleted.Equal(sets.New(deleted...)), nil
	})
}

// watched notes what a watch sees.
func watched(t *testing.T, e *conformance.Env, d *apiextensions.CustomResourceDefinition, version, selector string) *seen {
	w, err := objects(t, e, d, version).Watch(e.Ctx, metav1.ListOptions{FieldSelector: selector})
	require.NoError(t, err)
	s := newSeen("watch " + version + " " + selector)
	var ended sync.WaitGroup
	ended.Go(func() {
		for event := range w.ResultChan() {
			switch event.Type {
			case watch.Added:
				s.note(s.added, event.Object)
			case watch.Deleted:
				s.note(s.deleted, event.Object)
			}
		}
	})
	t.Cleanup(func() {
		w.Stop()
		ended.Wait()
	})
	return s
}

// informed notes what an informer sees.
func informed(t *testing.T, e *conformance.Env, d *apiextensions.CustomResourceDefinition, version, selector string) *seen {
	gvr := schema.GroupVersionResource{Group: d.Spec.Group, Version: version, Resource: d.Spec.Names.Plural}
	f := dynamicinformer.NewFilteredDynamicSharedInformerFactory(e.Dynamic(t), 0, e.NS, func(o *metav1.ListOptions) { o.FieldSelector = selector })
	s := newSeen("informer " + version + " " + selector)
	informer := f.ForResource(gvr).Informer()
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { s.note(s.added, o) },
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			s.note(s.deleted, o)
		},
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(e.Ctx)
	f.Start(ctx.Done())
	t.Cleanup(func() {
		cancel()
		f.Shutdown()
	})
	require.True(t, cache.WaitForCacheSync(ctx.Done(), informer.HasSynced))
	return s
}

func selectFields(t *testing.T, e *conformance.Env) {
	d := addresses(t)
	d.Spec.Versions[0].SelectableFields = []apiextensions.SelectableField{{JSONPath: ".hostPort"}}
	d.Spec.Versions[1].SelectableFields = []apiextensions.SelectableField{{JSONPath: ".host"}, {JSONPath: ".port"}}
	d = define(t, e, d)
	host, both, v1 := watched(t, e, d, "v2", "host=host1"), watched(t, e, d, "v2", "host=host1,port=80"), watched(t, e, d, "v1", "hostPort=host1:80")
	hostInformer, bothInformer := informed(t, e, d, "v2", "host=host1"), informed(t, e, d, "v2", "host=host1,port=80")

	c := objects(t, e, d, "v2")
	names := []string{"one", "two", "three"}
	for i, fields := range []map[string]any{{"host": "host1", "port": "80"}, {"host": "host1", "port": "8080"}, {"host": "host2"}} {
		_, err := c.Create(e.Ctx, object(d, "v2", names[i], fields), metav1.CreateOptions{})
		require.NoError(t, err)
	}
	lists := func(version, selector string, want ...string) {
		t.Helper()
		list, err := objects(t, e, d, version).List(e.Ctx, metav1.ListOptions{FieldSelector: selector})
		require.NoError(t, err)
		got := sets.New[string]()
		require.NoError(t, list.EachListItem(func(o runtime.Object) error {
			got.Insert(o.(*unstructured.Unstructured).GetName())
			return nil
		}))
		require.Equal(t, sets.New(want...), got)
	}
	lists("v2", "host=host1", names[0], names[1])
	lists("v2", "host=host1,port=80", names[0])
	lists("v1", "hostPort=host1:80", names[0])
	lists("v1", "hostPort=host1:8080", names[1])
	_, err := c.List(e.Ctx, metav1.ListOptions{FieldSelector: "hostPort=host1:80"})
	require.ErrorContains(t, err, "field label not supported", "it is no field of this version")
	for s, want := range map[*seen][]string{host: names[:2], both: names[:1], v1: names[:1], hostInformer: names[:2], bothInformer: names[:1]} {
		s.is(t, e, want, nil)
	}

	now := metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}
	require.NoError(t, c.DeleteCollection(e.Ctx, now, metav1.ListOptions{FieldSelector: "host=host1,port=80"}))
	o, err := c.Get(e.Ctx, names[1], metav1.GetOptions{})
	require.NoError(t, err)
	o.Object["host"] = "host2"
	_, err = c.Update(e.Ctx, o, metav1.UpdateOptions{})
	require.NoError(t, err)
	lists("v2", "host=host1")
	lists("v2", "host=host1,port=80")
	lists("v2", "host=host2", names[1], names[2])
	for s, want := range map[*seen][]string{host: names[:2], both: names[:1], v1: names[:1], hostInformer: names[:2], bothInformer: names[:1]} {
		s.is(t, e, want, want)
	}
}
