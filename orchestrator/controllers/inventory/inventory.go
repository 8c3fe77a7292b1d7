package inventory

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	// discoveryPeriod is the time between two looks at which resources there are, and discoveryDelay how long a changed custom
	// resource definition is given to become one.
	discoveryPeriod = 30 * time.Second
	discoveryDelay  = time.Second
)

// Resource is something that can be listed, watched and deleted.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
}

// GroupVersionKind is the kind of the resource's objects.
func (r Resource) GroupVersionKind() schema.GroupVersionKind {
	return r.GroupVersion().WithKind(r.Kind)
}

// Object is what is kept of an object.
type Object = metav1.PartialObjectMetadata

// Config is what an Inventory needs.
type Config struct {
	Metadata metadata.Interface
	// Resources lists what there is, each in one version. With an error the list is not complete.
	Resources func() ([]Resource, error)
	Clock     clock.Clock
	Logger    *zap.Logger
}

// Handler is told what happens. Nil functions are not called.
type Handler struct {
	Seen func(r Resource, o *Object) // it came, or changed
	Gone func(r Resource, o *Object)
	// Found is called when there are new resources, before any object of theirs is seen, and Listed when they were listed, or
	// when some are no more.
	Found, Listed func()
}

// Inventory is described in the package comment.
type Inventory struct {
	cfg      Config
	lg       *zap.Logger
	handlers []Handler
	ready    chan struct{}
	changed  chan struct{} // a definition of resources
	wait     time.Duration // for resources to be listed

	mu       sync.RWMutex
	monitors map[schema.GroupVersionResource]*monitor // changed by Run alone
}

// monitor watches a resource.
type monitor struct {
	of      Resource
	indexer cache.Indexer
	stop    chan struct{}
	done    chan struct{}
	synced  cache.InformerSynced
}

// New makes an Inventory.
func New(cfg Config) *Inventory {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	return &Inventory{
		cfg: cfg, lg: cfg.Logger.Named("inventory"), ready: make(chan struct{}), changed: make(chan struct{}, 1), wait: discoveryPeriod,
		monitors: map[schema.GroupVersionResource]*monitor{},
	}
}

// Handle adds a handler.
func (i *Inventory) Handle(h Handler) { i.handlers = append(i.handlers, h) }

// Ready is closed once the resources that there were at the start have been listed. One that cannot be listed is waited for
// only so long: it must not stop everything else.
func (i *Inventory) Ready() <-chan struct{} { return i.ready }

// Objects returns the objects of a resource in a namespace. Known is false as long as not all of them have been seen.
func (i *Inventory) Objects(r schema.GroupResource, namespace string) (objects []*Object, known bool) {
	m := i.monitor(r)
	if m == nil || !m.synced() {
		return nil, false
	}
	all, err := m.indexer.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil, false
	}
	for _, o := range all {
		if o, ok := o.(*Object); ok {
			objects = append(objects, o)
		}
	}
	return objects, true
}

// Resources lists what is watched.
func (i *Inventory) Resources() (out []Resource) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for _, m := range i.monitors {
		out = append(out, m.of)
	}
	return out
}

func (i *Inventory) monitor(r schema.GroupResource) *monitor {
	i.mu.RLock()
	defer i.mu.RUnlock()
	for gvr, m := range i.monitors {
		if gvr.GroupResource() == r {
			return m
		}
	}
	return nil
}

// Run works until ctx ends.
func (i *Inventory) Run(ctx context.Context) error {
	defer i.stop()
	t := i.cfg.Clock.NewTicker(discoveryPeriod)
	defer t.Stop()
	for first := true; ; first = false {
		changed, err := i.follow()
		if err != nil {
			i.lg.Warn("not all resources are known", zap.Error(err))
		}
		i.await(ctx)
		if changed && ctx.Err() == nil {
			i.tell(func(h *Handler) func() { return h.Listed })
		}
		if first {
			close(i.ready)
		}
		select {
		case <-t.C():
		case <-i.changed:
			if !i.pause(ctx) {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (i *Inventory) tell(of func(h *Handler) func()) {
	for n := range i.handlers {
		if f := of(&i.handlers[n]); f != nil {
			f()
		}
	}
}

// pause tells whether ctx did not end in a while.
func (i *Inventory) pause(ctx context.Context) bool {
	t := i.cfg.Clock.NewTimer(discoveryDelay)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// await waits until every resource was listed, but not for ever.
func (i *Inventory) await(ctx context.Context) {
	bounded, cancel := context.WithTimeout(ctx, i.wait)
	defer cancel()
	for gvr, m := range i.monitors {
		if !cache.WaitForCacheSync(bounded.Done(), m.synced) {
			if ctx.Err() == nil {
				i.lg.Warn("a resource could not be listed", zap.Stringer("resource", gvr))
			}
			return
		}
	}
}

func (i *Inventory) stop() {
	for _, m := range i.monitors {
		close(m.stop)
	}
	for _, m := range i.monitors {
		<-m.done
	}
}

// follow starts and ends watches until they are those of the resources that there are.
func (i *Inventory) follow() (changed bool, err error) {
	resources, err := i.cfg.Resources()
	if err != nil && len(resources) == 0 {
		return false, err
	}
	there := map[schema.GroupVersionResource]bool{}
	var found []Resource
	for _, r := range resources {
		there[r.GroupVersionResource] = true
		if i.monitors[r.GroupVersionResource] == nil {
			found = append(found, r)
		}
	}
	if len(found) > 0 {
		i.tell(func(h *Handler) func() { return h.Found })
	}
	for _, r := range found {
		m, merr := i.watch(r)
		if merr != nil {
			err = errors.Join(err, merr)
			continue
		}
		i.mu.Lock()
		i.monitors[r.GroupVersionResource] = m
		i.mu.Unlock()
		changed = true
	}
	if err != nil { // some may merely not have been listed
		return changed, err
	}
	for gvr, m := range i.monitors {
		if !there[gvr] {
			close(m.stop)
			<-m.done
			i.mu.Lock()
			delete(i.monitors, gvr)
			i.mu.Unlock()
			changed = true
		}
	}
	return changed, nil
}

// watch starts to watch a resource.
func (i *Inventory) watch(r Resource) (*monitor, error) {
	in := metadatainformer.NewFilteredMetadataInformer(i.cfg.Metadata, r.GroupVersionResource, metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()
	if err := in.SetTransform(strip); err != nil {
		return nil, fmt.Errorf("inventory: %s: %w", r, err)
	}
	seen := func(o any) { i.seen(r, o) }
	reg, err := in.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen, UpdateFunc: func(_, o any) { seen(o) }, DeleteFunc: func(o any) { i.gone(r, o) },
	})
	if err != nil {
		return nil, fmt.Errorf("inventory: %s: %w", r, err)
	}
	m := &monitor{of: r, indexer: in.GetIndexer(), stop: make(chan struct{}), done: make(chan struct{}), synced: reg.HasSynced}
	go func() {
		defer close(m.done)
		in.Run(m.stop)
	}()
	return m, nil
}

// strip leaves of an object what is kept.
func strip(o any) (any, error) {
	m, ok := o.(*Object)
	if !ok {
		return o, nil
	}
	return &Object{ObjectMeta: metav1.ObjectMeta{
		Namespace: m.Namespace, Name: m.Name, UID: m.UID, ResourceVersion: m.ResourceVersion,
		OwnerReferences: m.OwnerReferences, Finalizers: m.Finalizers, DeletionTimestamp: m.DeletionTimestamp,
	}}, nil
}

func (i *Inventory) seen(r Resource, o any) {
	m, ok := o.(*Object)
	if !ok {
		return
	}
	for _, h := range i.handlers {
		if h.Seen != nil {
			h.Seen(r, m)
		}
	}
	i.noteDefinition(r)
}

func (i *Inventory) gone(r Resource, o any) {
	if tomb, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = tomb.Obj
	}
	m, ok := o.(*Object)
	if !ok {
		return
	}
	for _, h := range i.handlers {
		if h.Gone != nil {
			h.Gone(r, m)
		}
	}
	i.noteDefinition(r)
}

// noteDefinition has discovery asked again soon if r defines resources.
func (i *Inventory) noteDefinition(r Resource) {
	if r.Group == "apiextensions.k8s.io" && r.GroupVersionResource.Resource == "customresourcedefinitions" {
		select {
		case i.changed <- struct{}{}:
		default:
		}
	}
}
