package informers

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// seen is what a program was told of one object in one of its lives.
type seen struct {
	versions []string // resourceVersions, in the order in which they came
	gone     bool
}

// history is what a program was told by one informer. What contradicts itself is noted at once. A program that lists anew may
// miss what came and went meanwhile: that is noted apart.
type history struct {
	informer cache.SharedIndexInformer
	synced   cache.InformerSynced

	mu     sync.Mutex
	events int
	now    map[string]metav1.Object // the state by key, as the events say
	lives  map[types.UID]*seen
	wrong  []string
	missed []string
}

func newHistory(t *testing.T, i cache.SharedIndexInformer) *history {
	t.Helper()
	h := &history{informer: i, now: map[string]metav1.Object{}, lives: map[types.UID]*seen{}}
	r, err := i.AddEventHandler(cache.FilteringResourceEventHandler{FilterFunc: ours, Handler: cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { h.note(func() { h.added(o.(metav1.Object)) }) },
		UpdateFunc: func(a, b any) { h.note(func() { h.updated(a.(metav1.Object), b.(metav1.Object)) }) },
		DeleteFunc: func(o any) { h.note(func() { h.deleted(o) }) },
	}})
	require.NoError(t, err)
	h.synced = r.HasSynced
	return h
}

// ours says whether an object is one of the writers'. Every namespace has a config map of its own.
func ours(x any) bool {
	o, ok := x.(metav1.Object)
	return !ok || strings.HasPrefix(o.GetName(), "object-")
}

func (h *history) note(event func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events++
	event()
}

func (h *history) complain(format string, a ...any) {
	h.wrong = append(h.wrong, fmt.Sprintf(format, a...))
}

func (h *history) miss(format string, a ...any) {
	h.missed = append(h.missed, fmt.Sprintf(format, a...))
}

func key(o metav1.Object) string { return o.GetNamespace() + "/" + o.GetName() }

func (h *history) added(o metav1.Object) {
	if h.now[key(o)] != nil {
		h.complain("%s at %s was added and is there", key(o), o.GetResourceVersion())
	}
	if h.lives[o.GetUID()] != nil {
		h.complain("%s at %s was added twice", key(o), o.GetResourceVersion())
	}
	h.now[key(o)] = o
	h.lives[o.GetUID()] = &seen{versions: []string{o.GetResourceVersion()}}
}

func (h *history) updated(before, after metav1.Object) {
	k := key(after)
	have := h.now[k]
	if have == nil || have.GetResourceVersion() != before.GetResourceVersion() {
		h.complain("%s at %s was updated from a state that was not told of, %s", k, after.GetResourceVersion(), before.GetResourceVersion())
		return
	}
	if have.GetUID() != after.GetUID() {
		h.miss("%s at %s is another one", k, after.GetResourceVersion())
		h.deleted(have)
		h.added(after)
		return
	}
	if number(after) <= number(before) {
		h.complain("%s was updated from %s to %s", k, before.GetResourceVersion(), after.GetResourceVersion())
	}
	h.now[k] = after
	l := h.lives[after.GetUID()]
	l.versions = append(l.versions, after.GetResourceVersion())
}

func (h *history) deleted(x any) {
	if unknown, ok := x.(cache.DeletedFinalStateUnknown); ok {
		h.miss("%s is gone", unknown.Key)
		x = unknown.Obj
	}
	o := x.(metav1.Object)
	have := h.now[key(o)]
	if have == nil || have.GetUID() != o.GetUID() {
		h.complain("%s at %s was deleted and is not there", key(o), o.GetResourceVersion())
		return
	}
	delete(h.now, key(o))
	h.lives[o.GetUID()].gone = true
}

func number(o metav1.Object) int64 {
	n, _ := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	return n
}

func (h *history) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.events
}

// settled waits until the informer's cache, and what the events say, are what a list says.
func (h *history) settled(t *testing.T, config *rest.Config, resource schema.GroupVersionResource) {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	var want, have, told map[string]any
	defer func() {
		if t.Failed() {
			t.Logf("%s: listed %v\ncached %v\ntold of %v\nwrong: %v", resource.Resource, want, have, told, h.wrong)
		}
	}()
	require.Eventually(t, func() bool {
		list, err := client.Resource(resource).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
		require.NoError(t, err)
		want, have, told = map[string]any{}, map[string]any{}, map[string]any{}
		for _, o := range list.Items {
			if ours(&o) {
				want[key(&o)] = plain(t, &o)
			}
		}
		for _, o := range h.informer.GetStore().List() {
			if ours(o) {
				have[key(o.(metav1.Object))] = plain(t, o)
			}
		}
		h.mu.Lock()
		now := maps.Clone(h.now)
		h.mu.Unlock()
		for k, o := range now {
			told[k] = plain(t, o)
		}
		return equality.Semantic.DeepEqual(want, have) && equality.Semantic.DeepEqual(want, told)
	}, limit, 100*time.Millisecond, "%s: the cache is what a list says", resource.Resource)
}

// plain is an object without its type, which lists of typed objects do not have, and without what is not set.
func plain(t *testing.T, o any) any {
	t.Helper()
	if u, ok := o.(*unstructured.Unstructured); ok && u.GetKind() == "Widget" {
		u = u.DeepCopy()
		delete(u.Object, "kind")
		delete(u.Object, "apiVersion")
		return u.Object
	}
	r := o.(runtime.Object).DeepCopyObject()
	if u, ok := r.(*unstructured.Unstructured); ok {
		typed := map[string]runtime.Object{"ConfigMap": &corev1.ConfigMap{}, "Pod": &corev1.Pod{}}[u.GetKind()]
		require.NoError(t, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, typed))
		r = typed
	}
	r.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return r
}

// check holds what the program was told of against what was acknowledged: every version, in order, and once. One that listed anew
// may have missed some.
func (h *history) check(t *testing.T, lives map[types.UID]*life, relisted bool) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Empty(t, h.wrong)
	if !relisted {
		require.Empty(t, h.missed)
	}
	for uid, l := range lives {
		s := h.lives[uid]
		if s == nil {
			require.True(t, relisted, "an object at %v was not told of", l.versions)
			continue
		}
		known, unknown := 0, 0
		for _, v := range s.versions { // their order was looked at as they came
			if slices.Contains(l.versions, v) {
				known++
			} else {
				unknown++
			}
		}
		if !relisted {
			require.Equal(t, len(l.versions), known, "%v was told of; what was acknowledged: %v", s.versions, l.versions)
		}
		if l.resource != pods { // nobody else writes the others
			require.LessOrEqual(t, unknown, l.uncertain, "%v was told of; what was acknowledged: %v", s.versions, l.versions)
		}
		require.Equal(t, l.gone, s.gone, "an object at %v is gone", l.versions)
	}
	for uid, s := range h.lives {
		require.NotNil(t, lives[uid], "%v was told of, of an object that nobody made", s.versions)
	}
}
