package podnet

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// podInterface is what a pod's end of the link is called.
const podInterface = "eth0"

// linkGateway is the address of the node on each pod's link, for IPv6.
var linkGateway = netip.MustParseAddr("fe80::1")

// macOf makes a MAC that only depends on a name.
func macOf(kind, name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(kind + " " + name))
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2 // of one station, given by hand
	return mac
}

func hostMAC(r *record) net.HardwareAddr { return macOf("node of", r.ID) }
func podMAC(r *record) net.HardwareAddr  { return macOf("pod of", r.ID) }

// plug connects a sandbox with its node, unless it is.
func (n *Network) plug(r *record) error {
	ns, err := openNS(r.NetNS)
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", r.ID, err)
	}
	defer func() { _ = ns.Close() }()
	pod, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("podnet: sandbox %s: %w", r.ID, err)
	}
	defer pod.Close()
	if n.plugged(r, pod) {
		return nil
	}
	if err := n.unplug(r.Link); err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: r.Link, MTU: r.MTU, TxQLen: -1, HardwareAddr: hostMAC(r)},
		PeerName:  podInterface, PeerHardwareAddr: podMAC(r), PeerNamespace: netlink.NsFd(int(ns)), PeerTxQLen: -1,
	}
	if err := n.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("podnet: link of sandbox %s: %w", r.ID, err)
	}
	return errors.Join(n.plugHost(r), n.plugPod(r, ns, pod))
}

// plugged says whether the link is there with both ends, up and with its addresses.
func (n *Network) plugged(r *record, pod *netlink.Handle) bool {
	host, err := n.nl.LinkByName(r.Link)
	if err != nil || host.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	eth, err := pod.LinkByName(podInterface)
	if err != nil || eth.Attrs().ParentIndex != host.Attrs().Index || eth.Attrs().Flags&net.FlagUp == 0 {
		return false
	}
	have, err := pod.AddrList(eth, netlink.FAMILY_ALL)
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(r.Addresses, func(a netip.Addr) bool {
		return !slices.ContainsFunc(have, func(h netlink.Addr) bool { return h.IP.Equal(a.AsSlice()) })
	})
}

// plugHost readies the node's end: routes to the pod's addresses.
func (n *Network) plugHost(r *record) error {
	l, err := n.nl.LinkByName(r.Link)
	if err != nil {
		return fmt.Errorf("podnet: link of sandbox %s: %w", r.ID, err)
	}
	if err := apply(n.ns, hostSysctls(r)); err != nil {
		return err
	}
	for _, a := range r.Addresses {
		if a.Is6() {
			if err := assign(n.nl, l, netip.PrefixFrom(linkGateway, 64)); err != nil {
				return err
			}
			break
		}
	}
	if err := n.nl.LinkSetUp(l); err != nil {
		return fmt.Errorf("podnet: link of sandbox %s: %w", r.ID, err)
	}
	for _, a := range r.Addresses {
		if err := neighbour(n.nl, l.Attrs().Index, a, podMAC(r)); err != nil {
			return err
		}
		if err := n.nl.RouteReplace(n.podRoute(l.Attrs().Index, a)); err != nil {
			return fmt.Errorf("podnet: route to %s: %w", a, err)
		}
	}
	return shape(n.nl, l, r.Bandwidth.Ingress)
}

func hostSysctls(r *record) (all []sysctl) {
	for _, a := range r.Addresses {
		if a.Is6() { // no address of its own making beside linkGateway
			all = append(all, sysctl{"ipv6/conf/" + r.Link + "/disable_ipv6", "0"}, sysctl{"ipv6/conf/" + r.Link + "/addr_gen_mode", "1"},
				sysctl{"ipv6/conf/" + r.Link + "/accept_ra", "0"})
		}
	}
	if len(r.Ports) > 0 {
		all = append(all, sysctl{"ipv4/conf/" + r.Link + "/route_localnet", "1"})
	}
	return all
}

// podRoute is the route from the node to a pod's address.
func (n *Network) podRoute(link int, a netip.Addr) *netlink.Route {
	return &netlink.Route{LinkIndex: link, Dst: single(a), Scope: netlink.SCOPE_LINK, Protocol: routeProtocol, Src: n.sourceOf(a)}
}

// sourceOf is the node's address towards its own pods: the one that they know it by, so that an answer comes from where a pod
// asked.
func (n *Network) sourceOf(a netip.Addr) net.IP {
	n.mu.Lock()
	i := slices.IndexFunc(n.self, func(s netip.Addr) bool { return s.Is4() == a.Is4() })
	var self netip.Addr
	if i >= 0 {
		self = n.self[i]
	}
	n.mu.Unlock()
	if !self.IsValid() || !n.holds(self) {
		return n.sourceFor(a)
	}
	return self.AsSlice()
}

// holds says whether an address is one of this machine.
func (n *Network) holds(a netip.Addr) bool {
	r, err := n.nl.RouteGet(a.AsSlice())
	return err == nil && len(r) > 0 && r[0].Type == unix.RTN_LOCAL
}

// sourceFor is the node's gateway of the family of an address.
func (n *Network) sourceFor(a netip.Addr) net.IP {
	for _, g := range n.Gateways() {
		if g.Is4() == a.Is4() {
			return g.AsSlice()
		}
	}
	return nil
}

// plugPod readies the pod's end: addresses, and routes by way of the node.
func (n *Network) plugPod(r *record, ns netns.NsHandle, pod *netlink.Handle) error {
	lo, err := pod.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("podnet: loopback of sandbox %s: %w", r.ID, err)
	}
	if err := pod.LinkSetUp(lo); err != nil {
		return fmt.Errorf("podnet: loopback of sandbox %s: %w", r.ID, err)
	}
	eth, err := pod.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("podnet: interface of sandbox %s: %w", r.ID, err)
	}
	if slices.ContainsFunc(r.Addresses, netip.Addr.Is6) {
		if err := apply(ns, []sysctl{{"ipv6/conf/" + podInterface + "/disable_ipv6", "0"}, {"ipv6/conf/" + podInterface + "/accept_ra", "0"}}); err != nil {
			return err
		}
	}
	for _, a := range r.Addresses {
		if err := assign(pod, eth, netip.PrefixFrom(a, a.BitLen())); err != nil {
			return err
		}
	}
	if err := pod.LinkSetUp(eth); err != nil {
		return fmt.Errorf("podnet: interface of sandbox %s: %w", r.ID, err)
	}
	for _, a := range r.Addresses {
		if err := n.wayOut(r, pod, eth.Attrs().Index, a); err != nil {
			return err
		}
	}
	return shape(pod, eth, r.Bandwidth.Egress)
}

// wayOut adds the default route of one family.
func (n *Network) wayOut(r *record, pod *netlink.Handle, link int, a netip.Addr) error {
	gw, all := linkGateway, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	if a.Is4() {
		g, ok := netip.AddrFromSlice(n.sourceFor(a))
		if !ok {
			return fmt.Errorf("podnet: sandbox %s: the node has no gateway of the family of %s", r.ID, a)
		}
		gw, all = g, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if err := pod.RouteReplace(&netlink.Route{LinkIndex: link, Dst: single(gw), Scope: netlink.SCOPE_LINK, Src: a.AsSlice()}); err != nil {
			return fmt.Errorf("podnet: route of sandbox %s to its gateway: %w", r.ID, err)
		}
	}
	if err := neighbour(pod, link, gw, hostMAC(r)); err != nil {
		return err
	}
	if err := pod.RouteReplace(&netlink.Route{LinkIndex: link, Dst: ipNet(all), Gw: gw.AsSlice(), Src: a.AsSlice()}); err != nil {
		return fmt.Errorf("podnet: default route of sandbox %s: %w", r.ID, err)
	}
	return nil
}

// unplug removes a link with both its ends, and all routes and neighbours on it.
func (n *Network) unplug(link string) error {
	l, err := n.nl.LinkByName(link)
	if err == nil {
		err = n.nl.LinkDel(l)
	}
	if !absent(err) {
		return fmt.Errorf("podnet: remove the link %s: %w", link, err)
	}
	return nil
}
