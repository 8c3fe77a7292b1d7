package controllers

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// LoadBalancerClass is the class of services that get addresses here. Services without a class get them, too.
const LoadBalancerClass = "keelson.io/pool"

// AddressRange is the addresses from First to Last, of one family.
type AddressRange struct{ First, Last netip.Addr }

// ParseAddressRanges reads ranges: "192.0.2.10-192.0.2.20", "192.0.2.0/28", "2001:db8::/120" or single addresses.
func ParseAddressRanges(texts []string) (out []AddressRange, err error) {
	for _, text := range texts {
		r, perr := parseAddressRange(strings.TrimSpace(text))
		if perr != nil {
			return nil, fmt.Errorf("load balancer addresses %q: %w", text, perr)
		}
		out = append(out, r)
	}
	return out, nil
}

func parseAddressRange(text string) (AddressRange, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		last := p.Masked().Addr().AsSlice()
		for bit := p.Bits(); bit < len(last)*8; bit++ {
			last[bit/8] |= 1 << (7 - bit%8)
		}
		to, _ := netip.AddrFromSlice(last)
		return AddressRange{p.Masked().Addr(), to}, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	a, err := netip.ParseAddr(from)
	if err != nil {
		return AddressRange{}, err
	}
	b, err := netip.ParseAddr(to)
	if err != nil {
		return AddressRange{}, err
	}
	if a.Is4() != b.Is4() || b.Less(a) {
		return AddressRange{}, errors.New("the last address comes before the first")
	}
	return AddressRange{a, b}, nil
}

// Contains says whether an address is in the range.
func (r AddressRange) Contains(a netip.Addr) bool {
	return a.Is4() == r.First.Is4() && !a.Less(r.First) && !r.Last.Less(a)
}

// balancerController gives services of type LoadBalancer addresses of a pool. Nodes answer for these.
type balancerController struct {
	*loop
	client   kubernetes.Interface
	services cache.Indexer
	pool     []AddressRange
	events   record.EventRecorder
}

// NewLoadBalancer makes the controller that gives services their external addresses. Without a pool services wait, and are
// told why.
func NewLoadBalancer(client kubernetes.Interface, i informers.SharedInformerFactory, events record.EventRecorder, lg *zap.Logger, pool []AddressRange) (Controller, error) {
	si := i.Core().V1().Services().Informer()
	b := &balancerController{loop: newLoop("service-lb", lg), client: client, services: si.GetIndexer(), pool: pool, events: events}
	b.sync = b.syncOne
	return b, b.watch(si, cache.ResourceEventHandlerFuncs{
		AddFunc: b.add, UpdateFunc: func(_, o any) { b.add(o) },
		DeleteFunc: func(any) { b.waiting() }, // its addresses are free
	})
}

// waiting looks at all services that have no address.
func (b *balancerController) waiting() {
	for _, o := range b.services.List() {
		if s := o.(*corev1.Service); b.ours(s) && len(s.Status.LoadBalancer.Ingress) == 0 {
			b.add(s)
		}
	}
}

// ours says whether a service gets its addresses here.
func (b *balancerController) ours(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && ptr.Deref(s.Spec.LoadBalancerClass, LoadBalancerClass) == LoadBalancerClass
}

// Run works until ctx ends. One worker allocates: two services would want the same address.
func (b *balancerController) Run(ctx context.Context) error { return b.run(ctx, 1) }

func (b *balancerController) syncOne(ctx context.Context, key string) error {
	o, exists, err := b.services.GetByKey(key)
	if err != nil || !exists {
		return err
	}
	s := o.(*corev1.Service)
	var want []corev1.LoadBalancerIngress
	switch {
	case b.ours(s) && s.DeletionTimestamp == nil:
		if want, err = b.allocate(s); err != nil {
			b.events.Eventf(s, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: %v", err)
			if len(s.Status.LoadBalancer.Ingress) == 0 {
				return nil // what is freed wakes it
			}
		}
	case s.Spec.Type == corev1.ServiceTypeLoadBalancer || !b.fromPool(s):
		return nil // somebody else's, or none
	}
	if equality.Semantic.DeepEqual(want, s.Status.LoadBalancer.Ingress) {
		return nil
	}
	n := s.DeepCopy()
	n.Status.LoadBalancer.Ingress = want
	if _, err := b.client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		return ignoreGone(err)
	}
	if len(want) > 0 {
		b.events.Eventf(s, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	}
	b.waiting()
	return nil
}

// fromPool says whether a service has addresses of the pool.
func (b *balancerController) fromPool(s *corev1.Service) bool {
	return slices.ContainsFunc(s.Status.LoadBalancer.Ingress, func(i corev1.LoadBalancerIngress) bool {
		a, err := netip.ParseAddr(i.IP)
		return err == nil && b.inPool(a)
	})
}

func (b *balancerController) inPool(a netip.Addr) bool {
	return slices.ContainsFunc(b.pool, func(r AddressRange) bool { return r.Contains(a) })
}

// allocate finds an address of each of a service's families: the one that it has or asks for, or the lowest that is free.
func (b *balancerController) allocate(s *corev1.Service) (out []corev1.LoadBalancerIngress, err error) {
	if len(b.pool) == 0 {
		return nil, errors.New("no pool of load balancer addresses is configured (--load-balancer-addresses)")
	}
	taken := map[netip.Addr]string{}
	for _, o := range b.services.List() {
		other := o.(*corev1.Service)
		if other.UID == s.UID {
			continue
		}
		for _, i := range other.Status.LoadBalancer.Ingress {
			if a, err := netip.ParseAddr(i.IP); err == nil {
				taken[a] = keyOf(other)
			}
		}
	}
	for _, f := range s.Spec.IPFamilies {
		a, err := b.pick(s, f == corev1.IPv4Protocol, taken)
		if err != nil {
			return nil, err
		}
		out = append(out, corev1.LoadBalancerIngress{IP: a.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	return out, nil
}

func (b *balancerController) pick(s *corev1.Service, v4 bool, taken map[netip.Addr]string) (netip.Addr, error) {
	if want, err := netip.ParseAddr(s.Spec.LoadBalancerIP); err == nil && want.Is4() == v4 {
		switch {
		case !b.inPool(want):
			return want, fmt.Errorf("address %s is not in the pool", want)
		case taken[want] != "":
			return want, fmt.Errorf("address %s is taken by service %s", want, taken[want])
		}
		return want, nil
	}
	for _, i := range s.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(i.IP); err == nil && a.Is4() == v4 && b.inPool(a) && taken[a] == "" {
			return a, nil
		}
	}
	for _, r := range b.pool {
		if r.First.Is4() != v4 {
			continue
		}
		for a := r.First; a.IsValid() && !r.Last.Less(a); a = a.Next() {
			if taken[a] == "" {
				return a, nil
			}
		}
	}
	family := corev1.IPv6Protocol
	if v4 {
		family = corev1.IPv4Protocol
	}
	return netip.Addr{}, fmt.Errorf("the pool has no free %s address", family)
}
