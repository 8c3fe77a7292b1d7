package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/internal/testkit"
)

var forward = &Base{Type: nftables.ChainTypeFilter, Hook: nftables.ChainHookForward, Priority: *nftables.ChainPriorityFilter}

func open(t *testing.T) (*Writer, *nftables.Conn) {
	t.Helper()
	ns := testkit.NewNetNS(t)
	f, err := os.Open(ns.Path())
	require.NoError(t, err)
	t.Cleanup(func() { _ = f.Close() })
	conn, err := nftables.New(nftables.WithNetNSFd(int(f.Fd())))
	require.NoError(t, err)
	w := NewWriter("test", int(f.Fd()))
	t.Cleanup(func() { require.NoError(t, w.Remove()) })
	return w, conn
}

// random makes a table of chains that go to one another by way of a map, sets of ranges, and rules that refer to sets.
func random(r *rand.Rand) *Table {
	t := NewTable("test")
	t.Chain("base", forward, Rule{Known, Accept}, Rule{Is(IPv4), Vmap("pods", Daddr(IPv4))})
	t.Set("pods", Keys(Addr4).To(Verdict))
	for i := range r.IntN(6) {
		chain, set, ports := fmt.Sprint("chain", r.IntN(8)), fmt.Sprint("set", r.IntN(8)), fmt.Sprint("ports", r.IntN(4))
		if t.Chains[chain] != nil {
			continue
		}
		t.Set("pods", Type{}, Element{Key: []byte{10, 0, 0, byte(r.IntN(20))}, Goto: chain})
		var prefixes []netip.Prefix
		for range r.IntN(5) {
			prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(r.IntN(3)), byte(r.IntN(256)), 1, 1}), r.IntN(33)).Masked())
		}
		if t.Sets[set] == nil {
			t.Set(set, Keys(Addr4).OfRanges(), Ranges(IPv4, prefixes...)...)
		}
		if t.Sets[ports] == nil {
			low := uint16(r.IntN(60000))
			t.Set(ports, Keys(ProtoType, PortType).OfRanges(), Element{Key: slices.Concat(Byte(6), Port(low)), Last: slices.Concat(Byte(6), Port(low+uint16(r.IntN(5000))))})
		}
		t.Chain(chain, nil, Rule{Is(IPv4), In(set, Saddr(IPv4)), In(ports, L4Proto, Dport), Accept}, Rule{Drop})
		if i > 2 {
			t.Chain(chain, nil, Rule{Return})
		}
	}
	return t
}

// Whatever a table becomes, the kernel holds what a fresh writer would have written.
func TestSyncFromAnythingToAnything(t *testing.T) {
	w, conn := open(t)
	for seed := range uint64(150) {
		want := random(rand.New(rand.NewPCG(seed, 1)))
		b, err := w.batch()
		require.NoError(t, err)
		if w.written != nil {
			require.NoError(t, b.diff(w.written, want))
			require.NoError(t, b.conn.Flush(), "seed %d: the difference is refused: from\n%s\nto\n%s", seed, w.written, want)
			w.wrote(want, b.changed)
		} else {
			require.NoError(t, w.Sync(want))
		}
		intact, err := w.intact()
		require.NoError(t, err)
		require.True(t, intact, "seed %d:\n%s", seed, want)
		require.NoError(t, w.Sync(want))
		chains, err := conn.ListChains()
		require.NoError(t, err)
		require.Len(t, chains, len(want.Chains))
	}
}

func TestCheckFindsWhatSomebodyDid(t *testing.T) {
	w, conn := open(t)
	want := random(rand.New(rand.NewPCG(7, 1)))
	want.Set("more", Keys(Addr4).OfRanges(), Ranges(IPv4, netip.MustParsePrefix("0.0.0.0/0"))...)
	table := &nftables.Table{Name: "test", Family: nftables.TableFamilyINet}
	require.NoError(t, w.Sync(want))
	repaired, err := w.Check()
	require.NoError(t, err)
	require.False(t, repaired)
	base := &nftables.Chain{Name: "base", Table: table}
	for name, spoil := range map[string]func(){
		"all":     conn.FlushRuleset,
		"table":   func() { conn.DelTable(table) },
		"rules":   func() { conn.FlushTable(table) },
		"chain":   func() { conn.AddChain(&nftables.Chain{Name: "strange", Table: table}) },
		"element": func() { s, _ := conn.GetSetByName(table, "more"); conn.FlushSet(s) },
		"a rule is another one": func() {
			rules, err := conn.GetRules(table, base)
			require.NoError(t, err)
			require.NoError(t, conn.DelRule(rules[len(rules)-1]))
			conn.AddRule(&nftables.Rule{Table: table, Chain: base, Exprs: Accept.Exprs})
		},
		"another table": func() { conn.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyINet}) },
	} {
		t.Run(name, func(t *testing.T) {
			spoil()
			require.NoError(t, conn.Flush())
			repaired, err := w.Check()
			require.NoError(t, err)
			require.Equal(t, name != "another table", repaired)
			intact, err := w.intact()
			require.NoError(t, err)
			require.True(t, intact)
			repaired, err = w.Check()
			require.NoError(t, err)
			require.False(t, repaired)
		})
	}
	// A change on top of a table that is gone writes all of it.
	conn.FlushRuleset()
	require.NoError(t, conn.Flush())
	next := random(rand.New(rand.NewPCG(8, 1)))
	require.NoError(t, w.Sync(next))
	intact, err := w.intact()
	require.NoError(t, err)
	require.True(t, intact)
}

// Large sets take many messages, which are still one transaction.
func TestLargeSet(t *testing.T) {
	w, _ := open(t)
	want := NewTable("test")
	var prefixes []netip.Prefix
	for i := range 20_000 {
		prefixes = append(prefixes, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1}), 32))
	}
	want.Set("many", Keys(Addr4).OfRanges(), Ranges(IPv4, prefixes...)...)
	require.NoError(t, w.Sync(want))
	intact, err := w.intact()
	require.NoError(t, err)
	require.True(t, intact)
}

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		family   Family
		prefixes []string
		want     string
	}{
		{IPv4, nil, ""},
		{IPv4, []string{"10.0.0.0/24", "10.0.1.0/24", "fd00::/64"}, "0a000000-0a0001ff "},
		{IPv4, []string{"10.0.2.0/24", "10.0.0.0/24", "10.0.0.7/32"}, "0a000000-0a0000ff 0a000200-0a0002ff "},
		{IPv4, []string{"0.0.0.0/0", "255.255.255.255/32"}, "00000000-ffffffff "},
		{IPv4, []string{"10.0.0.5/31"}, "0a000004-0a000005 "},
		{IPv6, []string{"fd00::/127", "10.0.0.0/8"}, "fd000000000000000000000000000000-fd000000000000000000000000000001 "},
	} {
		var prefixes []netip.Prefix
		for _, s := range c.prefixes {
			prefixes = append(prefixes, netip.MustParsePrefix(s))
		}
		got := ""
		for _, e := range Ranges(c.family, prefixes...) {
			got += fmt.Sprintf("%x-%x ", e.Key, e.Last)
		}
		require.Equal(t, c.want, got, c.prefixes)
	}
}

func TestWithout(t *testing.T) {
	for _, c := range []struct {
		whole string
		holes []string
		want  string
	}{
		{"10.0.0.0/24", nil, "10.0.0.0-10.0.0.255"},
		{"10.0.0.0/24", []string{"10.0.0.0/8"}, ""},
		{"10.0.0.0/24", []string{"10.0.0.0/25"}, "10.0.0.128-10.0.0.255"},
		{"10.0.0.0/24", []string{"10.0.0.128/25", "11.0.0.0/8", "9.0.0.0/8"}, "10.0.0.0-10.0.0.127"},
		{"10.0.0.0/24", []string{"10.0.0.9/32", "10.0.0.64/26"}, "10.0.0.0-10.0.0.8 10.0.0.10-10.0.0.63 10.0.0.128-10.0.0.255"},
		{"0.0.0.0/0", []string{"0.0.0.0/1", "255.255.255.255/32"}, "128.0.0.0-255.255.255.254"},
		{"0.0.0.0/0", []string{"10.1.0.0/16"}, "0.0.0.0-10.0.255.255 10.2.0.0-255.255.255.255"},
	} {
		var holes []netip.Prefix
		for _, h := range c.holes {
			holes = append(holes, netip.MustParsePrefix(h))
		}
		var got []string
		for _, e := range Without(Ranges(IPv4, netip.MustParsePrefix(c.whole))[0], Ranges(IPv4, holes...)) {
			got = append(got, NewSet(Keys(Addr4)).text(e))
		}
		require.Equal(t, c.want, strings.Join(got, " "), c)
	}
}

// A set that was made from the one before is written by its difference, and is what a fresh one would be.
func TestWith(t *testing.T) {
	w, conn := open(t)
	r := rand.New(rand.NewPCG(3, 1))
	some := func() (all []Element) {
		for range r.IntN(4) {
			all = append(all, Element{Key: []byte{10, 0, 0, byte(r.IntN(8))}, Goto: []string{"a", "b"}[r.IntN(2)]})
		}
		return all
	}
	table := func(s *Set) *Table {
		x := NewTable("test")
		x.Chain("a", nil, Rule{Drop})
		x.Chain("b", nil, Rule{Accept})
		x.Chain("base", forward, Rule{Is(IPv4), Vmap("pods", Daddr(IPv4))})
		x.Sets["pods"] = s
		return x
	}
	now := NewSet(Keys(Addr4).To(Verdict))
	require.NoError(t, w.Sync(table(now)))
	for i := range 200 {
		was := now
		before := table(was).String()
		now = was.With(some(), some())
		require.Equal(t, before, table(was).String(), "the old one changed")
		require.True(t, now.follows(was))
		gone, come := difference(was, now)
		slow := &Set{Type: now.Type, Elements: now.Elements}
		goneToo, comeToo := difference(was, slow)
		require.ElementsMatch(t, goneToo, gone)
		require.ElementsMatch(t, comeToo, come)
		if i%5 == 0 { // one that is not written
			now = now.With(some(), some())
			require.False(t, now.follows(was))
		}
		require.NoError(t, w.Sync(table(now)))
		intact, err := w.intact()
		require.NoError(t, err)
		require.True(t, intact, table(now))
		kernel, err := conn.GetSetElements(now.kernel(&nftables.Table{Name: "test", Family: nftables.TableFamilyINet}, "pods", 1))
		require.NoError(t, err)
		for _, e := range kernel {
			require.Contains(t, string(e.Val), now.Elements[Element{Key: e.Key}.ID()].Goto+"\x00", "where the kernel goes")
		}
	}
}
