package informers

import (
	"fmt"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
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

// history is what a program was told by one informer. What contradicts itself is noted at once.
type history struct {
	informer cache.SharedIndexInformer
	synced   cache.InformerSynced

	mu     sync.Mutex
	events int
	now    map[string]metav1.Object // the state by key, as the events say
	lives  map[types.UID]*seen
	wrong  []string
}

func newHistory(t *testing.T, i cache.SharedIndexInformer) *history {
	t.Helper()
	h := &history{informer: i, now: map[string]metav1.Object{}, lives: map[types.UID]*seen{}}
	r, err := i.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { h.note(func() { h.added(o.(metav1.Object)) }) },
		UpdateFunc: func(a, b any) { h.note(func() { h.updated(a.(metav1.Object), b.(metav1.Object)) }) },
		DeleteFunc: func(o any) { h.note(func() { h.deleted(o) }) },
	})
	require.NoError(t, err)
	h.synced = r.HasSynced
	return h
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
	if have == nil || have.GetResourceVersion() != before.GetResourceVersion() || have.GetUID() != after.GetUID() {
		h.complain("%s at %s was updated from a state that was not told of, %s", k, after.GetResourceVersion(), before.GetResourceVersion())
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
	o, ok := x.(metav1.Object)
	if !ok {
		h.complain("a deletion was found out of by a list: %v", x)
		return
	}
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
			want[key(&o)] = plain(t, &o)
		}
		for _, o := range h.informer.GetStore().List() {
			have[key(o.(metav1.Object))] = plain(t, o)
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
	_, err := meta.Accessor(r)
	require.NoError(t, err)
	return r
}

// check holds what the program was told of against what was acknowledged: every version, in order, and once.
func (h *history) check(t *testing.T, lives map[types.UID]*life) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Empty(t, h.wrong)
	for uid, l := range lives {
		s := h.lives[uid]
		require.NotNil(t, s, "an object at %v was not told of", l.versions)
		rest, more := s.versions, 0
		for _, v := range l.versions {
			i := 0
			for i < len(rest) && rest[i] != v {
				i++
			}
			require.Less(t, i, len(rest), "version %s of %v was not told of; what was: %v", v, l.versions, s.versions)
			more += i
			rest = rest[i+1:]
		}
		more += len(rest)
		if l.resource != pods { // nobody else writes the others
			require.LessOrEqual(t, more, l.uncertain, "%v was told of; what was acknowledged: %v", s.versions, l.versions)
		}
		require.True(t, s.gone || !l.gone, "the deletion of an object at %v was not told of", l.versions)
		require.True(t, l.gone || !s.gone || l.uncertain > 0, "an object at %v is said to be gone", l.versions)
	}
	for uid, s := range h.lives {
		require.NotNil(t, lives[uid], "%v was told of, of an object that nobody made", s.versions)
	}
}
