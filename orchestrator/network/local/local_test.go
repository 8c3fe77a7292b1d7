//go:build linux

package local

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/internal/testkit"
)

// TestKeep has the addresses there as long as it is kept, and not longer.
func TestKeep(t *testing.T) {
	ns := testkit.NewNetNS(t)
	want := []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::a")}
	require.NoError(t, ns.Do(func() error {
		has := func() (n int) {
			lo, err := netlink.LinkByName("lo")
			require.NoError(t, err)
			all, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
			require.NoError(t, err)
			for _, a := range all {
				for _, w := range want {
					if a.IP.String() == w.String() {
						n++
					}
				}
			}
			return n
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		lo, err := netlink.LinkByName("lo")
		require.NoError(t, err)
		require.NoError(t, give(lo, want))
		require.Equal(t, 2, has())
		err = Keep(ctx, want, nil, zap.NewNop()) // it finds them, and takes them in the end
		require.Equal(t, 0, has())
		return err
	}))
}

// TestWays has a machine without a default route know a way, and leaves alone where there is one.
func TestWays(t *testing.T) {
	ns := testkit.NewNetNS(t)
	ranges := []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}
	require.NoError(t, ns.Do(func() error {
		require.NoError(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other", TxQLen: -1}}))
		other, err := netlink.LinkByName("other")
		require.NoError(t, err)
		for _, a := range []string{"198.51.100.1/24", "2001:db8::1/64"} {
			x, err := netlink.ParseAddr(a)
			require.NoError(t, err)
			x.Flags = unix.IFA_F_NODAD
			require.NoError(t, netlink.AddrAdd(other, x))
		}
		require.NoError(t, netlink.LinkSetUp(other))
		lo, err := netlink.LinkByName("lo")
		require.NoError(t, err)
		way := func(to string) (link int, from string) {
			all, err := netlink.RouteGet(net.ParseIP(to))
			if err != nil {
				require.ErrorIs(t, err, unix.ENETUNREACH)
				return 0, ""
			}
			return all[0].LinkIndex, all[0].Src.String()
		}
		for _, to := range []string{"10.96.3.4", "fd00:96::5"} {
			link, _ := way(to)
			require.Zero(t, link)
		}
		for range 2 {
			require.NoError(t, ways(lo, ranges))
			for to, want := range map[string]string{"10.96.3.4": "198.51.100.1", "fd00:96::5": "2001:db8::1"} {
				link, from := way(to)
				require.Equal(t, lo.Attrs().Index, link)
				require.Equal(t, want, from)
			}
		}
		link, _ := way("10.97.0.1")
		require.Zero(t, link)
		for _, to := range []string{"0.0.0.0/0", "::/0"} {
			_, all, err := net.ParseCIDR(to)
			require.NoError(t, err)
			require.NoError(t, netlink.RouteAdd(&netlink.Route{LinkIndex: other.Attrs().Index, Dst: all}))
		}
		for _, to := range []string{"10.96.3.4", "fd00:96::5"} {
			link, _ := way(to)
			require.Equal(t, other.Attrs().Index, link)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.NoError(t, Keep(ctx, nil, ranges, zap.NewNop()))
		for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rules, err := netlink.RuleListFiltered(f, &netlink.Rule{Table: lastTable}, netlink.RT_FILTER_TABLE)
			require.NoError(t, err)
			require.Empty(t, rules)
			routes, err := netlink.RouteListFiltered(f, &netlink.Route{Table: lastTable}, netlink.RT_FILTER_TABLE)
			require.NoError(t, err)
			require.Empty(t, routes)
		}
		return closeWays(lo, ranges)
	}))
}
