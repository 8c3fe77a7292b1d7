package nft

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Stmt is a part of a rule: a match or a verdict.
type Stmt struct {
	Text  string
	Exprs []expr.Any
}

// Rule is statements that are run in order until one does not match.
type Rule []Stmt

// String is the rule in the words of the nft program.
func (r Rule) String() string {
	words := make([]string, len(r))
	for i, s := range r {
		words[i] = s.Text
	}
	return strings.Join(words, " ")
}

func (r Rule) exprs() (all []expr.Any) {
	for _, s := range r {
		all = append(all, s.Exprs...)
	}
	return all
}

// The kernel's registers of four bytes each. A concatenated key lies in consecutive ones.
const reg = 8

// Family is of addresses: 4 or 6.
type Family int

// The two families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf says of which family an address is.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Families are both.
var Families = []Family{IPv4, IPv6}

func (f Family) word() string {
	if f == IPv4 {
		return "ip"
	}
	return "ip6"
}

func (f Family) proto() byte {
	if f == IPv4 {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// Len is how many bytes an address has.
func (f Family) Len() int {
	if f == IPv4 {
		return 4
	}
	return 16
}

func (f Family) is() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{f.proto()}}}
}

// Field is a part of a packet that a key of a set can be made of.
type Field struct {
	text  string
	words uint32 // registers that it takes
	load  func(register uint32) expr.Any
}

// Saddr is the source address, which is valid after a check of the family (see In).
func Saddr(f Family) Field { return addrField(f, "saddr", 12, 8) }

// Daddr is the destination address.
func Daddr(f Family) Field { return addrField(f, "daddr", 16, 24) }

func addrField(f Family, word string, at4, at6 uint32) Field {
	at := at4
	if f == IPv6 {
		at = at6
	}
	return Field{f.word() + " " + word, uint32(f.Len() / 4), func(r uint32) expr.Any {
		return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: r, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: uint32(f.Len())}
	}}
}

// Dport is the destination port of TCP, UDP and SCTP.
var Dport = Field{"th dport", 1, func(r uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: r, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}}

// L4Proto is the transport protocol.
var L4Proto = Field{"meta l4proto", 1, func(r uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r} }}

// IIF is the name of the interface that a packet came in on; OIF, that it leaves by.
var (
	IIF = ifField("iifname", expr.MetaKeyIIFNAME)
	OIF = ifField("oifname", expr.MetaKeyOIFNAME)
)

func ifField(word string, k expr.MetaKey) Field {
	return Field{word, unix.IFNAMSIZ / 4, func(r uint32) expr.Any { return &expr.Meta{Key: k, Register: r} }}
}

// key loads fields one after the other.
func key(fields []Field) (text string, exprs []expr.Any, words uint32) {
	var names []string
	for _, f := range fields {
		names = append(names, f.text)
		exprs = append(exprs, f.load(reg+words))
		words += f.words
	}
	return strings.Join(names, " . "), exprs, words
}

// Is matches packets of a family.
func Is(f Family) Stmt {
	return Stmt{"meta nfproto ipv" + fmt.Sprint(int(f)), f.is()}
}

// In matches what is in a set; NotIn, what is not.
func In(set string, fields ...Field) Stmt { return lookup(set, false, fields) }

// NotIn matches what is not in a set.
func NotIn(set string, fields ...Field) Stmt { return lookup(set, true, fields) }

func lookup(set string, invert bool, fields []Field) Stmt {
	text, exprs, _ := key(fields)
	not := ""
	if invert {
		not = "!= "
	}
	return Stmt{text + " " + not + "@" + set, append(exprs, &expr.Lookup{SourceRegister: reg, SetName: set, Invert: invert})}
}

// Vmap goes where a map of verdicts says, or on to the next rule.
func Vmap(set string, fields ...Field) Stmt {
	text, exprs, _ := key(fields)
	return Stmt{text + " vmap @" + set, append(exprs, &expr.Lookup{SourceRegister: reg, SetName: set, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true})}
}

// DNATMap rewrites the destination to the address and port that a map says.
func DNATMap(f Family, set string, fields ...Field) Stmt {
	text, exprs, _ := key(fields)
	exprs = append(exprs,
		&expr.Lookup{SourceRegister: reg, SetName: set, DestRegister: reg, IsDestRegSet: true},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.proto()), RegAddrMin: reg, RegProtoMin: reg + uint32(f.Len()/4), Specified: true})
	return Stmt{"dnat " + f.word() + " to " + text + " map @" + set, exprs}
}

// IIFName matches the name, or the start of the name, of the interface that a packet came in on; OIFName, that it leaves by.
func IIFName(name string) Stmt { return ifname("iifname", expr.MetaKeyIIFNAME, name, expr.CmpOpEq) }

// OIFName matches the name, or with a last '*' the start of the name, of the interface that a packet leaves by.
func OIFName(name string) Stmt { return ifname("oifname", expr.MetaKeyOIFNAME, name, expr.CmpOpEq) }

// OIFNameNot matches packets that leave by another interface.
func OIFNameNot(name string) Stmt { return ifname("oifname", expr.MetaKeyOIFNAME, name, expr.CmpOpNeq) }

func ifname(word string, k expr.MetaKey, name string, op expr.CmpOp) Stmt {
	start, prefix := strings.CutSuffix(name, "*")
	data := []byte(start)
	if !prefix {
		data = Name(start)
	}
	not := ""
	if op == expr.CmpOpNeq {
		not = "!= "
	}
	return Stmt{fmt.Sprintf("%s %s%q", word, not, name), []expr.Any{&expr.Meta{Key: k, Register: 1}, &expr.Cmp{Op: op, Register: 1, Data: data}}}
}

// Within matches a field of an address whose first bytes are those of a prefix of whole bytes.
func Within(f Field, p netip.Prefix) Stmt {
	n := p.Bits() / 8
	b := p.Addr().AsSlice()[:n]
	load := f.load(reg).(*expr.Payload)
	load.Len = uint32(n)
	return Stmt{f.text + " " + p.String(), append(FamilyOf(p.Addr()).is(), load, &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: b})}
}

// Proto matches a transport protocol.
func Proto(p byte) Stmt {
	return Stmt{fmt.Sprintf("meta l4proto %d", p), []expr.Any{L4Proto.load(1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{p}}}}
}

// ICMPv6Types matches ICMPv6 messages of types from..to.
func ICMPv6Types(from, to byte) Stmt {
	return Stmt{fmt.Sprintf("icmpv6 type %d-%d", from, to), []expr.Any{
		L4Proto.load(1), &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{from}, ToData: []byte{to}},
	}}
}

// SourceSpoofed matches packets that came in on an interface by which their source is not reached.
var SourceSpoofed = Stmt{"fib saddr . iif oif missing", []expr.Any{
	&expr.Fib{Register: 1, FlagSADDR: true, FlagIIF: true, ResultOIF: true, FlagPRESENT: true},
	&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{0}},
}}

// ToLocal matches packets to an address of this machine.
var ToLocal = Stmt{"fib daddr type local", []expr.Any{
	&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
	&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
}}

// Known matches packets of connections that were let through before, and what belongs to them.
var Known = Stmt{"ct state established,related", []expr.Any{
	&expr.Ct{Register: 1, Key: expr.CtKeySTATE},
	&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
	&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
}}

// Verdicts.
var (
	Accept     = Stmt{"accept", []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}}
	Drop       = Stmt{"drop", []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}}
	Return     = Stmt{"return", []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}}
	Masquerade = Stmt{"masquerade fully-random", []expr.Any{&expr.Masq{FullyRandom: true}}}
)

// Jump runs a chain and comes back; Goto does not come back.
func Jump(chain string) Stmt {
	return Stmt{"jump " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}}
}

// Goto runs a chain and does not come back.
func Goto(chain string) Stmt {
	return Stmt{"goto " + chain, []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}}
}

// Port is a port as it stands in a key, padded to a register.
func Port(p uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, p), 0, 0) }

// Byte is a protocol as it stands in a key, padded to a register.
func Byte(b byte) []byte { return []byte{b, 0, 0, 0} }

// Name is the name of an interface as it stands in a key.
func Name(s string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, s)
	return b
}
