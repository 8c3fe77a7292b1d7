package podnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// openNS opens a network namespace by its path; "" is that of the calling thread.
func openNS(path string) (netns.NsHandle, error) {
	if path == "" {
		path = "/proc/thread-self/ns/net"
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return netns.None(), fmt.Errorf("podnet: network namespace %s: %w", path, err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(ns), &st); err != nil || st.Type != unix.NSFS_MAGIC { // a file whose mount has gone
		_ = ns.Close()
		return netns.None(), fmt.Errorf("podnet: network namespace %s: %w", path, errNoNamespace)
	}
	return ns, nil
}

var errNoNamespace = errors.New("not a namespace, or one that has ended")

// inside runs f on a thread that is in a namespace, and that ends with f. What f starts in other goroutines is outside.
func inside(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("podnet: enter the network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// sysctl is a setting below /proc/sys/net.
type sysctl struct{ path, value string }

// apply writes settings that have another value, in a namespace.
func apply(ns netns.NsHandle, all []sysctl) error {
	return inside(ns, func() error {
		var errs []error
		for _, s := range all {
			errs = append(errs, s.set())
		}
		return errors.Join(errs...)
	})
}

func (s sysctl) set() error {
	path := filepath.Join("/proc/sys/net", s.path)
	b, err := os.ReadFile(path)
	switch {
	case os.IsNotExist(err) && strings.HasPrefix(s.path, "ipv6/"):
		return nil // a kernel without IPv6
	case err != nil:
		return fmt.Errorf("podnet: sysctl: %w", err)
	case strings.TrimSpace(string(b)) == s.value:
		return nil
	}
	if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
		return fmt.Errorf("podnet: sysctl net.%s = %s: %w", strings.ReplaceAll(s.path, "/", "."), s.value, err)
	}
	return nil
}

// single is the prefix that holds one address.
func single(a netip.Addr) *net.IPNet { return ipNet(netip.PrefixFrom(a, a.BitLen())) }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	a, _ := netip.AddrFromSlice(n.IP)
	bits, size := n.Mask.Size()
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits)
}

// family is the netlink family of an address.
func family(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// absent says that what was to be deleted is not there.
func absent(err error) bool {
	var missing netlink.LinkNotFoundError
	return err == nil || errors.As(err, &missing) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) ||
		errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL)
}

// assign gives an interface an address unless it has it.
func assign(h *netlink.Handle, l netlink.Link, p netip.Prefix) error {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
		if p.Addr().IsLinkLocalUnicast() {
			a.Scope = unix.RT_SCOPE_LINK
		}
	}
	if err := h.AddrAdd(l, a); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("podnet: address %s on %s: %w", p, l.Attrs().Name, err)
	}
	return nil
}

// neighbour enters where an address is found, for good.
func neighbour(h *netlink.Handle, link int, a netip.Addr, mac net.HardwareAddr) error {
	err := h.NeighSet(&netlink.Neigh{LinkIndex: link, Family: family(a), State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac})
	if err != nil {
		return fmt.Errorf("podnet: neighbour %s: %w", a, err)
	}
	return nil
}
