package volume

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// The kinds of objects that files are made of.
const (
	kindConfigMap = "configmap"
	kindSecret    = "secret"
)

// objectKey names an object.
type objectKey struct{ kind, namespace, name string }

// sources reads objects and watches those that pods refer to.
type sources struct {
	client kubernetes.Interface
	lg     *zap.Logger
	notify func(uid types.UID) // an object of this pod has changed

	ctx  context.Context // of all watches
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	objects map[objectKey]*source
}

// source is an object that is watched.
type source struct {
	key    objectKey
	users  map[types.UID]bool
	cancel context.CancelFunc // nil if it is immutable: nothing to watch
	synced bool               // object is what the API server says; without, it has to be asked
	object metav1.Object      // nil: there is none
}

func newSources(client kubernetes.Interface, lg *zap.Logger, notify func(types.UID)) *sources {
	s := &sources{client: client, lg: lg, notify: notify, objects: map[objectKey]*source{}}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// close ends all watches.
func (s *sources) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.wg.Wait()
}

// fetch asks the API server. What is not there is an error that says so as users know it.
func (s *sources) fetch(ctx context.Context, k objectKey) (obj metav1.Object, err error) {
	if k.kind == kindSecret {
		obj, err = s.client.CoreV1().Secrets(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
	} else {
		obj, err = s.client.CoreV1().ConfigMaps(k.namespace).Get(ctx, k.name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return nil, notFound(k)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to get %s %s/%s: %w", k.kind, k.namespace, k.name, err)
	}
	return obj, nil
}

func notFound(k objectKey) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: k.kind}, k.name)
}

// get reads an object for a pod: what its watch has seen if latest will do, or else what the API server says now.
func (s *sources) get(ctx context.Context, k objectKey, latest bool) (metav1.Object, error) {
	if !latest {
		s.mu.Lock()
		src := s.objects[k]
		if src != nil && src.synced {
			defer s.mu.Unlock()
			if src.object == nil {
				return nil, notFound(k)
			}
			return src.object, nil
		}
		s.mu.Unlock()
	}
	return s.fetch(ctx, k)
}

// use says which objects a pod refers to from now on. seen are those that were just read, of which immutable ones are not
// watched.
func (s *sources) use(uid types.UID, keys map[objectKey]metav1.Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, src := range s.objects {
		if _, still := keys[k]; !still && src.users[uid] {
			s.drop(src, uid)
		}
	}
	for k, seen := range keys {
		src := s.objects[k]
		if src == nil {
			src = &source{key: k, users: map[types.UID]bool{}}
			s.objects[k] = src
			switch {
			case immutable(seen):
				src.object, src.synced = seen, true
			case !s.closed:
				s.watch(src)
			}
		}
		src.users[uid] = true
	}
}

// release says that a pod needs nothing any more.
func (s *sources) release(uid types.UID) { s.use(uid, nil) }

func (s *sources) drop(src *source, uid types.UID) {
	delete(src.users, uid)
	if len(src.users) == 0 {
		delete(s.objects, src.key)
		if src.cancel != nil {
			src.cancel()
		}
	}
}

func immutable(o metav1.Object) bool {
	switch o := o.(type) {
	case *corev1.ConfigMap:
		return o != nil && o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o != nil && o.Immutable != nil && *o.Immutable
	}
	return false
}

// watch follows one object by its name until nobody uses it.
func (s *sources) watch(src *source) {
	var ctx context.Context
	ctx, src.cancel = context.WithCancel(s.ctx)
	k := src.key
	byName := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", k.name).String()
	}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			byName(&o)
			if k.kind == kindSecret {
				return s.client.CoreV1().Secrets(k.namespace).List(ctx, o)
			}
			return s.client.CoreV1().ConfigMaps(k.namespace).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			byName(&o)
			if k.kind == kindSecret {
				return s.client.CoreV1().Secrets(k.namespace).Watch(ctx, o)
			}
			return s.client.CoreV1().ConfigMaps(k.namespace).Watch(ctx, o)
		},
	}
	var example runtime.Object = &corev1.ConfigMap{}
	if k.kind == kindSecret {
		example = &corev1.Secret{}
	}
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, s.client), example, &follower{sources: s, source: src},
		cache.ReflectorOptions{Name: "volume: " + k.kind + " " + k.namespace + "/" + k.name, MinWatchTimeout: 5 * time.Minute})
	s.wg.Go(func() { r.RunWithContext(ctx) })
}

// follower is the store of a reflector that follows one object.
type follower struct {
	sources *sources
	source  *source
}

// set takes what the API server has of the object now; nil is nothing.
func (f *follower) set(obj metav1.Object) {
	s, src := f.sources, f.source
	s.mu.Lock()
	before, known := src.object, src.synced
	src.object, src.synced = obj, true
	if immutable(obj) {
		src.cancel()
	}
	var users []types.UID
	if !known || version(before) != version(obj) {
		for uid := range src.users {
			users = append(users, uid)
		}
	}
	s.mu.Unlock()
	for _, uid := range users {
		s.notify(uid)
	}
}

func version(o metav1.Object) string {
	if o == nil {
		return "none"
	}
	return string(o.GetUID()) + "/" + o.GetResourceVersion()
}

// mine is the object, if it is the one that is followed.
func (f *follower) mine(obj any) (metav1.Object, bool) {
	o, ok := obj.(metav1.Object)
	return o, ok && o.GetName() == f.source.key.name
}

// Add is for the reflector, as are the following.
func (f *follower) Add(obj any) error { return f.Update(obj) }

// Update takes a newer version.
func (f *follower) Update(obj any) error {
	if o, ok := f.mine(obj); ok {
		f.set(o)
	}
	return nil
}

// Delete takes that it is gone.
func (f *follower) Delete(obj any) error {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = d.Obj
	}
	if _, ok := f.mine(obj); ok {
		f.set(nil)
	}
	return nil
}

// Replace takes a list: of one object, or none.
func (f *follower) Replace(list []any, _ string) error {
	for _, obj := range list {
		if o, ok := f.mine(obj); ok {
			f.set(o)
			return nil
		}
	}
	f.set(nil)
	return nil
}

// Resync has nothing to do.
func (f *follower) Resync() error { return nil }
