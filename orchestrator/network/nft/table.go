package nft

import (
	"bytes"
	"cmp"
	"encoding/binary"
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
	NameType  = nftables.TypeIFName // of an interface
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
	delta    *delta // or nil
}

// delta is how a set differs from the one that it was made from.
type delta struct {
	from     *mark
	is       *mark
	del, add []Element
}

// mark is a set's identity, which does not keep the set in memory.
type mark struct{ _ byte }

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
		t.Sets[name] = NewSet(typ, elements...)
		return
	}
	s.delta = nil // it is being made
	for _, e := range elements {
		s.Elements[e.ID()] = e
	}
}

// NewSet makes a set that can be put into tables. Two tables that hold the very same set, or chain, are known to be equal in it.
func NewSet(typ Type, elements ...Element) *Set {
	s := &Set{Type: typ, Elements: make(map[string]Element, len(elements)), delta: &delta{is: &mark{}}}
	for _, e := range elements {
		s.Elements[e.ID()] = e
	}
	return s
}

// With is a set without some elements and with others. A Writer that wrote s writes only these. The cost is that of a copy of the
// map: s stays as it is.
func (s *Set) With(del, add []Element) *Set {
	d := &delta{is: &mark{}}
	if s.delta != nil {
		d.from = s.delta.is
	}
	n := &Set{Type: s.Type, Elements: maps.Clone(s.Elements), delta: d}
	if n.Elements == nil {
		n.Elements = map[string]Element{}
	}
	was := map[string]Element{} // what changed, as it was in s
	note := func(id string) {
		if _, ok := was[id]; !ok {
			was[id] = s.Elements[id]
		}
	}
	for _, e := range del {
		note(e.ID())
		delete(n.Elements, e.ID())
	}
	for _, e := range add {
		note(e.ID())
		n.Elements[e.ID()] = e
	}
	for id, old := range was {
		now, is := n.Elements[id]
		_, was := s.Elements[id]
		if was && is && now.same(old) {
			continue
		}
		if was {
			d.del = append(d.del, old)
		}
		if is {
			d.add = append(d.add, now)
		}
	}
	return n
}

// follows says whether a set was made from another one, by With.
func (s *Set) follows(was *Set) bool {
	return s.delta != nil && was.delta != nil && s.delta.from == was.delta.is
}

// String is the whole table in the words of the nft program, in an order that only depends on what is in it.
func (t *Table) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t.Sets)) {
		s := t.Sets[name]
		fmt.Fprintf(&b, "set %s\n", name)
		for _, id := range slices.Sorted(maps.Keys(s.Elements)) {
			fmt.Fprintf(&b, "  %s\n", s.text(s.Elements[id]))
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

// text is an element in the words of the nft program.
func (s *Set) text(e Element) string {
	text := words(s.Type.Key, e.Key)
	if e.Last != nil && !bytes.Equal(e.Key, e.Last) {
		text += "-" + words(s.Type.Key, e.Last)
	}
	switch {
	case e.Goto != "":
		text += " : goto " + e.Goto
	case e.Value != nil:
		text += " : " + words(s.Type.Value, e.Value)
	}
	return text
}

// words is a key, whose parts are padded to registers, in words.
func words(t nftables.SetDatatype, key []byte) string {
	var parts []string
	for name := range strings.SplitSeq(t.Name, " . ") {
		size := map[string]int{Addr4.Name: 4, Addr6.Name: 16, ProtoType.Name: 4, PortType.Name: 4, NameType.Name: 16}[name]
		if size == 0 || len(key) < size {
			return fmt.Sprintf("%x", key)
		}
		part := key[:size]
		key = key[size:]
		switch name {
		case Addr4.Name, Addr6.Name:
			a, _ := netip.AddrFromSlice(part)
			parts = append(parts, a.String())
		case ProtoType.Name:
			parts = append(parts, fmt.Sprint(part[0]))
		case PortType.Name:
			parts = append(parts, fmt.Sprint(binary.BigEndian.Uint16(part)))
		default:
			parts = append(parts, string(bytes.TrimRight(part, "\x00")))
		}
	}
	return strings.Join(parts, " . ")
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

// Without is a range less those of others, which do not overlap and are in order, as Merge makes them.
func Without(whole Element, holes []Element) (out []Element) {
	from := whole.Key
	for _, h := range holes {
		if bytes.Compare(h.Last, from) < 0 || bytes.Compare(h.Key, whole.Last) > 0 {
			continue
		}
		if bytes.Compare(h.Key, from) > 0 {
			out = append(out, Element{Key: from, Last: decrement(h.Key)})
		}
		after, ok := increment(h.Last)
		if !ok || bytes.Compare(after, whole.Last) > 0 {
			return out
		}
		from = after
	}
	return append(out, Element{Key: from, Last: whole.Last})
}

// decrement is the key before one that is not the smallest.
func decrement(b []byte) []byte {
	b = bytes.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return b
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
