package controllers

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	sliceutil "k8s.io/endpointslice/util"
)

const (
	// maxAddresses is how many addresses an Endpoints object has at most; slices have no such bound.
	maxAddresses          = 1000
	endpointsManagedLabel = "endpoints.kubernetes.io/managed-by"
	endpointsManager      = "endpoint-controller"
)

// endpointsController keeps the Endpoints objects of services: the older form of endpoint slices, of one address family.
type endpointsController struct {
	*loop
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	events    record.EventRecorder
}

// NewEndpoints makes the controller of Endpoints objects.
func NewEndpoints(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, lg *zap.Logger) (Controller, error) {
	svc, pods, eps := i.Core().V1().Services(), i.Core().V1().Pods(), i.Core().V1().Endpoints()
	c := &endpointsController{
		loop: newLoop("endpoints", lg), client: client, services: svc.Lister(), pods: pods.Lister(), endpoints: eps.Lister(), events: events,
	}
	c.sync = c.syncOne
	changed := func(old, o any) {
		keys, err := sliceutil.GetServicesToUpdate(c.services, sliceutil.GetPodUpdateProjectionKey(old, o))
		if err != nil {
			c.lg.Warn("the services of a pod could not be found", zap.Error(err))
		}
		for key := range keys {
			c.queue.Add(key)
		}
	}
	return c, errors.Join(
		c.watch(svc.Informer(), objects(func(o *corev1.Service) { c.add(o) })),
		c.watch(pods.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) { changed(nil, o) }, UpdateFunc: changed, DeleteFunc: func(o any) { changed(o, nil) },
		}),
		c.watch(eps.Informer(), cache.ResourceEventHandlerFuncs{DeleteFunc: c.add}),
	)
}

// Run works until ctx ends.
func (c *endpointsController) Run(ctx context.Context) error { return c.run(ctx, 5) }

func (c *endpointsController) syncOne(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return err
	}
	s, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return ignoreMissing(c.client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{}))
	}
	if err != nil || s.Spec.Selector == nil || s.Spec.Type == corev1.ServiceTypeExternalName {
		return err
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(s.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return err
	}
	have, err := c.endpoints.Endpoints(namespace).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	want := endpointsOf(s, pods, have)
	switch {
	case have == nil:
		_, err = c.client.CoreV1().Endpoints(namespace).Create(ctx, want, metav1.CreateOptions{})
	case equality.Semantic.DeepEqual(have, want):
		return nil
	default:
		_, err = c.client.CoreV1().Endpoints(namespace).Update(ctx, want, metav1.UpdateOptions{})
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) {
		return err // the cache is behind the last write; nobody has to be told
	}
	if err != nil && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		c.events.Eventf(s, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s/%s: %v", namespace, name, err)
		return err
	}
	return nil
}

// endpointsOf computes the object of a service, on top of the one that there is.
func endpointsOf(s *corev1.Service, pods []*corev1.Pod, have *corev1.Endpoints) *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: s.Name}}
	if have != nil {
		e = have.DeepCopy()
	}
	e.Labels = maps.Clone(s.Labels)
	if e.Labels == nil {
		e.Labels = map[string]string{}
	}
	e.Labels[endpointsManagedLabel] = endpointsManager
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		e.Labels[corev1.IsHeadlessService] = ""
	} else {
		delete(e.Labels, corev1.IsHeadlessService)
	}
	var over bool
	e.Subsets, over = subsetsOf(s, pods)
	if e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	delete(e.Annotations, corev1.EndpointsOverCapacity)
	if over {
		e.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	}
	if len(e.Annotations) == 0 {
		e.Annotations = nil
	}
	return e
}

// subsetsOf groups addresses by the ports that they serve, in one order always. over says that there are too many, and that
// some were left out: those that are not ready first.
func subsetsOf(s *corev1.Service, pods []*corev1.Pod) (subsets []corev1.EndpointSubset, over bool) {
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *corev1.Pod) int {
		return cmp.Or(order(isReady(a), isReady(b)), strings.Compare(a.Name, b.Name))
	})
	groups := map[string]*corev1.EndpointSubset{}
	count := 0
	for _, p := range pods {
		a, ok := addressOf(s, p)
		if !ok {
			continue
		}
		ports, ok := portsOf(s, p)
		if !ok {
			continue
		}
		if count++; count > maxAddresses {
			over = true
			break
		}
		key := portKey(ports)
		g := groups[key]
		if g == nil {
			g = &corev1.EndpointSubset{Ports: ports}
			groups[key] = g
		}
		if s.Spec.PublishNotReadyAddresses || isReady(p) {
			g.Addresses = append(g.Addresses, a)
		} else {
			g.NotReadyAddresses = append(g.NotReadyAddresses, a)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(groups)) {
		g := groups[key]
		byIP := func(a, b corev1.EndpointAddress) int { return strings.Compare(a.IP, b.IP) }
		slices.SortFunc(g.Addresses, byIP)
		slices.SortFunc(g.NotReadyAddresses, byIP)
		subsets = append(subsets, *g)
	}
	return subsets, over
}

// addressOf is a pod's address of the service's first family, if it has one and is to be found under it.
func addressOf(s *corev1.Service, p *corev1.Pod) (a corev1.EndpointAddress, ok bool) {
	if !sliceutil.ShouldPodBeInEndpoints(p, s.Spec.PublishNotReadyAddresses) {
		return a, false
	}
	v6 := len(s.Spec.IPFamilies) > 0 && s.Spec.IPFamilies[0] == corev1.IPv6Protocol
	for _, ip := range p.Status.PodIPs {
		if strings.Contains(ip.IP, ":") == v6 {
			a.IP = ip.IP
			break
		}
	}
	a.NodeName = &p.Spec.NodeName
	a.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID}
	if sliceutil.ShouldSetHostname(p, s) {
		a.Hostname = p.Spec.Hostname
	}
	return a, a.IP != ""
}

// portsOf are the ports of a service on a pod; false: it has none of them. A headless service may have no ports at all.
func portsOf(s *corev1.Service, p *corev1.Pod) (ports []corev1.EndpointPort, ok bool) {
	for i := range s.Spec.Ports {
		sp := &s.Spec.Ports[i]
		n, err := endpointslice.FindPort(p, sp)
		if err != nil {
			continue
		}
		ports = append(ports, corev1.EndpointPort{Name: sp.Name, Port: int32(n), Protocol: sp.Protocol, AppProtocol: sp.AppProtocol})
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	return ports, len(ports) > 0 || len(s.Spec.Ports) == 0 && s.Spec.ClusterIP == corev1.ClusterIPNone
}

func portKey(ports []corev1.EndpointPort) string {
	var b strings.Builder
	for _, p := range ports {
		b.WriteString(p.String())
	}
	return b.String()
}
