package controllers

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	sliceutil "k8s.io/endpointslice/util"
	"k8s.io/utils/ptr"
)

const (
	mirrorManager = "endpointslicemirroring-controller.k8s.io"
	// maxMirrored is how many addresses of a subset are mirrored.
	maxMirrored = 1000
)

// mirrorController makes endpoint slices of the Endpoints objects that somebody wrote for services without a selector. There is
// one slice for every address family and set of ports.
type mirrorController struct {
	*loop
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    cache.Indexer
	events    record.EventRecorder
	tracker   *sliceutil.EndpointSliceTracker
}

// slicesByMirrored is an index of the slices that mirror something.
const slicesByMirrored = "mirrored"

// NewEndpointSliceMirroring makes the controller that mirrors Endpoints objects.
func NewEndpointSliceMirroring(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, lg *zap.Logger) (Controller, error) {
	svc, eps, es := i.Core().V1().Services(), i.Core().V1().Endpoints(), i.Discovery().V1().EndpointSlices()
	c := &mirrorController{
		loop: newLoop("endpointslicemirroring", lg), client: client, services: svc.Lister(), endpoints: eps.Lister(), slices: es.Informer().GetIndexer(),
		events: events, tracker: sliceutil.NewEndpointSliceTracker(),
	}
	c.sync = c.syncOne
	err := es.Informer().AddIndexers(cache.Indexers{slicesByMirrored: func(o any) ([]string, error) {
		s := o.(*discoveryv1.EndpointSlice)
		if key, err := endpointslice.ServiceControllerKey(s); err == nil && isMirror(s) {
			return []string{key}, nil
		}
		return nil, nil
	}})
	return c, errors.Join(err,
		c.watch(svc.Informer(), objects(func(o *corev1.Service) { c.add(o) })),
		c.watch(eps.Informer(), objects(func(o *corev1.Endpoints) { c.add(o) })),
		c.watch(es.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: c.sliceSeen, DeleteFunc: c.sliceWent,
			UpdateFunc: func(old, o any) {
				if before, s := old.(*discoveryv1.EndpointSlice), o.(*discoveryv1.EndpointSlice); isMirror(before) &&
					(!isMirror(s) || before.Labels[discoveryv1.LabelServiceName] != s.Labels[discoveryv1.LabelServiceName]) {
					c.queueService(before)
				}
				c.sliceSeen(o)
			},
		}),
	)
}

// Run works until ctx ends.
func (c *mirrorController) Run(ctx context.Context) error { return c.run(ctx, 5) }

func isMirror(s *discoveryv1.EndpointSlice) bool {
	return s.Labels[discoveryv1.LabelManagedBy] == mirrorManager
}

func (c *mirrorController) queueService(s *discoveryv1.EndpointSlice) {
	if key, err := endpointslice.ServiceControllerKey(s); err == nil {
		c.queue.Add(key)
	}
}

func (c *mirrorController) sliceSeen(o any) {
	if s := o.(*discoveryv1.EndpointSlice); isMirror(s) && c.tracker.ShouldSync(s) {
		c.queueService(s)
	}
}

func (c *mirrorController) sliceWent(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	s, ok := o.(*discoveryv1.EndpointSlice)
	if ok && isMirror(s) && c.tracker.Has(s) && !c.tracker.HandleDeletion(s) {
		c.queueService(s) // it was not this controller that removed it
	}
}

func (c *mirrorController) syncOne(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	found, err := c.slices.ByIndex(slicesByMirrored, key)
	if err != nil {
		return err
	}
	have := make([]*discoveryv1.EndpointSlice, len(found))
	for i, x := range found {
		have[i] = x.(*discoveryv1.EndpointSlice)
	}
	svc, serr := c.services.Services(namespace).Get(name)
	ep, eerr := c.endpoints.Endpoints(namespace).Get(name)
	if serr != nil || eerr != nil || svc.Spec.Selector != nil || !mirrored(ep) { // errors: only not found
		c.tracker.DeleteService(namespace, name)
		return c.remove(ctx, have)
	}
	if c.tracker.StaleSlices(svc, have) {
		c.queue.AddAfter(key, staleDelay)
		return nil
	}
	if ep.DeletionTimestamp != nil {
		return nil
	}
	return c.reconcile(ctx, ep, have)
}

// mirrored tells whether an Endpoints object is to be mirrored.
func mirrored(ep *corev1.Endpoints) bool {
	_, lock := ep.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return !lock && ep.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// place is what the endpoints of a slice have in common.
type place struct {
	family discoveryv1.AddressType
	ports  sliceutil.PortMapKey
}

// reconcile makes the slices what the object says. A slice that is not needed any more becomes another one of its family.
func (c *mirrorController) reconcile(ctx context.Context, ep *corev1.Endpoints, have []*discoveryv1.EndpointSlice) error {
	want := c.wanted(ep)
	free := map[discoveryv1.AddressType][]*discoveryv1.EndpointSlice{}
	var changes []*discoveryv1.EndpointSlice
	for _, s := range have {
		at := place{s.AddressType, sliceutil.NewPortMapKey(s.Ports)}
		w := want[at]
		if w == nil {
			free[s.AddressType] = append(free[s.AddressType], s)
			continue
		}
		delete(want, at)
		if w = as(w, s); !equality.Semantic.DeepEqual(w, s) {
			changes = append(changes, w)
		} else if !c.tracker.Has(s) {
			c.tracker.Update(s)
		}
	}
	for at, w := range want {
		if f := free[at.family]; len(f) > 0 {
			w, free[at.family] = as(w, f[0]), f[1:]
		}
		changes = append(changes, w)
	}
	for _, s := range changes {
		if err := c.write(ctx, s); err != nil {
			return err
		}
	}
	return c.remove(ctx, slices.Concat(slices.Collect(maps.Values(free))...))
}

// as is a wanted slice in the place of one that there is.
func as(want, have *discoveryv1.EndpointSlice) *discoveryv1.EndpointSlice {
	s := have.DeepCopy()
	s.Labels, s.Annotations, s.OwnerReferences, s.Endpoints, s.Ports = want.Labels, want.Annotations, want.OwnerReferences, want.Endpoints, want.Ports
	return s
}

// wanted are the slices that an object wants, as they are to be created.
func (c *mirrorController) wanted(ep *corev1.Endpoints) map[place]*discoveryv1.EndpointSlice {
	out := map[place]*discoveryv1.EndpointSlice{}
	added := map[place]map[string]bool{}
	skipped := 0
	for _, subset := range ep.Subsets {
		var ports []discoveryv1.EndpointPort
		for _, p := range subset.Ports {
			ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
		}
		key := sliceutil.NewPortMapKey(ports)
		for i, a := range slices.Concat(subset.Addresses, subset.NotReadyAddresses) {
			ip, err := netip.ParseAddr(a.IP)
			if err != nil || i >= maxMirrored {
				skipped++
				continue
			}
			at := place{discoveryv1.AddressTypeIPv4, key}
			if ip.Is6() {
				at.family = discoveryv1.AddressTypeIPv6
			}
			if out[at] == nil {
				out[at], added[at] = newMirror(ep, at.family, ports), map[string]bool{}
			}
			if added[at][a.IP] {
				continue
			}
			added[at][a.IP] = true
			e := discoveryv1.Endpoint{
				Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(i < len(subset.Addresses))},
				TargetRef: a.TargetRef, NodeName: a.NodeName,
			}
			if a.Hostname != "" {
				e.Hostname = &a.Hostname
			}
			out[at].Endpoints = append(out[at].Endpoints, e)
		}
	}
	if skipped > 0 {
		c.events.Eventf(ep, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxMirrored, skipped)
	}
	return out
}

func newMirror(ep *corev1.Endpoints, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ep.Namespace, GenerateName: ep.Name + "-", Labels: map[string]string{}, Annotations: map[string]string{},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ep, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family, Ports: ports,
	}
	maps.Copy(s.Labels, ep.Labels)
	s.Labels[discoveryv1.LabelServiceName], s.Labels[discoveryv1.LabelManagedBy] = ep.Name, mirrorManager
	maps.Copy(s.Annotations, ep.Annotations)
	delete(s.Annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(s.Annotations, corev1.LastAppliedConfigAnnotation)
	return s
}

// write creates a slice that has no version yet, and updates others.
func (c *mirrorController) write(ctx context.Context, s *discoveryv1.EndpointSlice) error {
	all := c.client.DiscoveryV1().EndpointSlices(s.Namespace)
	var err error
	if s.ResourceVersion == "" {
		s, err = all.Create(ctx, s, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
	} else {
		s, err = all.Update(ctx, s, metav1.UpdateOptions{})
	}
	if err != nil {
		return err
	}
	c.tracker.Update(s)
	return nil
}

func (c *mirrorController) remove(ctx context.Context, gone []*discoveryv1.EndpointSlice) error {
	var errs []error
	for _, s := range gone {
		err := c.client.DiscoveryV1().EndpointSlices(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{})
		switch {
		case err == nil:
			c.tracker.ExpectDeletion(s)
		case !apierrors.IsNotFound(err):
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
