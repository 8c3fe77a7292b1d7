package proxy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// changedFlows are the UDP ports whose endpoints are others than before, as they are now; those that are gone have none.
func changedFlows(was, next []flow) (out []flow) {
	for _, w := range was {
		if !slices.ContainsFunc(next, w.samePort) {
			out = append(out, flow{w.addresses, w.family, w.port, nil})
		}
	}
	for _, n := range next {
		i := slices.IndexFunc(was, n.samePort)
		if i < 0 || !slices.Equal(was[i].to, n.to) {
			out = append(out, n)
		}
	}
	return out
}

func (f flow) samePort(o flow) bool {
	return f.family == o.family && f.port == o.port && slices.Equal(f.addresses, o.addresses)
}

// stale matches flows of the kernel that go to an endpoint that the port has not.
type stale struct {
	ports map[netip.AddrPort]map[netip.AddrPort]bool // by address, or the unspecified address for node ports
}

func staleOf(all []flow, f nft.Family) stale {
	s := stale{map[netip.AddrPort]map[netip.AddrPort]bool{}}
	for _, x := range all {
		if x.family != f {
			continue
		}
		to := map[netip.AddrPort]bool{}
		for _, a := range x.to {
			to[a] = true
		}
		for _, a := range x.addresses {
			s.ports[netip.AddrPortFrom(a, x.port)] = to
		}
		if len(x.addresses) == 0 {
			s.ports[netip.AddrPortFrom(unspecified(f), x.port)] = to
		}
	}
	return s
}

func unspecified(f nft.Family) netip.Addr {
	if f == nft.IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// MatchConntrackFlow says whether a flow is stale. One to a node port is only looked at if it was rewritten: others may be
// of a program of the node.
func (s stale) MatchConntrackFlow(c *netlink.ConntrackFlow) bool {
	if c.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, port, ok := address(c.Forward.DstIP), c.Forward.DstPort, false
	from := netip.AddrPortFrom(address(c.Reverse.SrcIP), c.Reverse.SrcPort)
	targets, ok := s.ports[netip.AddrPortFrom(to, port)]
	if !ok {
		if targets, ok = s.ports[netip.AddrPortFrom(unspecified(nft.FamilyOf(to)), port)]; !ok || from.Addr() == to {
			return false
		}
	}
	return !targets[from]
}

func address(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// forget makes the kernel forget flows to endpoints that are gone.
func forget(h *netlink.Handle, all []flow) error {
	families := map[nft.Family]bool{}
	for _, f := range all {
		families[f.family] = true
	}
	var errs []error
	for f := range maps.Keys(families) {
		if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(inet[f]), staleOf(all, f)); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("proxy: flows to endpoints that are gone: %w", err))
		}
	}
	return errors.Join(errs...)
}

var inet = map[nft.Family]uint8{nft.IPv4: unix.AF_INET, nft.IPv6: unix.AF_INET6}
