package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// vxlanName is the node's end of the VXLAN.
const vxlanName = "keelson.vx"

// What a VXLAN adds to a packet, in bytes, on top of IPv4 and IPv6: Ethernet, IP, UDP and its own header.
const (
	overhead4 = 50
	overhead6 = 70
)

// peer is another node.
type peer struct {
	name      string
	ranges    []netip.Prefix
	addresses []netip.Addr
}

// peerOf reads what matters of a node.
func peerOf(o *corev1.Node) peer {
	p := peer{name: o.Name}
	for _, s := range o.Spec.PodCIDRs {
		if r, err := netip.ParsePrefix(s); err == nil {
			p.ranges = append(p.ranges, r.Masked())
		}
	}
	for _, a := range o.Status.Addresses {
		if a.Type != corev1.NodeInternalIP {
			continue
		}
		if x, err := netip.ParseAddr(a.Address); err == nil {
			p.addresses = append(p.addresses, x.Unmap())
		}
	}
	return p
}

// address is the peer's address of a family.
func (p peer) address(v4 bool) (netip.Addr, bool) {
	i := slices.IndexFunc(p.addresses, func(a netip.Addr) bool { return a.Is4() == v4 })
	if i < 0 {
		return netip.Addr{}, false
	}
	return p.addresses[i], true
}

// plan is the ways to all other nodes: a next hop for each range, or the VXLAN.
type plan struct {
	direct  map[netip.Prefix]hop
	carried []carried
}

type hop struct {
	link int
	via  netip.Addr
}

// carried is a node that is reached by the VXLAN.
type carried struct {
	name   string
	at     netip.Addr // of the node, outside of the VXLAN
	ranges []netip.Prefix
}

// plan decides how each node is reached.
func (n *Network) plan(self []netip.Addr, peers []peer) (plan, error) {
	out := plan{direct: map[netip.Prefix]hop{}}
	var errs []error
	for _, p := range peers {
		var rest []netip.Prefix
		for _, r := range p.ranges {
			a, ok := p.address(r.Addr().Is4())
			if h, near := n.near(a); ok && near && n.Backend == Routes {
				out.direct[r] = h
			} else {
				rest = append(rest, r)
			}
		}
		if len(rest) == 0 {
			continue
		}
		if len(self) == 0 { // leave what there is
			return plan{}, fmt.Errorf("podnet: node %s has no internal address yet", n.Node)
		}
		at, ok := p.address(self[0].Is4())
		if !ok {
			errs = append(errs, fmt.Errorf("podnet: node %s has no internal address of the family of %s", p.name, self[0]))
			continue
		}
		out.carried = append(out.carried, carried{p.name, at, rest})
	}
	return out, errors.Join(errs...)
}

// near says whether an address is on a link of this node, and on which.
func (n *Network) near(a netip.Addr) (hop, bool) {
	if !a.IsValid() {
		return hop{}, false
	}
	routes, err := n.nl.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return hop{}, false
	}
	r := routes[0]
	if r.Type != unix.RTN_UNICAST || len(r.Gw) > 0 || r.Via != nil || len(r.MultiPath) > 0 {
		return hop{}, false
	}
	return hop{r.LinkIndex, a}, true
}

// uplink is the interface that carries the node's address, or else the default route.
func (n *Network) uplink(self []netip.Addr) (netlink.Link, error) {
	for _, a := range self {
		all, err := n.nl.AddrList(nil, family(a))
		if err != nil {
			return nil, fmt.Errorf("podnet: addresses: %w", err)
		}
		for _, x := range all {
			if x.IP.Equal(a.AsSlice()) {
				return n.nl.LinkByIndex(x.LinkIndex)
			}
		}
	}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := n.nl.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, fmt.Errorf("podnet: routes: %w", err)
		}
		for _, r := range all {
			if r.LinkIndex > 0 && (r.Dst == nil || prefixOf(r.Dst).Bits() == 0) {
				return n.nl.LinkByIndex(r.LinkIndex)
			}
		}
	}
	return nil, nil
}

// mtu is that of pods' interfaces.
func (n *Network) mtu(up netlink.Link, self []netip.Addr) int {
	if n.MTU > 0 {
		return n.MTU
	}
	size := 1500
	if up != nil && up.Attrs().Flags&net.FlagLoopback == 0 {
		size = up.Attrs().MTU
	}
	if n.Backend == VXLAN {
		size -= overhead(self)
	}
	return size
}

func overhead(self []netip.Addr) int {
	if len(self) > 0 && self[0].Is6() {
		return overhead6
	}
	return overhead4
}

// vxlan makes the node's end of the VXLAN as it should be.
func (n *Network) vxlan(up netlink.Link, self, gateways []netip.Addr) (netlink.Link, error) {
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: vxlanName, HardwareAddr: macOf("vxlan of", n.Node), TxQLen: -1},
		VxlanId:   n.VNI, Port: n.Port, SrcAddr: self[0].AsSlice(),
	}
	if up != nil {
		want.VtepDevIndex, want.MTU = up.Attrs().Index, max(up.Attrs().MTU-overhead(self), 1280)
	}
	l, err := n.nl.LinkByName(vxlanName)
	if have, ok := l.(*netlink.Vxlan); err == nil && (!ok || !sameVXLAN(have, want)) {
		if err := n.nl.LinkDel(l); !absent(err) {
			return nil, fmt.Errorf("podnet: %s: %w", vxlanName, err)
		}
		l = nil
	}
	if err != nil || l == nil {
		if err := n.nl.LinkAdd(want); err != nil {
			return nil, fmt.Errorf("podnet: %s: %w", vxlanName, err)
		}
		if l, err = n.nl.LinkByName(vxlanName); err != nil {
			return nil, fmt.Errorf("podnet: %s: %w", vxlanName, err)
		}
	}
	for _, g := range gateways {
		if err := assign(n.nl, l, netip.PrefixFrom(g, g.BitLen())); err != nil {
			return nil, err
		}
	}
	if err := n.nl.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("podnet: %s: %w", vxlanName, err)
	}
	return l, nil
}

func sameVXLAN(a, b *netlink.Vxlan) bool {
	return a.VxlanId == b.VxlanId && a.Port == b.Port && a.SrcAddr.Equal(b.SrcAddr) && a.VtepDevIndex == b.VtepDevIndex &&
		!a.Learning && slices.Equal(a.HardwareAddr, b.HardwareAddr) && (b.MTU == 0 || a.MTU == b.MTU)
}

// entries writes where nodes are found in the VXLAN, and removes what is not of a node.
func (n *Network) entries(link int, all []carried) error {
	forward, hops := map[string]netip.Addr{}, map[netip.Addr]net.HardwareAddr{}
	for _, c := range all {
		mac := macOf("vxlan of", c.name)
		forward[string(mac)] = c.at
		for _, r := range c.ranges {
			hops[gateway(r)] = mac
		}
	}
	var errs []error
	have, err := n.nl.NeighList(link, unix.AF_BRIDGE)
	if err != nil {
		return fmt.Errorf("podnet: entries of %s: %w", vxlanName, err)
	}
	for _, e := range have {
		at, _ := netip.AddrFromSlice(e.IP)
		if want, ok := forward[string(e.HardwareAddr)]; ok && want == at.Unmap() {
			delete(forward, string(e.HardwareAddr))
		} else if !ok && at.IsValid() {
			e.Flags |= netlink.NTF_SELF
			errs = append(errs, n.drop(&e))
		}
	}
	for mac, at := range forward {
		e := &netlink.Neigh{LinkIndex: link, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF, State: netlink.NUD_PERMANENT, IP: at.AsSlice(), HardwareAddr: net.HardwareAddr(mac)}
		if err := n.nl.NeighSet(e); err != nil {
			errs = append(errs, fmt.Errorf("podnet: entry of %s in %s: %w", at, vxlanName, err))
		}
	}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := n.nl.NeighList(link, f)
		if err != nil {
			return fmt.Errorf("podnet: neighbours in %s: %w", vxlanName, err)
		}
		for _, e := range have {
			a, _ := netip.AddrFromSlice(e.IP)
			if mac, ok := hops[a.Unmap()]; ok && slices.Equal(mac, e.HardwareAddr) && e.State&netlink.NUD_PERMANENT != 0 {
				delete(hops, a.Unmap())
			} else if !ok && e.State&netlink.NUD_PERMANENT != 0 {
				errs = append(errs, n.drop(&e))
			}
		}
	}
	for a, mac := range hops {
		errs = append(errs, neighbour(n.nl, link, a, mac))
	}
	return errors.Join(errs...)
}

func (n *Network) drop(e *netlink.Neigh) error {
	if err := n.nl.NeighDel(e); !absent(err) {
		return fmt.Errorf("podnet: remove the neighbour %s: %w", e.IP, err)
	}
	return nil
}
