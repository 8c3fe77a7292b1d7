//go:build linux

package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// checkEvery is how often the addresses are looked for.
const checkEvery = 10 * time.Second

// The table of routes that is asked when the main one knows no way, and where it stands among the rules.
const (
	lastTable    = 7575
	lastPriority = 32800
)

// Keep gives the machine the addresses, on its loopback interface, and a last way to the ranges, and gives them back when
// somebody took them, until ctx ends. Then it takes them away.
func Keep(ctx context.Context, addresses []netip.Addr, ranges []netip.Prefix, lg *zap.Logger) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("local: %w", err)
	}
	t := time.NewTicker(checkEvery)
	defer t.Stop()
	for first := true; ; first = false {
		if err := give(lo, addresses); err != nil {
			if first {
				return err
			}
			lg.Warn("addresses of the node could not be given back", zap.Error(err))
		}
		if err := ways(lo, ranges); err != nil && first { // a default route will do
			lg.Warn("there is no last way to services", zap.Error(err))
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return errors.Join(take(lo, addresses), closeWays(lo, ranges))
		}
	}
}

func give(lo netlink.Link, addresses []netip.Addr) error {
	for _, a := range addresses {
		if err := netlink.AddrReplace(lo, addressOf(a)); err != nil {
			return fmt.Errorf("local: address %s: %w", a, err)
		}
	}
	return nil
}

func take(lo netlink.Link, addresses []netip.Addr) (all error) {
	for _, a := range addresses {
		if err := netlink.AddrDel(lo, addressOf(a)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			all = errors.Join(all, fmt.Errorf("local: address %s: %w", a, err))
		}
	}
	return all
}

// ways makes routes that are taken where there is no other.
func ways(lo netlink.Link, ranges []netip.Prefix) error {
	for _, p := range ranges {
		route, rule := wayOf(lo, p)
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("local: route to %s: %w", p, err)
		}
		if err := netlink.RuleAdd(rule); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("local: rule for %s: %w", p, err)
		}
	}
	return nil
}

// closeWays takes the routes away.
func closeWays(lo netlink.Link, ranges []netip.Prefix) (all error) {
	for _, p := range ranges {
		route, rule := wayOf(lo, p)
		for _, err := range []error{netlink.RuleDel(rule), netlink.RouteDel(route)} {
			if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) {
				all = errors.Join(all, fmt.Errorf("local: route to %s: %w", p, err))
			}
		}
	}
	return all
}

func wayOf(lo netlink.Link, p netip.Prefix) (*netlink.Route, *netlink.Rule) {
	p = p.Masked()
	route := &netlink.Route{LinkIndex: lo.Attrs().Index, Table: lastTable, Dst: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	rule := netlink.NewRule()
	rule.Table, rule.Priority, rule.Family = lastTable, lastPriority, unix.AF_INET6
	rule.IifName = "lo" // for what the machine itself sends
	if p.Addr().Is4() {
		route.Scope, rule.Family = unix.RT_SCOPE_LINK, unix.AF_INET
	}
	return route, rule
}

func addressOf(a netip.Addr) *netlink.Addr {
	flags := 0
	if a.Is6() {
		flags = unix.IFA_F_NODAD
	}
	return &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice()), Scope: unix.RT_SCOPE_HOST, Flags: flags}
}

// Take takes addresses away that somebody's Keep gave the machine and could not take away itself.
func Take(addresses []netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("local: %w", err)
	}
	return take(lo, addresses)
}
