package policy

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// group is a set, one for each family, whose elements come from pods: addresses of peers, or ports of a name. Its sets are the very
// same ones in the next table when no member changed.
type group struct {
	peer    *peer    // or
	port    portName // without a peer
	members map[string][2][]nft.Element
	sets    [2]*nft.Set
	pending [2]map[string]int // elements of changed members, by key: how many more have them
	counts  [2]map[string]int // how many members have an element
}

// typ is the type of the set of a family.
func (g *group) typ(f nft.Family) nft.Type {
	if g.peer != nil {
		return nft.Keys(nft.AddrType(f))
	}
	return nft.Keys(nft.AddrType(f), nft.ProtoType, nft.PortType)
}

// put gives a member other elements. It says whether they are other ones.
func (g *group) put(member string, now [2][]nft.Element) (changed bool) {
	was := g.members[member]
	for i := range was {
		if slices.EqualFunc(was[i], now[i], func(a, b nft.Element) bool { return bytes.Equal(a.Key, b.Key) }) {
			continue
		}
		changed = true
		for _, e := range was[i] {
			g.pending[i][string(e.Key)]--
		}
		for _, e := range now[i] {
			g.pending[i][string(e.Key)]++
		}
	}
	if !changed {
		return false
	}
	if len(now[0])+len(now[1]) == 0 {
		delete(g.members, member)
	} else {
		g.members[member] = now
	}
	return true
}

// set is the set of a family. Two members may have the same element: while one goes and the other comes.
func (g *group) set(f nft.Family) *nft.Set {
	i := familyIndex(f)
	var del, add []nft.Element
	for key, more := range g.pending[i] {
		was := g.counts[i][key]
		now := was + more
		g.counts[i][key] = now
		switch e := (nft.Element{Key: []byte(key)}); {
		case was > 0 && now == 0:
			del = append(del, e)
			delete(g.counts[i], key)
		case was == 0 && now > 0:
			add = append(add, e)
		case now == 0:
			delete(g.counts[i], key)
		}
	}
	clear(g.pending[i])
	if len(del)+len(add) > 0 {
		g.sets[i] = g.sets[i].With(del, add)
	}
	return g.sets[i]
}

// elements are what a pod, or nil, gives to a group.
func (s *state) elements(g *group, p *pod, addresses []netip.Addr) (out [2][]nft.Element) {
	if p == nil || g.peer != nil && !s.matches(*g.peer, p) {
		return out
	}
	for _, a := range addresses {
		i := familyIndex(nft.FamilyOf(a))
		if g.peer != nil {
			out[i] = append(out[i], nft.Element{Key: a.AsSlice()})
			continue
		}
		for _, port := range p.ports[g.port] {
			out[i] = append(out[i], nft.Element{Key: slices.Concat(a.AsSlice(), portKey(g.port.protocol, port))})
		}
	}
	return out
}

// group finds a group, or makes it with all its members.
func (s *state) group(name string, of *peer, port portName) *group {
	if g := s.groups[name]; g != nil {
		return g
	}
	g := &group{peer: of, port: port, members: map[string][2][]nft.Element{}}
	for i, f := range nft.Families {
		g.sets[i], g.pending[i], g.counts[i] = nft.NewSet(g.typ(f)), map[string]int{}, map[string]int{}
	}
	for key, p := range s.pods {
		g.put(key, s.elements(g, p, s.addressesOf(p)))
	}
	if of == nil { // peers are told apart from the DNS server by rules of its own
		g.put("", s.elements(g, s.dns, s.dns.addresses))
	}
	s.groups[name] = g
	return g
}
