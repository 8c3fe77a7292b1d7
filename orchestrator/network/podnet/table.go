package podnet

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

var (
	raw     = &nft.Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookPrerouting, Priority: *nftables.ChainPriorityRaw}
	natIn   = &nft.Base{Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: *nftables.ChainPriorityNATDest}
	natOut  = &nft.Base{Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookOutput, Priority: *nftables.ChainPriorityNATDest}
	natPost = &nft.Base{Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPostrouting, Priority: *nftables.ChainPriorityNATSource}

	loopback4  = netip.MustParsePrefix("127.0.0.0/8")
	loopback6  = netip.MustParsePrefix("::1/128")
	multicasts = []netip.Prefix{netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("fe80::/10")}
)

// Names of sets, which end with the family.
var (
	hostPorts   = map[nft.Family]string{nft.IPv4: "hostports4", nft.IPv6: "hostports6"}       // by protocol and port
	hostPortsAt = map[nft.Family]string{nft.IPv4: "hostports-at4", nft.IPv6: "hostports-at6"} // and address
	hairpins    = map[nft.Family]string{nft.IPv4: "hairpin4", nft.IPv6: "hairpin6"}           // pods that may reach themselves by a host port
	ownRanges   = map[nft.Family]string{nft.IPv4: "own4", nft.IPv6: "own6"}
	clusters    = map[nft.Family]string{nft.IPv4: "cluster4", nft.IPv6: "cluster6"}
)

// wantedTable is the table as it should be. own and cluster are prefixes of both families.
func wantedTable(records []*record, own, cluster []netip.Prefix) *nft.Table {
	t := nft.NewTable(TableName)
	pods := nft.IIFName(LinkPrefix + "*")
	t.Chain("raw", raw, nft.Rule{pods, nft.SourceSpoofed, nft.Drop}, nft.Rule{pods, nft.Within(nft.Daddr(nft.IPv4), loopback4), nft.Drop})
	t.Chain("prerouting", natIn, nft.Rule{nft.ToLocal, nft.Jump("hostports")})
	t.Chain("output", natOut, nft.Rule{nft.ToLocal, nft.Jump("hostports")})
	t.Chain("hostports", nil, nft.Rule{nft.Within(nft.Daddr(nft.IPv6), loopback6), nft.Return})
	t.Chain("postrouting", natPost, nft.Rule{nft.Within(nft.Saddr(nft.IPv4), loopback4), nft.OIFName(LinkPrefix + "*"), nft.Masquerade})
	for _, f := range nft.Families {
		addr := nft.AddrType(f)
		t.Set(hostPorts[f], nft.Keys(nft.ProtoType, nft.PortType).To(addr, nft.PortType))
		t.Set(hostPortsAt[f], nft.Keys(nft.ProtoType, addr, nft.PortType).To(addr, nft.PortType))
		t.Set(hairpins[f], nft.Keys(addr, addr))
		t.Set(ownRanges[f], nft.Keys(addr).OfRanges(), nft.Ranges(f, own...)...)
		t.Set(clusters[f], nft.Keys(addr).OfRanges(), nft.Ranges(f, slices.Concat(own, cluster, multicasts)...)...)
		t.Chain("hostports", nil,
			nft.Rule{nft.Is(f), nft.DNATMap(f, hostPortsAt[f], nft.L4Proto, nft.Daddr(f), nft.Dport)},
			nft.Rule{nft.Is(f), nft.DNATMap(f, hostPorts[f], nft.L4Proto, nft.Dport)})
		t.Chain("postrouting", natPost,
			nft.Rule{nft.Is(f), nft.In(hairpins[f], nft.Saddr(f), nft.Daddr(f)), nft.Masquerade},
			nft.Rule{nft.Is(f), nft.In(ownRanges[f], nft.Saddr(f)), nft.NotIn(clusters[f], nft.Daddr(f)), nft.OIFNameNot("lo"), nft.Masquerade})
	}
	for _, r := range records {
		for _, a := range r.Addresses {
			portElements(t, r, a)
		}
	}
	return t
}

// portElements adds the host ports of a pod that lead to one of its addresses.
func portElements(t *nft.Table, r *record, a netip.Addr) {
	f, addr := nft.FamilyOf(a), a.AsSlice()
	for _, p := range r.Ports {
		if !p.serves(a) {
			continue
		}
		to := slices.Concat(addr, nft.Port(p.Container))
		if p.any() {
			t.Set(hostPorts[f], nft.Type{}, nft.Element{Key: slices.Concat(nft.Byte(p.Protocol), nft.Port(p.HostPort)), Value: to})
		} else {
			t.Set(hostPortsAt[f], nft.Type{}, nft.Element{Key: slices.Concat(nft.Byte(p.Protocol), p.Host.AsSlice(), nft.Port(p.HostPort)), Value: to})
		}
		t.Set(hairpins[f], nft.Type{}, nft.Element{Key: slices.Concat(addr, addr)})
	}
}

// syncTable writes what changed of the table.
func (n *Network) syncTable() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.syncTableLocked()
}

func (n *Network) syncTableLocked() error {
	own, cluster := slices.Clone(n.store.node.Ranges), slices.Clone(n.ClusterRanges)
	var with []*record
	for id, r := range n.store.records {
		for _, a := range r.Addresses { // of a range that the node had before
			own = append(own, netip.PrefixFrom(a, a.BitLen()))
		}
		if !n.leaving[id] {
			with = append(with, r)
		}
	}
	for _, p := range n.peers {
		cluster = append(cluster, p.ranges...)
	}
	return n.table.Sync(wantedTable(with, own, cluster))
}

// checkTable repairs the table when somebody changed it.
func (n *Network) checkTable() {
	repaired, err := n.table.Check()
	switch {
	case err != nil:
		n.Logger.Warn("check the table", zap.Error(err))
	case repaired:
		n.Logger.Warn("somebody changed the table, and it was written anew", zap.String("table", TableName))
	}
}
