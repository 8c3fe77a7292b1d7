package proxy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// place is where the node is.
type place struct{ node, zone string }

// endpoint is an endpoint of one port of a service.
type endpoint struct {
	at                          netip.AddrPort
	local                       bool
	ready, serving, terminating bool
	nodes, zones                []string // hints
}

// endpointsOf are the endpoints of a port of a service of one family, in order.
func endpointsOf(all []*discoveryv1.EndpointSlice, f nft.Family, p *corev1.ServicePort, here place) []endpoint {
	found := map[netip.AddrPort]endpoint{}
	for _, s := range all {
		if s.AddressType != addressTypes[f] {
			continue
		}
		for _, sp := range s.Ports {
			if sp.Port == nil || ptr.Deref(sp.Name, "") != p.Name || protocolOf(ptr.Deref(sp.Protocol, "")) != protocolOf(p.Protocol) {
				continue
			}
			for i := range s.Endpoints {
				e, ok := endpointOf(&s.Endpoints[i], f, uint16(*sp.Port), here)
				if old, twice := found[e.at]; ok && (!twice || e.better(old)) {
					found[e.at] = e
				}
			}
		}
	}
	out := make([]endpoint, 0, len(found))
	for _, e := range found {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b endpoint) int {
		return cmp.Or(a.at.Addr().Compare(b.at.Addr()), cmp.Compare(a.at.Port(), b.at.Port()))
	})
	return out
}

// better says whether an endpoint takes the place of one with the same address, of another slice.
func (e endpoint) better(o endpoint) bool {
	rank := func(e endpoint) int {
		switch {
		case e.ready:
			return 2
		case e.serving:
			return 1
		}
		return 0
	}
	return rank(e) > rank(o)
}

var addressTypes = map[nft.Family]discoveryv1.AddressType{nft.IPv4: discoveryv1.AddressTypeIPv4, nft.IPv6: discoveryv1.AddressTypeIPv6}

func endpointOf(e *discoveryv1.Endpoint, f nft.Family, port uint16, here place) (endpoint, bool) {
	if len(e.Addresses) == 0 {
		return endpoint{}, false
	}
	a, err := netip.ParseAddr(e.Addresses[0])
	if err != nil || nft.FamilyOf(a) != f || !reachable(a) {
		return endpoint{}, false
	}
	out := endpoint{at: netip.AddrPortFrom(a, port), local: here.node != "" && ptr.Deref(e.NodeName, "") == here.node}
	out.ready = ptr.Deref(e.Conditions.Ready, true)
	out.serving = ptr.Deref(e.Conditions.Serving, out.ready)
	out.terminating = ptr.Deref(e.Conditions.Terminating, false)
	if e.Hints != nil {
		for _, h := range e.Hints.ForNodes {
			out.nodes = append(out.nodes, h.Name)
		}
		for _, h := range e.Hints.ForZones {
			out.zones = append(out.zones, h.Name)
		}
	}
	return out, true
}

// reachable says whether packets may be rewritten to an address: nobody's loopback is.
func reachable(a netip.Addr) bool {
	return !a.IsLoopback() && !a.IsMulticast() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && a.Zone() == "" && !a.Is4In6()
}

// pools are the endpoints that packets go to.
type pools struct {
	all   []netip.AddrPort // under the policy Cluster
	local []netip.AddrPort // under the policy Local
}

// choose picks the endpoints that are used: the ready ones that are near, if hints say so; where none is ready, those that
// still serve while they end.
func choose(all []endpoint, here place) pools {
	ready := filter(all, func(e endpoint) bool { return e.ready })
	ending := filter(all, func(e endpoint) bool { return e.serving && e.terminating })
	isLocal := func(e endpoint) bool { return e.local }
	use, local := near(ready, here), filter(ready, isLocal)
	if len(ready) == 0 {
		use = ending
	}
	if len(local) == 0 {
		local = filter(ending, isLocal)
	}
	return pools{addresses(use), addresses(local)}
}

// near are the endpoints that hints give to this node, or else to its zone. Hints count if every endpoint has them, and if
// there is one for here.
func near(ready []endpoint, here place) []endpoint {
	for _, by := range []struct {
		name  string
		hints func(endpoint) []string
	}{
		{here.node, func(e endpoint) []string { return e.nodes }},
		{here.zone, func(e endpoint) []string { return e.zones }},
	} {
		if by.name == "" || slices.ContainsFunc(ready, func(e endpoint) bool { return len(by.hints(e)) == 0 }) {
			continue
		}
		if mine := filter(ready, func(e endpoint) bool { return slices.Contains(by.hints(e), by.name) }); len(mine) > 0 {
			return mine
		}
	}
	return ready
}

func filter(all []endpoint, keep func(endpoint) bool) (out []endpoint) {
	for _, e := range all {
		if keep(e) {
			out = append(out, e)
		}
	}
	return out
}

func addresses(all []endpoint) (out []netip.AddrPort) {
	for _, e := range all {
		out = append(out, e.at)
	}
	return out
}
