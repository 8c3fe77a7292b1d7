package nft

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// Table is what a table of family inet shall hold.
type Table struct {
	Name   string
	Sets   map[string]*Set
	Chains map[string]*Chain
}

// NewTable makes an empty table.
func NewTable(name string) *Table {
	return &Table{Name: name, Sets: map[string]*Set{}, Chains: map[string]*Chain{}}
}

// Base hooks a chain into the way of packets.
type Base struct {
	Type     nftables.ChainType
	Hook     *nftables.ChainHook
	Priority nftables.ChainPriority
}

// Chain is rules that are run in order. Without a base it is run where a rule jumps to it.
type Chain struct {
	Base  *Base
	Rules []Rule
}

// Chain adds rules to a chain, which it makes where it is missing.
func (t *Table) Chain(name string, base *Base, rules ...Rule) {
	c := t.Chains[name]
	if c == nil {
		c = &Chain{Base: base}
		t.Chains[name] = c
	}
	c.Rules = append(c.Rules, rules...)
}

// Type is the shape of a set's keys, of a map's values, and whether its keys are ranges.
type Type struct {
	Key, Value nftables.SetDatatype // no Value: a set
	Ranges     bool
	concat     bool
	learned    uint32 // how many elements packets may add; 0: the elements are the table's
}

// Types of keys and values.
var (
	Addr4     = nftables.TypeIPAddr
	Addr6     = nftables.TypeIP6Addr
	ProtoType = nftables.TypeInetProto
	PortType  = nftables.TypeInetService
	Verdict   = nftables.TypeVerdict
)

// AddrType is the type of a family's addresses.
func AddrType(f Family) nftables.SetDatatype {
	if f == IPv4 {
		return Addr4
	}
	return Addr6
}

// Keys is the type of a set whose keys have the given parts.
func Keys(parts ...nftables.SetDatatype) Type {
	if len(parts) == 1 {
		return Type{Key: parts[0]}
	}
	return Type{Key: nftables.MustConcatSetType(parts...), concat: true}
}

// To makes the type of a map out of that of a set.
func (t Type) To(parts ...nftables.SetDatatype) Type {
	t.Value = Keys(parts...).Key
	return t
}

// OfRanges makes the type of a set whose keys are ranges.
func (t Type) OfRanges() Type {
	t.Ranges = true
	return t
}

// Learned makes the type of a set or map whose elements packets add, at most size of them. They have timeouts.
func (t Type) Learned(size uint32) Type {
	t.learned = size
	return t
}

// Set is a set or a map with its elements, by key.
type Set struct {
	Type     Type
	Elements map[string]Element
}

// Element is an element of a set: a key, or the range from Key to Last inclusive; in a map with a value, or a chain to go to.
type Element struct {
	Key, Last []byte
	Value     []byte
	Goto      string
}

// ID tells elements of a set apart.
func (e Element) ID() string { return string(e.Key) + "\x00" + string(e.Last) }

func (e Element) same(o Element) bool { return bytes.Equal(e.Value, o.Value) && e.Goto == o.Goto }

// Set adds elements to a set, which it makes where it is missing.
func (t *Table) Set(name string, typ Type, elements ...Element) {
	s := t.Sets[name]
	if s == nil {
		s = &Set{Type: typ, Elements: make(map[string]Element, len(elements))}
		t.Sets[name] = s
	}
	for _, e := range elements {
		s.Elements[e.ID()] = e
	}
}

// String is the whole table in the words of the nft program, in an order that only depends on what is in it.
func (t *Table) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t.Sets)) {
		s := t.Sets[name]
		fmt.Fprintf(&b, "set %s\n", name)
		for _, id := range slices.Sorted(maps.Keys(s.Elements)) {
			e := s.Elements[id]
			fmt.Fprintf(&b, "  %s\n", strings.TrimRight(fmt.Sprintf("%x-%x : %x%s", e.Key, e.Last, e.Value, e.Goto), "- :"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Chains)) {
		fmt.Fprintf(&b, "chain %s\n", name)
		for _, r := range t.Chains[name].Rules {
			fmt.Fprintf(&b, "  %s\n", r)
		}
	}
	return b.String()
}

// kernel is the set as the library describes it.
func (s *Set) kernel(t *nftables.Table, name string, id uint32) *nftables.Set {
	return &nftables.Set{
		Table: t, ID: id, Name: name, KeyType: s.Type.Key, DataType: s.Type.Value, IsMap: s.Type.Value.Name != "",
		Interval: s.Type.Ranges, Concatenation: s.Type.concat, KeyByteOrder: binaryutil.BigEndian,
		Dynamic: s.Type.learned > 0, HasTimeout: s.Type.learned > 0, Size: s.Type.learned,
	}
}

// wire is an element as the kernel wants it: a range of single keys is its start and a mark behind its end, a range of
// concatenated keys is one element with two keys.
func (s *Set) wire(e Element) []nftables.SetElement {
	x := nftables.SetElement{Key: e.Key, Val: e.Value}
	if e.Goto != "" {
		x.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.Goto}
	}
	if !s.Type.Ranges {
		return []nftables.SetElement{x}
	}
	last := e.Last
	if last == nil {
		last = e.Key
	}
	if s.Type.concat {
		x.KeyEnd = last
		return []nftables.SetElement{x}
	}
	if after, ok := increment(last); ok {
		return []nftables.SetElement{x, {Key: after, IntervalEnd: true}}
	}
	return []nftables.SetElement{x}
}

// increment is the next larger key, unless there is none.
func increment(b []byte) ([]byte, bool) {
	b = bytes.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]++
		if b[i] != 0 {
			return b, true
		}
	}
	return nil, false
}

// Ranges are the elements of a set of ranges that holds all addresses of the given prefixes that are of one family. They do
// not overlap or touch.
func Ranges(f Family, prefixes ...netip.Prefix) []Element {
	var all []Element
	for _, p := range prefixes {
		if p.IsValid() && FamilyOf(p.Addr()) == f {
			first, last := bounds(p)
			all = append(all, Element{Key: first, Last: last})
		}
	}
	return Merge(all)
}

// Merge joins ranges that overlap or touch.
func Merge(all []Element) []Element {
	slices.SortFunc(all, func(a, b Element) int { return cmp.Or(bytes.Compare(a.Key, b.Key), bytes.Compare(b.Last, a.Last)) })
	var out []Element
	for _, e := range all {
		if n := len(out) - 1; n >= 0 {
			after, ok := increment(out[n].Last)
			if !ok || bytes.Compare(e.Key, after) <= 0 {
				if bytes.Compare(e.Last, out[n].Last) > 0 {
					out[n].Last = e.Last
				}
				continue
			}
		}
		out = append(out, e)
	}
	return out
}

// bounds are the first and the last address of a prefix.
func bounds(p netip.Prefix) (first, last []byte) {
	first = p.Masked().Addr().Unmap().AsSlice()
	last = bytes.Clone(first)
	bits := p.Bits()
	for i := range last {
		switch left := bits - 8*i; {
		case left <= 0:
			last[i] = 0xff
		case left < 8:
			last[i] |= 0xff >> left
		}
	}
	return first, last
}
