//go:build linux

package announce

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/keelson-io/keelson/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine is a namespace on the wire.
type machine struct {
	*testkit.NetNS
	nl  *netlink.Handle
	mac string
}

// wire is machines on one link: "a" and "b" are nodes, "client" is none. Their addresses are 192.0.2.1.. and 2001:db8::1...
func wire(t *testing.T) map[string]*machine {
	bridge := machineOf(t)
	require.NoError(t, bridge.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "wire", TxQLen: -1}}))
	br, err := bridge.nl.LinkByName("wire")
	require.NoError(t, err)
	require.NoError(t, bridge.nl.LinkSetUp(br))
	out := map[string]*machine{}
	for i, name := range []string{"a", "b", "client"} {
		m := machineOf(t)
		f, err := netns.GetFromPath(m.Path())
		require.NoError(t, err)
		port := "port" + name
		require.NoError(t, bridge.nl.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, TxQLen: -1}, PeerName: "up0", PeerNamespace: netlink.NsFd(f), PeerTxQLen: -1}))
		require.NoError(t, f.Close())
		l, err := bridge.nl.LinkByName(port)
		require.NoError(t, err)
		require.NoError(t, bridge.nl.LinkSetMaster(l, br))
		require.NoError(t, bridge.nl.LinkSetUp(l))
		up, err := m.nl.LinkByName("up0")
		require.NoError(t, err)
		for bits, a := range map[int]string{24: fmt.Sprintf("192.0.2.%d", i+1), 64: fmt.Sprintf("2001:db8::%d", i+1)} {
			ip := netip.MustParseAddr(a)
			require.NoError(t, m.nl.AddrAdd(up, &netlink.Addr{Flags: unix.IFA_F_NODAD, IPNet: &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(bits, ip.BitLen())}}))
		}
		require.NoError(t, m.nl.LinkSetUp(up))
		m.mac = up.Attrs().HardwareAddr.String()
		if name != "client" {
			require.NoError(t, m.nl.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "sink", TxQLen: -1}}))
			sink, err := m.nl.LinkByName("sink")
			require.NoError(t, err)
			require.NoError(t, m.nl.LinkSetUp(sink))
		}
		out[name] = m
	}
	return out
}

func machineOf(t *testing.T) *machine {
	t.Helper()
	m := &machine{NetNS: testkit.NewNetNS(t)}
	require.NoError(t, m.Do(func() error {
		for file, value := range map[string]string{"ipv6/conf/all/accept_dad": "0", "ipv6/conf/default/accept_dad": "0", "ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1"} {
			if err := os.WriteFile("/proc/sys/net/"+file, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}))
	f, err := netns.GetFromPath(m.Path())
	require.NoError(t, err)
	m.nl, err = netlink.NewHandleAt(f, unix.NETLINK_ROUTE)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	t.Cleanup(m.nl.Close)
	return m
}

// ask makes a machine look for a neighbour.
func (m *machine) ask(to string) {
	_ = m.Do(func() error {
		c, err := net.Dial("udp", net.JoinHostPort(to, "9"))
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_, err = c.Write([]byte("?"))
		return err
	})
}

// knows is the MAC under which a machine knows a neighbour.
func (m *machine) knows(t *testing.T, a string) string {
	all, err := m.nl.NeighList(0, netlink.FAMILY_ALL)
	require.NoError(t, err)
	for _, n := range all {
		if n.IP.String() == a && n.State&(unix.NUD_REACHABLE|unix.NUD_STALE|unix.NUD_DELAY|unix.NUD_PROBE) != 0 {
			return n.HardwareAddr.String()
		}
	}
	return ""
}

func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// A neighbour learns who answers for an address, and when that node is not ready any more, that another one does, without
// asking. When the service is gone nobody answers.
func TestAnswers(t *testing.T) {
	machines := wire(t)
	client := fake.NewClientset()
	for _, name := range []string{"a", "b"} {
		n := node(name)
		n.Annotations = nil // they tell that they announce
		_, err := client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
		require.NoError(t, err)
		start(t, machines[name], client, name)
	}
	eventually(t, func() error {
		for _, name := range []string{"a", "b"} {
			if n, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{}); err != nil || n.Annotations[Annotation] == "" {
				return fmt.Errorf("%s has not told yet: %w", name, err)
			}
		}
		return nil
	})
	ips := []string{"192.0.2.50", "192.0.2.51", "2001:db8::50", "2001:db8::51"}
	s, err := client.CoreV1().Services("default").Create(t.Context(), balanced("s", ips...), metav1.CreateOptions{})
	require.NoError(t, err)
	c := machines["client"]
	known := map[string]string{}
	for _, ip := range ips {
		eventually(t, func() error {
			c.ask(ip)
			if known[ip] = c.knows(t, ip); known[ip] != machines[winner([]string{"a", "b"}, netip.MustParseAddr(ip))].mac {
				return fmt.Errorf("%s is known as %q", ip, known[ip])
			}
			return nil
		})
	}
	for _, name := range []string{"a", "b"} {
		n, err := client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		other := map[string]string{"a": "b", "b": "a"}[name]
		n.Status.Conditions[0].Status = corev1.ConditionUnknown
		_, err = client.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
		require.NoError(t, err)
		for _, ip := range ips {
			eventually(t, func() error {
				if is := c.knows(t, ip); is != machines[other].mac {
					return fmt.Errorf("%s is known as %q, not as %s", ip, is, other)
				}
				return nil
			})
		}
		n.Status.Conditions[0].Status = corev1.ConditionTrue
		_, err = client.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	require.NoError(t, client.CoreV1().Services("default").Delete(t.Context(), s.Name, metav1.DeleteOptions{}))
	for _, name := range []string{"a", "b"} {
		eventually(t, func() error { return empty(machines[name]) })
	}
}

// empty says what is left of the addresses of a pool.
func empty(m *machine) error {
	links, err := m.nl.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			all, err := m.nl.NeighProxyList(l.Attrs().Index, f)
			if err != nil || len(all) > 0 {
				return fmt.Errorf("%d entries are left, %w", len(all), err)
			}
			routes, err := m.nl.RouteListFiltered(f, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
			if err != nil || len(routes) > 0 {
				return fmt.Errorf("%d routes are left, %w", len(routes), err)
			}
		}
	}
	return nil
}

// An address that the node has is left alone, what somebody removed comes back, and the end leaves nothing.
func TestOwnAddressAndRepair(t *testing.T) {
	m := wire(t)["a"]
	client := fake.NewClientset(node("a"), balanced("s", "192.0.2.1", "192.0.2.50", "2001:db8::50"))
	stop := start(t, m, client, "a")
	up, err := m.nl.LinkByName("up0")
	require.NoError(t, err)
	for range 2 {
		eventually(t, func() error {
			n := 0
			for _, f := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				all, err := m.nl.NeighProxyList(up.Attrs().Index, f)
				if err != nil {
					return err
				}
				for _, e := range all {
					require.NotEqual(t, "192.0.2.1", e.IP.String())
					n++
				}
			}
			if n != 2 {
				return fmt.Errorf("%d entries", n)
			}
			return nil
		})
		for _, a := range []string{"192.0.2.50", "2001:db8::50"} {
			ip := netip.MustParseAddr(a)
			require.NoError(t, m.nl.NeighDel(&netlink.Neigh{LinkIndex: up.Attrs().Index, Family: family(ip), Flags: netlink.NTF_PROXY, IP: ip.AsSlice()}))
		}
	}
	stop()
	require.NoError(t, empty(m))
	for range 2 {
		require.NoError(t, Withdraw(t.Context(), client, "a"))
		n, err := client.CoreV1().Nodes().Get(t.Context(), "a", metav1.GetOptions{})
		require.NoError(t, err)
		require.NotContains(t, n.Annotations, Annotation)
	}
	require.NoError(t, Withdraw(t.Context(), client, "none"))
}

// start runs an announcer.
func start(t *testing.T, m *machine, client *fake.Clientset, name string) (stop func()) {
	t.Helper()
	f := informers.NewSharedInformerFactory(client, 0)
	n, err := New(Config{
		Client: client, Nodes: f.Core().V1().Nodes().Informer(), Services: f.Core().V1().Services().Informer(), Slices: f.Discovery().V1().EndpointSlices().Informer(),
		Node: name, Pool: inPool, Sink: "sink", NetNS: m.Path(), Logger: zaptest.NewLogger(t).Named(name),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	f.Start(ctx.Done())
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		f.Shutdown()
		n.Close()
	}
	t.Cleanup(stop)
	return stop
}
