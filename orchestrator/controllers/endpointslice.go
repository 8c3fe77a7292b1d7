package controllers

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"
)

const (
	endpointSliceManager = "endpointslice-controller.k8s.io"
	// maxEndpoints is how many endpoints a slice has at most.
	maxEndpoints = 100
	// staleDelay is how long to wait for slices that were written and not seen yet.
	staleDelay = 100 * time.Millisecond
)

// endpointSliceController keeps the endpoint slices of services, by k8s.io/endpointslice, which knows how to place endpoints
// in slices so that few slices change.
type endpointSliceController struct {
	*loop
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     cache.Indexer
	nodes      corelisters.NodeLister
	events     record.EventRecorder
	reconciler *endpointslice.Reconciler
	tracker    *sliceutil.EndpointSliceTracker
	triggers   *sliceutil.TriggerTimeTracker
	topology   *topologycache.TopologyCache
}

// slicesByService is an index of endpoint slices.
const slicesByService = "service"

// NewEndpointSlice makes the controller of endpoint slices.
func NewEndpointSlice(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, lg *zap.Logger) (Controller, error) {
	svc, pods, nodes, slices := i.Core().V1().Services(), i.Core().V1().Pods(), i.Core().V1().Nodes(), i.Discovery().V1().EndpointSlices()
	c := &endpointSliceController{
		loop: newLoop("endpointslice", lg), services: svc.Lister(), pods: pods.Lister(), slices: slices.Informer().GetIndexer(), nodes: nodes.Lister(),
		events: events, tracker: sliceutil.NewEndpointSliceTracker(), triggers: sliceutil.NewTriggerTimeTracker(), topology: topologycache.NewTopologyCache(),
	}
	c.reconciler = endpointslice.NewReconciler(client, nodes.Lister(), maxEndpoints, c.tracker, c.topology, events, endpointSliceManager)
	c.sync = c.syncOne
	err := slices.Informer().AddIndexers(cache.Indexers{slicesByService: func(o any) ([]string, error) {
		if key, err := endpointslice.ServiceControllerKey(o.(*discoveryv1.EndpointSlice)); err == nil {
			return []string{key}, nil
		}
		return nil, nil
	}})
	return c, errors.Join(err,
		c.watch(svc.Informer(), objects(func(o *corev1.Service) { c.add(o) })),
		c.watch(pods.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { c.podChanged(nil, o) }, UpdateFunc: c.podChanged, DeleteFunc: func(o any) { c.podChanged(o, nil) },
		}),
		c.watch(slices.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: c.sliceSeen, UpdateFunc: c.sliceChanged, DeleteFunc: c.sliceWent}),
		c.watch(nodes.Informer(), objects(func(*corev1.Node) { c.queue.AddAfter(nodesKey, nodesDelay) })),
	)
}

// Run works until ctx ends.
func (c *endpointSliceController) Run(ctx context.Context) error { return c.run(ctx, 5) }

func (c *endpointSliceController) podChanged(old, o any) {
	keys, err := sliceutil.GetServicesToUpdate(c.services, sliceutil.GetPodUpdateProjectionKey(old, o))
	if err != nil {
		c.lg.Warn("the services of a pod could not be found", zap.Error(err))
		return
	}
	for key := range keys {
		c.queue.Add(key)
	}
}

func (c *endpointSliceController) queueService(s *discoveryv1.EndpointSlice) {
	if key, err := endpointslice.ServiceControllerKey(s); err == nil {
		c.queue.Add(key)
	}
}

func (c *endpointSliceController) sliceSeen(o any) {
	if s := o.(*discoveryv1.EndpointSlice); c.reconciler.ManagedByController(s) && c.tracker.ShouldSync(s) {
		c.queueService(s)
	}
}

func (c *endpointSliceController) sliceChanged(old, o any) {
	before, s := old.(*discoveryv1.EndpointSlice), o.(*discoveryv1.EndpointSlice)
	if was, is := before.Labels[discoveryv1.LabelServiceName], s.Labels[discoveryv1.LabelServiceName]; was != is {
		c.queueService(before)
		c.queueService(s)
		return
	}
	if c.reconciler.ManagedByChanged(before, s) || c.reconciler.ManagedByController(s) && c.tracker.ShouldSync(s) {
		c.queueService(s)
	}
}

func (c *endpointSliceController) sliceWent(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	s, ok := o.(*discoveryv1.EndpointSlice)
	if ok && c.reconciler.ManagedByController(s) && c.tracker.Has(s) && !c.tracker.HandleDeletion(s) {
		c.queueService(s) // it was not this controller that removed it
	}
}

// nodesKey in the queue stands for all nodes, which are looked at together nodesDelay after one of them changed: thousands of
// them change at a time.
const (
	nodesKey   = "\x00nodes"
	nodesDelay = time.Second
)

// nodesChanged looks again at services whose hints depend on where nodes are.
func (c *endpointSliceController) nodesChanged() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	c.topology.SetNodes(klog.Background().V(4), nodes) // that a node is in no zone is not worth a line at each of its changes
	for _, key := range c.topology.GetOverloadedServices() {
		c.queue.Add(key)
	}
}

func (c *endpointSliceController) syncOne(_ context.Context, key string) error {
	if key == nodesKey {
		c.nodesChanged()
		return nil
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	s, err := c.services.Services(namespace).Get(name)
	if err != nil { // only: not found
		c.triggers.DeleteService(namespace, name)
		c.reconciler.DeleteService(namespace, name)
		c.tracker.DeleteService(namespace, name)
		return nil
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.Selector == nil {
		return nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(s.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return err
	}
	have, err := c.slices.ByIndex(slicesByService, key)
	if err != nil {
		return err
	}
	var own []*discoveryv1.EndpointSlice
	for _, x := range have {
		if es := x.(*discoveryv1.EndpointSlice); c.reconciler.ManagedByController(es) && es.DeletionTimestamp == nil {
			own = append(own, es)
		}
	}
	if c.tracker.StaleSlices(s, own) {
		c.queue.AddAfter(key, staleDelay)
		return nil
	}
	trigger := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, s, pods)
	if err := c.reconciler.Reconcile(klog.Background(), s, pods, own, trigger); err != nil {
		c.events.Eventf(s, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s/%s: %v", namespace, name, err)
		return err
	}
	return nil
}
