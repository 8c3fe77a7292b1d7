package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// part is what a service makes of the table.
type part struct {
	since    int64 // when the service was made, in nanoseconds: of two that claim a key, the older one has it
	chains   map[string]*nft.Chain
	elements map[ref]nft.Element
	flows    []flow
	health   *health // nil: it has no health check
	ports    int
	// endpoints is how many there are in all pools, noLocal of how many ports the policy is Local and no endpoint is.
	endpoints         int
	noLocal, noInside int
}

// ref is an element's place.
type ref struct{ set, id string }

// flow is a UDP port with where its packets may go.
type flow struct {
	addresses []netip.Addr // none: those of the node
	family    nft.Family
	port      uint16
	to        []netip.AddrPort
}

// health is what a load balancer that asks a node is told.
type health struct {
	namespace, name string
	port            uint16
	local           int
}

// localFirst is the number of the first endpoint of a local pool.
const localFirst = 1 << 16

var protocols = map[corev1.Protocol]byte{corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP}

func protocolOf(p corev1.Protocol) byte {
	if p == "" {
		return unix.IPPROTO_TCP
	}
	return protocols[p]
}

// serviceProxyName is the label of services that another proxy serves.
const serviceProxyName = "service.kubernetes.io/service-proxy-name"

// served says whether a service is this proxy's.
func served(s *corev1.Service) bool {
	_, other := s.Labels[serviceProxyName]
	return !other && s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone && s.Spec.Type != corev1.ServiceTypeExternalName
}

// partOf makes the part of a service. It is nil where it has none.
func partOf(s *corev1.Service, all []*discoveryv1.EndpointSlice, here place) *part {
	if s == nil || !served(s) {
		return nil
	}
	p := &part{since: s.CreationTimestamp.UnixNano(), chains: map[string]*nft.Chain{}, elements: map[ref]nft.Element{}}
	ips := s.Spec.ClusterIPs
	if len(ips) == 0 {
		ips = []string{s.Spec.ClusterIP}
	}
	local := 0
	for _, text := range ips {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			continue
		}
		f := nft.FamilyOf(ip)
		p.add(clusterIPs[f], nft.Element{Key: ip.AsSlice()})
		pods := map[netip.Addr]bool{} // of this node, that are ready
		for i := range s.Spec.Ports {
			sp := &s.Spec.Ports[i]
			if protocolOf(sp.Protocol) == 0 {
				continue
			}
			endpoints := endpointsOf(all, f, sp, here)
			port{part: p, s: s, sp: sp, f: f, ip: ip, pools: choose(endpoints, here)}.make()
			for _, e := range filter(endpoints, func(e endpoint) bool { return e.local && (e.ready || e.serving) }) {
				a := e.at.Addr().AsSlice()
				p.add(hairpins[f], nft.Element{Key: slices.Concat(a, a)})
				if e.ready {
					pods[e.at.Addr()] = true
				}
			}
		}
		local = max(local, len(pods))
	}
	if n := s.Spec.HealthCheckNodePort; n > 0 && externalLocal(s) {
		p.health = &health{s.Namespace, s.Name, uint16(n), local}
	}
	return p
}

func (p *part) add(set string, e nft.Element) { p.elements[ref{set, e.ID()}] = e }

// port is a port of a service, in one family.
type port struct {
	*part
	s     *corev1.Service
	sp    *corev1.ServicePort
	f     nft.Family
	ip    netip.Addr
	pools pools
}

func externalLocal(s *corev1.Service) bool {
	return s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) bool {
	return ptr.Deref(s.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal
}

// name is the name of a chain of the port.
func (p port) name(kind string) string {
	protocol := strings.ToLower(string(p.sp.Protocol))
	if protocol == "" {
		protocol = "tcp"
	}
	return fmt.Sprintf("%s%d/%s/%s/%s/%d", kind, p.f, p.s.Namespace, p.s.Name, protocol, p.sp.Port)
}

func (p port) protocol() byte { return protocolOf(p.sp.Protocol) }

// at is a key of the maps by address.
func (p port) at(a netip.Addr) []byte {
	return slices.Concat(a.AsSlice(), nft.Byte(p.protocol()), nft.Port(uint16(p.sp.Port)))
}

// make makes the chains and elements of the port.
func (p port) make() {
	p.ports++
	p.endpoints += len(p.pools.all)
	inside, insideTo := p.inside()
	outside, outsideTo := p.outside()
	if len(p.pools.all) > 0 && (inside == "svc" || len(outside) > 0) {
		p.pool("svc", live[p.f], p.pools.all, 0)
	}
	if len(p.pools.local) > 0 && (inside == "local" || len(outside) > 0 && externalLocal(p.s)) {
		p.pool("local", liveLocal[p.f], p.pools.local, localFirst)
	}
	p.serve(p.ip, inside, insideTo)
	p.open(outside, outsideTo)
}

// inside is where packets to the cluster IP go.
func (p port) inside() (chain string, to []netip.AddrPort) {
	if !internalLocal(p.s) {
		return "svc", p.pools.all
	}
	if len(p.pools.local) == 0 && len(p.pools.all) > 0 {
		p.noInside++
	}
	return "local", p.pools.local
}

// outside are the other addresses of the port, and where packets to them go.
func (p port) outside() (out []netip.Addr, to []netip.AddrPort) {
	out, to = p.external(), p.pools.all
	for _, a := range p.balanced() {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	if p.nodePort() != 0 {
		out = append(out, netip.Addr{})
	}
	if len(out) > 0 && externalLocal(p.s) {
		to = p.pools.local
		if len(to) == 0 && len(p.pools.all) > 0 {
			p.noLocal++
		}
	}
	return out, to
}

func (p port) nodePort() uint16 {
	if p.s.Spec.Type != corev1.ServiceTypeNodePort && p.s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return 0
	}
	return uint16(p.sp.NodePort)
}

// external are the service's external IPs of the family.
func (p port) external() (out []netip.Addr) {
	for _, text := range p.s.Spec.ExternalIPs {
		if a, err := netip.ParseAddr(text); err == nil && nft.FamilyOf(a) == p.f && reachable(a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// balanced are the addresses of the load balancer that come to nodes unchanged.
func (p port) balanced() (out []netip.Addr) {
	for _, a := range balancedOf(p.s) {
		if nft.FamilyOf(a) == p.f {
			out = append(out, a)
		}
	}
	return out
}

// balancedOf are the addresses of a service's load balancer that nodes serve.
func balancedOf(s *corev1.Service) (out []netip.Addr) {
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	for _, i := range s.Status.LoadBalancer.Ingress {
		a, err := netip.ParseAddr(i.IP)
		if err == nil && reachable(a) && ptr.Deref(i.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// pool makes the chain that rewrites to one of a pool of endpoints.
func (p port) pool(kind, liveSet string, to []netip.AddrPort, first uint32) {
	front := p.at(p.ip)
	of := []nft.Field{nft.AddrConst(p.ip), nft.ProtoConst(p.protocol()), nft.PortConst(uint16(p.sp.Port))}
	for i, e := range to {
		target := slices.Concat(e.Addr().AsSlice(), nft.Port(e.Port()))
		p.add(endpoints[p.f], nft.Element{Key: slices.Concat(front, nft.Number(first+uint32(i))), Value: target})
		if p.sticky() {
			p.add(liveSet, nft.Element{Key: slices.Concat(front, target)})
		}
	}
	n := uint32(len(to))
	c := &nft.Chain{}
	if p.sticky() {
		m := &nft.Memory{Map: affinity[p.f], Live: liveSet, For: of, Timeout: p.stickiness()}
		c.Rules = append(c.Rules, nft.Rule{nft.DNATRemembered(p.f, m)}, nft.Rule{nft.Forget(p.f, m)}, nft.Rule{nft.DNATRandomRemembered(p.f, m, endpoints[p.f], n, first)})
	}
	c.Rules = append(c.Rules, nft.Rule{nft.DNATMap(p.f, endpoints[p.f], append(of, nft.Random(n, first))...)})
	p.chains[p.name(kind)] = c
}

func (p port) sticky() bool { return p.s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP }

// stickiness is how long a client is remembered after its last connection.
func (p port) stickiness() time.Duration {
	if c := p.s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
}

// serve sends packets to an address to a chain, which the port has if it has somewhere to go to.
func (p port) serve(a netip.Addr, kind string, to []netip.AddrPort) {
	if len(to) > 0 || (kind == "external" || kind == "sources") && len(p.pools.all) > 0 {
		p.add(services[p.f], nft.Element{Key: p.at(a), Goto: p.name(kind)})
	}
	if len(to) == 0 {
		p.add(unserved[p.f], nft.Element{Key: p.at(a), Goto: p.refusal()})
	}
	if p.protocol() == unix.IPPROTO_UDP {
		p.flows = append(p.flows, flow{[]netip.Addr{a}, p.f, uint16(p.sp.Port), p.targets()})
	}
}

// targets are all that flows of the port may go to.
func (p port) targets() []netip.AddrPort { return slices.Concat(p.pools.all, p.pools.local) }

// refusal is what becomes of packets that find no endpoint: those that would find one on another node are dropped, so that
// the client tries again.
func (p port) refusal() string {
	if len(p.pools.all) > 0 {
		return dropped
	}
	return rejected
}

// open makes the port reachable by the addresses beside the cluster IP; the zero one is that of the node port.
func (p port) open(outside []netip.Addr, to []netip.AddrPort) {
	if len(outside) == 0 {
		return
	}
	if len(p.pools.all) > 0 {
		p.chains[p.name("external")] = p.externalChain()
	}
	balanced := p.balanced()
	entrance := "external"
	if ranges := p.sources(); len(ranges) > 0 && len(balanced) > 0 && len(p.pools.all) > 0 {
		entrance = "sources"
		c := &nft.Chain{}
		for _, r := range ranges {
			c.Rules = append(c.Rules, nft.Rule{nft.From(r), nft.Goto(p.name("external"))})
		}
		c.Rules = append(c.Rules, nft.Rule{nft.Drop})
		p.chains[p.name(entrance)] = c
	}
	for _, a := range outside {
		switch {
		case !a.IsValid():
			p.serveNodePort(to)
		case slices.Contains(balanced, a):
			p.serve(a, entrance, to)
		default:
			p.serve(a, "external", to)
		}
	}
}

func (p port) serveNodePort(to []netip.AddrPort) {
	key := slices.Concat(nft.Byte(p.protocol()), nft.Port(p.nodePort()))
	if len(p.pools.all) > 0 {
		p.add(nodePorts[p.f], nft.Element{Key: key, Goto: p.name("external")})
	}
	if len(to) == 0 {
		p.add(unservedNodePorts[p.f], nft.Element{Key: key, Goto: p.refusal()})
	}
	if p.protocol() == unix.IPPROTO_UDP {
		p.flows = append(p.flows, flow{nil, p.f, p.nodePort(), p.targets()})
	}
}

// externalChain decides by the policy. Under Local, the pods of this node and the node itself still reach all endpoints.
func (p port) externalChain() *nft.Chain {
	mark, all := nft.SetMark(masqueradeMark), nft.Goto(p.name("svc"))
	if !externalLocal(p.s) {
		return &nft.Chain{Rules: []nft.Rule{{mark, all}}}
	}
	c := &nft.Chain{Rules: []nft.Rule{{nft.In(own[p.f], nft.Saddr(p.f)), all}, {nft.FromLocal, mark, all}}}
	if len(p.pools.local) > 0 {
		c.Rules = append(c.Rules, nft.Rule{nft.Goto(p.name("local"))})
	}
	return c
}

// sources are the ranges of the family that may reach the load balancer's addresses; none: everybody may.
func (p port) sources() (out []netip.Prefix) {
	for _, text := range p.s.Spec.LoadBalancerSourceRanges {
		if r, err := netip.ParsePrefix(strings.TrimSpace(text)); err == nil && nft.FamilyOf(r.Addr()) == p.f {
			out = append(out, r)
		}
	}
	return out
}
