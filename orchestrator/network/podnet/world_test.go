package podnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
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
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is some nodes, each in a namespace of its own, on one wire.
type world struct {
	t       *testing.T
	client  *fake.Clientset
	wire    *testkit.NetNS
	outside *machine
}

// machine is a namespace with an interface up0 on the wire.
type machine struct {
	*testkit.NetNS
	w     *world
	name  string
	addrs []netip.Addr
	net   *Network
	stop  func()
}

const wireBridge = "wire0"

// newWorld lays the wire, with one machine on it that is no node: its routes lead back to the nodes, but not to their pods.
func newWorld(t *testing.T) *world {
	w := &world{t: t, client: fake.NewClientset(), wire: testkit.NewNetNS(t)}
	h := w.handle(w.wire)
	require.NoError(t, h.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: wireBridge, TxQLen: -1}}))
	l, err := h.LinkByName(wireBridge)
	require.NoError(t, err)
	require.NoError(t, h.LinkSetUp(l))
	w.outside = w.machine("outside", 250)
	return w
}

func (w *world) handle(ns *testkit.NetNS) *netlink.Handle {
	w.t.Helper()
	f, err := netns.GetFromPath(ns.Path())
	require.NoError(w.t, err)
	defer f.Close()
	h, err := netlink.NewHandleAt(f, unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	require.NoError(w.t, err)
	w.t.Cleanup(h.Close)
	return h
}

// machine plugs a new namespace into the wire, as 192.0.2.n and 2001:db8::n.
func (w *world) machine(name string, n int) *machine {
	m := &machine{NetNS: testkit.NewNetNS(w.t), w: w, name: name,
		addrs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n)), netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n))}}
	f, err := netns.GetFromPath(m.Path())
	require.NoError(w.t, err)
	defer f.Close()
	h := w.handle(w.wire)
	port := fmt.Sprintf("port%d", n)
	require.NoError(w.t, h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: port, TxQLen: -1}, PeerName: "up0", PeerNamespace: netlink.NsFd(f), PeerTxQLen: -1}))
	l, err := h.LinkByName(port)
	require.NoError(w.t, err)
	br, err := h.LinkByName(wireBridge)
	require.NoError(w.t, err)
	require.NoError(w.t, h.LinkSetMaster(l, br))
	require.NoError(w.t, h.LinkSetUp(l))
	mh := w.handle(m.NetNS)
	up, err := mh.LinkByName("up0")
	require.NoError(w.t, err)
	for i, bits := range []int{24, 64} {
		require.NoError(w.t, assign(mh, up, netip.PrefixFrom(m.addrs[i], bits)))
	}
	require.NoError(w.t, mh.LinkSetUp(up))
	return m
}

// node makes the n-th machine a node with its ranges, and starts its network.
func (w *world) node(name string, n int, edit ...func(*Config)) *machine {
	m := w.machine(name, n)
	w.register(m, fmt.Sprintf("10.244.%d.0/24", n), fmt.Sprintf("fd00:%d::/64", n))
	m.start(w.t.TempDir(), edit...)
	return m
}

func (w *world) register(m *machine, ranges ...string) {
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name}, Spec: corev1.NodeSpec{PodCIDRs: ranges}}
	for _, a := range m.addrs {
		o.Status.Addresses = append(o.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	_, err := w.client.CoreV1().Nodes().Create(context.Background(), o, metav1.CreateOptions{})
	require.NoError(w.t, err)
}

// start runs the network of a node; stop ends it.
func (m *machine) start(dir string, edit ...func(*Config)) {
	t := m.w.t
	t.Helper()
	f := informers.NewSharedInformerFactory(m.w.client, 0)
	c := Config{Nodes: f.Core().V1().Nodes(), Node: m.name, Dir: dir, NetNS: m.Path(), Logger: zaptest.NewLogger(t).Named(m.name)}
	for _, e := range edit {
		e(&c)
	}
	var err error
	m.net, err = New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.net.Run(ctx)
	}()
	f.Start(ctx.Done())
	stopped := false
	m.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-done
		f.Shutdown()
		m.net.Close()
	}
	t.Cleanup(func() { m.stop() })
	eventually(t, m.net.Ready)
}

// eventually waits until f has no error.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// pod is a sandbox.
type pod struct {
	*testkit.NetNS
	id    string
	addrs []netip.Addr
}

func (m *machine) pod(id string, edit ...func(*runtimeapi.PodSandboxConfig)) *pod {
	m.w.t.Helper()
	p := &pod{NetNS: testkit.NewNetNS(m.w.t), id: id}
	var err error
	p.addrs, err = m.net.Attach(context.Background(), id, p.Path(), sandbox(id, edit...))
	require.NoError(m.w.t, err)
	return p
}

func sandbox(id string, edit ...func(*runtimeapi.PodSandboxConfig)) *runtimeapi.PodSandboxConfig {
	c := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: id, Namespace: "default", Uid: "uid-" + id}}
	for _, e := range edit {
		e(c)
	}
	return c
}

// serve answers connections and datagrams with the address that it sees, in a namespace.
func serve(t *testing.T, ns *testkit.NetNS, port int) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return errors.Join(err, l.Close())
		}
		done := make(chan struct{}, 2)
		go func() {
			defer func() { done <- struct{}{} }()
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				a, _ := netip.ParseAddrPort(c.RemoteAddr().String())
				_, _ = io.WriteString(c, a.Addr().Unmap().String())
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
				a, _ := netip.ParseAddrPort(from.String())
				_, _ = u.WriteTo([]byte(a.Addr().Unmap().String()), from)
			}
		}()
		t.Cleanup(func() {
			_ = l.Close()
			_ = u.Close()
			<-done
			<-done
		})
		return nil
	}))
}

// seen asks a server which address it sees.
func seen(ns *testkit.NetNS, network string, to netip.Addr, port int) (from string, err error) {
	err = ns.Do(func() error {
		c, err := net.DialTimeout(network, netip.AddrPortFrom(to, uint16(port)).String(), time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		b := make([]byte, 256)
		n, err := c.Read(b)
		from = string(b[:n])
		return err
	})
	return from, err
}

// sees expects a server to see an address.
func sees(t *testing.T, want netip.Addr, ns *testkit.NetNS, to netip.Addr, port int) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		eventually(t, func() error {
			from, err := seen(ns, network, to, port)
			if err == nil && from != want.String() {
				err = fmt.Errorf("seen as %s, not as %s", from, want)
			}
			if err != nil {
				err = fmt.Errorf("%s to %s: %w", network, to, err)
			}
			return err
		})
	}
}

// refused expects nothing to answer.
func refused(t *testing.T, ns *testkit.NetNS, to netip.Addr, port int) {
	t.Helper()
	_, err := seen(ns, "tcp", to, port)
	if !errors.Is(err, syscall.ECONNREFUSED) && !os.IsTimeout(err) && !errors.Is(err, syscall.EHOSTUNREACH) && !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("tcp to %s port %d: %v", to, port, err)
	}
}

// handleNS opens a namespace for the length of a test.
func handleNS(t *testing.T, path string) netns.NsHandle {
	t.Helper()
	ns, err := openNS(path)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ns.Close() })
	return ns
}

// newNetwork opens a network that does not run.
func newNetwork(t *testing.T, w *world, m *machine) *Network {
	t.Helper()
	f := informers.NewSharedInformerFactory(w.client, 0)
	n, err := New(Config{Nodes: f.Core().V1().Nodes(), Node: m.name, Dir: t.TempDir(), NetNS: m.Path(), Logger: zaptest.NewLogger(t)})
	require.NoError(t, err)
	t.Cleanup(n.Close)
	return n
}

// echo sends back what comes on one connection, in a namespace.
func echo(t *testing.T, ns *testkit.NetNS, port int) {
	t.Helper()
	require.NoError(t, ns.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if c, err := l.Accept(); err == nil {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}
		}()
		t.Cleanup(func() {
			_ = l.Close()
			<-done
		})
		return nil
	}))
}
