package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
	"github.com/keelson-io/keelson/orchestrator/network/podnet"
)

// model answers from objects, by the letter of Kubernetes' documents and without any haste, who may speak to whom.
type model struct {
	pods       map[string]*corev1.Pod
	namespaces map[string]*corev1.Namespace
	policies   map[string]*networkingv1.NetworkPolicy
}

func newModel() *model {
	return &model{map[string]*corev1.Pod{}, map[string]*corev1.Namespace{}, map[string]*networkingv1.NetworkPolicy{}}
}

// speaker is one end of a connection.
type speaker struct {
	pod *corev1.Pod // nil: it is none
	ip  netip.Addr
	dns bool
}

func alive(p *corev1.Pod) bool {
	return !p.Spec.HostNetwork && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// allows says whether a new connection is let through, as far as a direction goes.
func (m *model) allows(d direction, from, to speaker, proto corev1.Protocol, port int32) bool {
	subject, peer := to, from
	if d == egress {
		subject, peer = from, to
	}
	if subject.pod == nil || !alive(subject.pod) || subject.pod == peer.pod {
		return true
	}
	isolated := false
	for _, p := range m.policies {
		if p.Namespace != subject.pod.Namespace || !selects(&p.Spec.PodSelector, subject.pod.Labels) {
			continue
		}
		if d == ingress && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) {
			isolated = true
			for _, r := range p.Spec.Ingress {
				if m.peers(p.Namespace, r.From, peer, proto, port) && ports(r.Ports, to, proto, port) {
					return true
				}
			}
		}
		if d == egress && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) {
			isolated = true
			for _, r := range p.Spec.Egress {
				if m.peers(p.Namespace, r.To, peer, proto, port) && ports(r.Ports, to, proto, port) {
					return true
				}
			}
		}
	}
	return !isolated
}

func selects(s *metav1.LabelSelector, l map[string]string) bool {
	x, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && x.Matches(labels.Set(l))
}

func (m *model) peers(namespace string, all []networkingv1.NetworkPolicyPeer, who speaker, proto corev1.Protocol, port int32) bool {
	if len(all) == 0 {
		return true
	}
	for _, p := range all {
		if p.IPBlock != nil {
			if inBlock(p.IPBlock, who.ip) {
				return true
			}
			continue
		}
		whose, in := map[string]string(nil), ""
		switch {
		case who.dns && port == 53 && proto != corev1.ProtocolSCTP:
			whose, in = map[string]string{"k8s-app": "kube-dns"}, "kube-system"
		case who.pod != nil && alive(who.pod):
			whose, in = who.pod.Labels, who.pod.Namespace
		default:
			continue
		}
		inNamespace := in == namespace
		if p.NamespaceSelector != nil {
			var l map[string]string
			if n := m.namespaces[in]; n != nil {
				l = n.Labels
			}
			inNamespace = selects(p.NamespaceSelector, l)
		}
		if inNamespace && (p.PodSelector == nil || selects(p.PodSelector, whose)) {
			return true
		}
	}
	return false
}

func inBlock(b *networkingv1.IPBlock, a netip.Addr) bool {
	for _, e := range b.Except {
		if netip.MustParsePrefix(e).Contains(a) {
			return false
		}
	}
	return netip.MustParsePrefix(b.CIDR).Contains(a)
}

func ports(all []networkingv1.NetworkPolicyPort, to speaker, proto corev1.Protocol, port int32) bool {
	if len(all) == 0 {
		return true
	}
	for _, p := range all {
		want := corev1.ProtocolTCP
		if p.Protocol != nil {
			want = *p.Protocol
		}
		if want != proto {
			continue
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.Type == intstr.String:
			if named(to, p.Port.StrVal, proto, port) {
				return true
			}
		case p.EndPort != nil:
			if p.Port.IntVal <= port && port <= *p.EndPort {
				return true
			}
		case p.Port.IntVal == port:
			return true
		}
	}
	return false
}

func named(to speaker, name string, proto corev1.Protocol, port int32) bool {
	if to.dns {
		return port == 53 && (name == "dns" && proto == corev1.ProtocolUDP || name == "dns-tcp" && proto == corev1.ProtocolTCP)
	}
	if to.pod == nil || !alive(to.pod) {
		return false
	}
	sidecars := slices.DeleteFunc(slices.Clone(to.pod.Spec.InitContainers), func(c corev1.Container) bool { return c.RestartPolicy == nil })
	return slices.ContainsFunc(append(sidecars, to.pod.Spec.Containers...), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(x corev1.ContainerPort) bool {
			return x.Name == name && x.Protocol == proto && x.ContainerPort == port
		})
	})
}

// chance makes objects.
type chance struct{ *rand.Rand }

func (c chance) of(words ...string) string { return words[c.IntN(len(words))] }

func (c chance) labels(keys ...string) map[string]string {
	l := map[string]string{}
	for _, k := range keys {
		if c.IntN(3) > 0 {
			l[k] = c.of("1", "2")
		}
	}
	return l
}

func (c chance) selector(keys ...string) *metav1.LabelSelector {
	s := &metav1.LabelSelector{}
	switch c.IntN(4) {
	case 0:
	case 1:
		s.MatchLabels = map[string]string{c.of(keys...): c.of("1", "2")}
	case 2:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: c.of(keys...), Operator: metav1.LabelSelectorOpNotIn, Values: []string{"1"}}}
	case 3:
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: c.of(keys...), Operator: metav1.LabelSelectorOperator(c.of("Exists", "DoesNotExist"))}}
	}
	if c.IntN(8) == 0 {
		s.MatchLabels = map[string]string{"k8s-app": "kube-dns"}
	}
	return s
}

func (c chance) block() *networkingv1.IPBlock {
	switch c.IntN(5) {
	case 0:
		return &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.244.1.0/25", "10.96.0.0/16"}}
	case 1:
		return &networkingv1.IPBlock{CIDR: "10.244.0.0/16", Except: []string{fmt.Sprintf("10.244.%d.%d/32", 1+c.IntN(2), 2+c.IntN(8)), "10.244.2.4/30"}}
	case 2:
		return &networkingv1.IPBlock{CIDR: "fd00::/16", Except: []string{"fd00:1::2/127"}}
	case 3:
		return &networkingv1.IPBlock{CIDR: "192.0.2.0/24"}
	}
	return &networkingv1.IPBlock{CIDR: fmt.Sprintf("10.244.%d.%d/32", 1+c.IntN(2), 2+c.IntN(8))}
}

func (c chance) peers() (all []networkingv1.NetworkPolicyPeer) {
	for range c.IntN(4) {
		switch c.IntN(4) {
		case 0:
			all = append(all, networkingv1.NetworkPolicyPeer{IPBlock: c.block()})
		case 1:
			all = append(all, networkingv1.NetworkPolicyPeer{PodSelector: c.selector("app", "tier")})
		case 2:
			all = append(all, networkingv1.NetworkPolicyPeer{NamespaceSelector: c.selector("team")})
		case 3:
			all = append(all, networkingv1.NetworkPolicyPeer{NamespaceSelector: c.selector("team"), PodSelector: c.selector("app", "tier")})
		}
	}
	return all
}

func (c chance) ports() (all []networkingv1.NetworkPolicyPort) {
	for range c.IntN(4) {
		protocol := c.protocol()
		p := networkingv1.NetworkPolicyPort{Protocol: &protocol}
		switch c.IntN(5) {
		case 0:
		case 1:
			p.Port = new(intstr.FromString(c.of("http", "dns", "dns-tcp")))
		case 2:
			p.Port, p.EndPort = new(intstr.FromInt32(80)), new(int32(80+c.IntN(3)))
		default:
			p.Port = new(intstr.FromInt32([]int32{53, 80, 81, 82}[c.IntN(4)]))
		}
		if protocol == corev1.ProtocolTCP && c.IntN(2) == 0 {
			p.Protocol = nil
		}
		all = append(all, p)
	}
	return all
}

func (c chance) protocol() corev1.Protocol {
	return []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}[c.IntN(4)]
}

func (c chance) policy(namespace, name string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: networkingv1.NetworkPolicySpec{PodSelector: *c.selector("app", "tier")}}
	p.Spec.PolicyTypes = [][]networkingv1.PolicyType{{networkingv1.PolicyTypeIngress}, {networkingv1.PolicyTypeEgress}, {networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}}[c.IntN(3)]
	for range c.IntN(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: c.peers(), Ports: c.ports()})
	}
	for range c.IntN(3) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: c.peers(), Ports: c.ports()})
	}
	return p
}

// pod makes the n-th pod, of node 1 or 2.
func (c chance) pod(n int) *corev1.Pod {
	node := 1 + n%2
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.of("x", "y", "kube-system"), Name: fmt.Sprint("p", n), UID: types.UID(fmt.Sprint("uid", n)), Labels: c.labels("app", "tier")},
		Spec:       corev1.PodSpec{NodeName: fmt.Sprint(node), HostNetwork: c.IntN(10) == 0},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.244.%d.%d", node, 2+n)}, {IP: fmt.Sprintf("fd00:%d::%x", node, 2+n)}}},
	}
	if c.IntN(10) == 0 {
		p.Status.Phase = corev1.PodSucceeded
	}
	if c.IntN(8) == 0 { // a sidecar
		p.Spec.InitContainers = []corev1.Container{{RestartPolicy: new(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{{Name: "dns", Protocol: corev1.ProtocolTCP, ContainerPort: 82}}}}
	}
	if c.IntN(8) == 0 { // over before the pod is
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Ports: []corev1.ContainerPort{{Name: "dns", Protocol: corev1.ProtocolUDP, ContainerPort: 81}}})
	}
	if c.IntN(2) == 0 {
		p.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", Protocol: c.protocol(), ContainerPort: int32(80 + c.IntN(2))}}}}
	}
	if p.Spec.HostNetwork {
		p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("192.0.2.%d", node)}, {IP: fmt.Sprintf("2001:db8::%d", node)}}
	}
	return p
}

func addrsOf(p *corev1.Pod) (all [2]netip.Addr) {
	for i, ip := range p.Status.PodIPs {
		all[i] = netip.MustParseAddr(ip.IP)
	}
	return all
}

func linkOf(p *corev1.Pod) string { return "kpod" + p.Name }

func sandboxOf(p *corev1.Pod) podnet.Pod {
	a := addrsOf(p)
	return podnet.Pod{ID: p.Name, Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Link: linkOf(p), Addresses: a[:]}
}

var (
	dnsAddrs = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:96::a")}
	protoOf  = map[corev1.Protocol]byte{corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP}
)

// twoNodes are the states of two nodes that see the same cluster.
type twoNodes struct {
	*model
	states [2]*state
}

func newTwoNodes() *twoNodes {
	return &twoNodes{newModel(), [2]*state{newState(dnsAddrs), newState(dnsAddrs)}}
}

// step changes something.
func (w *twoNodes) step(c chance) {
	each := func(f func(s *state)) {
		for _, s := range w.states {
			f(s)
		}
	}
	switch c.IntN(8) {
	case 0, 1:
		p := c.policy(c.of("x", "y", "kube-system"), fmt.Sprint("policy", c.IntN(4)))
		w.policies[p.Namespace+"/"+p.Name] = p
		each(func(s *state) { s.setPolicy(p) })
	case 2:
		for key, p := range w.policies {
			delete(w.policies, key)
			each(func(s *state) { s.dropPolicy(p.Namespace, p.Name) })
			break
		}
	case 3:
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: c.of("x", "y", "kube-system"), Labels: c.labels("team")}}
		w.namespaces[n.Name] = n
		each(func(s *state) { s.setNamespace(n.Name, n.Labels) })
	default:
		n := c.IntN(8)
		node := w.states[n%2]
		for key, p := range w.pods {
			if p.Name == fmt.Sprint("p", n) {
				delete(w.pods, key)
				node.forget(p.Name)
				each(func(s *state) { s.dropPod(key) })
			}
		}
		if c.IntN(4) == 0 {
			return
		}
		p := c.pod(n)
		w.pods[p.Namespace+"/"+p.Name] = p
		first := c.IntN(2) == 0
		if first && alive(p) {
			node.attach(sandboxOf(p))
		}
		slim, _ := Trim(p)
		w.states[0].setPod(p)
		w.states[1].setPod(slim.(*corev1.Pod)) // which is all that matters of it
		if !first && alive(p) {
			node.attach(sandboxOf(p))
		}
	}
}

// speakers are all who can speak, in a family.
func (w *twoNodes) speakers(family int) []speaker {
	all := []speaker{{ip: netip.MustParseAddr([]string{"198.51.100.7", "2001:db8:7::7"}[family])}}
	for _, key := range slices.Sorted(maps.Keys(w.pods)) {
		all = append(all, speaker{pod: w.pods[key], ip: addrsOf(w.pods[key])[family]})
	}
	return all
}

// local says whether a speaker is a pod with a link on the n-th node.
func (s speaker) local(n int) bool {
	return s.pod != nil && alive(s.pod) && s.pod.Spec.NodeName == fmt.Sprint(n+1)
}

// link is the interface of the n-th node by which a speaker is reached.
func (s speaker) link(n int) string {
	if s.local(n) {
		return linkOf(s.pod)
	}
	return "up0"
}

func (w *twoNodes) check(t *testing.T, tables [2]*nft.Table, seed uint64) (allowed, denied int) {
	t.Helper()
	for family := range 2 {
		for _, from := range w.speakers(family) {
			for _, to := range append(w.speakers(family), speaker{ip: dnsAddrs[family], dns: true}, speaker{ip: netip.MustParseAddr([]string{"192.0.2.1", "2001:db8::1"}[family])}) {
				for proto, number := range protoOf {
					for _, port := range []int32{53, 80, 81, 82} {
						for n, table := range tables {
							if !from.local(n) && !to.local(n) {
								continue
							}
							p := packet{iif: from.link(n), oif: to.link(n), from: from.ip, to: to.ip, proto: number, port: uint16(port)}
							hook, want := nftables.ChainHookForward, true
							if to.dns || to.pod == nil && n == 0 && to.ip != w.speakers(family)[0].ip || to.pod != nil && to.pod.Spec.HostNetwork && to.pod.Spec.NodeName == fmt.Sprint(n+1) {
								hook, p.oif = nftables.ChainHookInput, ""
							}
							if from.local(n) {
								want = want && w.allows(egress, from, to, proto, port)
							}
							if to.local(n) {
								want = want && w.allows(ingress, from, to, proto, port)
							}
							if got := passes(table, hook, p); got != want {
								require.Equal(t, want, got, "seed %d: %s %d on node %d: %+v to %+v\n%s", seed, proto, port, n, from, to, table)
							}
							if want {
								allowed++
							} else {
								denied++
							}
							p.known = true
							require.True(t, passes(table, hook, p))
						}
					}
				}
			}
		}
	}
	return allowed, denied
}

// The tables of two nodes decide as the model does, whatever comes and goes, and are what a node makes that sees the cluster as
// it is at present for the first time.
func TestModel(t *testing.T) {
	allowed, denied := 0, 0
	for seed := range uint64(60) {
		c := chance{rand.New(rand.NewPCG(seed, 1))}
		w := newTwoNodes()
		for range 25 + c.IntN(30) {
			w.step(c)
			w.states[c.IntN(2)].table() // so that changes are made to what was there
		}
		tables := [2]*nft.Table{w.states[0].table(), w.states[1].table()}
		fresh := newTwoNodes()
		for n, s := range fresh.states {
			for _, p := range w.policies {
				s.setPolicy(p)
			}
			for _, p := range w.pods {
				s.setPod(p)
			}
			for _, o := range w.namespaces {
				s.setNamespace(o.Name, o.Labels)
			}
			for _, x := range w.states[n].subjects {
				s.attach(x.Pod)
			}
			require.Equal(t, s.table().String(), tables[n].String(), "seed %d", seed)
		}
		a, d := w.check(t, tables, seed)
		allowed, denied = allowed+a, denied+d
	}
	require.Greater(t, allowed, 10_000)
	require.Greater(t, denied, 10_000)
	t.Log(allowed, denied)
}
