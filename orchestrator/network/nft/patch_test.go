package nft

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/stretchr/testify/require"
)

// balanced makes a table that balances: chains that come and go, maps of backends, a memory.
func balanced(r *rand.Rand) *Table {
	t := NewTable("test")
	base := &Base{Type: nftables.ChainTypeNAT, Hook: nftables.ChainHookPrerouting, Priority: *nftables.ChainPriorityNATDest}
	t.Set("services", Keys(Addr4, ProtoType, PortType).To(Verdict))
	t.Set("backends", Keys(Addr4, ProtoType, PortType, NumberType).To(Addr4, PortType))
	t.Set("live", Keys(Addr4, ProtoType, PortType, Addr4, PortType))
	t.Set("memory", Keys(Addr4, Addr4, ProtoType, PortType).To(Addr4, PortType).Learned(1000))
	t.Chain("base", base, Rule{Is(IPv4), Vmap("services", Daddr(IPv4), L4Proto, Dport)})
	for i := range 5 {
		if r.IntN(2) == 0 {
			continue
		}
		a, n := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), uint32(1+r.IntN(4))
		front := append(append(a.AsSlice(), Byte(6)...), Port(80)...)
		m := &Memory{Map: "memory", Live: "live", For: []Field{AddrConst(a), ProtoConst(6), PortConst(80)}, Timeout: time.Hour}
		for x := range n {
			to := append([]byte{10, 1, byte(i), byte(r.IntN(9))}, Port(80)...)
			t.Set("backends", Type{}, Element{Key: append(front[:len(front):len(front)], Number(x)...), Value: to})
			t.Set("live", Type{}, Element{Key: append(front[:len(front):len(front)], to...)})
		}
		name := fmt.Sprint("service", i)
		t.Set("services", Type{}, Element{Key: front, Goto: name})
		t.Chain(name, nil, Rule{From(netip.MustParsePrefix("10.2.0.0/15")), SetMark(4)}, Rule{DNATRemembered(IPv4, m)}, Rule{Forget(IPv4, m)},
			Rule{DNATRandomRemembered(IPv4, m, "backends", n, 0)},
			Rule{DNATMap(IPv4, "backends", append(m.For[:3:3], Random(n, 0))...)})
	}
	return t
}

// between is the patch that turns one table into another.
func between(was, want *Table) *Patch {
	p := &Patch{}
	for name := range was.Chains {
		if want.Chains[name] == nil {
			p.Chain(name, nil)
		}
	}
	for name, c := range want.Chains {
		p.Chain(name, c)
	}
	for name, s := range was.Sets {
		for id := range s.Elements {
			p.Element(name, id, nil)
		}
	}
	for name, s := range want.Sets {
		for id, e := range s.Elements {
			p.Element(name, id, &e)
		}
	}
	return p
}

// Whatever is changed by patches, the kernel and the writer hold the table that was meant, and the writer knows that it does.
func TestPatch(t *testing.T) {
	w, conn := open(t)
	require.ErrorIs(t, w.Patch(&Patch{}), ErrNothingWritten)
	require.NoError(t, w.Sync(balanced(rand.New(rand.NewPCG(0, 2)))))
	for seed := range uint64(60) {
		repaired, err := w.Check()
		require.NoError(t, err)
		require.False(t, repaired)
		want := balanced(rand.New(rand.NewPCG(seed, 2)))
		p := between(w.written, want)
		require.NoError(t, w.Patch(p))
		require.Equal(t, want.String(), w.written.String())
		require.NotZero(t, w.gen, "nobody else changed anything")
		intact, err := w.intact()
		require.NoError(t, err)
		require.True(t, intact, "seed %d:\n%s", seed, want)
	}
	// A patch on top of a table that is gone writes all of it.
	conn.FlushRuleset()
	require.NoError(t, conn.Flush())
	want := balanced(rand.New(rand.NewPCG(61, 2)))
	require.NoError(t, w.Patch(between(w.written, want)))
	intact, err := w.intact()
	require.NoError(t, err)
	require.True(t, intact)
	require.Error(t, w.Patch(&Patch{Elements: map[string]map[string]*Element{"none": {}}}))
}

// A rule that somebody else put in the place of one that a patch wrote is found, though nobody looked in between.
func TestCheckAfterPatch(t *testing.T) {
	w, conn := open(t)
	require.NoError(t, w.Sync(balanced(rand.New(rand.NewPCG(3, 2)))))
	_, err := w.Check()
	require.NoError(t, err)
	p := &Patch{}
	p.Chain("more", &Chain{Rules: []Rule{{Drop}}})
	require.NoError(t, w.Patch(p))
	table := &nftables.Table{Name: "test", Family: nftables.TableFamilyINet}
	c := &nftables.Chain{Name: "more", Table: table}
	conn.FlushChain(c)
	conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: Accept.Exprs})
	require.NoError(t, conn.Flush())
	repaired, err := w.Check()
	require.NoError(t, err)
	require.True(t, repaired)
	for _, spoil := range []func(){
		func() { s, _ := conn.GetSetByName(table, "live"); conn.FlushSet(s) },
		func() {
			s, _ := conn.GetSetByName(table, "backends")
			all, err := conn.GetSetElements(s)
			require.NoError(t, err)
			require.NoError(t, conn.SetDeleteElements(s, []nftables.SetElement{{Key: all[0].Key}}))
			require.NoError(t, conn.SetAddElements(s, []nftables.SetElement{{Key: all[0].Key, Val: make([]byte, 8)}}))
		},
	} {
		spoil()
		require.NoError(t, conn.Flush())
		repaired, err = w.Check()
		require.NoError(t, err)
		require.True(t, repaired)
	}
}

// What packets have put into a set stays when the table is written anew, with the time that is left; what does not fit goes.
func TestLearnedElementsStay(t *testing.T) {
	w, conn := open(t)
	want := NewTable("test")
	memory := Keys(Addr4, PortType).To(Addr4, PortType).Learned(2000)
	want.Set("memory", memory)
	require.NoError(t, w.Sync(want))
	table := &nftables.Table{Name: "test", Family: nftables.TableFamilyINet}
	s := want.Sets["memory"].kernel(table, "memory", 1)
	var elements []nftables.SetElement
	for i := range 1000 {
		elements = append(elements, nftables.SetElement{Key: append([]byte{10, 0, byte(i >> 8), byte(i)}, Port(80)...), Val: make([]byte, 8), Timeout: time.Hour})
	}
	require.NoError(t, (&batch{conn: conn}).add(s, elements))
	require.NoError(t, conn.Flush())
	require.NoError(t, NewWriter("test", w.netns).Sync(want))
	kept, err := conn.GetSetElements(s)
	require.NoError(t, err)
	require.Len(t, kept, 1000)
	require.Greater(t, kept[0].Expires, 30*time.Minute)
	require.LessOrEqual(t, kept[0].Expires, time.Hour)
	other := NewTable("test")
	other.Set("memory", Keys(Addr6).To(Addr6).Learned(2000))
	require.NoError(t, NewWriter("test", w.netns).Sync(other))
}
