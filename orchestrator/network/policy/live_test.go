package policy

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/internal/testkit"
)

func conn(t *testing.T, m *machineNode) *nftables.Conn {
	t.Helper()
	f, err := os.Open(m.Path())
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	c, err := nftables.New(nftables.WithNetNSFd(int(f.Fd())))
	require.NoError(t, err)
	return c
}

func tables(t *testing.T, m *machineNode) (names []string) {
	t.Helper()
	all, err := conn(t, m).ListTables()
	require.NoError(t, err)
	for _, x := range all {
		names = append(names, x.Name)
	}
	return names
}

// place is a pod or a node that speaks or is spoken to.
type place struct {
	ns    *testkit.NetNS
	name  string
	pod   *livePod
	addrs []netip.Addr
	dns   bool
	node  *machineNode // that it is on
}

func (p place) speaker(family int) speaker {
	s := speaker{ip: p.addrs[family], dns: p.dns}
	if p.pod != nil {
		s.pod = p.pod.Pod
	}
	return s
}

// places are five pods, both nodes and the DNS server.
func places(w *world) (all []place) {
	for i, name := range []string{"x/a", "x/b", "y/a", "y/b", "x/c"} {
		ns, pod, _ := strings.Cut(name, "/")
		p := w.nodes[i%2].object(ns, pod, map[string]string{"app": fmt.Sprint(1 + i%2), "tier": fmt.Sprint(1 + i/2)}).create().attach().report()
		answer(w.t, p.NetNS, "", 80)
		answer(w.t, p.NetNS, "", 81)
		a := addrsOf(p.Pod)
		all = append(all, place{ns: p.NetNS, name: name, pod: p, addrs: a[:], node: p.node})
	}
	for _, m := range w.nodes {
		answer(w.t, m.NetNS, m.addrs[0].String(), 80)
		answer(w.t, m.NetNS, m.addrs[1].String(), 80)
		for _, a := range dnsAddrs {
			answer(w.t, m.NetNS, a.String(), 53)
			answer(w.t, m.NetNS, a.String(), 80)
		}
		all = append(all, place{ns: m.NetNS, name: m.name, addrs: m.addrs, node: m})
	}
	return append(all, place{name: "dns", addrs: dnsAddrs, dns: true})
}

// quick is how long one of many probes waits; slow, one of those that found nothing where there should be something: all at once
// they keep a busy machine so busy that some come late.
const quick, slow = 300 * time.Millisecond, 3 * time.Second

// matrix is who reaches whom: once as it is, and once as the model says.
func matrix(all []place, m *model) (is, should map[string]bool) {
	is, should = map[string]bool{}, map[string]bool{}
	again := map[string]func() bool{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, from := range all {
		for _, to := range all {
			if from.dns || from.pod == nil && (to.pod == nil || from.node == to.pod.node) && from.node != nil && to.pod == nil {
				continue
			}
			for family := range 2 {
				for _, c := range []struct {
					proto corev1.Protocol
					port  int
				}{{corev1.ProtocolTCP, 80}, {corev1.ProtocolTCP, 81}, {corev1.ProtocolUDP, 80}, {corev1.ProtocolTCP, 53}, {corev1.ProtocolUDP, 53}} {
					if (c.port == 53) != (to.dns) && !(to.dns && c.port == 80) || c.port == 81 && to.pod == nil {
						continue
					}
					key := fmt.Sprintf("%s to %s %s %d of family %d", from.name, to.name, c.proto, c.port, family)
					s, d := from.speaker(family), to.speaker(family)
					should[key] = m.allows(egress, s, d, c.proto, int32(c.port)) && (from.pod == nil && from.node == to.node || m.allows(ingress, s, d, c.proto, int32(c.port)))
					probe := func(wait time.Duration) bool {
						return reaches(from.ns, strings.ToLower(string(c.proto)), to.addrs[family], c.port, wait)
					}
					again[key] = func() bool { return probe(slow) }
					wg.Go(func() {
						got := probe(quick)
						mu.Lock()
						defer mu.Unlock()
						is[key] = got
					})
				}
			}
		}
	}
	wg.Wait()
	for key, want := range should {
		if want && !is[key] && !again[key]() {
			return is, should
		}
		is[key] = is[key] || want
	}
	return is, should
}

// agree waits until all is as the model says.
func agree(t *testing.T, all []place, m *model) (allowed, denied int) {
	t.Helper()
	eventually(t, func() error {
		is, should := matrix(all, m)
		allowed, denied = 0, 0
		for key, want := range should {
			if is[key] != want {
				return fmt.Errorf("%s: it is %t that it comes through", key, is[key])
			}
			if want {
				allowed++
			} else {
				denied++
			}
		}
		return nil
	})
	return allowed, denied
}

func (m *model) know(w *world, all []place) {
	list, err := w.client.CoreV1().Namespaces().List(context.Background(), metav1.ListOptions{})
	require.NoError(w.t, err)
	for _, n := range list.Items {
		m.namespaces[n.Name] = &n
	}
	for _, p := range all {
		if p.pod != nil {
			m.pods[p.name] = p.pod.Pod
		}
	}
}

// deny selects all pods of a namespace and lets nothing through.
func deny(namespace string, types ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "deny"}, Spec: networkingv1.NetworkPolicySpec{PolicyTypes: types}}
}

// TestPackets sends real packets from everybody to everybody, under policies of every kind.
func TestPackets(t *testing.T) {
	w := newWorld(t)
	for _, m := range w.nodes {
		m.start(true)()
	}
	all := places(w)
	m := newModel()
	m.know(w, all)
	_, denied := agree(t, all, m)
	require.Zero(t, denied)

	both := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	system := metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "kube-system"}}
	udp, tcp := corev1.ProtocolUDP, corev1.ProtocolTCP
	dns := deny("x", both...)
	dns.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{
		To:    []networkingv1.NetworkPolicyPeer{{NamespaceSelector: &system}},
		Ports: []networkingv1.NetworkPolicyPort{{Protocol: &udp, Port: new(intstr.FromInt32(53))}, {Protocol: &tcp, Port: new(intstr.FromInt32(53))}},
	}}
	cases := [][]*networkingv1.NetworkPolicy{
		{deny("x", networkingv1.PolicyTypeIngress)}, {deny("y", networkingv1.PolicyTypeEgress)}, {deny("x", both...), deny("y", both...)}, {dns},
	}
	for seed := range uint64(10) {
		c := chance{rand.New(rand.NewPCG(seed, 7))}
		cases = append(cases, []*networkingv1.NetworkPolicy{c.policy("x", "one"), c.policy("x", "two"), c.policy("y", "three")})
	}
	denials := 0
	for i, policies := range cases {
		for _, p := range policies {
			m.policies[p.Namespace+"/"+p.Name] = p
			w.apply(p)
		}
		_, denied := agree(t, all, m)
		denials += denied
		t.Log("case", i, "denied", denied)
		if i%2 == 0 { // the next ones come on top
			continue
		}
		for key, p := range m.policies {
			delete(m.policies, key)
			require.NoError(t, w.client.NetworkingV1().NetworkPolicies(p.Namespace).Delete(context.Background(), p.Name, metav1.DeleteOptions{}))
		}
	}
	require.Greater(t, denials, 500)
}

// TestWiped has tables deleted by somebody, and changed.
func TestWiped(t *testing.T) {
	w := newWorld(t)
	for _, m := range w.nodes {
		m.start(true)()
	}
	all := places(w)
	m := newModel()
	m.know(w, all)
	p := deny("x", networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "1"}}}}}}
	w.apply(p)
	m.policies["x/deny"] = p
	agree(t, all, m)
	c := conn(t, w.nodes[0])
	table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
	for name, spoil := range map[string]func(){
		"everything": c.FlushRuleset,
		"rules":      func() { c.FlushTable(table) },
		"elements": func() {
			s, err := c.GetSetByName(table, "incoming")
			require.NoError(t, err)
			c.FlushSet(s)
		},
	} {
		spoil()
		require.NoError(t, c.Flush(), name)
		agree(t, all, m)
	}
}

// TestConnectionsGoOn keeps a connection that was let through when a policy comes that would not let it through.
func TestConnectionsGoOn(t *testing.T) {
	w := newWorld(t)
	for _, m := range w.nodes {
		m.start(true)()
	}
	a, b := w.nodes[0].object("x", "a", nil).create().attach().report(), w.nodes[1].object("x", "b", nil).create().attach().report()
	answer(t, b.NetNS, "", 80)
	var l net.Listener
	require.NoError(t, b.Do(func() (err error) {
		l, err = net.Listen("tcp", ":90")
		return err
	}))
	defer func() { _ = l.Close() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	})
	to := addrsOf(b.Pod)[0]
	var c net.Conn
	require.NoError(t, a.Do(func() (err error) {
		c, err = net.Dial("tcp", netip.AddrPortFrom(to, 90).String())
		return err
	}))
	defer func() { _ = c.Close() }()
	w.apply(deny("x", networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress))
	eventually(t, func() error {
		if reaches(a.NetNS, "tcp", to, 80, quick) {
			return fmt.Errorf("the policy does not hold")
		}
		return nil
	})
	_, err := c.Write([]byte("still there"))
	require.NoError(t, err)
	back := make([]byte, 11)
	_, err = io.ReadFull(c, back)
	require.NoError(t, err)
	require.Equal(t, "still there", string(back))
}

// TestNoFirstPacket attaches pods that a policy isolates while others send to them and they send to others: not one packet
// gets through, whatever was known of the pod.
func TestNoFirstPacket(t *testing.T) {
	for _, c := range []struct {
		name             string
		created, started bool // before it is attached
	}{{"its object is known", true, true}, {"its object comes later", false, true}, {"policies are not known yet", true, false}} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.apply(deny("x", networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress))
			m := w.nodes[0]
			start := m.start(true)
			if c.started {
				start()
			}
			free := m.object("y", "free", nil).create().attach().report()
			next := netip.MustParseAddr("10.244.1.3")
			p := m.object("x", "a", nil)
			if c.created {
				p.create()
			}
			if c.created && c.started {
				eventually(t, func() error {
					m.guard.mu.Lock()
					defer m.guard.mu.Unlock()
					if m.guard.state.pods["x/a"] == nil {
						return fmt.Errorf("it is not known")
					}
					return nil
				})
			}
			in, out := newFlood(t, free.NetNS, next, p.NetNS, 90), newFlood(t, p.NetNS, addrsOf(free.Pod)[0], free.NetNS, 91)
			node := newFlood(t, m.NetNS, next, p.NetNS, 92)
			in.more(t, 0)
			p.attach()
			require.Equal(t, next, addrsOf(p.Pod)[0])
			out.more(t, 200)
			if !c.created {
				p.create()
			}
			if !c.started {
				start()
			}
			p.report()
			in.more(t, 200)
			require.False(t, slices.Contains(tables(t, m), waitingName))

			// The agent is started again, and a policy of another pod is not there at first.
			m.stop()
			out.more(t, 200)
			start = m.start(true)
			out.more(t, 200)
			start()
			out.more(t, 200)
			require.Zero(t, in.received.Load(), "came in")
			require.Zero(t, out.received.Load(), "went out")
			eventually(t, func() error { // its node reaches it
				if node.received.Load() == 0 {
					return fmt.Errorf("nothing comes from the node")
				}
				return nil
			})
			require.NoError(t, w.client.NetworkingV1().NetworkPolicies("x").Delete(context.Background(), "deny", metav1.DeleteOptions{}))
			eventually(t, func() error { // and without the policy everybody
				if in.received.Load() == 0 || out.received.Load() == 0 {
					return fmt.Errorf("nothing comes")
				}
				return nil
			})
			require.NoError(t, m.net.Detach(context.Background(), string(p.UID), p.Path(), nil))
			require.Len(t, m.guard.state.subjects, 1)
		})
	}
}
