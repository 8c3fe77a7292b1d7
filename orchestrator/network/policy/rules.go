package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// direction is of traffic, as the pod sees it that a policy selects.
type direction int

const (
	ingress direction = iota
	egress
)

var directions = []direction{ingress, egress}

// policy is a NetworkPolicy, understood.
type policy struct {
	namespace, name string
	selects         labels.Selector
	applies         [2]bool // by direction
	rules           [2][]rule
	chains          [2]*nft.Chain // what the rules became, or nil
}

// rule lets traffic through that is of one of its peers and to one of its ports.
type rule struct {
	anyPeer bool
	peers   []peer
	blocks  [2]*nft.Set // ranges of addresses, by family; nil: none
	block   string      // name of blocks
	anyPort bool
	ports   *nft.Set // protocols with ranges of ports; nil: none
	portSet string   // name of ports
	named   []portName
}

// peer is pods: those that pods matches in a namespace, or in those that namespaces matches.
type peer struct {
	namespace        string // "": those that are selected
	namespaces, pods labels.Selector
}

func (p peer) name() string {
	if p.namespace != "" {
		return "pods-" + digest("in", p.namespace, p.pods.String())
	}
	return "pods-" + digest("of", p.namespaces.String(), p.pods.String())
}

// portName is a port that containers give a name.
type portName struct {
	name     string
	protocol byte
}

func (p portName) set() string { return fmt.Sprintf("port-%s-%d", p.name, p.protocol) }

// digest names something by what it is made of.
func digest(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// familyIndex is where things of a family are in an array of two.
func familyIndex(f nft.Family) int {
	if f == nft.IPv4 {
		return 0
	}
	return 1
}

// understand reads a NetworkPolicy. What no API server would have let pass matches nothing.
func understand(o *networkingv1.NetworkPolicy) *policy {
	p := &policy{namespace: o.Namespace, name: o.Name, selects: selector(&o.Spec.PodSelector)}
	if len(o.Spec.PolicyTypes) == 0 {
		p.applies = [2]bool{ingress: true, egress: len(o.Spec.Egress) > 0}
	}
	for _, t := range o.Spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			p.applies[ingress] = true
		case networkingv1.PolicyTypeEgress:
			p.applies[egress] = true
		}
	}
	for _, r := range o.Spec.Ingress {
		p.rules[ingress] = append(p.rules[ingress], ruleOf(o.Namespace, r.From, r.Ports))
	}
	for _, r := range o.Spec.Egress {
		p.rules[egress] = append(p.rules[egress], ruleOf(o.Namespace, r.To, r.Ports))
	}
	return p
}

func selector(s *metav1.LabelSelector) labels.Selector {
	x, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return x
}

func ruleOf(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) rule {
	r := rule{anyPeer: len(peers) == 0, anyPort: len(ports) == 0}
	var blocks [2][]nft.Element
	for _, p := range peers {
		switch {
		case p.IPBlock != nil:
			f, ranges := blockOf(p.IPBlock)
			blocks[familyIndex(f)] = append(blocks[familyIndex(f)], ranges...)
		case p.NamespaceSelector == nil && p.PodSelector != nil:
			r.addPeer(peer{namespace: namespace, pods: selector(p.PodSelector)})
		case p.NamespaceSelector != nil && p.PodSelector == nil:
			r.addPeer(peer{namespaces: selector(p.NamespaceSelector), pods: labels.Everything()})
		case p.NamespaceSelector != nil:
			r.addPeer(peer{namespaces: selector(p.NamespaceSelector), pods: selector(p.PodSelector)})
		}
	}
	r.setBlocks(blocks)
	r.setPorts(ports)
	return r
}

// addPeer adds pods, unless there cannot be any: the text of a selector that matches nothing is that of one that matches all.
func (r *rule) addPeer(p peer) {
	nothing := func(s labels.Selector) bool {
		_, can := s.Requirements()
		return !can
	}
	if nothing(p.pods) || p.namespace == "" && nothing(p.namespaces) {
		return
	}
	r.peers = append(r.peers, p)
}

func (r *rule) setBlocks(blocks [2][]nft.Element) {
	text := ""
	for i, f := range nft.Families {
		if len(blocks[i]) == 0 {
			continue
		}
		r.blocks[i] = nft.NewSet(nft.Keys(nft.AddrType(f)).OfRanges(), nft.Merge(blocks[i])...)
		text += rangesText(r.blocks[i])
	}
	r.block = "block-" + digest(text)
}

// rangesText tells sets of ranges apart.
func rangesText(s *nft.Set) string {
	var all []string
	for _, e := range s.Elements {
		all = append(all, fmt.Sprintf("%x-%x", e.Key, e.Last))
	}
	slices.Sort(all)
	return fmt.Sprint(all)
}

// blockOf is the ranges of addresses of a block without its exceptions.
func blockOf(b *networkingv1.IPBlock) (nft.Family, []nft.Element) {
	whole, ok := prefixOf(b.CIDR)
	if !ok {
		return nft.IPv4, nil
	}
	f := nft.FamilyOf(whole.Addr())
	var excepts []netip.Prefix
	for _, text := range b.Except {
		if p, ok := prefixOf(text); ok {
			excepts = append(excepts, p)
		}
	}
	return f, nft.Without(nft.Ranges(f, whole)[0], nft.Ranges(f, excepts...))
}

// prefixOf reads a range of addresses, also one as it was written in the days of looser rules: 010.0.0.0/8, ::ffff:10.0.0.0/104.
func prefixOf(text string) (netip.Prefix, bool) {
	_, n, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	if a.Is4In6() {
		if ones < 96 {
			return netip.Prefix{}, false
		}
		a, ones = a.Unmap(), ones-96
	}
	return netip.PrefixFrom(a, ones), ok
}

var protocols = map[corev1.Protocol]byte{corev1.ProtocolTCP: unix.IPPROTO_TCP, corev1.ProtocolUDP: unix.IPPROTO_UDP, corev1.ProtocolSCTP: unix.IPPROTO_SCTP}

func (r *rule) setPorts(ports []networkingv1.NetworkPolicyPort) {
	var ranges []nft.Element
	for _, p := range ports {
		protocol := byte(unix.IPPROTO_TCP)
		if p.Protocol != nil {
			var ok bool
			if protocol, ok = protocols[*p.Protocol]; !ok {
				continue
			}
		}
		switch {
		case p.Port == nil:
			ranges = append(ranges, portRange(protocol, 0, 65535))
		case p.Port.Type == intstr.String:
			if n := (portName{p.Port.StrVal, protocol}); !slices.Contains(r.named, n) {
				r.named = append(r.named, n)
			}
		case p.EndPort != nil:
			ranges = append(ranges, portRange(protocol, p.Port.IntVal, *p.EndPort))
		default:
			ranges = append(ranges, portRange(protocol, p.Port.IntVal, p.Port.IntVal))
		}
	}
	if len(ranges) > 0 {
		r.ports = nft.NewSet(nft.Keys(nft.ProtoType, nft.PortType).OfRanges(), nft.Merge(ranges)...)
		r.portSet = "ports-" + digest(rangesText(r.ports))
	}
}

func portRange(protocol byte, first, last int32) nft.Element {
	return nft.Element{Key: portKey(protocol, uint16(first)), Last: portKey(protocol, uint16(last))}
}

func portKey(protocol byte, port uint16) []byte { return append(nft.Byte(protocol), nft.Port(port)...) }
