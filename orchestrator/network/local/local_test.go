//go:build linux

package local

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"go.uber.org/zap"

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
		err = Keep(ctx, want, zap.NewNop()) // it finds them, and takes them in the end
		require.Equal(t, 0, has())
		return err
	}))
}
