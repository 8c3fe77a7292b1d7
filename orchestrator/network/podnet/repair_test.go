package podnet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/testkit"
)

func TestRepair(t *testing.T) {
	w := newWorld(t)
	with := func(c *Config) { c.Backend = VXLAN }
	a, b := w.node("a", 1, with), w.node("b", 2, with)
	one, two, far := a.pod("one", func(c *runtimeapi.PodSandboxConfig) {
		c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 8080}}
	}), a.pod("two"), b.pod("far")
	serve(t, one.NetNS, 80)
	serve(t, w.outside.NetNS, 80)
	h, hb := w.handle(a.NetNS), w.handle(b.NetNS)
	conn, err := nftables.New(nftables.WithNetNSFd(int(handleNS(t, a.Path()))))
	require.NoError(t, err)
	link := func(h *netlink.Handle, name string) netlink.Link {
		l, err := h.LinkByName(name)
		require.NoError(t, err)
		return l
	}
	for _, c := range []struct {
		name  string
		spoil func()
	}{
		{"nothing", func() {}},
		{"all tables", func() { conn.FlushRuleset() }},
		{"the rules of the table", func() { conn.FlushTable(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}) }},
		{"host ports", func() {
			s, err := conn.GetSetByName(&nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}, "hostports4")
			require.NoError(t, err)
			conn.FlushSet(s)
		}},
		{"the bridge", func() { require.NoError(t, h.LinkDel(link(h, DefaultBridge))) }},
		{"a pod's link", func() { require.NoError(t, h.LinkDel(link(h, linkName("one")))) }},
		{"a pod's link is down", func() { require.NoError(t, h.LinkSetDown(link(h, linkName("one")))) }},
		{"the VXLAN", func() { require.NoError(t, hb.LinkDel(link(hb, vxlanName))) }},
		{"routes", func() {
			for _, h := range []*netlink.Handle{h, hb} {
				for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
					all, err := h.RouteListFiltered(f, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
					require.NoError(t, err)
					require.NotEmpty(t, all)
					for _, r := range all {
						require.NoError(t, h.RouteDel(&r))
					}
				}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.spoil()
			require.NoError(t, conn.Flush())
			for i := range 2 {
				sees(t, two.addrs[i], two.NetNS, one.addrs[i], 80)
				sees(t, far.addrs[i], far.NetNS, one.addrs[i], 80)
				sees(t, a.addrs[i], one.NetNS, w.outside.addrs[i], 80)
				eventually(t, func() error { _, err := seen(w.outside.NetNS, "tcp", a.addrs[i], 8080); return err })
				eventually(t, func() error { _, err := seen(two.NetNS, "tcp", a.addrs[i], 8080); return err })
			}
		})
	}
}

func TestNodesComeAndGo(t *testing.T) {
	w := newWorld(t)
	a := w.node("a", 1)
	one := a.pod("one")
	serve(t, one.NetNS, 80)
	nodes := w.client.CoreV1().Nodes()
	ctx := context.Background()
	routes := func() (all []string) {
		h := w.handle(a.NetNS)
		for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			have, err := h.RouteListFiltered(f, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
			require.NoError(t, err)
			for _, r := range have {
				if p := prefixOf(r.Dst); !p.IsSingleIP() {
					all = append(all, fmt.Sprintf("%s via %s", p, r.Gw))
				}
			}
		}
		return all
	}
	expect := func(want ...string) {
		t.Helper()
		eventually(t, func() error {
			if got := routes(); fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("routes are %v, not %v", got, want)
			}
			return nil
		})
	}
	expect()
	b := w.node("b", 2)
	expect("10.244.2.0/24 via 192.0.2.2", "fd00:2::/64 via 2001:db8::2")
	far := b.pod("far")
	sees(t, far.addrs[0], far.NetNS, one.addrs[0], 80)

	// It has another address, and then one that is not on the same link.
	update := func(addrs ...string) {
		o, err := nodes.Get(ctx, "b", metav1.GetOptions{})
		require.NoError(t, err)
		o = o.DeepCopy()
		o.Status.Addresses = nil
		for _, x := range addrs {
			o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: x})
		}
		_, err = nodes.UpdateStatus(ctx, o, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	update("192.0.2.22", "2001:db8::22")
	expect("10.244.2.0/24 via 192.0.2.22", "fd00:2::/64 via 2001:db8::22")
	_, err := w.handle(a.NetNS).LinkByName(vxlanName)
	require.Error(t, err)
	update("198.51.100.2")
	expect("10.244.2.0/24 via 10.244.2.1", "fd00:2::/64 via fd00:2::1")
	l, err := w.handle(a.NetNS).LinkByName(vxlanName)
	require.NoError(t, err)
	update("198.51.100.3")
	forward := func() string {
		have, err := w.handle(a.NetNS).NeighList(l.Attrs().Index, unix.AF_BRIDGE)
		require.NoError(t, err)
		s := ""
		for _, e := range have {
			s += fmt.Sprintf("%s at %s;", e.HardwareAddr, e.IP)
		}
		return s
	}
	eventually(t, func() error {
		if got, want := forward(), macOf("vxlan of", "b").String()+" at 198.51.100.3;"; got != want {
			return fmt.Errorf("forwarding is %q, not %q", got, want)
		}
		return nil
	})
	require.NoError(t, nodes.Delete(ctx, "b", metav1.DeleteOptions{}))
	expect()
	eventually(t, func() error {
		if _, err := w.handle(a.NetNS).LinkByName(vxlanName); err == nil {
			return errors.New("the VXLAN is still there")
		}
		return nil
	})
}

// Nodes on different links: the backend of routes falls back to the VXLAN, through a router that knows nothing of pods.
func TestNodesOnDifferentLinks(t *testing.T) {
	w := newWorld(t)
	a, b := w.machine("a", 1), w.machine("b", 2)
	router := w.handle(w.outside.NetNS)
	require.NoError(t, apply(handleNS(t, w.outside.Path()), []sysctl{{"ipv4/ip_forward", "1"}, {"ipv4/conf/all/send_redirects", "0"}, {"ipv4/conf/up0/send_redirects", "0"}}))
	up, err := router.LinkByName("up0")
	require.NoError(t, err)
	for i, m := range []*machine{a, b} {
		h := w.handle(m.NetNS)
		l, err := h.LinkByName("up0")
		require.NoError(t, err)
		require.NoError(t, h.AddrDel(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(m.addrs[0], 24))}))
		net := fmt.Sprintf("198.51.%d.", 100+i)
		m.addrs = []netip.Addr{netip.MustParseAddr(net + "2")}
		gw := netip.MustParseAddr(net + "1")
		require.NoError(t, assign(h, l, netip.PrefixFrom(m.addrs[0], 24)))
		require.NoError(t, assign(router, up, netip.PrefixFrom(gw, 24)))
		require.NoError(t, h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Gw: gw.AsSlice()}))
		w.register(m, fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd00:%d::/64", i))
	}
	a.start(t.TempDir())
	b.start(t.TempDir())
	one, far := a.pod("one"), b.pod("far")
	serve(t, far.NetNS, 80)
	for i := range 2 {
		sees(t, one.addrs[i], one.NetNS, far.addrs[i], 80)
	}
	// What is too large for the VXLAN arrives too: its sender is told how much fits.
	echo(t, far.NetNS, 81)
	sent := bytes.Repeat([]byte("keelson "), 32<<10)
	require.NoError(t, one.Do(func() error {
		c, err := net.DialTimeout("tcp", netip.AddrPortFrom(far.addrs[0], 81).String(), time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		go func() { _, _ = c.Write(sent) }()
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if !bytes.Equal(sent, got) {
			return errors.New("something else came back")
		}
		return nil
	}))
}

func TestGuardAndWrongSource(t *testing.T) {
	w := newWorld(t)
	g := &guard{seen: map[string]bool{}}
	dir := t.TempDir()
	a := w.machine("a", 1)
	w.register(a, "10.244.1.0/24", "fd00:1::/64")
	a.start(dir, func(c *Config) { c.Guard = g })
	one, two := a.pod("one"), a.pod("two")
	require.True(t, g.seen["one 10.244.1.2 fd00:1::2"], g.seen)
	g.refuse = errors.New("not this one")
	_, err := a.net.Attach(context.Background(), "three", w.outside.Path(), sandbox("three"))
	require.ErrorIs(t, err, g.refuse)
	require.Len(t, a.net.Pods(), 2)
	g.refuse = nil

	// A pod that takes the address of another one is not heard, and the other one still is.
	serve(t, w.outside.NetNS, 80)
	serve(t, two.NetNS, 80)
	h := w.handle(one.NetNS)
	eth, err := h.LinkByName(podInterface)
	require.NoError(t, err)
	for i, p := range []string{"10.244.1.9/32", "fd00:1::9/128"} {
		x := netip.MustParsePrefix(p)
		require.NoError(t, assign(h, eth, x))
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		gw := a.net.Gateways()[0]
		if x.Addr().Is6() {
			all, gw = netip.PrefixFrom(netip.IPv6Unspecified(), 0), linkGateway
		}
		sees(t, one.addrs[i], one.NetNS, two.addrs[i], 80)
		require.NoError(t, h.RouteReplace(&netlink.Route{LinkIndex: eth.Attrs().Index, Dst: ipNet(all), Gw: gw.AsSlice(), Src: x.Addr().AsSlice()}))
		refused(t, one.NetNS, two.addrs[i], 80)
		sees(t, a.addrs[i], two.NetNS, w.outside.addrs[i], 80)
	}

	require.NoError(t, a.net.Detach(context.Background(), "one", one.Path(), nil))
	require.Len(t, g.seen, 1)
	a.stop()
	g.seen = map[string]bool{}
	a.start(dir, func(c *Config) { c.Guard = g })
	has := func(what string) bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.seen[what+" 10.244.1.3 fd00:1::3"]
	}
	require.True(t, has("resumed two"))
	require.False(t, has("two"))

	// A link that is made again is asked for before.
	l, err := w.handle(a.NetNS).LinkByName(linkName("two"))
	require.NoError(t, err)
	require.NoError(t, w.handle(a.NetNS).LinkDel(l))
	sees(t, a.addrs[0], two.NetNS, w.outside.addrs[0], 80)
	require.True(t, has("two"))
	a.stop()
	l, err = w.handle(a.NetNS).LinkByName(linkName("two"))
	require.NoError(t, err)
	require.NoError(t, w.handle(a.NetNS).LinkDel(l))
	g.seen = map[string]bool{}
	a.start(dir, func(c *Config) { c.Guard = g })
	sees(t, a.addrs[0], two.NetNS, w.outside.addrs[0], 80)
	require.True(t, has("two"))
	require.False(t, has("resumed two"))
}

type guard struct {
	mu     sync.Mutex
	seen   map[string]bool
	refuse error
}

func key(p Pod) string { return fmt.Sprint(p.ID, " ", p.Addresses[0], " ", p.Addresses[1]) }

func (g *guard) Admit(_ context.Context, p Pod) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuse == nil {
		g.seen[key(p)] = true
	}
	return g.refuse
}

func (g *guard) Resume(p Pod) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seen["resumed "+key(p)] = true
}

func (g *guard) Forget(p Pod) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.seen, key(p))
}

// Many at once, and then nothing is left: no link, no route, no address, no host port.
func TestNothingIsLeft(t *testing.T) {
	testkit.NoLeaks(t, LinkPrefix)
	w := newWorld(t)
	a := w.node("a", 1)
	ctx := context.Background()
	var sandboxes []*testkit.NetNS
	for range 12 {
		sandboxes = append(sandboxes, testkit.NewNetNS(t))
	}
	var wg sync.WaitGroup
	for i, ns := range sandboxes {
		wg.Go(func() {
			id := fmt.Sprint("p", i)
			_, err := a.net.Attach(ctx, id, ns.Path(), sandbox(id, func(c *runtimeapi.PodSandboxConfig) {
				c.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: int32(8000 + i)}}
				c.Annotations = map[string]string{ingressAnnotation: "10M", egressAnnotation: "1G"}
			}))
			if err != nil {
				t.Error(err)
			}
			if i%2 == 0 { // the rest is left to GC
				if err := a.net.Detach(ctx, id, ns.Path(), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	require.Len(t, a.net.Pods(), 6)
	require.NoError(t, a.net.GC(ctx, nil))
	require.Empty(t, a.net.Pods())
	links, err := a.net.podLinks()
	require.NoError(t, err)
	require.Empty(t, links)
	files, err := filepath.Glob(filepath.Join(a.net.Dir, "sandboxes", "*"))
	require.NoError(t, err)
	require.Empty(t, files)
	conn, err := nftables.New(nftables.WithNetNSFd(int(handleNS(t, a.Path()))))
	require.NoError(t, err)
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	for _, name := range []string{"hostports4", "hostports6", "hairpin4", "hairpin6"} {
		s, err := conn.GetSetByName(table, name)
		require.NoError(t, err)
		elements, err := conn.GetSetElements(s)
		require.NoError(t, err)
		require.Empty(t, elements, name)
	}
	for _, ns := range sandboxes {
		_, err := w.handle(ns).LinkByName(podInterface)
		require.Error(t, err)
	}
}

// A sandbox may end before its pod is detached, and an agent anywhere.
func TestCrashes(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	a := w.machine("a", 1)
	w.register(a, "10.244.1.0/24")
	a.start(dir)
	ctx := context.Background()
	one := a.pod("one")
	require.NoError(t, unix.Unmount(one.Path(), unix.MNT_DETACH)) // the namespace ends
	eventually(t, func() error {
		if links, err := a.net.podLinks(); err != nil || len(links) > 0 {
			return fmt.Errorf("links %v, %w", links, err)
		}
		return nil
	})
	require.NoError(t, a.net.Detach(ctx, "one", one.Path(), nil))
	require.NoError(t, unix.Mount("/proc/self/ns/net", one.Path(), "", unix.MS_BIND, "")) // for the cleanup of the test
	a.stop()

	require.NoError(t, os.WriteFile(filepath.Join(dir, "sandboxes", "torn.json"), []byte(`{"id":"to`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sandboxes", "other.json"), []byte(`{"id":"../x"}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".unfinished-1"), []byte(`{`), 0o600))
	// It was written down and never plugged in.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "sandboxes", "half.json"),
		fmt.Appendf(nil, `{"id":"half","netns":"/gone","link":%q,"mtu":1500,"addresses":["10.244.1.3"]}`, linkName("half")), 0o600))
	a.start(dir)
	require.Len(t, a.net.Pods(), 1)
	half := testkit.NewNetNS(t)
	got, err := a.net.Attach(ctx, "half", half.Path(), sandbox("half"))
	require.NoError(t, err)
	require.Equal(t, "10.244.1.3", got[0].String())
	serve(t, half, 80)
	sees(t, a.addrs[0], a.NetNS, got[0], 80)
	left, err := filepath.Glob(filepath.Join(dir, ".unfinished-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	require.Equal(t, "10.244.1.4", a.pod("next").addrs[0].String())
}

func TestBandwidth(t *testing.T) {
	for _, c := range []struct {
		annotations map[string]string
		want        bandwidth
		err         string
	}{
		{nil, bandwidth{}, ""},
		{map[string]string{ingressAnnotation: "10M", egressAnnotation: "1G"}, bandwidth{10e6, 1e9}, ""},
		{map[string]string{ingressAnnotation: "1"}, bandwidth{}, "not between"},
		{map[string]string{egressAnnotation: "2P"}, bandwidth{}, "not between"},
		{map[string]string{egressAnnotation: "fast"}, bandwidth{}, "egress-bandwidth"},
	} {
		got, err := bandwidthOf(c.annotations)
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
	w := newWorld(t)
	a := w.node("a", 1)
	one := a.pod("one", func(c *runtimeapi.PodSandboxConfig) {
		c.Annotations = map[string]string{ingressAnnotation: "10M", egressAnnotation: "1G"}
	})
	rate := func(h *netlink.Handle, link string) uint64 {
		l, err := h.LinkByName(link)
		require.NoError(t, err)
		all, err := h.QdiscList(l)
		require.NoError(t, err)
		require.Len(t, all, 1)
		return all[0].(*netlink.Tbf).Rate * 8
	}
	require.Equal(t, uint64(10e6), rate(w.handle(a.NetNS), linkName("one")))
	require.Equal(t, uint64(1e9), rate(w.handle(one.NetNS), podInterface))
	serve(t, one.NetNS, 80)
	sees(t, a.addrs[0], a.NetNS, one.addrs[0], 80)
}
