package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/workqueue"

	"github.com/keelson-io/keelson/orchestrator/controllers/inventory"
	"github.com/keelson-io/keelson/orchestrator/controllers/queues"
)

const workers = 8

// Config is what a Collector needs.
type Config struct {
	Metadata metadata.Interface
	// Mapper knows which resource a kind has. Reset makes it ask again.
	Mapper    meta.ResettableRESTMapper
	Inventory *inventory.Inventory // run by the caller
	Logger    *zap.Logger
}

// Collector is described in the package comment.
type Collector struct {
	cfg     Config
	lg      *zap.Logger
	graph   *graph
	deletes *queues.Queue[types.UID]
	orphans *queues.Queue[types.UID]
}

// New makes a Collector. The inventory must not run yet.
func New(cfg Config) *Collector {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	queue := func(name string) *queues.Queue[types.UID] {
		return queues.New(name, workqueue.DefaultTypedControllerRateLimiter[types.UID]())
	}
	c := &Collector{cfg: cfg, lg: cfg.Logger.Named("garbage"), graph: newGraph(), deletes: queue("garbage-delete"), orphans: queue("garbage-orphan")}
	cfg.Inventory.Handle(inventory.Handler{
		Seen: func(r inventory.Resource, m *inventory.Object) {
			c.queue(c.graph.seen(object{kind: r.GroupVersionKind(), namespace: m.Namespace, name: m.Name, uid: m.UID}, m))
		},
		Gone:  func(_ inventory.Resource, m *inventory.Object) { c.queue(c.graph.went(m.UID)) },
		Found: cfg.Mapper.Reset,
	})
	return c
}

// Metrics are those of the queues.
func (c *Collector) Metrics() []prometheus.Collector {
	return []prometheus.Collector{c.deletes, c.orphans}
}

// Run works until ctx ends. It begins when the inventory is ready: before, owners that exist may not have been seen.
func (c *Collector) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.orphans.ShutDown()
	defer c.deletes.ShutDown()
	select {
	case <-c.cfg.Inventory.Ready():
	case <-ctx.Done():
		return nil
	}
	for range workers {
		wg.Go(func() { drain(ctx, c, c.deletes, c.delete) })
		wg.Go(func() { drain(ctx, c, c.orphans, c.orphan) })
	}
	<-ctx.Done()
	return nil
}

func (c *Collector) queue(w work) {
	for _, uid := range w.deletions {
		c.deletes.Add(uid)
	}
	for _, uid := range w.orphans {
		c.orphans.Add(uid)
	}
}

func drain(ctx context.Context, c *Collector, q *queues.Queue[types.UID], f func(ctx context.Context, uid types.UID) error) {
	for {
		uid, quit := q.Get()
		if quit {
			return
		}
		err := f(ctx, uid)
		q.Done(uid)
		switch {
		case err == nil:
			q.Forget(uid)
		case ctx.Err() == nil:
			c.lg.Debug("will be tried again", zap.String("uid", string(uid)), zap.Error(err))
			q.AddRateLimited(uid)
		}
	}
}

// client returns the means to change objects of a kind.
func (c *Collector) client(o *object) (metadata.ResourceInterface, error) {
	m, err := c.cfg.Mapper.RESTMapping(o.kind.GroupKind(), o.kind.Version)
	if err != nil {
		return nil, err
	}
	r := c.cfg.Metadata.Resource(m.Resource)
	if m.Scope.Name() == meta.RESTScopeNameRoot {
		return r, nil
	}
	if o.namespace == "" {
		return nil, fmt.Errorf("%w: %s %s", errNoNamespace, o.kind.Kind, o.name)
	}
	return r.Namespace(o.namespace), nil
}

// errNoNamespace: an object without a namespace names an owner that is in one.
var errNoNamespace = errors.New("an owner in a namespace is named by an object outside of namespaces")

// errUnseen: an owner exists that the inventory has not shown. It is looked at again, ever later.
var errUnseen = errors.New("an owner exists that was not seen yet")

// get reads an object; nil: it does not exist, or is another one of its name.
func (c *Collector) get(ctx context.Context, o *object) (*metav1.PartialObjectMetadata, error) {
	r, err := c.client(o)
	if err != nil {
		return nil, err
	}
	m, err := r.Get(ctx, o.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && m.UID != o.uid {
		return nil, nil
	}
	return m, err
}

// delete looks whether an object has to go.
func (c *Collector) delete(ctx context.Context, uid types.UID) error {
	v := c.graph.view(uid)
	if v == nil || v.deleting && !v.foreground {
		return nil
	}
	m, err := c.get(ctx, &v.object)
	if errors.Is(err, errNoNamespace) || meta.IsNoMatchError(err) {
		c.lg.Debug("an owner cannot be looked up", zap.String("name", v.name), zap.Error(err))
		return nil
	}
	if err != nil {
		return err
	}
	if m == nil {
		c.queue(c.graph.went(uid))
		return nil
	}
	if v.virtual { // it exists, and its own watch may tell more; or it goes before that begins, and nobody would notice
		return errUnseen
	}
	if v.foreground {
		return c.finishForeground(ctx, v, m)
	}
	return c.judge(ctx, v, m)
}

// finishForeground takes the finalizer off an object that nothing blocks any more, or sees to it that what blocks it goes.
func (c *Collector) finishForeground(ctx context.Context, v *view, m *metav1.PartialObjectMetadata) error {
	if len(v.blocking) == 0 {
		return c.dropFinalizer(ctx, &v.object, m, metav1.FinalizerDeleteDependents)
	}
	for _, uid := range v.blocking {
		if d := c.graph.view(uid); d != nil && !d.deleting {
			c.deletes.Add(uid)
		}
	}
	return nil
}

// owners sorts an object's owners.
type owners struct {
	solid    int         // exist
	dangling []types.UID // do not exist
	waiting  []types.UID // wait for their dependents to go
}

func (c *Collector) sort(ctx context.Context, v *view, refs []metav1.OwnerReference) (s owners, err error) {
	for i := range refs {
		r := &refs[i]
		known, foreground := c.graph.state(r.UID)
		switch {
		case foreground:
			s.waiting = append(s.waiting, r.UID)
		case known:
			s.solid++
		case c.graph.isGone(r.UID):
			s.dangling = append(s.dangling, r.UID)
		default:
			o := reference(r, v.namespace)
			m, err := c.get(ctx, &o)
			switch {
			case errors.Is(err, errNoNamespace), meta.IsNoMatchError(err): // nobody knows: leave it
				s.solid++
			case err != nil:
				return s, err
			case m == nil:
				c.queue(c.graph.went(r.UID))
				s.dangling = append(s.dangling, r.UID)
			case m.DeletionTimestamp != nil && slices.Contains(m.Finalizers, metav1.FinalizerDeleteDependents):
				s.waiting = append(s.waiting, r.UID)
			default:
				s.solid++
			}
		}
	}
	return s, nil
}

// judge deletes an object without an owner that exists. One that has others only loses its references to those that do not.
func (c *Collector) judge(ctx context.Context, v *view, m *metav1.PartialObjectMetadata) error {
	if len(m.OwnerReferences) == 0 {
		return nil
	}
	s, err := c.sort(ctx, v, m.OwnerReferences)
	switch {
	case err != nil:
		return err
	case s.solid > 0:
		if drop := append(s.dangling, s.waiting...); len(drop) > 0 {
			return c.dropOwners(ctx, &v.object, m, drop)
		}
		return nil
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case len(s.waiting) > 0 && len(v.dependents) > 0:
		// Its own dependents go before it, too, so that the owner's end is the end of all. One of a circle begins.
		if c.graph.anyForeground(v.uid) {
			if err := c.unblock(ctx, v, m); err != nil {
				return err
			}
		}
		policy = metav1.DeletePropagationForeground
	case slices.Contains(m.Finalizers, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(m.Finalizers, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	r, err := c.client(&v.object)
	if err != nil {
		return err
	}
	err = r.Delete(ctx, v.name, metav1.DeleteOptions{
		PropagationPolicy: &policy, Preconditions: &metav1.Preconditions{UID: &m.UID, ResourceVersion: &m.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// unblock makes an object's references to its owners such that it does not block them: it is part of a circle.
func (c *Collector) unblock(ctx context.Context, v *view, m *metav1.PartialObjectMetadata) error {
	refs := slices.Clone(m.OwnerReferences)
	for i := range refs {
		no := false
		refs[i].BlockOwnerDeletion = &no
	}
	updated, err := c.patch(ctx, &v.object, m, map[string]any{"ownerReferences": refs})
	if err == nil && updated != nil {
		m.ResourceVersion = updated.ResourceVersion
	}
	return err
}

func (c *Collector) dropOwners(ctx context.Context, o *object, m *metav1.PartialObjectMetadata, drop []types.UID) error {
	refs := []metav1.OwnerReference{}
	for _, r := range m.OwnerReferences {
		if !slices.Contains(drop, r.UID) {
			refs = append(refs, r)
		}
	}
	_, err := c.patch(ctx, o, m, map[string]any{"ownerReferences": refs})
	return err
}

func (c *Collector) dropFinalizer(ctx context.Context, o *object, m *metav1.PartialObjectMetadata, f string) error {
	if !slices.Contains(m.Finalizers, f) {
		return nil
	}
	kept := []string{}
	for _, x := range m.Finalizers {
		if x != f {
			kept = append(kept, x)
		}
	}
	_, err := c.patch(ctx, o, m, map[string]any{"finalizers": kept})
	return err
}

// patch changes an object's metadata if it still is what was read. One that is gone is no error.
func (c *Collector) patch(ctx context.Context, o *object, m *metav1.PartialObjectMetadata, change map[string]any) (*metav1.PartialObjectMetadata, error) {
	change["uid"], change["resourceVersion"] = m.UID, m.ResourceVersion
	b, err := json.Marshal(map[string]any{"metadata": change})
	if err != nil {
		return nil, err
	}
	r, err := c.client(o)
	if err != nil {
		return nil, err
	}
	updated, err := r.Patch(ctx, o.name, types.MergePatchType, b, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return updated, err
}

// orphan makes the dependents of an object independent, and lets the object go.
func (c *Collector) orphan(ctx context.Context, uid types.UID) error {
	v := c.graph.view(uid)
	if v == nil || v.virtual {
		return nil
	}
	var errs error
	for i := range v.dependents {
		d := &v.dependents[i]
		m, err := c.get(ctx, d)
		if err == nil && m != nil {
			err = c.dropOwners(ctx, d, m, []types.UID{uid})
		}
		errs = errors.Join(errs, err)
	}
	if errs != nil {
		return errs
	}
	m, err := c.get(ctx, &v.object)
	if err != nil || m == nil {
		return err
	}
	return c.dropFinalizer(ctx, &v.object, m, metav1.FinalizerOrphanDependents)
}
