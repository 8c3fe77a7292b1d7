//go:build linux

package local

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// checkEvery is how often the addresses are looked for.
const checkEvery = 10 * time.Second

// Keep gives the machine the addresses, on its loopback interface, and gives them back when somebody took them, until ctx
// ends. Then it takes them away.
func Keep(ctx context.Context, addresses []netip.Addr, lg *zap.Logger) error {
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
		select {
		case <-t.C:
		case <-ctx.Done():
			return take(lo, addresses)
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

func addressOf(a netip.Addr) *netlink.Addr {
	flags := 0
	if a.Is6() {
		flags = unix.IFA_F_NODAD
	}
	return &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice()), Scope: unix.RT_SCOPE_HOST, Flags: flags}
}
