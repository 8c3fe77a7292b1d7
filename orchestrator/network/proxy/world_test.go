package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a node with pods, and a machine outside of the cluster, each in a namespace of its own.
//
//	pods a, b, c   10.244.1.2.., fd00:1::2..     of this node
//	pod d          10.244.2.2, fd00:2::2         as if it were of another node
//	outside        192.0.2.2, 2001:db8::2        the node is 192.0.2.1, 2001:db8::1
type world struct {
	t       *testing.T
	client  *fake.Clientset
	proxy   *Proxy
	node    *testkit.NetNS
	outside *testkit.NetNS
	pods    map[string]*pod
	stop    func()
}

type pod struct {
	*testkit.NetNS
	v4, v6 netip.Addr
}

var (
	node4 = netip.MustParseAddr("192.0.2.1")
	node6 = netip.MustParseAddr("2001:db8::1")
	out4  = netip.MustParseAddr("192.0.2.2")
	out6  = netip.MustParseAddr("2001:db8::2")
)

const here = "here"

func newWorld(t *testing.T, edit ...func(*Config)) *world {
	t.Helper()
	t.Parallel() // they wait, most of the time
	w := &world{t: t, pods: map[string]*pod{}}
	w.node, w.outside = w.space(), w.space()
	w.sysctl(w.node, "1", "ipv4/ip_forward", "ipv6/conf/all/forwarding")
	w.wire(w.outside, "wire", "up0", []netip.Addr{node4, node6}, []netip.Addr{out4, out6}, [2]int{24, 64})
	for _, n := range []*testkit.NetNS{w.node, w.outside} { // a service address needs a way that it would go
		w.route(n, "0.0.0.0/0", map[bool]netip.Addr{true: out4, false: node4}[n == w.node])
		w.route(n, "::/0", map[bool]netip.Addr{true: out6, false: node6}[n == w.node])
	}
	for i, name := range []string{"a", "b", "c"} {
		w.pod(name, fmt.Sprintf("10.244.1.%d", i+2), fmt.Sprintf("fd00:1::%d", i+2))
	}
	w.pod("d", "10.244.2.2", "fd00:2::2")
	w.client = fake.NewClientset(
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: here}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.1.0/24", "fd00:1::/64"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "there"}, Spec: corev1.NodeSpec{PodCIDRs: []string{"10.244.2.0/24", "fd00:2::/64"}}})
	w.start(edit...)
	return w
}

// start runs the proxy.
func (w *world) start(edit ...func(*Config)) {
	w.t.Helper()
	f := informers.NewSharedInformerFactory(w.client, 0)
	c := Config{
		Services: f.Core().V1().Services().Informer(), Slices: f.Discovery().V1().EndpointSlices().Informer(), Nodes: f.Core().V1().Nodes().Informer(),
		Node: here, NetNS: w.node.Path(), MinInterval: time.Millisecond, Registerer: prometheus.NewRegistry(), Logger: zaptest.NewLogger(w.t),
		ServiceRanges: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")},
	}
	for _, e := range edit {
		e(&c)
	}
	var err error
	w.proxy, err = New(c)
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.proxy.Run(ctx) }()
	f.Start(ctx.Done())
	w.stop = func() {
		cancel()
		require.ErrorIs(w.t, <-done, context.Canceled)
		f.Shutdown()
		w.proxy.Close()
		w.stop = func() {}
	}
	w.t.Cleanup(func() { w.stop() })
	w.eventually(w.proxy.Healthy)
}

// space makes a namespace. Addresses are not checked for duplicates, which takes seconds.
func (w *world) space() *testkit.NetNS {
	n := testkit.NewNetNS(w.t)
	w.sysctl(n, "0", "ipv6/conf/all/accept_dad", "ipv6/conf/default/accept_dad")
	return n
}

func (w *world) sysctl(n *testkit.NetNS, value string, names ...string) {
	require.NoError(w.t, n.Do(func() error {
		for _, name := range names {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (w *world) handle(n *testkit.NetNS) (*netlink.Handle, netns.NsHandle) {
	f, err := netns.GetFromPath(n.Path())
	require.NoError(w.t, err)
	h, err := netlink.NewHandleAt(f, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		h.Close()
		_ = f.Close()
	})
	return h, f
}

func (w *world) assign(h *netlink.Handle, link string, addresses []netip.Addr, bits [2]int) {
	l, err := h.LinkByName(link)
	require.NoError(w.t, err)
	for i, a := range addresses {
		x := &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice())}
		x.Mask = net.CIDRMask(bits[i], a.BitLen())
		if a.Is6() {
			x.Flags = unix.IFA_F_NODAD
		}
		require.NoError(w.t, h.AddrAdd(l, x))
	}
	require.NoError(w.t, h.LinkSetUp(l))
}

// wire lays a link between the node and another namespace.
func (w *world) wire(n *testkit.NetNS, nodeEnd, otherEnd string, nodeAddresses, others []netip.Addr, bits [2]int) {
	nh, _ := w.handle(w.node)
	oh, of := w.handle(n)
	require.NoError(w.t, nh.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: nodeEnd, TxQLen: -1}, PeerName: otherEnd, PeerNamespace: netlink.NsFd(of), PeerTxQLen: -1}))
	w.assign(nh, nodeEnd, nodeAddresses, bits)
	w.assign(oh, otherEnd, others, bits)
}

func (w *world) route(n *testkit.NetNS, to string, via netip.Addr) {
	h, _ := w.handle(n)
	p := netip.MustParsePrefix(to)
	dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	require.NoError(w.t, h.RouteAdd(&netlink.Route{Dst: dst, Gw: via.AsSlice()}))
}

// gateways are the node's addresses on links of pods.
var gateways = []netip.Addr{netip.MustParseAddr("169.254.1.1"), netip.MustParseAddr("fd00:fe::1")}

// pod plugs a pod into the node, as podnet does: routed, alone in its prefix.
func (w *world) pod(name, v4, v6 string) {
	p := &pod{w.space(), netip.MustParseAddr(v4), netip.MustParseAddr(v6)}
	link := "kpod" + name
	w.wire(p.NetNS, link, "eth0", gateways, []netip.Addr{p.v4, p.v6}, [2]int{32, 128})
	nh, _ := w.handle(w.node)
	ph, _ := w.handle(p.NetNS)
	nl, err := nh.LinkByName(link)
	require.NoError(w.t, err)
	pl, err := ph.LinkByName("eth0")
	require.NoError(w.t, err)
	for i, a := range []netip.Addr{p.v4, p.v6} {
		require.NoError(w.t, nh.RouteAdd(&netlink.Route{LinkIndex: nl.Attrs().Index, Dst: netlink.NewIPNet(a.AsSlice()), Scope: unix.RT_SCOPE_LINK}))
		require.NoError(w.t, ph.RouteAdd(&netlink.Route{LinkIndex: pl.Attrs().Index, Dst: netlink.NewIPNet(gateways[i].AsSlice()), Scope: unix.RT_SCOPE_LINK}))
		w.route(p.NetNS, []string{"0.0.0.0/0", "::/0"}[i], gateways[i])
	}
	w.pods[name] = p
}

// service makes or changes a service.
func (w *world) service(name string, spec corev1.ServiceSpec, ingress ...string) {
	w.t.Helper()
	if len(spec.Ports) == 0 {
		spec.Ports = []corev1.ServicePort{{Name: "tcp", Port: 80, NodePort: spec.HealthCheckNodePort, Protocol: "TCP"}, {Name: "udp", Port: 80, Protocol: "UDP"}}
	}
	if spec.Type == corev1.ServiceTypeNodePort || spec.Type == corev1.ServiceTypeLoadBalancer {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 30080
		}
	}
	o := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: spec}
	o.Spec.ClusterIP = o.Spec.ClusterIPs[0]
	for _, a := range ingress {
		o.Status.LoadBalancer.Ingress = append(o.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	s := w.client.CoreV1().Services("default")
	_, err := s.Update(context.Background(), o, metav1.UpdateOptions{})
	if err != nil {
		_, err = s.Create(context.Background(), o, metav1.CreateOptions{})
	}
	require.NoError(w.t, err)
}

// where are the node and the conditions of an endpoint: "+" is ready, "-" is not, "~" ends and serves.
func (w *world) endpoints(service string, all ...string) {
	w.t.Helper()
	for i, f := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		o := &discoveryv1.EndpointSlice{AddressType: f, ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%d", service, i), Namespace: "default", Labels: map[string]string{discoveryv1.LabelServiceName: service}}}
		for _, p := range []corev1.Protocol{"TCP", "UDP"} {
			o.Ports = append(o.Ports, discoveryv1.EndpointPort{Name: ptr.To(strings.ToLower(string(p))), Port: ptr.To(int32(8080)), Protocol: &p})
		}
		for _, e := range all {
			name := strings.Trim(e, "-~")
			node := here
			if name == "d" {
				node = "there"
			}
			a := w.pods[name].v4
			if i == 1 {
				a = w.pods[name].v6
			}
			ends := strings.HasSuffix(e, "~")
			o.Endpoints = append(o.Endpoints, discoveryv1.Endpoint{Addresses: []string{a.String()}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{
				Ready: ptr.To(e == name), Serving: ptr.To(e == name || ends), Terminating: &ends}})
		}
		s := w.client.DiscoveryV1().EndpointSlices("default")
		_, err := s.Update(context.Background(), o, metav1.UpdateOptions{})
		if err != nil {
			_, err = s.Create(context.Background(), o, metav1.CreateOptions{})
		}
		require.NoError(w.t, err)
	}
}

// serve has every pod answer on port 8080 by TCP and UDP, with its name and whom it sees.
func (w *world) serve() {
	for name, p := range w.pods {
		w.serveAt(p.NetNS, name, 8080)
	}
}

func (w *world) serveAt(n *testkit.NetNS, name string, port int) {
	w.t.Helper()
	require.NoError(w.t, n.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return errors.Join(err, l.Close())
		}
		say := func(a net.Addr) []byte {
			x, _ := netip.ParseAddrPort(a.String())
			return []byte(name + " " + x.Addr().Unmap().String() + "\n")
		}
		done := make(chan struct{}, 2)
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write(say(c.RemoteAddr()))
				_ = c.Close()
			}
		}()
		go func() {
			defer func() { done <- struct{}{} }()
			b := make([]byte, 2048)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(say(from), from)
			}
		}()
		w.t.Cleanup(func() {
			_ = l.Close()
			_ = u.Close()
			<-done
			<-done
		})
		return nil
	}))
}

// ask asks an address, and returns who answered and whom it saw.
func ask(n *testkit.NetNS, network string, to string, port int) (who, saw string, err error) {
	err = n.Do(func() error {
		c, err := net.DialTimeout(network, net.JoinHostPort(to, fmt.Sprint(port)), time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		return exchange(c, network, &who, &saw)
	})
	return who, saw, err
}

func exchange(c net.Conn, network string, who, saw *string) error {
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("?")); err != nil {
			return err
		}
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = fmt.Sscan(line, who, saw)
	return err
}

// eventually waits until f has no error.
func (w *world) eventually(f func() error) {
	w.t.Helper()
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	w.t.Fatal(err)
}

// answers expects each of the pods to answer, and no other, and to see the client as one of saw: by TCP and UDP.
func (w *world) answers(n *testkit.NetNS, to string, port int, pods string, saw ...string) {
	w.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		seen := map[string]bool{}
		good := func() error {
			who, as, err := ask(n, network, to, port)
			if err != nil {
				return fmt.Errorf("%s to %s port %d: %w", network, to, port, err)
			}
			if !strings.Contains(pods, who) {
				return fmt.Errorf("%s to %s port %d: %s answers, not one of %q", network, to, port, who, pods)
			}
			if len(saw) > 0 && !strings.Contains(" "+strings.Join(saw, " ")+" ", " "+as+" ") {
				return fmt.Errorf("%s to %s port %d: %s sees %s, not one of %v", network, to, port, who, as, saw)
			}
			seen[who] = true
			return nil
		}
		w.eventually(good)
		for i := 0; len(seen) < len(pods); i++ {
			require.NoError(w.t, good())
			require.Less(w.t, i, 200, "%s to %s port %d: only %v answer, of %q", network, to, port, seen, pods)
		}
	}
}

// fails expects an error, by TCP and UDP.
func (w *world) fails(n *testkit.NetNS, to string, port int, want func(error) bool, what string) {
	w.t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		w.eventually(func() error {
			who, _, err := ask(n, network, to, port)
			if !want(err) {
				return fmt.Errorf("%s to %s port %d: %q answers, error %w; want %s", network, to, port, who, err, what)
			}
			return nil
		})
	}
}

func (w *world) refused(n *testkit.NetNS, to string, port int) {
	w.t.Helper()
	// What a machine itself sends by UDP is not permitted.
	w.fails(n, to, port, func(err error) bool { return errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EPERM) }, "a refusal")
}

func (w *world) silent(n *testkit.NetNS, to string, port int) {
	w.t.Helper()
	w.fails(n, to, port, func(err error) bool { return os.IsTimeout(err) }, "silence")
}
