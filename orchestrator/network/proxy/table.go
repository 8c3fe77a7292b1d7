package proxy

import (
	"net/netip"

	"github.com/google/nftables"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// TableName is the name of the nftables table.
const TableName = "keelson-services"

// masqueradeMark is the bit of a packet's mark that says that its source is to be rewritten.
const masqueradeMark = 0x4000

// besideNAT is how far behind the rewriting of destinations refusals are.
const besideNAT = 5

var (
	natIn   = &nft.Base{Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: *nftables.ChainPriorityNATDest}
	natOut  = &nft.Base{Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Priority: *nftables.ChainPriorityNATDest}
	natPost = &nft.Base{Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Priority: *nftables.ChainPriorityNATSource}
	behind  = *nftables.ChainPriorityNATDest + besideNAT
	pastIn  = &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: behind}
	pastOut = &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookOutput, Priority: behind}

	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// Names of sets and maps. See the package's documentation.
var (
	services          = byFamily("services")
	nodePorts         = byFamily("nodeports")
	endpoints         = byFamily("endpoints")
	unserved          = byFamily("unserved")
	unservedNodePorts = byFamily("unserved-nodeports")
	affinity          = byFamily("affinity")
	live              = byFamily("live")
	liveLocal         = byFamily("livelocal")
	clusterIPs        = byFamily("clusterips")
	hairpins          = byFamily("hairpin")
	cluster           = byFamily("cluster")       // ranges of pods
	own               = byFamily("own")           // those of pods of this node
	ranges            = byFamily("ranges")        // of services
	nodeAddresses     = byFamily("nodeaddresses") // that have node ports; none: all have
)

func byFamily(name string) map[nft.Family]string {
	return map[nft.Family]string{nft.IPv4: name + "4", nft.IPv6: name + "6"}
}

// Chains that refuse packets.
const (
	rejected = "reject"
	dropped  = "drop"
)

// maxRemembered is how many clients session affinity remembers, per family.
const maxRemembered = 1 << 20

// frame is the table without any service. Node ports are limited to addresses of the families that limited names.
func frame(limited map[nft.Family]bool) *nft.Table {
	t := nft.NewTable(TableName)
	t.Chain("prerouting", natIn, nft.Rule{nft.Jump("services")})
	t.Chain("output", natOut, nft.Rule{nft.Jump("services")})
	t.Chain("refuse-prerouting", pastIn, nft.Rule{nft.Jump("refusals")})
	t.Chain("refuse-output", pastOut, nft.Rule{nft.Jump("refusals")})
	t.Chain("postrouting", natPost, nft.Rule{nft.Marked(masqueradeMark), nft.ClearMark(masqueradeMark), nft.Masquerade})
	t.Chain("refusals", nil, nft.Rule{nft.Known, nft.Return}, nft.Rule{nft.DNATed, nft.Return})
	t.Chain(rejected, nil, nft.Rule{nft.Proto(protocols["TCP"]), nft.Reset}, nft.Rule{nft.Reject})
	t.Chain(dropped, nil, nft.Rule{nft.Drop})
	for _, f := range nft.Families {
		sets(t, f)
		t.Chain("services", nil,
			nft.Rule{nft.Is(f), nft.In(clusterIPs[f], nft.Daddr(f)), nft.NotIn(cluster[f], nft.Saddr(f)), nft.SetMark(masqueradeMark)},
			nft.Rule{nft.Is(f), nft.Vmap(services[f], nft.Daddr(f), nft.L4Proto, nft.Dport)})
		t.Chain("refusals", nil,
			nft.Rule{nft.Is(f), nft.Vmap(unserved[f], nft.Daddr(f), nft.L4Proto, nft.Dport)},
			nft.Rule{nft.Is(f), nft.In(clusterIPs[f], nft.Daddr(f)), nft.Goto(rejected)})
		t.Chain("postrouting", natPost, nft.Rule{nft.DNATed, nft.Is(f), nft.In(hairpins[f], nft.Saddr(f), nft.Daddr(f)), nft.Masquerade})
	}
	for _, chain := range []string{"services", "refusals"} {
		t.Chain(chain, nil, nft.Rule{nft.Within(nft.Daddr(nft.IPv4), loopback4), nft.Return}, nft.Rule{nft.Within(nft.Daddr(nft.IPv6), loopback6), nft.Return})
	}
	for _, f := range nft.Families {
		local := nft.Rule{nft.Is(f), nft.ToLocal}
		if limited[f] {
			local = append(local, nft.In(nodeAddresses[f], nft.Daddr(f)))
		}
		t.Chain("services", nil, append(local[:len(local):len(local)], nft.Vmap(nodePorts[f], nft.L4Proto, nft.Dport)))
		t.Chain("refusals", nil, append(local[:len(local):len(local)], nft.Vmap(unservedNodePorts[f], nft.L4Proto, nft.Dport)))
	}
	t.Chain("refusals", nil, nft.Rule{nft.ToLocal, nft.Return})
	for _, f := range nft.Families {
		t.Chain("refusals", nil, nft.Rule{nft.Is(f), nft.In(ranges[f], nft.Daddr(f)), nft.Drop})
	}
	return t
}

// sets makes the sets and maps of a family.
func sets(t *nft.Table, f nft.Family) {
	addr := nft.AddrType(f)
	front, nodePort := nft.Keys(addr, nft.ProtoType, nft.PortType), nft.Keys(nft.ProtoType, nft.PortType)
	for _, names := range []map[nft.Family]string{services, unserved} {
		t.Set(names[f], front.To(nft.Verdict))
	}
	for _, names := range []map[nft.Family]string{nodePorts, unservedNodePorts} {
		t.Set(names[f], nodePort.To(nft.Verdict))
	}
	t.Set(endpoints[f], nft.Keys(addr, nft.ProtoType, nft.PortType, nft.NumberType).To(addr, nft.PortType))
	t.Set(affinity[f], nft.Keys(addr, addr, nft.ProtoType, nft.PortType).To(addr, nft.PortType).Learned(maxRemembered))
	for _, names := range []map[nft.Family]string{live, liveLocal} {
		t.Set(names[f], nft.Keys(addr, nft.ProtoType, nft.PortType, addr, nft.PortType))
	}
	t.Set(clusterIPs[f], nft.Keys(addr))
	t.Set(hairpins[f], nft.Keys(addr, addr))
	for _, names := range []map[nft.Family]string{cluster, own, ranges, nodeAddresses} {
		t.Set(names[f], nft.Keys(addr).OfRanges())
	}
}

// surroundings are what is known of the cluster beside its services.
type surroundings struct {
	cluster, own, ranges, nodeAddresses []netip.Prefix
}

// part is the elements of the table that come of the surroundings.
func (s surroundings) part() *part {
	p := &part{elements: map[ref]nft.Element{}}
	for _, f := range nft.Families {
		for _, x := range []struct {
			set      string
			prefixes []netip.Prefix
		}{{cluster[f], s.cluster}, {own[f], s.own}, {ranges[f], s.ranges}, {nodeAddresses[f], s.nodeAddresses}} {
			for _, e := range nft.Ranges(f, x.prefixes...) {
				p.add(x.set, e)
			}
		}
	}
	return p
}
