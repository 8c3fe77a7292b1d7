package podnet

import (
	"errors"
	"fmt"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// Wipe removes from the network namespace that is at a path ("": that of the calling thread) everything that a Network made there: links,
// routes and the table. It is for a node that is taken out of service; it knows nothing of pods and works when nothing is there.
func Wipe(path string) error {
	ns, err := openNS(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	defer h.Close()
	return errors.Join(wipeRoutes(h), wipeLinks(h), nft.RemoveAll(TableName, int(ns)))
}

func wipeRoutes(h *netlink.Handle) error {
	var errs []error
	for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		all, err := h.RouteListFiltered(f, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if err != nil {
			return fmt.Errorf("podnet: routes: %w", err)
		}
		for _, r := range all {
			if err := h.RouteDel(&r); !absent(err) {
				errs = append(errs, fmt.Errorf("podnet: remove the route to %s: %w", r.Dst, err))
			}
		}
	}
	return errors.Join(errs...)
}

func wipeLinks(h *netlink.Handle) error {
	all, err := h.LinkList()
	if err != nil {
		return fmt.Errorf("podnet: links: %w", err)
	}
	var errs []error
	for _, l := range all {
		name := l.Attrs().Name
		ours := name == vxlanName && l.Type() == "vxlan" || name == DefaultBridge && l.Type() == "bridge" || strings.HasPrefix(name, LinkPrefix) && l.Type() == "veth"
		if !ours {
			continue
		}
		if err := h.LinkDel(l); !absent(err) {
			errs = append(errs, fmt.Errorf("podnet: remove %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}
