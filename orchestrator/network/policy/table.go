package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// Names of the tables: the one of all policies, and the one of pods that come before policies are known.
const (
	TableName   = "keelson-policies"
	waitingName = "keelson-policies-waiting"
)

// Hooks. What leaves a pod is looked at before what comes to one: an accept ends the chain of its hook, not the packet's way.
var (
	leaving = &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: *nftables.ChainPriorityFilter}
	coming  = &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: *nftables.ChainPriorityFilter + 1}
	toNode  = &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookInput, Priority: *nftables.ChainPriorityFilter}
)

// Names of sets and chains of every table.
const (
	nobody   = "nobody" // of pods of which nothing is known
	dnsPorts = "dns-ports"
)

var (
	links   = [2]string{ingress: "incoming", egress: "outgoing"} // isolated pods, by their link
	prefix  = [2]string{ingress: "in/", egress: "out/"}
	dnsAt   = map[nft.Family]string{nft.IPv4: "dns4", nft.IPv6: "dns6"}
	dnsKeys = []nft.Element{portRange(unix.IPPROTO_TCP, dnsPort, dnsPort), portRange(unix.IPPROTO_UDP, dnsPort, dnsPort)}
)

// Messages by which neighbours find each other.
const (
	routerSolicitation = 133
	redirect           = 137
)

// base is what every table has.
func (s *state) base(name string) *nft.Table {
	t := nft.NewTable(name)
	t.Chain("leaving", leaving, nft.Rule{nft.Known, nft.Accept}, nft.Rule{nft.Vmap(links[egress], nft.IIF)})
	t.Chain("to-node", toNode, nft.Rule{nft.Known, nft.Accept}, nft.Rule{nft.ICMPv6Types(routerSolicitation, redirect), nft.Accept}, nft.Rule{nft.Vmap(links[egress], nft.IIF)})
	t.Chain("coming", coming, nft.Rule{nft.Known, nft.Accept}, nft.Rule{nft.Vmap(links[ingress], nft.OIF)})
	t.Chain(nobody, nil, nft.Rule{nft.Drop})
	for _, d := range directions {
		t.Set(links[d], nft.Keys(nft.NameType).To(nft.Verdict))
	}
	t.Set(dnsPorts, nft.Keys(nft.ProtoType, nft.PortType).OfRanges(), dnsKeys...)
	for _, f := range nft.Families {
		t.Set(dnsAt[f], nft.Keys(nft.AddrType(f)))
	}
	for _, a := range s.dns.addresses {
		t.Set(dnsAt[nft.FamilyOf(a)], nft.Type{}, nft.Element{Key: a.AsSlice()})
	}
	return t
}

// waiting is a table that lets nothing through to or from pods that were attached before policies are known.
func (s *state) waiting(ids map[string]bool) *nft.Table {
	t := s.base(waitingName)
	for id := range ids {
		if x := s.subjects[id]; x != nil {
			for _, d := range directions {
				t.Set(links[d], nft.Type{}, nft.Element{Key: nft.Name(x.Link), Goto: nobody})
			}
		}
	}
	return t
}

// table is all policies of pods of this node. Sets and chains that did not change are those of the table before.
func (s *state) table() *nft.Table {
	t := s.base(TableName)
	used := map[string]bool{}
	for _, x := range s.subjects {
		for _, d := range directions {
			if s.undecided(x) {
				t.Set(links[d], nft.Type{}, nft.Element{Key: nft.Name(x.Link), Goto: nobody})
				continue
			}
			of := s.selecting(x, d)
			if len(of) == 0 {
				continue
			}
			chain := chainName(prefix[d], x.Namespace, x.Name+"/"+x.Link)
			t.Chain(chain, nil, x.rules(d, of)...)
			t.Set(links[d], nft.Type{}, nft.Element{Key: nft.Name(x.Link), Goto: chain})
			for _, p := range of {
				s.include(t, p, d, used)
			}
		}
	}
	maps.DeleteFunc(s.groups, func(name string, _ *group) bool { return !used[name] })
	return t
}

// undecided says whether policies might select a pod of which nothing is known yet.
func (s *state) undecided(x *subject) bool { return !x.seen() && len(s.policies[x.Namespace]) > 0 }

// selecting are the policies that select a pod for a direction, by name.
func (s *state) selecting(x *subject, d direction) (all []*policy) {
	for _, p := range s.policies[x.Namespace] {
		if p.applies[d] && p.selects.Matches(x.labels) {
			all = append(all, p)
		}
	}
	slices.SortFunc(all, func(a, b *policy) int { return cmp.Compare(a.name, b.name) })
	return all
}

// rules are those of a pod: it may speak to itself, and what no policy lets through is dropped.
func (x *subject) rules(d direction, of []*policy) (all []nft.Rule) {
	for _, a := range x.Addresses {
		all = append(all, nft.Rule{nft.Within(other(d, nft.FamilyOf(a)), netip.PrefixFrom(a, a.BitLen())), nft.Accept})
	}
	for _, p := range of {
		all = append(all, nft.Rule{nft.Jump(p.chain(d))})
	}
	return append(all, nft.Rule{nft.Drop})
}

// other is the address of whom a pod speaks with.
func other(d direction, f nft.Family) nft.Field {
	if d == ingress {
		return nft.Saddr(f)
	}
	return nft.Daddr(f)
}

func (p *policy) chain(d direction) string { return chainName(prefix[d], p.namespace, p.name) }

// maxName is how many bytes of a name are written out.
const maxName = 200

// chainName is readable, and short enough for the kernel.
func chainName(prefix, namespace, name string) string {
	full := prefix + namespace + "/" + name
	if len(full) <= maxName {
		return full
	}
	return full[:maxName-17] + "." + digest(full)
}

// include adds the chain of a policy, and the sets that it refers to.
func (s *state) include(t *nft.Table, p *policy, d direction, used map[string]bool) {
	name := p.chain(d)
	if t.Chains[name] != nil {
		return
	}
	if p.chains[d] == nil {
		p.chains[d] = &nft.Chain{}
		for i := range p.rules[d] {
			p.chains[d].Rules = append(p.chains[d].Rules, s.compile(&p.rules[d][i], d)...)
		}
	}
	t.Chains[name] = p.chains[d]
	for i := range p.rules[d] {
		s.sets(t, &p.rules[d][i], used)
	}
}

// sets adds those that a rule refers to.
func (s *state) sets(t *nft.Table, r *rule, used map[string]bool) {
	groups := map[string]*group{}
	for i := range r.peers {
		groups[r.peers[i].name()] = s.group(r.peers[i].name(), &r.peers[i], portName{})
	}
	for _, n := range r.named {
		groups[n.set()] = s.group(n.set(), nil, n)
	}
	for name, g := range groups {
		used[name] = true
		for _, f := range nft.Families {
			t.Sets[of(name, f)] = g.set(f)
		}
	}
	for i, f := range nft.Families {
		if r.blocks[i] != nil {
			t.Sets[of(r.block, f)] = r.blocks[i]
		}
	}
	if r.ports != nil {
		t.Sets[r.portSet] = r.ports
	}
}

// of names the set of a family.
func of(set string, f nft.Family) string { return fmt.Sprintf("%s-%d", set, f) }

// compile makes the kernel's rules of one of a policy: one for each way to be a peer and each way to be a port.
func (s *state) compile(r *rule, d direction) (all []nft.Rule) {
	if r.anyPeer && len(r.named) == 0 {
		for _, ports := range r.portMatches(nft.IPv4) { // of no family
			all = append(all, append(ports, nft.Accept))
		}
		return all
	}
	for _, f := range nft.Families {
		for _, who := range s.peerMatches(r, d, f) {
			for _, ports := range r.portMatches(f) {
				all = append(all, slices.Concat(nft.Rule{nft.Is(f)}, who, ports, nft.Rule{nft.Accept}))
			}
		}
	}
	return all
}

// peerMatches are the ways to be a peer.
func (s *state) peerMatches(r *rule, d direction, f nft.Family) (all []nft.Rule) {
	if r.anyPeer {
		return []nft.Rule{nil}
	}
	dns := false
	for _, p := range r.peers {
		all = append(all, nft.Rule{nft.In(of(p.name(), f), other(d, f))})
		dns = dns || s.matches(p, s.dns)
	}
	if r.blocks[familyIndex(f)] != nil {
		all = append(all, nft.Rule{nft.In(of(r.block, f), other(d, f))})
	}
	if dns && d == egress {
		all = append(all, nft.Rule{nft.In(dnsAt[f], nft.Daddr(f)), nft.In(dnsPorts, nft.L4Proto, nft.Dport)})
	}
	return all
}

// portMatches are the ways to be a port.
func (r *rule) portMatches(f nft.Family) (all []nft.Rule) {
	if r.anyPort {
		return []nft.Rule{nil}
	}
	if r.ports != nil {
		all = append(all, nft.Rule{nft.In(r.portSet, nft.L4Proto, nft.Dport)})
	}
	for _, n := range r.named {
		all = append(all, nft.Rule{nft.In(of(n.set(), f), nft.Daddr(f), nft.L4Proto, nft.Dport)})
	}
	return all
}
