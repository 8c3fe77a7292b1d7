package controllers

import (
	"context"
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/controllers/inventory"
	"github.com/keelson-io/keelson/orchestrator/kinds/usage"
)

const (
	// quotaResync is the time between two full calculations of what is used.
	quotaResync = 5 * time.Minute
	// quotaRecheck is after how long a quota is looked at again of which something else is used than its status said: what was
	// stored at about the same time may not have been seen yet, and nobody tells of it again.
	quotaRecheck = 2 * time.Second
	quotaWorkers = 3 // of each queue
)

// quotaController says in the status of quotas what is used of them. Admission charges what is about to be stored; this
// corrects it when objects go, take less than before, or never came to be.
//
// It has two queues: quotas of which it is not known what is used forbid whatever they limit, so they do not wait for the
// others.
type quotaController struct {
	*loop
	urgent *loop

	client    kubernetes.Interface
	quotas    cache.Indexer
	whole     map[schema.GroupResource]cache.SharedIndexInformer // resources whose objects are looked at
	inventory *inventory.Inventory                               // everything else
	clock     clock.Clock
}

// NewResourceQuota makes the controller of what is used of quotas. The inventory must not run yet.
func NewResourceQuota(client kubernetes.Interface, i informers.SharedInformerFactory, inv *inventory.Inventory, c clock.Clock, lg *zap.Logger) (Controller, error) {
	core := i.Core().V1()
	qi := core.ResourceQuotas().Informer()
	q := &quotaController{
		loop: newLoop("resource-quota", lg), urgent: newLoop("resource-quota-urgent", lg),
		client: client, quotas: qi.GetIndexer(), inventory: inv, clock: c,
		whole: map[schema.GroupResource]cache.SharedIndexInformer{
			{Resource: "pods"}: core.Pods().Informer(), {Resource: "services"}: core.Services().Informer(),
			{Resource: "persistentvolumeclaims"}: core.PersistentVolumeClaims().Informer(), {Resource: "resourcequotas"}: qi,
		},
	}
	q.sync, q.urgent.sync = q.syncOne, q.syncOne
	inv.Handle(inventory.Handler{Gone: q.gone, Listed: q.all})
	errs := q.watch(qi, cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) {
			if !q.unknown(o) {
				q.add(o) // what went while nobody looked
			}
		},
		UpdateFunc: func(_, o any) { q.unknown(o) },
	})
	for r, in := range q.whole {
		m := usage.For(r)
		errs = errors.Join(errs, q.watch(in, cache.ResourceEventHandlerFuncs{
			UpdateFunc: func(old, o any) { q.updated(m, old, o) },
			DeleteFunc: func(o any) { q.removed(m, o) },
		}))
	}
	q.urgent.synced = q.synced
	return q, errs
}

// Metrics are those of both queues.
func (q *quotaController) Metrics() []prometheus.Collector {
	return append(q.loop.Metrics(), q.urgent.Metrics()...)
}

// Run works until ctx ends.
func (q *quotaController) Run(ctx context.Context) error {
	select {
	case <-q.inventory.Ready():
	case <-ctx.Done():
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = q.urgent.run(ctx, quotaWorkers) })
	wg.Go(func() { q.resync(ctx) })
	err := q.run(ctx, quotaWorkers)
	wg.Wait()
	return err
}

// resync looks at all quotas from time to time.
func (q *quotaController) resync(ctx context.Context) {
	t := q.clock.NewTicker(quotaResync)
	defer t.Stop()
	for {
		select {
		case <-t.C():
			q.all()
		case <-ctx.Done():
			return
		}
	}
}

func (q *quotaController) all() {
	for _, key := range q.quotas.ListKeys() {
		q.queue.Add(key)
	}
}

// unknown queues a quota whose status does not say what is used of all that it limits, and tells whether it is one. Whether
// what the status says is right is a matter of the objects, not of the quota.
func (q *quotaController) unknown(o any) bool {
	x, ok := o.(*corev1.ResourceQuota)
	if !ok {
		return false
	}
	known := equality.Semantic.DeepEqual(x.Spec.Hard, x.Status.Hard)
	for name := range x.Status.Hard {
		_, used := x.Status.Used[name]
		known = known && (used || !q.counts(name))
	}
	if !known {
		q.urgent.add(x)
	}
	return !known
}

// counts says whether some resource is counted under a name.
func (q *quotaController) counts(name corev1.ResourceName) bool {
	return slices.ContainsFunc(q.measures(), func(m *usage.Measure) bool { return len(m.Names([]corev1.ResourceName{name})) > 0 })
}

// measures are those of all resources in namespaces.
func (q *quotaController) measures() (out []*usage.Measure) {
	for r := range q.whole {
		out = append(out, usage.For(r))
	}
	for _, r := range q.inventory.Resources() {
		gr := r.GroupResource()
		if m := usage.For(gr); m != nil && r.Namespaced && q.whole[gr] == nil {
			out = append(out, m)
		}
	}
	return out
}

func (q *quotaController) gone(r inventory.Resource, o *inventory.Object) {
	if gr := r.GroupResource(); r.Namespaced && q.whole[gr] == nil {
		q.replenish(usage.For(gr), o.Namespace)
	}
}

func (q *quotaController) removed(m *usage.Measure, o any) {
	if tomb, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = tomb.Obj
	}
	if x, ok := o.(metav1.Object); ok {
		q.replenish(m, x.GetNamespace())
	}
}

func (q *quotaController) updated(m *usage.Measure, old, o any) {
	before, ok := old.(runtime.Object)
	after, ok2 := o.(runtime.Object)
	if ok && ok2 && m.Changed(before, after, q.clock.Now()) {
		q.removed(m, o)
	}
}

// replenish queues the quotas of a namespace that limit what a measure counts.
func (q *quotaController) replenish(m *usage.Measure, namespace string) {
	if m == nil {
		return
	}
	all, err := q.quotas.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		q.lg.Error("the index by namespace", zap.Error(err))
		return
	}
	for _, o := range all {
		if x, ok := o.(*corev1.ResourceQuota); ok && len(m.Names(quota.ResourceNames(x.Spec.Hard))) > 0 {
			q.add(x)
		}
	}
}

func (q *quotaController) syncOne(ctx context.Context, key string) error {
	o, exists, err := q.quotas.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	x := o.(*corev1.ResourceQuota)
	used, err := q.count(x)
	for name, n := range x.Status.Used { // what could not be counted stays what it was
		if _, counted := used[name]; !counted {
			used[name] = n
		}
	}
	used = quota.Mask(used, quota.ResourceNames(x.Spec.Hard))
	if x.Status.Used != nil && equality.Semantic.DeepEqual(x.Spec.Hard, x.Status.Hard) && quota.Equals(used, x.Status.Used) {
		return err
	}
	next := x.DeepCopy()
	next.Status = corev1.ResourceQuotaStatus{Hard: x.Spec.DeepCopy().Hard, Used: used}
	if _, uerr := q.client.CoreV1().ResourceQuotas(x.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); uerr != nil {
		return errors.Join(err, ignoreMissing(uerr))
	}
	q.after(x, quotaRecheck)
	return err
}

// count adds up what is used of a quota. With an error it is not all.
func (q *quotaController) count(x *corev1.ResourceQuota) (used corev1.ResourceList, err error) {
	used = corev1.ResourceList{}
	limited := quota.ResourceNames(x.Spec.Hard)
	for _, m := range q.measures() {
		if len(m.Names(limited)) == 0 {
			continue
		}
		objects, known, oerr := q.objects(m.Resource, x.Namespace)
		if !known {
			err = errors.Join(err, oerr)
			continue
		}
		total, terr := m.Total(&x.Spec, objects, q.clock.Now())
		if terr != nil {
			err = errors.Join(err, terr)
			continue
		}
		for name, n := range total {
			used[name] = n
		}
	}
	return used, err
}

// objects are those of a resource in a namespace. Of those that are not whole there is only the metadata.
func (q *quotaController) objects(r schema.GroupResource, namespace string) (seq iter.Seq[runtime.Object], known bool, err error) {
	in := q.whole[r]
	if in == nil {
		all, known := q.inventory.Objects(r, namespace)
		return func(yield func(runtime.Object) bool) {
			for _, o := range all {
				if !yield(o) {
					return
				}
			}
		}, known, nil
	}
	all, err := in.GetIndexer().ByIndex(cache.NamespaceIndex, namespace)
	return func(yield func(runtime.Object) bool) {
		for _, o := range all {
			if x, ok := o.(runtime.Object); ok && !yield(x) {
				return
			}
		}
	}, err == nil, err
}
