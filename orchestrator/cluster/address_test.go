package cluster

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/node/registration"
)

// TestAdvertised is where others are told that the API server is.
func TestAdvertised(t *testing.T) {
	machine := registration.MachineAddresses()
	if len(machine) == 0 {
		t.Skip("the machine has no address that others reach")
	}
	family := "10.96.0.0/16"
	if machine[0].Is6() {
		family = "fd00:96::/112"
	}
	for _, c := range []struct{ bind, advertise, want string }{
		{"127.0.0.1", "", "127.0.0.1"},
		{"127.0.0.1", "192.0.2.7", "192.0.2.7"},
		{"0.0.0.0", "", machine[0].String()},
		{"0.0.0.0", "192.0.2.7", "192.0.2.7"},
	} {
		l, err := net.Listen("tcp", net.JoinHostPort(c.bind, "0"))
		require.NoError(t, err)
		s := &apiServer{listen: l, cfg: API{BindAddress: c.bind, AdvertiseAddress: c.advertise}, set: &settings{ranges: []netip.Prefix{netip.MustParsePrefix(family)}}}
		host, _, err := net.SplitHostPort(s.advertised())
		require.NoError(t, err)
		require.Equal(t, c.want, host)
		require.NoError(t, l.Close())
		require.Contains(t, s.hosts(), netip.MustParsePrefix(family).Addr().Next().String(), "pods know it by the address of the service kubernetes")
		if c.bind == "0.0.0.0" {
			require.Contains(t, s.hosts(), machine[0].String())
		}
	}
	s := &apiServer{set: &settings{ranges: []netip.Prefix{netip.MustParsePrefix("fd00:96::/112")}}}
	require.Less(t, s.foreign(netip.MustParseAddr("2001:db8::1")), s.foreign(netip.MustParseAddr("192.0.2.1")))
}

// TestPodRanges is what nodes get of the ranges of pods.
func TestPodRanges(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "10.244.0.0/16 24",
		"10.42.0.0/16":                     "10.42.0.0/16 24",
		"10.42.0.0/16, fd00:42::/56":       "10.42.0.0/16 24 fd00:42::/56 64",
		"fd00:42::/56,10.42.1.0/16":        "fd00:42::/56 64 10.42.0.0/16 24",
		"10.42.0.0/16,10.43.0.0/16":        "",
		"10.42.0.0/16,fd00::/56,fd01::/56": "",
		"10.42.0.0":                        "",
	} {
		all, err := (&Loops{ClusterCIDR: text}).podRanges()
		var got []string
		for _, r := range all {
			got = append(got, fmt.Sprint(r.Cluster, " ", r.Bits))
		}
		require.Equal(t, want, strings.Join(got, " "), text)
		require.Equal(t, want == "", err != nil, text)
	}
}

// TestNodeDefaults has everything that the parts of a node take for granted: a node that runs alone got no registry, and died.
func TestNodeDefaults(t *testing.T) {
	n := Node{Name: "alone"}
	require.NoError(t, n.defaults())
	require.NotNil(t, n.Registry)
	require.Equal(t, defaultServiceRange, n.ServiceRange)
}
