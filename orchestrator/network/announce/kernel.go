//go:build linux

package announce

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// routeProtocol marks the routes that are this package's, in the main table.
const routeProtocol = 76

// place is an address on the link where it is answered for.
type place struct {
	link int
	a    netip.Addr
}

// reconcile makes the kernel answer for the addresses, and for no others of the pool.
func (n *Announcer) reconcile(want []netip.Addr) error {
	links, err := n.nl.LinkList()
	if err != nil {
		return fmt.Errorf("announce: links: %w", err)
	}
	wanted := map[place]bool{}
	var errs []error
	for _, a := range want {
		l, err := n.linkFor(a, links)
		if err != nil {
			errs = append(errs, err)
		} else if l != nil {
			wanted[place{l.Attrs().Index, a}] = true
		}
	}
	for a := range n.untold {
		if !slices.Contains(want, a) {
			delete(n.untold, a)
		}
	}
	errs = append(errs, n.routes(wanted), n.answers(wanted, links))
	for _, l := range links {
		for p := range wanted {
			if p.link == l.Attrs().Index && n.untold[p.a] > 0 {
				if err := n.ns.Do(func() error { return shout(l, p.a) }); err != nil {
					errs = append(errs, err)
					continue
				}
				if n.untold[p.a]--; n.untold[p.a] == 0 {
					delete(n.untold, p.a)
				}
			}
		}
	}
	return errors.Join(errs...)
}

func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// linkFor is the link on which an address is answered for; nil: the node has the address, and needs no help.
func (n *Announcer) linkFor(a netip.Addr, links []netlink.Link) (netlink.Link, error) {
	all, err := n.nl.AddrList(nil, family(a))
	if err != nil {
		return nil, fmt.Errorf("announce: addresses: %w", err)
	}
	index, longest := 0, -1
	for _, x := range all {
		if x.IP.Equal(a.AsSlice()) {
			return nil, nil
		}
		if bits, _ := x.Mask.Size(); x.Contains(a.AsSlice()) && bits > longest {
			index, longest = x.LinkIndex, bits
		}
	}
	if longest < 0 {
		routes, err := n.nl.RouteListFiltered(family(a), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("announce: routes: %w", err)
		}
		for _, r := range routes {
			if ones, _ := maskOf(r.Dst); ones == 0 && r.LinkIndex > 0 {
				index = r.LinkIndex
				break
			}
		}
	}
	for _, l := range links {
		if l.Attrs().Index == index {
			return l, nil
		}
	}
	return nil, fmt.Errorf("announce: there is no link to answer for %s on", a)
}

func maskOf(n *net.IPNet) (ones, bits int) {
	if n == nil {
		return 0, 0
	}
	return n.Mask.Size()
}

// routes makes the routes to the sink.
func (n *Announcer) routes(wanted map[place]bool) error {
	missing := map[netip.Addr]bool{}
	for p := range wanted {
		missing[p.a] = true
	}
	var errs []error
	sink := 0
	if len(wanted) > 0 {
		l, err := n.nl.LinkByName(n.Sink)
		if err != nil {
			return fmt.Errorf("announce: %s: %w", n.Sink, err)
		}
		sink = l.Attrs().Index
	}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := n.nl.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("announce: routes: %w", err)
		}
		for _, r := range have {
			a, _ := netip.AddrFromSlice(r.Dst.IP)
			if missing[a.Unmap()] && r.LinkIndex == sink {
				delete(missing, a.Unmap())
			} else if err := n.nl.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				errs = append(errs, fmt.Errorf("announce: remove the route to %s: %w", a, err))
			}
		}
	}
	for a := range missing {
		r := &netlink.Route{LinkIndex: sink, Dst: netlink.NewIPNet(a.AsSlice()), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN, Scope: unix.RT_SCOPE_LINK}
		if a.Is6() {
			r.Scope = unix.RT_SCOPE_UNIVERSE
		}
		if err := n.nl.RouteReplace(r); err != nil {
			errs = append(errs, fmt.Errorf("announce: route to %s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

// answers makes the entries by which the kernel answers.
func (n *Announcer) answers(wanted map[place]bool, links []netlink.Link) error {
	var errs []error
	have := map[place]bool{}
	for _, l := range links {
		for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			all, err := n.nl.NeighProxyList(l.Attrs().Index, f)
			if err != nil {
				return fmt.Errorf("announce: neighbours: %w", err)
			}
			for _, e := range all {
				a, _ := netip.AddrFromSlice(e.IP)
				p := place{l.Attrs().Index, a.Unmap()}
				if e.LinkIndex != p.link || !n.Pool(p.a) {
					continue
				}
				if have[p] = true; !wanted[p] {
					errs = append(errs, n.end(l, p))
				}
			}
		}
	}
	for _, l := range links {
		for p := range wanted {
			if p.link == l.Attrs().Index && !have[p] {
				errs = append(errs, n.begin(l, p))
			}
		}
	}
	return errors.Join(errs...)
}

func (n *Announcer) entry(p place) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: p.link, Family: family(p.a), Flags: netlink.NTF_PROXY, IP: p.a.AsSlice()}
}

func (n *Announcer) end(l netlink.Link, p place) error {
	if err := n.nl.NeighDel(n.entry(p)); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("announce: answer no more for %s on %s: %w", p.a, l.Attrs().Name, err)
	}
	n.Logger.Info("the address of a load balancer is not answered for any more", zap.Stringer("address", p.a), zap.String("link", l.Attrs().Name))
	return nil
}

func (n *Announcer) begin(l netlink.Link, p place) error {
	name := l.Attrs().Name
	settings := map[string]string{"ipv4/neigh/" + name + "/proxy_delay": "0"}
	if p.a.Is6() {
		settings = map[string]string{"ipv6/neigh/" + name + "/proxy_delay": "0", "ipv6/conf/" + name + "/proxy_ndp": "1"}
	}
	err := n.ns.Do(func() error {
		for file, value := range settings {
			if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = n.nl.NeighSet(n.entry(p))
	}
	if err != nil {
		return fmt.Errorf("announce: answer for %s on %s: %w", p.a, name, err)
	}
	n.untold[p.a] = repeats
	n.Logger.Info("the address of a load balancer is answered for", zap.Stringer("address", p.a), zap.String("link", name))
	return nil
}

// shout tells all neighbours on a link who has an address. It is called in the network namespace.
func shout(l netlink.Link, a netip.Addr) error {
	var err error
	if mac := l.Attrs().HardwareAddr; len(mac) != 6 {
		return nil // there are no neighbours to tell
	} else if a.Is4() {
		err = shout4(l.Attrs().Index, mac, a)
	} else {
		err = shout6(l.Attrs().Index, mac, a)
	}
	if err != nil {
		return fmt.Errorf("announce: tell the neighbours on %s of %s: %w", l.Attrs().Name, a, err)
	}
	return nil
}

// arp is an ARP announcement in its frame (RFC 826, RFC 5227).
func arp(mac net.HardwareAddr, a netip.Addr) []byte {
	everybody := []byte{255, 255, 255, 255, 255, 255}
	b := slices.Concat(everybody, mac)
	b = binary.BigEndian.AppendUint16(b, unix.ETH_P_ARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, lengths, request
	return slices.Concat(b, mac, a.AsSlice(), make([]byte, 6), a.AsSlice())
}

func shout4(link int, mac net.HardwareAddr, a netip.Addr) error {
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	return unix.Sendto(s, arp(mac, a), 0, &unix.SockaddrLinklayer{Ifindex: link, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}})
}

// advertisement is an unsolicited neighbour advertisement (RFC 4861) that overrides what was known. The kernel sums it up.
func advertisement(mac net.HardwareAddr, a netip.Addr) []byte {
	b := []byte{136, 0, 0, 0, 0x20, 0, 0, 0}
	b = append(b, a.AsSlice()...)
	return append(append(b, 2, 1), mac...) // target link-layer address, 8 bytes long
}

const allNodes = "\xff\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"

func shout6(link int, mac net.HardwareAddr, a netip.Addr) error {
	s, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMPV6)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	err = errors.Join(unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 255), unix.SetsockoptInt(s, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, link))
	if err != nil {
		return err
	}
	return unix.Sendto(s, advertisement(mac, a), 0, &unix.SockaddrInet6{Addr: [16]byte([]byte(allNodes)), ZoneId: uint32(link)})
}
