package allocation

import (
	"context"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Labels of addresses that were allocated.
const (
	familyLabel  = networkingv1.LabelIPAddressFamily
	managerLabel = networkingv1.LabelManagedBy
	manager      = "ipallocator.k8s.io"
)

// addresses hands out the addresses of ranges.
type addresses struct {
	objects *objectstore.Collection // of IPAddresses
	clock   clock.Clock
}

// randomTries is how many addresses are tried before all are looked through.
const randomTries = 32

// family names the family of a range as services do.
func family(p netip.Prefix) corev1.IPFamily {
	if p.Addr().Is6() {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// take takes a given address for a service. AlreadyExists if it is taken.
func (a *addresses) take(ctx context.Context, ip netip.Addr, svc *corev1.Service) error {
	f := "IPv4"
	if ip.Is6() {
		f = "IPv6"
	}
	_, err := a.objects.Create(ctx, &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{
			Name: ip.String(), UID: types.UID(uuid.NewUUID()), CreationTimestamp: metav1.Time{Time: a.clock.Now()}, Generation: 1,
			Labels: map[string]string{familyLabel: f, managerLabel: manager},
		},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: svc.Namespace, Name: svc.Name}},
	})
	return err
}

// takeAny takes an address of a range. The first few of a range are left to those who ask for them.
func (a *addresses) takeAny(ctx context.Context, r netip.Prefix, svc *corev1.Service) (netip.Addr, error) {
	size := uint64(1) << min(r.Addr().BitLen()-r.Bits(), 62)
	static := min(max(16, size/16), 256)
	if size <= 2*static {
		static = 0
	}
	for range randomTries {
		ip := offset(r, static+rand.Uint64N(size-static))
		if err := a.tryTake(ctx, r, ip, svc); !apierrors.IsAlreadyExists(err) {
			return ip, err
		}
	}
	return a.search(ctx, r, size, svc)
}

// search looks for an address that nobody has.
func (a *addresses) search(ctx context.Context, r netip.Prefix, size uint64, svc *corev1.Service) (netip.Addr, error) {
	page, err := a.objects.List(ctx, objectstore.ListQuery{})
	if err != nil {
		return netip.Addr{}, err
	}
	taken := make(map[string]bool, len(page.Items))
	for _, it := range page.Items {
		taken[it.Object.GetName()] = true
	}
	for i := range size {
		ip := offset(r, i)
		if taken[ip.String()] {
			continue
		}
		if err := a.tryTake(ctx, r, ip, svc); !apierrors.IsAlreadyExists(err) {
			return ip, err
		}
	}
	return netip.Addr{}, fmt.Errorf("range is full")
}

// tryTake takes an address that services may have: neither a range's first nor, of IPv4, its last.
func (a *addresses) tryTake(ctx context.Context, r netip.Prefix, ip netip.Addr, svc *corev1.Service) error {
	if !usable(r, ip) {
		return apierrors.NewAlreadyExists(networkingv1.Resource("ipaddresses"), ip.String())
	}
	return a.take(ctx, ip, svc)
}

func usable(r netip.Prefix, ip netip.Addr) bool {
	return r.Contains(ip) && ip != r.Masked().Addr() && (ip.Is6() || r.Contains(ip.Next()))
}

// release gives back an address, if it is a service's.
func (a *addresses) release(ctx context.Context, ip string, svc *corev1.Service) error {
	_, err := a.objects.Delete(ctx, "", ip, func(it *objectstore.Item) error {
		if !ownedBy(it.Object, svc.Namespace, svc.Name) {
			return apierrors.NewNotFound(networkingv1.Resource("ipaddresses"), ip)
		}
		return nil
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func ownedBy(o kinds.Object, namespace, name string) bool {
	a, ok := o.(*networkingv1.IPAddress)
	if !ok || a.Spec.ParentRef == nil {
		return false
	}
	p := a.Spec.ParentRef
	return p.Group == "" && p.Resource == "services" && p.Namespace == namespace && p.Name == name
}

// offset is the n-th address of a range.
func offset(r netip.Prefix, n uint64) netip.Addr {
	base := new(big.Int).SetBytes(r.Masked().Addr().AsSlice())
	base.Add(base, new(big.Int).SetUint64(n))
	b := make([]byte, r.Addr().BitLen()/8)
	ip, _ := netip.AddrFromSlice(base.FillBytes(b)) // it has the right length
	return ip
}
