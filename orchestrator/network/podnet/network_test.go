package podnet

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestTwoNodes(t *testing.T) {
	for _, backend := range []Backend{Routes, VXLAN} {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t)
			with := func(c *Config) { c.Backend = backend }
			a, b := w.node("a", 1, with), w.node("b", 2, with)
			one, two, far := a.pod("one"), a.pod("two"), b.pod("far")
			serve(t, two.NetNS, 80)
			serve(t, far.NetNS, 80)
			serve(t, w.outside.NetNS, 80)
			serve(t, a.NetNS, 80)
			for i := range 2 {
				sees(t, one.addrs[i], one.NetNS, two.addrs[i], 80)        // on one node
				sees(t, one.addrs[i], one.NetNS, far.addrs[i], 80)        // between nodes
				sees(t, a.addrs[i], a.NetNS, two.addrs[i], 80)            // from the node
				sees(t, one.addrs[i], one.NetNS, a.addrs[i], 80)          // to the node
				_, err := seen(one.NetNS, "tcp", a.net.Gateways()[i], 80) // by its other address
				require.NoError(t, err)
				sees(t, two.addrs[i], two.NetNS, two.addrs[i], 80)                  // to itself
				sees(t, a.addrs[i], one.NetNS, w.outside.addrs[i], 80)              // out of the cluster
				sees(t, b.addrs[i], far.NetNS, a.addrs[i], 80)                      // to another node's own address
				refused(t, w.outside.NetNS, netip.MustParseAddr("192.0.2.251"), 80) // nobody
			}
			from, err := seen(a.NetNS, "tcp", far.addrs[0], 80) // from a node to a pod of another one
			require.NoError(t, err)
			require.Contains(t, []string{a.addrs[0].String(), a.net.Gateways()[0].String()}, from)

			_, err = w.handle(a.NetNS).LinkByName(vxlanName)
			require.Equal(t, backend == VXLAN, err == nil)
		})
	}
}

func TestHostPorts(t *testing.T) {
	w := newWorld(t)
	a := w.node("a", 1)
	one := a.pod("one", func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{
			{ContainerPort: 80, HostPort: 8080},
			{ContainerPort: 80, HostPort: 8080, Protocol: runtimeapi.Protocol_UDP},
			{ContainerPort: 80, HostPort: 8081, HostIp: "192.0.2.1"},
			{ContainerPort: 80, HostPort: 8081, HostIp: "192.0.2.1", Protocol: runtimeapi.Protocol_UDP},
			{ContainerPort: 80},
		}
	})
	two := a.pod("two")
	serve(t, one.NetNS, 80)
	serve(t, a.NetNS, 9090)
	for i := range 2 {
		sees(t, w.outside.addrs[i], w.outside.NetNS, a.addrs[i], 8080)
		sees(t, two.addrs[i], two.NetNS, a.addrs[i], 8080)
		_, err := seen(a.NetNS, "tcp", a.addrs[i], 8080)
		require.NoError(t, err)
		_, err = seen(one.NetNS, "udp", a.addrs[i], 8080) // to itself, by way of its node
		require.NoError(t, err)
	}
	localhost := netip.MustParseAddr("127.0.0.1")
	_, err := seen(a.NetNS, "tcp", localhost, 8080)
	require.NoError(t, err)
	sees(t, w.outside.addrs[0], w.outside.NetNS, a.addrs[0], 8081)
	refused(t, a.NetNS, localhost, 8081)
	refused(t, w.outside.NetNS, a.addrs[1], 8081)

	// The pod does not reach what listens on the loopback of its node, even if it addresses the frame itself.
	sees(t, localhost, a.NetNS, localhost, 9090)
	h := w.handle(one.NetNS)
	eth, err := h.LinkByName(podInterface)
	require.NoError(t, err)
	lo, err := h.LinkByName("lo")
	require.NoError(t, err)
	require.NoError(t, h.AddrDel(lo, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("127.0.0.1/8"))}))
	require.NoError(t, apply(handleNS(t, one.NetNS.Path()), []sysctl{{"ipv4/conf/all/route_localnet", "1"}}))
	require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("127.0.0.0/8")), Gw: a.net.Gateways()[0].AsSlice(), Src: one.addrs[0].AsSlice()}))
	refused(t, one.NetNS, localhost, 9090)

	three := func(ports ...*runtimeapi.PortMapping) error {
		_, err := a.net.Attach(context.Background(), "three", two.Path(), sandbox("three", func(c *runtimeapi.PodSandboxConfig) { c.PortMappings = ports }))
		return err
	}
	require.ErrorContains(t, three(&runtimeapi.PortMapping{ContainerPort: 80, HostPort: 8080, HostIp: "192.0.2.1"}), "host port 192.0.2.1:8080/tcp is taken by pod default/one")
	require.ErrorContains(t, three(&runtimeapi.PortMapping{ContainerPort: 80, HostPort: 1}, &runtimeapi.PortMapping{ContainerPort: 81, HostPort: 1}), "asked for twice")
	require.ErrorContains(t, three(&runtimeapi.PortMapping{ContainerPort: 80, HostPort: 1, HostIp: "home"}), "address of host port 1")

	require.NoError(t, a.net.Detach(context.Background(), "one", one.Path(), nil))
	refused(t, w.outside.NetNS, a.addrs[0], 8080)
	_, err = seen(w.outside.NetNS, "udp", a.addrs[0], 8080)
	require.Error(t, err)
}

func TestAttachKeepsAndFrees(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	a := w.machine("a", 1)
	w.register(a, "10.244.1.0/29")
	a.start(dir)
	ctx := context.Background()
	one := a.pod("one")
	again, err := a.net.Attach(ctx, "one", one.Path(), sandbox("one"))
	require.NoError(t, err)
	require.Equal(t, one.addrs, again)
	require.Equal(t, "10.244.1.2", one.addrs[0].String())

	// A freed address is the last to come again.
	require.NoError(t, a.net.Detach(ctx, "one", one.Path(), nil))
	require.NoError(t, a.net.Detach(ctx, "one", one.Path(), nil))
	require.NoError(t, a.net.Detach(ctx, "../one", "", nil))
	var got []string
	for i := range 4 {
		got = append(got, a.pod(fmt.Sprint("p", i)).addrs[0].String())
	}
	require.Equal(t, []string{"10.244.1.3", "10.244.1.4", "10.244.1.5", "10.244.1.6"}, got)

	// Another network on the same directory knows all that, and goes on where the first one stopped.
	a.stop()
	a.start(dir)
	require.Len(t, a.net.Pods(), 4)
	two := a.pod("two")
	require.Equal(t, "10.244.1.2", two.addrs[0].String())
	_, err = a.net.Attach(ctx, "many", one.Path(), sandbox("many"))
	require.ErrorContains(t, err, "all addresses of the range 10.244.1.0/29 are taken")

	// What the agent does not know is taken away; so are links of which nothing is known.
	h := w.handle(a.NetNS)
	require.NoError(t, h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: LinkPrefix + "stray", TxQLen: -1}, PeerName: "stray", PeerTxQLen: -1}))
	require.NoError(t, a.net.GC(ctx, []string{"two"}))
	links, err := a.net.podLinks()
	require.NoError(t, err)
	require.Len(t, links, 1)
	require.Contains(t, links, linkName("two"))
	serve(t, a.NetNS, 80)
	sees(t, two.addrs[0], two.NetNS, a.addrs[0], 80)

	for _, bad := range []struct{ id, netns string }{{"", "/x"}, {"a/b", "/x"}, {"x", ""}, {"x", t.TempDir()}, {"x", "/nowhere"}} {
		_, err := a.net.Attach(ctx, bad.id, bad.netns, sandbox("x"))
		require.Error(t, err, bad)
	}
	require.Len(t, a.net.Pods(), 1)
}

func TestNoRangeYet(t *testing.T) {
	w := newWorld(t)
	a := w.machine("a", 1)
	w.register(a)
	f := newNetwork(t, w, a)
	require.ErrorContains(t, f.Ready(), "node a has no range of pod addresses yet")
	_, err := f.Attach(context.Background(), "one", w.outside.Path(), sandbox("one"))
	require.ErrorContains(t, err, "node a has no range of pod addresses yet")
}
