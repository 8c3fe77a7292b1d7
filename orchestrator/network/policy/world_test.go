package policy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/testkit"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is two nodes, each in a namespace of its own, on one wire.
type world struct {
	t      *testing.T
	client *fake.Clientset
	nodes  [2]*machineNode
}

// machineNode is a node with its pod network and its policies.
type machineNode struct {
	*testkit.NetNS
	w     *world
	name  string
	dir   string
	addrs []netip.Addr
	net   *podnet.Network
	guard *Enforcer
	stop  func()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, client: fake.NewClientset()}
	for i := range w.nodes {
		n := i + 1
		w.nodes[i] = &machineNode{NetNS: testkit.NewNetNS(t), w: w, name: fmt.Sprint("n", n), dir: t.TempDir(),
			addrs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n)), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n))}}
	}
	far, err := netns.GetFromPath(w.nodes[1].Path())
	require.NoError(t, err)
	defer func() { _ = far.Close() }()
	require.NoError(t, w.nodes[0].handle().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0", TxQLen: -1}, PeerName: "up0", PeerNamespace: netlink.NsFd(far), PeerTxQLen: -1}))
	for i, m := range w.nodes {
		m.assign("up0", m.addrs[0], 24)
		m.assign("up0", m.addrs[1], 64)
		for _, a := range dnsAddrs {
			m.assign("lo", a, a.BitLen())
		}
		o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name}, Spec: corev1.NodeSpec{PodCIDRs: []string{fmt.Sprintf("10.244.%d.0/24", i+1), fmt.Sprintf("fd00:%d::/64", i+1)}}}
		for _, a := range m.addrs {
			o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
		}
		_, err := w.client.CoreV1().Nodes().Create(context.Background(), o, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	for _, name := range []string{"x", "y", "kube-system"} {
		w.namespace(name, map[string]string{"kubernetes.io/metadata.name": name, "team": name})
	}
	return w
}

func (m *machineNode) handle() *netlink.Handle {
	f, err := netns.GetFromPath(m.Path())
	require.NoError(m.w.t, err)
	defer func() { _ = f.Close() }()
	h, err := netlink.NewHandleAt(f, unix.NETLINK_ROUTE)
	require.NoError(m.w.t, err)
	m.w.t.Cleanup(h.Close)
	return h
}

func (m *machineNode) assign(link string, a netip.Addr, bits int) {
	h := m.handle()
	l, err := h.LinkByName(link)
	require.NoError(m.w.t, err)
	x := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}}
	if a.Is6() {
		x.Flags = unix.IFA_F_NODAD
	}
	require.NoError(m.w.t, h.AddrAdd(l, x))
	require.NoError(m.w.t, h.LinkSetUp(l))
}

func (w *world) namespace(name string, l map[string]string) {
	o := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}}
	_, err := w.client.CoreV1().Namespaces().Create(context.Background(), o, metav1.CreateOptions{})
	require.NoError(w.t, err)
}

// start runs a node; its policies are followed from when go ahead is called.
func (m *machineNode) start(guarded bool) (goAhead func()) {
	t := m.w.t
	f, policies := informers.NewSharedInformerFactory(m.w.client, 0), informers.NewSharedInformerFactoryWithOptions(m.w.client, 0, informers.WithTransform(Trim))
	var err error
	m.guard, err = New(Config{
		Pods: policies.Core().V1().Pods().Informer(), Namespaces: policies.Core().V1().Namespaces().Informer(), Policies: policies.Networking().V1().NetworkPolicies().Informer(),
		DNS: dnsAddrs, NetNS: m.Path(), Logger: zaptest.NewLogger(t).Named(m.name),
	})
	require.NoError(t, err)
	m.guard.patience = 10 * time.Millisecond
	c := podnet.Config{Nodes: f.Core().V1().Nodes(), Node: m.name, Dir: m.dir, NetNS: m.Path(), Logger: zaptest.NewLogger(t).Named(m.name)}
	if guarded {
		c.Guard = m.guard
	}
	m.net, err = podnet.New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.net.Run(ctx) })
	wg.Go(func() { _ = m.guard.Run(ctx) })
	f.Start(ctx.Done())
	m.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		f.Shutdown()
		policies.Shutdown()
		m.net.Close()
		require.NoError(t, m.guard.Close())
	})
	t.Cleanup(func() { m.stop() })
	eventually(t, m.net.Ready)
	return func() {
		policies.Start(ctx.Done())
		eventually(t, func() error {
			if !m.guard.isReady() {
				return errors.New("policies are not known")
			}
			return nil
		})
	}
}

// eventually waits until f has no error.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// livePod is a pod with a sandbox.
type livePod struct {
	*testkit.NetNS
	*corev1.Pod
	node *machineNode
}

// object makes a pod that has no sandbox yet.
func (m *machineNode) object(namespace, name string, l map[string]string) *livePod {
	p := &livePod{NetNS: testkit.NewNetNS(m.w.t), node: m}
	p.Pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name), Labels: l}, Spec: corev1.PodSpec{NodeName: m.name}}
	p.Pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: 80}}}}
	return p
}

func (p *livePod) create() *livePod {
	_, err := p.node.w.client.CoreV1().Pods(p.Namespace).Create(context.Background(), p.Pod, metav1.CreateOptions{})
	require.NoError(p.node.w.t, err)
	return p
}

// attach puts it on the network.
func (p *livePod) attach() *livePod {
	t := p.node.w.t
	addrs, err := p.node.net.Attach(context.Background(), string(p.UID), p.Path(), &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Namespace: p.Namespace, Name: p.Name, Uid: string(p.UID)}})
	require.NoError(t, err)
	p.Pod = p.Pod.DeepCopy()
	p.Status.PodIPs = nil
	for _, a := range addrs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	return p
}

// report tells the API server its addresses.
func (p *livePod) report() *livePod {
	_, err := p.node.w.client.CoreV1().Pods(p.Namespace).UpdateStatus(context.Background(), p.Pod, metav1.UpdateOptions{})
	require.NoError(p.node.w.t, err)
	return p
}

func (w *world) apply(p *networkingv1.NetworkPolicy) {
	c := w.client.NetworkingV1().NetworkPolicies(p.Namespace)
	if _, err := c.Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
		_, err = c.Update(context.Background(), p, metav1.UpdateOptions{})
		require.NoError(w.t, err)
	}
}

// answer serves connections and datagrams on a port, in a namespace.
func answer(t *testing.T, ns *testkit.NetNS, host string, port int) {
	t.Helper()
	at := net.JoinHostPort(host, fmt.Sprint(port))
	require.NoError(t, ns.Do(func() error {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", at)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Write([]byte("!"))
				_ = c.Close()
			}
		})
		wg.Go(func() {
			b := make([]byte, 64)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte("!"), from)
			}
		})
		t.Cleanup(func() {
			_ = l.Close()
			_ = u.Close()
			wg.Wait()
		})
		return nil
	}))
}

// reaches says whether a server answers.
func reaches(ns *testkit.NetNS, network string, to netip.Addr, port int, wait time.Duration) bool {
	return ns.Do(func() error {
		c, err := net.DialTimeout(network, netip.AddrPortFrom(to, uint16(port)).String(), wait)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(wait))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		_, err = c.Read(make([]byte, 64))
		return err
	}) == nil
}

// flood sends datagrams to an address and counts what comes, on one port, until the test ends. Each end is in its namespace.
type flood struct {
	sent, received atomic.Int64
}

func newFlood(t *testing.T, from *testkit.NetNS, to netip.Addr, at *testkit.NetNS, port int) *flood {
	f := &flood{}
	var in, out net.PacketConn
	listen := func(ns *testkit.NetNS, c *net.PacketConn, port int) {
		require.NoError(t, ns.Do(func() (err error) {
			*c, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
			return err
		}))
	}
	listen(at, &in, port)
	listen(from, &out, 0)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := out.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, uint16(port)))); err == nil {
				f.sent.Add(1)
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	wg.Go(func() {
		b := make([]byte, 16)
		for {
			if _, _, err := in.ReadFrom(b); err != nil {
				return
			}
			f.received.Add(1)
		}
	})
	t.Cleanup(func() {
		close(done)
		_ = in.Close()
		_ = out.Close()
		wg.Wait()
	})
	return f
}

// more waits until so much more was sent.
func (f *flood) more(t *testing.T, n int64) {
	t.Helper()
	goal := f.sent.Load() + n
	eventually(t, func() error {
		if got := f.sent.Load(); got < goal {
			return fmt.Errorf("only %d of %d were sent", got, goal)
		}
		return nil
	})
}
