package informers

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// life is what is known of one object, in one of its lives.
type life struct {
	resource  schema.GroupVersionResource
	uid       types.UID
	versions  []string // resourceVersions that were acknowledged
	gone      bool     // its deletion was acknowledged
	uncertain int      // writes of which it is not known whether they happened
}

// writers write objects, one after another, and know what was acknowledged.
type writers struct {
	wg     sync.WaitGroup
	over   atomic.Bool // each finishes what it is about
	writes atomic.Int64

	mu    sync.Mutex
	lives []*life
}

// start starts a writer for each of some objects of a resource.
func (w *writers) start(ctx context.Context, t *testing.T, config *rest.Config, resource schema.GroupVersionResource) {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	require.NoError(t, err)
	for i := range 3 {
		x := &writer{w: w, client: client.Resource(resource).Namespace(namespace), resource: resource, name: fmt.Sprint("object-", i)}
		w.wg.Go(func() { x.run(ctx) })
	}
}

func (w *writers) stop() {
	w.over.Store(true)
	w.wg.Wait()
}

// wait returns after n more acknowledged writes.
func (w *writers) wait(t *testing.T, n int) {
	t.Helper()
	until := w.writes.Load() + int64(n)
	require.Eventually(t, func() bool { return w.writes.Load() >= until }, limit, 5*time.Millisecond, "nothing is written any more")
}

func (w *writers) done(record func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	record()
	w.writes.Add(1)
}

// of returns the lives of a resource's objects by UID.
func (w *writers) of(resource schema.GroupVersionResource) map[types.UID]*life {
	m := map[types.UID]*life{}
	for _, l := range w.lives {
		if l.resource == resource {
			m[l.uid] = l
		}
	}
	return m
}

func (w *writers) acknowledged(resource schema.GroupVersionResource) (n int) {
	for _, l := range w.of(resource) {
		n += len(l.versions)
		if l.gone {
			n++
		}
	}
	return n
}

func (w *writers) unclear(resource schema.GroupVersionResource) (n int) {
	for _, l := range w.of(resource) {
		n += l.uncertain
	}
	return n
}

// writer makes, changes and deletes one object, again and again.
type writer struct {
	w        *writers
	client   dynamic.ResourceInterface
	resource schema.GroupVersionResource
	name     string
}

const updates = 8 // in one life

func (x *writer) run(ctx context.Context) {
	for ctx.Err() == nil {
		l := x.create(ctx)
		for i := 0; i < updates && !x.w.over.Load(); i++ {
			x.update(ctx, l, i)
		}
		if x.w.over.Load() {
			return // the last one stays
		}
		x.delete(ctx, l)
	}
}

func (x *writer) create(ctx context.Context) *life {
	o := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": x.name}}}
	switch x.resource {
	case configMaps:
		o.SetAPIVersion("v1")
		o.SetKind("ConfigMap")
	case pods:
		o.SetAPIVersion("v1")
		o.SetKind("Pod")
		o.Object["spec"] = map[string]any{"containers": []any{map[string]any{"name": "c", "image": "c:1"}}}
	default:
		o.SetAPIVersion(widgets.GroupVersion().String())
		o.SetKind("Widget")
		o.Object["spec"] = map[string]any{"size": int64(1)}
	}
	l := &life{resource: x.resource}
	failed := false
	for ctx.Err() == nil {
		made, err := x.client.Create(ctx, o, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) && failed {
			made, err = x.client.Get(ctx, x.name, metav1.GetOptions{}) // it had happened
		}
		if err == nil {
			x.w.done(func() {
				l.uid, l.versions = made.GetUID(), []string{made.GetResourceVersion()}
				x.w.lives = append(x.w.lives, l)
			})
			break
		}
		failed = failed || lost(err)
		pause(ctx)
	}
	return l
}

func (x *writer) update(ctx context.Context, l *life, i int) {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{"i":"%d"}}}`, l.uid, i)
	for ctx.Err() == nil {
		o, err := x.client.Patch(ctx, x.name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err == nil {
			x.w.done(func() {
				// A patch that was repeated may find that there is nothing to change.
				if l.versions[len(l.versions)-1] != o.GetResourceVersion() {
					l.versions = append(l.versions, o.GetResourceVersion())
				}
			})
			return
		}
		if lost(err) {
			x.w.mu.Lock()
			l.uncertain++
			x.w.mu.Unlock()
		}
		pause(ctx)
	}
}

func (x *writer) delete(ctx context.Context, l *life) {
	now := int64(0)
	for ctx.Err() == nil {
		err := x.client.Delete(ctx, x.name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: metav1.NewUIDPreconditions(string(l.uid))})
		if err == nil || apierrors.IsNotFound(err) {
			x.w.done(func() { l.gone = true })
			return
		}
		pause(ctx)
	}
}

// pause keeps failing writers from spinning.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}
