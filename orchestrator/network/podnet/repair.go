package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
)

// reconcile makes everything as it should be, and keeps what could not be.
func (n *Network) reconcile(ctx context.Context) {
	err := n.learn()
	if err == nil {
		err = errors.Join(n.base(), n.repairPods(ctx), n.between())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil && (n.fault == nil || n.fault.Error() != err.Error()) {
		n.Logger.Warn("the pod network is not as it should be", zap.Error(err))
	}
	n.fault = err
}

// learn reads the nodes.
func (n *Network) learn() error {
	all, err := n.Nodes.Lister().List(labels.Everything())
	if err != nil {
		return fmt.Errorf("podnet: nodes: %w", err)
	}
	var peers []peer
	for _, o := range all {
		if p := peerOf(o); o.Name != n.Node && len(p.ranges) > 0 {
			peers = append(peers, p)
		}
	}
	slices.SortFunc(peers, func(a, b peer) int { return compare(a.name, b.name) })
	own, err := n.Nodes.Lister().Get(n.Node)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("podnet: node %s: %w", n.Node, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.peers = peers
	if own == nil { // not registered yet, or deleted: pods go on
		return nil
	}
	p := peerOf(own)
	n.self = p.addresses
	up, err := n.uplink(n.self)
	if err != nil {
		return err
	}
	next := node{Ranges: p.ranges, MTU: n.mtu(up, n.self)}
	if len(next.Ranges) == 0 {
		next.Ranges = n.store.node.Ranges
	}
	if next.MTU == n.store.node.MTU && slices.Equal(next.Ranges, n.store.node.Ranges) {
		return nil
	}
	n.Logger.Info("ranges of pod addresses", zap.Stringers("ranges", next.Ranges), zap.Int("mtu", next.MTU))
	return n.store.setNode(next)
}

// ensureBase makes what all pods need, unless it was made.
func (n *Network) ensureBase() error {
	n.mu.Lock()
	done := n.based
	n.mu.Unlock()
	if done {
		return nil
	}
	return n.base()
}

// base makes what all pods need: sysctls, the bridge with the gateways, the table.
func (n *Network) base() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	ranges := n.store.node.Ranges
	if len(ranges) == 0 {
		return nil // see Ready
	}
	if err := apply(n.ns, n.nodeSysctls(ranges)); err != nil {
		return err
	}
	if err := n.bridge(ranges); err != nil {
		return err
	}
	if err := n.syncTableLocked(); err != nil {
		return err
	}
	n.checkTable()
	n.based = true
	return nil
}

func (n *Network) nodeSysctls(ranges []netip.Prefix) []sysctl {
	all := []sysctl{{"ipv4/ip_forward", "1"}}
	if !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		return all
	}
	// A node that forwards ignores its routers' advertisements unless it is told not to.
	if up, err := n.uplink(n.self); err == nil && up != nil {
		path := "ipv6/conf/" + up.Attrs().Name + "/accept_ra"
		_ = inside(n.ns, func() error {
			if b, err := os.ReadFile("/proc/sys/net/" + path); err == nil && strings.TrimSpace(string(b)) == "1" {
				all = append(all, sysctl{path, "2"})
			}
			return nil
		})
	}
	return append(all, sysctl{"ipv6/conf/all/forwarding", "1"})
}

// bridge makes the bridge with the gateways, and takes away addresses of ranges that are no more.
func (n *Network) bridge(ranges []netip.Prefix) error {
	l, err := n.nl.LinkByName(n.Bridge)
	if err != nil {
		if !absent(err) {
			return fmt.Errorf("podnet: bridge %s: %w", n.Bridge, err)
		}
		add := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: n.Bridge, HardwareAddr: macOf("bridge of", n.Node), TxQLen: -1}}
		if err := n.nl.LinkAdd(add); err != nil {
			return fmt.Errorf("podnet: bridge %s: %w", n.Bridge, err)
		}
		if l, err = n.nl.LinkByName(n.Bridge); err != nil {
			return fmt.Errorf("podnet: bridge %s: %w", n.Bridge, err)
		}
	}
	if l.Type() != "bridge" {
		return fmt.Errorf("podnet: %s is there already, and is no bridge but a %s", n.Bridge, l.Type())
	}
	have, err := n.nl.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("podnet: bridge %s: %w", n.Bridge, err)
	}
	for _, p := range ranges {
		g := netip.PrefixFrom(gateway(p), gateway(p).BitLen())
		have = slices.DeleteFunc(have, func(a netlink.Addr) bool { return prefixOf(a.IPNet) == g })
		if err := assign(n.nl, l, g); err != nil {
			return err
		}
	}
	for _, a := range have {
		if a.IP.IsLinkLocalUnicast() {
			continue
		}
		if err := n.nl.AddrDel(l, &a); !absent(err) {
			return fmt.Errorf("podnet: bridge %s: %w", n.Bridge, err)
		}
	}
	if l.Attrs().Flags&net.FlagUp == 0 {
		if err := n.nl.LinkSetUp(l); err != nil {
			return fmt.Errorf("podnet: bridge %s: %w", n.Bridge, err)
		}
	}
	return nil
}

// repairPods plugs in sandboxes whose links somebody removed.
func (n *Network) repairPods(ctx context.Context) error {
	links, err := n.podLinks()
	if err != nil {
		return err
	}
	n.mu.Lock()
	var broken []string
	for id, r := range n.store.records {
		if l := links[r.Link]; l == nil || l.Attrs().Flags&net.FlagUp == 0 {
			broken = append(broken, id)
		}
	}
	n.mu.Unlock()
	for _, id := range broken {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n.repairPod(ctx, id)
	}
	return nil
}

// repairPod plugs in one sandbox. One whose namespace has ended is left to whom it belongs.
func (n *Network) repairPod(ctx context.Context, id string) {
	defer n.busy.lock(id)()
	n.mu.Lock()
	r := n.store.records[id]
	n.mu.Unlock()
	if r == nil {
		return
	}
	ns, err := openNS(r.NetNS)
	if err != nil {
		return
	}
	_ = ns.Close()
	lg := n.Logger.With(zap.String("sandbox", id), zap.String("pod", r.Namespace+"/"+r.Name))
	if err := n.admit(ctx, r); err != nil {
		lg.Warn("a pod's link is gone and cannot be made again", zap.Error(err))
		return
	}
	if err := n.plug(r); err != nil {
		lg.Warn("a pod's link is gone and cannot be made again", zap.Error(err))
		return
	}
	lg.Warn("a pod's link was gone or down, and was repaired")
}

// between makes the ways to the other nodes, and the routes to this node's pods.
func (n *Network) between() error {
	n.mu.Lock()
	self, peers := slices.Clone(n.self), n.peers
	n.mu.Unlock()
	p, planErr := n.plan(self, peers)
	if p.direct == nil {
		return planErr
	}
	link, err := n.carry(p, self)
	if err != nil {
		return errors.Join(planErr, err)
	}
	return errors.Join(planErr, n.routes(p, link))
}

// carry makes the VXLAN when nodes are reached by it, or removes it. It returns its index, or 0.
func (n *Network) carry(p plan, self []netip.Addr) (int, error) {
	if len(p.carried) == 0 {
		return 0, n.unplug(vxlanName)
	}
	up, err := n.uplink(self)
	if err != nil {
		return 0, err
	}
	l, err := n.vxlan(up, self, n.Gateways())
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, n.entries(l.Attrs().Index, p.carried)
}

// routes makes the kernel's routes that are ours those that should be.
func (n *Network) routes(p plan, vxlan int) error {
	// What there is, is read first: a pod is known before its route is there, so that no route of a new pod is taken for an old one.
	have := map[netip.Prefix]netlink.Route{}
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := n.nl.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("podnet: routes: %w", err)
		}
		for _, r := range all {
			have[prefixOf(r.Dst)] = r
		}
	}
	links, err := n.podLinks()
	if err != nil {
		return err
	}
	want := n.wantedRoutes(p, vxlan, links)
	var errs []error
	for dst, r := range have {
		if w, ok := want[dst]; ok && r.LinkIndex == w.LinkIndex && r.Gw.Equal(w.Gw) && r.Src.Equal(w.Src) {
			delete(want, dst)
		} else if err := n.nl.RouteDel(&r); !absent(err) {
			errs = append(errs, fmt.Errorf("podnet: remove the route to %s: %w", dst, err))
		}
	}
	for dst, r := range want {
		if err := n.nl.RouteReplace(r); !absent(err) {
			errs = append(errs, fmt.Errorf("podnet: route to %s: %w", dst, err))
		}
	}
	return errors.Join(errs...)
}

func (n *Network) wantedRoutes(p plan, vxlan int, links map[string]netlink.Link) map[netip.Prefix]*netlink.Route {
	want := map[netip.Prefix]*netlink.Route{}
	for r, h := range p.direct {
		want[r] = &netlink.Route{LinkIndex: h.link, Dst: ipNet(r), Gw: h.via.AsSlice(), Protocol: routeProtocol}
	}
	for _, c := range p.carried {
		for _, r := range c.ranges {
			want[r] = &netlink.Route{
				LinkIndex: vxlan, Dst: ipNet(r), Gw: gateway(r).AsSlice(), Flags: int(netlink.FLAG_ONLINK), Protocol: routeProtocol,
				Src: n.sourceFor(r.Addr()),
			}
		}
	}
	n.mu.Lock()
	var records []*record
	for _, r := range n.store.records {
		records = append(records, r)
	}
	n.mu.Unlock()
	for _, r := range records {
		if l := links[r.Link]; l != nil && l.Attrs().Flags&net.FlagUp != 0 {
			for _, a := range r.Addresses {
				x := n.podRoute(l.Attrs().Index, a)
				want[prefixOf(x.Dst)] = x
			}
		}
	}
	return want
}
