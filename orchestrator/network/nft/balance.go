package nft

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What is known of a connection: that its destination was rewritten.
const statusDNAT = 1 << 5

// A rejected packet is answered by a reset, or by "port unreachable" of whatever family.
const (
	rejectReset      = 1
	rejectICMPX      = 2
	icmpxUnreachable = 1 // port
	dynsetDelete     = 2
	numgenRandom     = unix.NFT_NG_RANDOM
)

// Const is bytes that do not come from the packet: at most 16 of them, padded to registers.
func Const(text string, data []byte) Field {
	words := uint32(len(data)+3) / 4
	padded := append(make([]byte, 0, 4*words), data...)[:4*words]
	return Field{text, words, func(r uint32) expr.Any { return &expr.Immediate{Register: r, Data: padded} }}
}

// Random is a random number of first..first+n-1, drawn for every packet. See Number for how it stands in a key.
func Random(n, first uint32) Field {
	text := fmt.Sprintf("numgen random mod %d", n)
	if first > 0 {
		text += fmt.Sprintf(" offset %d", first)
	}
	return Field{text, 1, func(r uint32) expr.Any {
		return &expr.Numgen{Register: r, Modulus: n, Type: numgenRandom, Offset: first}
	}}
}

// NumberType is the type of a number that Random draws, Number is one as it stands in a key.
var NumberType = nftables.TypeMark

// Number is a number in a key.
func Number(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// Memory is a map that packets write: which value was chosen for whom, until nobody has asked for Timeout. Its keys are the
// source address and the constant fields For; its values are addresses with ports. Live is a set of the keys For with values
// that may still be used.
type Memory struct {
	Map, Live string
	For       []Field
	Timeout   time.Duration
}

// load puts the source and the fields into registers. The value belongs behind them.
func (m *Memory) load(f Family) (text string, exprs []expr.Any, value uint32) {
	text, exprs, words := key(append([]Field{Saddr(f)}, m.For...))
	return text, exprs, reg + words
}

func (m *Memory) update(op, value uint32) *expr.Dynset {
	d := &expr.Dynset{SrcRegKey: reg, SetName: m.Map, Operation: op, Timeout: m.Timeout, SrcRegData: value}
	if op == dynsetDelete {
		d.SrcRegData, d.Timeout = reg, 0 // the kernel wants a value for a map; it is not looked at
	}
	return d
}

func dnat(f Family, value uint32) *expr.NAT {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto()), RegAddrMin: value, RegProtoMin: value + uint32(f.Len()/4), Specified: true}
}

// DNATRemembered rewrites the destination to what is remembered for the source, if that may still be used.
func DNATRemembered(f Family, m *Memory) Stmt {
	text, exprs, value := m.load(f)
	live := reg + Saddr(f).words // the fields, and behind them the value
	exprs = append(exprs,
		&expr.Lookup{SourceRegister: reg, SetName: m.Map, DestRegister: value, IsDestRegSet: true},
		&expr.Lookup{SourceRegister: live, SetName: m.Live},
		m.update(unix.NFT_DYNSET_OP_UPDATE, value), dnat(f, value))
	return Stmt{fmt.Sprintf("dnat %s to %s map @%s in @%s timeout %s", f.word(), text, m.Map, m.Live, m.Timeout), exprs}
}

// Forget makes the map forget the source.
func Forget(f Family, m *Memory) Stmt {
	text, exprs, value := m.load(f)
	return Stmt{fmt.Sprintf("delete @%s { %s }", m.Map, text), append(exprs, m.update(dynsetDelete, value))}
}

// DNATRandomRemembered rewrites the destination to a random value of a map, whose keys are the fields For and a number, and
// remembers it for the source. It does nothing where the memory is full.
func DNATRandomRemembered(f Family, m *Memory, set string, n, first uint32) Stmt {
	text, exprs, value := m.load(f)
	draw := Random(n, first)
	exprs = append(exprs, draw.load(value), // behind the fields; the value takes its place
		&expr.Lookup{SourceRegister: reg + Saddr(f).words, SetName: set, DestRegister: value, IsDestRegSet: true},
		m.update(unix.NFT_DYNSET_OP_UPDATE, value), dnat(f, value))
	return Stmt{fmt.Sprintf("dnat %s to %s map @%s remembered for %s in @%s timeout %s", f.word(), draw.text, set, text, m.Map, m.Timeout), exprs}
}

// FromLocal matches packets of this machine itself.
var FromLocal = Stmt{"fib saddr type local", []expr.Any{
	&expr.Fib{Register: 1, FlagSADDR: true, ResultADDRTYPE: true},
	&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
}}

// DNATed matches packets of connections whose destination was rewritten.
var DNATed = Stmt{"ct status dnat", []expr.Any{
	&expr.Ct{Register: 1, Key: expr.CtKeySTATUS},
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(statusDNAT), Xor: make([]byte, 4)},
	&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
}}

// SetMark sets bits of the packet's mark, ClearMark clears them.
func SetMark(bits uint32) Stmt {
	return Stmt{fmt.Sprintf("meta mark set meta mark | %#x", bits), changeMark(^bits, bits)}
}

// ClearMark clears bits of the packet's mark.
func ClearMark(bits uint32) Stmt {
	return Stmt{fmt.Sprintf("meta mark set meta mark & %#x", ^bits), changeMark(^bits, 0)}
}

func changeMark(keep, set uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(keep), Xor: binaryutil.NativeEndian.PutUint32(set)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
	}
}

// Marked matches packets with bits set in their marks.
func Marked(bits uint32) Stmt {
	return Stmt{fmt.Sprintf("meta mark & %#x != 0", bits), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}}
}

// From matches packets from a prefix.
func From(p netip.Prefix) Stmt {
	p = p.Masked()
	f := FamilyOf(p.Addr())
	exprs := f.is()
	if p.Bits() > 0 {
		mask := make([]byte, f.Len())
		for i := range p.Bits() {
			mask[i/8] |= 0x80 >> (i % 8)
		}
		exprs = append(exprs, Saddr(f).load(reg),
			&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: uint32(f.Len()), Mask: mask, Xor: make([]byte, f.Len())},
			&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: p.Addr().AsSlice()})
	}
	return Stmt{f.word() + " saddr " + p.String(), exprs}
}

// Verdicts that tell the sender.
var (
	Reset  = Stmt{"reject with tcp reset", []expr.Any{&expr.Reject{Type: rejectReset}}}
	Reject = Stmt{"reject with icmpx port-unreachable", []expr.Any{&expr.Reject{Type: rejectICMPX, Code: icmpxUnreachable}}}
)

// AddrConst is an address.
func AddrConst(a netip.Addr) Field { return Const(a.String(), a.AsSlice()) }

// ProtoConst is a protocol.
func ProtoConst(p byte) Field { return Const(fmt.Sprint(p), Byte(p)) }

// PortConst is a port.
func PortConst(p uint16) Field { return Const(fmt.Sprint(p), Port(p)) }
