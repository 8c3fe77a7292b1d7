package dns

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// record is one record of the zone.
type record struct {
	name string // as on the wire, in lower case
	typ  uint16 // typeNone: there is nothing but the name
	data string // as on the wire, not compressed
	// addresses of the name that data has, which an answer carries along: of SRV.
	glue []netip.Addr
}

// typeNone is the type of a record that only makes its name exist.
const typeNone = dns.TypeNone

// zone is what names are made of.
type zone struct {
	apex string // cluster.local, packed
	svc  string // svc.cluster.local
	pod  string // pod.cluster.local
}

func newZone(domain string) (zone, error) {
	apex, err := wireName(domain)
	if err != nil {
		return zone{}, err
	}
	return zone{apex: apex, svc: joined(apex, "svc"), pod: joined(apex, "pod")}, nil
}

// schemaVersion is that of the specification.
const schemaVersion = "1.1.0"

// fixed are the records that the zone has without any service.
func (z zone) fixed(own []netip.Addr) []record {
	ns := joined(z.apex, "ns", "dns")
	all := []record{
		{name: z.apex, typ: dns.TypeNS, data: ns},
		{name: z.apex, typ: dns.TypeSOA, data: z.soa(0)},
		{name: z.svc, typ: typeNone},
		{name: z.pod, typ: typeNone},
		{name: joined(z.apex, "dns-version"), typ: dns.TypeTXT, data: string(rune(len(schemaVersion))) + schemaVersion},
		{name: ns, typ: typeNone},
	}
	for _, a := range own {
		if !a.IsUnspecified() {
			all = append(all, address(ns, a))
		}
	}
	return all
}

// soa is the data of the zone's SOA record.
func (z zone) soa(serial uint32) string {
	const refresh, retry, expire, negative = 7200, 1800, 86400, 5
	b := []byte(joined(z.apex, "ns", "dns") + joined(z.apex, "hostmaster"))
	for _, n := range []uint32{serial, refresh, retry, expire, negative} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return string(b)
}

func address(name string, a netip.Addr) record {
	typ := dns.TypeA
	if a.Is6() {
		typ = dns.TypeAAAA
	}
	return record{name: name, typ: typ, data: string(a.AsSlice())}
}

// recordsOf are the records of a service with its slices.
func (z zone) recordsOf(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice) []record {
	name := joined(z.svc, svc.Name, svc.Namespace)
	switch {
	case len(svc.Name) > 63 || len(svc.Namespace) > 63:
		return nil
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		target, err := wireName(svc.Spec.ExternalName)
		if err != nil || target == "\x00" {
			return nil
		}
		return []record{{name: name, typ: dns.TypeCNAME, data: target}}
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		return z.headless(name, svc, endpoints)
	}
	var addrs []netip.Addr
	for _, ip := range clusterIPs(svc) {
		if a, err := netip.ParseAddr(ip); err == nil {
			addrs = append(addrs, a.Unmap())
		}
	}
	if len(addrs) == 0 {
		return nil // its addresses are still to be allocated
	}
	var all []record
	for _, a := range addrs {
		all = append(all, address(name, a), record{name: reverseName(a), typ: dns.TypePTR, data: name})
	}
	for _, p := range svc.Spec.Ports {
		all = append(all, srv(p.Name, p.Protocol, p.Port, name, name, addrs)...)
	}
	return all
}

func clusterIPs(svc *corev1.Service) []string {
	if len(svc.Spec.ClusterIPs) > 0 {
		return svc.Spec.ClusterIPs
	}
	return []string{svc.Spec.ClusterIP}
}

// srv is the record of a named port. Ports without a name have none.
func srv(port string, proto corev1.Protocol, number int32, service, target string, glue []netip.Addr) []record {
	if port == "" || len(port) > 62 {
		return nil
	}
	if proto == "" {
		proto = corev1.ProtocolTCP
	}
	const priority, weight = 0, 100
	b := binary.BigEndian.AppendUint16(nil, priority)
	b = binary.BigEndian.AppendUint16(b, weight)
	b = binary.BigEndian.AppendUint16(b, uint16(number))
	return []record{{
		name: joined(service, "_"+port, "_"+string(proto)), typ: dns.TypeSRV, data: string(b) + target, glue: glue,
	}}
}

// host is an endpoint of a headless service that is to be found.
type host struct {
	label string // under the service's name
	addrs []netip.Addr
}

// headless are the records of a service without a cluster address: those of its endpoints. Without any that is ready, the
// service's name does not exist.
func (z zone) headless(name string, svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice) (all []record) {
	seen := map[string]bool{}
	put := func(r record) {
		key := r.name + string(rune(r.typ)) + r.data
		if !seen[key] {
			seen[key] = true
			all = append(all, r)
		}
	}
	byHost := hostAddresses(svc, endpoints)
	for _, slice := range sorted(endpoints) {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			h := hostOf(svc, slice, e)
			if h.label == "" {
				continue
			}
			target := joined(name, h.label)
			for _, a := range h.addrs {
				put(address(name, a))
				put(address(target, a))
				put(record{name: reverseName(a), typ: dns.TypePTR, data: target})
			}
			for _, p := range slice.Ports {
				if p.Port == nil || p.Name == nil {
					continue
				}
				var proto corev1.Protocol
				if p.Protocol != nil {
					proto = *p.Protocol
				}
				for _, r := range srv(*p.Name, proto, *p.Port, name, target, byHost[h.label]) {
					put(r)
				}
			}
		}
	}
	return all
}

// hostAddresses are the addresses of each host, of all families, each once.
func hostAddresses(svc *corev1.Service, endpoints []*discoveryv1.EndpointSlice) map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for _, slice := range sorted(endpoints) {
		for i := range slice.Endpoints {
			h := hostOf(svc, slice, &slice.Endpoints[i])
			for _, a := range h.addrs {
				if !slices.Contains(all[h.label], a) {
					all[h.label] = append(all[h.label], a)
				}
			}
		}
	}
	return all
}

func sorted(endpoints []*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice {
	return slices.SortedFunc(slices.Values(endpoints), func(a, b *discoveryv1.EndpointSlice) int {
		return strings.Compare(a.Name, b.Name)
	})
}

// hostOf is an endpoint's host, or none with an empty label if it is not to be found.
func hostOf(svc *corev1.Service, slice *discoveryv1.EndpointSlice, e *discoveryv1.Endpoint) host {
	ready := e.Conditions.Ready == nil || *e.Conditions.Ready
	if !ready && !svc.Spec.PublishNotReadyAddresses || slice.AddressType == discoveryv1.AddressTypeFQDN {
		return host{}
	}
	var h host
	for _, s := range e.Addresses {
		if a, err := netip.ParseAddr(s); err == nil {
			h.addrs = append(h.addrs, a.Unmap().WithZone(""))
		}
	}
	if len(h.addrs) == 0 {
		return host{}
	}
	h.label = dashed(h.addrs[0])
	if e.Hostname != nil && *e.Hostname != "" && len(*e.Hostname) <= 63 {
		h.label = *e.Hostname
	}
	return h
}

// dashed is an address as a label.
func dashed(a netip.Addr) string {
	return strings.NewReplacer(".", "-", ":", "-").Replace(a.StringExpanded())
}

// undashed is the address that a label stands for.
func undashed(label []byte) (netip.Addr, bool) {
	var buf [63]byte
	for _, sep := range []byte{'.', ':'} {
		b := append(buf[:0], label...)
		for i, c := range b {
			if c == '-' {
				b[i] = sep
			}
		}
		if a, err := netip.ParseAddr(string(b)); err == nil && a.Zone() == "" && !a.Is4In6() {
			return a, true
		}
	}
	return netip.Addr{}, false
}
