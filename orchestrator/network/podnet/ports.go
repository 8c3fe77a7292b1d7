package podnet

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var protocols = map[runtimeapi.Protocol]byte{
	runtimeapi.Protocol_TCP: unix.IPPROTO_TCP, runtimeapi.Protocol_UDP: unix.IPPROTO_UDP, runtimeapi.Protocol_SCTP: unix.IPPROTO_SCTP,
}

var protocolNames = map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}

// portsOf are the mappings that ask for a port of the host.
func portsOf(all []*runtimeapi.PortMapping) ([]port, error) {
	var out []port
	for _, m := range all {
		if m.HostPort == 0 {
			continue
		}
		p := port{Protocol: protocols[m.Protocol], HostPort: uint16(m.HostPort), Container: uint16(m.ContainerPort)}
		if p.Protocol == 0 || m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, fmt.Errorf("podnet: host port %d to port %d of protocol %s cannot be", m.HostPort, m.ContainerPort, m.Protocol)
		}
		if m.HostIp != "" {
			a, err := netip.ParseAddr(m.HostIp)
			if err != nil {
				return nil, fmt.Errorf("podnet: address of host port %d: %w", m.HostPort, err)
			}
			p.Host = a.Unmap()
		}
		for _, o := range out {
			if p.overlaps(o) {
				return nil, fmt.Errorf("podnet: host port %s is asked for twice", p)
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// any says whether the port is meant on all addresses of the host, of one family or of both.
func (p port) any() bool { return !p.Host.IsValid() || p.Host.IsUnspecified() }

// serves says whether the port is one for addresses of the family of a pod's address.
func (p port) serves(a netip.Addr) bool { return !p.Host.IsValid() || p.Host.Is4() == a.Is4() }

// overlaps says whether a packet could be meant for both ports.
func (p port) overlaps(o port) bool {
	if p.Protocol != o.Protocol || p.HostPort != o.HostPort {
		return false
	}
	switch {
	case !p.Host.IsValid() || !o.Host.IsValid():
		return true
	case p.Host.Is4() != o.Host.Is4():
		return false
	}
	return p.any() || o.any() || p.Host == o.Host
}

func (p port) String() string {
	if p.any() {
		return fmt.Sprintf("%d/%s", p.HostPort, protocolNames[p.Protocol])
	}
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(p.Host, p.HostPort), protocolNames[p.Protocol])
}

// forgetFlows makes the kernel forget where packets of a pod's host ports went before. For UDP a flow lives as long as
// packets come; TCP and SCTP start anew by themselves.
func (n *Network) forgetFlows(r *record) error {
	for _, p := range r.Ports {
		if p.Protocol != unix.IPPROTO_UDP {
			continue
		}
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			f := &netlink.ConntrackFilter{}
			if err := errors.Join(f.AddProtocol(p.Protocol), f.AddPort(netlink.ConntrackOrigDstPort, p.HostPort)); err != nil {
				return fmt.Errorf("podnet: flows of host port %s: %w", p, err)
			}
			if _, err := n.nl.ConntrackDeleteFilters(netlink.ConntrackTable, family, f); err != nil && !absent(err) {
				return fmt.Errorf("podnet: flows of host port %s: %w", p, err)
			}
		}
	}
	return nil
}

// bandwidth is a pod's limits, in bits per second; 0 is none.
type bandwidth struct {
	Ingress uint64 `json:"ingress,omitempty"`
	Egress  uint64 `json:"egress,omitempty"`
}

// The annotations that limit a pod, and between what.
const (
	ingressAnnotation = "kubernetes.io/ingress-bandwidth"
	egressAnnotation  = "kubernetes.io/egress-bandwidth"
	minBandwidth      = 1_000
	maxBandwidth      = 1_000_000_000_000_000
)

func bandwidthOf(annotations map[string]string) (b bandwidth, err error) {
	parse := func(name string) (uint64, error) {
		s, ok := annotations[name]
		if !ok {
			return 0, nil
		}
		q, err := resource.ParseQuantity(s)
		if err != nil {
			return 0, fmt.Errorf("podnet: annotation %s=%q: %w", name, s, err)
		}
		if v := q.Value(); v >= minBandwidth && v <= maxBandwidth {
			return uint64(v), nil
		}
		return 0, fmt.Errorf("podnet: annotation %s=%q: it is not between 1k and 1P bits per second", name, s)
	}
	if b.Ingress, err = parse(ingressAnnotation); err != nil {
		return b, err
	}
	b.Egress, err = parse(egressAnnotation)
	return b, err
}

// A token bucket holds what comes in shapeBurst, but no less than minBurst bytes, which is a large segment; packets wait in
// it no longer than shapeLatency.
const (
	shapeBurst   = 50.0 / 1000 // seconds
	minBurst     = 80_000
	shapeLatency = 25.0 / 1000 // seconds
)

// shape limits what leaves by an interface, to bits per second. 0 is no limit.
func shape(h *netlink.Handle, l netlink.Link, bits uint64) error {
	if bits == 0 {
		return nil
	}
	rate := bits / 8
	burst := uint32(max(float64(rate)*shapeBurst, minBurst))
	if float64(rate)*shapeBurst > 1<<31 {
		burst = 1 << 31
	}
	q := &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate, Buffer: netlink.Xmittime(rate, burst), Limit: uint32(min(float64(rate)*shapeLatency+float64(burst), 1<<32-1)),
	}
	if err := h.QdiscReplace(q); err != nil {
		return fmt.Errorf("podnet: limit %s to %d bits per second: %w", l.Attrs().Name, bits, err)
	}
	return nil
}
