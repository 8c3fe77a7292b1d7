package policy

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/network/nft"
)

// packet is what a table decides about.
type packet struct {
	iif, oif string
	from, to netip.Addr
	proto    byte
	port     uint16 // or the type of an ICMPv6 message
	known    bool   // of a connection that was let through before
}

// machine runs the expressions of a table on a packet, as the kernel would.
type machine struct {
	table *nft.Table
	packet
	regs [80]byte
}

// passes runs all chains of a hook. What is accepted by one goes on to the next.
func passes(t *nft.Table, hook *nftables.ChainHook, p packet) bool {
	var names []string
	for name, c := range t.Chains {
		if c.Base != nil && *c.Base.Hook == *hook {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(t.Chains[a].Base.Priority, t.Chains[b].Base.Priority) })
	for _, name := range names {
		m := &machine{table: t, packet: p}
		if m.chain(name) == expr.VerdictDrop {
			return false
		}
	}
	return true
}

const next = expr.VerdictContinue

func (m *machine) chain(name string) expr.VerdictKind {
	c := m.table.Chains[name]
	if c == nil {
		panic("no chain " + name)
	}
	for _, r := range c.Rules {
		if v := m.rule(r); v == expr.VerdictReturn {
			return next
		} else if v != next {
			return v
		}
	}
	return next
}

// rule is next when it does not match, or says nothing.
func (m *machine) rule(r nft.Rule) expr.VerdictKind {
	for _, s := range r {
		for _, e := range s.Exprs {
			v, matches := m.step(e)
			if v != nil {
				return m.decide(v)
			}
			if !matches {
				return next
			}
		}
	}
	return next
}

func (m *machine) decide(v *expr.Verdict) expr.VerdictKind {
	switch v.Kind {
	case expr.VerdictJump, expr.VerdictGoto:
		if d := m.chain(v.Chain); d != next || v.Kind == expr.VerdictJump {
			return d
		}
		return expr.VerdictReturn
	}
	return v.Kind
}

// at is where a register is.
func at(r uint32) int {
	if r >= 8 {
		return int(r-8) * 4
	}
	return int(r-1) * 16
}

func (m *machine) put(r uint32, b []byte) {
	clear(m.regs[at(r) : at(r)+(len(b)+3)/4*4])
	copy(m.regs[at(r):], b)
}

func (m *machine) get(r uint32, n int) []byte { return m.regs[at(r) : at(r)+n] }

func (m *machine) step(e expr.Any) (v *expr.Verdict, matches bool) {
	switch e := e.(type) {
	case *expr.Meta:
		m.put(e.Register, m.meta(e.Key))
	case *expr.Payload:
		m.put(e.DestRegister, m.payload(e))
	case *expr.Ct:
		state := expr.CtStateBitNEW
		if m.known {
			state = expr.CtStateBitESTABLISHED
		}
		m.put(e.Register, binaryutil.NativeEndian.PutUint32(uint32(state)))
	case *expr.Bitwise:
		b := bytes.Clone(m.get(e.SourceRegister, int(e.Len)))
		for i := range b {
			b[i] = b[i]&e.Mask[i] ^ e.Xor[i]
		}
		m.put(e.DestRegister, b)
	case *expr.Cmp:
		return nil, bytes.Equal(m.get(e.Register, len(e.Data)), e.Data) == (e.Op == expr.CmpOpEq)
	case *expr.Range:
		b := m.get(e.Register, len(e.FromData))
		return nil, bytes.Compare(b, e.FromData) >= 0 && bytes.Compare(b, e.ToData) <= 0
	case *expr.Lookup:
		return m.lookup(e)
	case *expr.Verdict:
		return e, true
	default:
		panic(fmt.Sprintf("%T", e))
	}
	return nil, true
}

func (m *machine) meta(k expr.MetaKey) []byte {
	switch k {
	case expr.MetaKeyNFPROTO:
		if m.to.Is4() {
			return []byte{unix.NFPROTO_IPV4}
		}
		return []byte{unix.NFPROTO_IPV6}
	case expr.MetaKeyL4PROTO:
		return []byte{m.proto}
	case expr.MetaKeyIIFNAME:
		return nft.Name(m.iif)
	case expr.MetaKeyOIFNAME:
		return nft.Name(m.oif)
	}
	panic(k)
}

func (m *machine) payload(e *expr.Payload) []byte {
	header := make([]byte, 40)
	switch {
	case e.Base == expr.PayloadBaseTransportHeader && m.proto == unix.IPPROTO_ICMPV6:
		header[0] = byte(m.port)
	case e.Base == expr.PayloadBaseTransportHeader:
		binary.BigEndian.PutUint16(header[2:], m.port)
	case m.to.Is4():
		copy(header[12:], m.from.AsSlice())
		copy(header[16:], m.to.AsSlice())
	default:
		copy(header[8:], m.from.AsSlice())
		copy(header[24:], m.to.AsSlice())
	}
	return header[e.Offset : e.Offset+e.Len]
}

func (m *machine) lookup(e *expr.Lookup) (v *expr.Verdict, matches bool) {
	s := m.table.Sets[e.SetName]
	if s == nil {
		panic("no set " + e.SetName)
	}
	for _, x := range s.Elements {
		last := x.Last
		if last == nil {
			last = x.Key
		}
		if !within(m.get(e.SourceRegister, len(x.Key)), x.Key, last, s.Type.Key.Name) {
			continue
		}
		if x.Goto != "" {
			return &expr.Verdict{Kind: expr.VerdictGoto, Chain: x.Goto}, true
		}
		return nil, !e.Invert
	}
	return nil, e.Invert
}

// within compares a key with a range: part by part where it has parts.
func within(b, first, last []byte, typ string) bool {
	size := len(b)
	if typ == "inet_proto . inet_service" {
		size = 4
	}
	for i := 0; i < len(b); i += size {
		if bytes.Compare(b[i:i+size], first[i:i+size]) < 0 || bytes.Compare(b[i:i+size], last[i:i+size]) > 0 {
			return false
		}
	}
	return true
}
