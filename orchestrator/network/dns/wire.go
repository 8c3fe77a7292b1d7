package dns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	maxName   = 255 // bytes of a name on the wire
	optLen    = 11  // of an OPT record without options
	ownerLen  = 2   // of a pointer to the name of the question
	// fixedLen is what a record has between its name and its data: type, class, time to live, length.
	fixedLen = 10

	minUDP = 512  // bytes that every client takes
	maxUDP = 4096 // that are sent in a datagram, whatever the client says it takes
	maxMsg = 65535
)

// Bits of the flags of a header.
const (
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4

	flagDO = 1 << 15 // of an OPT record
)

// query is a question as it came, parsed without allocation.
type query struct {
	packet  []byte // the message
	end     int    // of the question in it
	flags   uint16
	qtype   uint16
	qclass  uint16
	rcode   int // not 0: what is wrong with it
	edns    bool
	do      bool
	size    int // bytes that an answer may have
	nlabels int
	labels  [128]uint8 // offsets of the labels in name; the root's is not among them
	nameLen int
	buf     [maxName]byte // name as on the wire, in lower case
	scratch key
}

// name is the name in question, as on the wire and in lower case.
func (q *query) name() []byte { return q.buf[:q.nameLen] }

// errNoReply is for what is not to be answered: no question, or too short to know whose.
var errNoReply = errors.New("dns: not a question")

// parse reads a message. A message that deserves an error as its answer has rcode set.
func (q *query) parse(packet []byte, stream bool) error {
	if len(packet) < headerLen {
		return errNoReply
	}
	q.packet, q.end, q.rcode = packet, headerLen, 0
	q.edns, q.do, q.nlabels, q.nameLen, q.qtype, q.qclass = false, false, 0, 0, 0, 0
	q.size = minUDP
	if stream {
		q.size = maxMsg
	}
	q.flags = binary.BigEndian.Uint16(packet[2:])
	counts := [4]int{}
	for i := range counts {
		counts[i] = int(binary.BigEndian.Uint16(packet[4+2*i:]))
	}
	switch {
	case q.flags&flagQR != 0:
		return errNoReply
	case q.flags>>11&0xF != dns.OpcodeQuery:
		q.rcode = dns.RcodeNotImplemented
		return nil
	case counts[0] != 1 || !q.parseQuestion():
		q.rcode, q.end, q.nameLen, q.nlabels = dns.RcodeFormatError, headerLen, 0, 0
		return nil
	}
	if !q.parseRest(counts[1]+counts[2], counts[3], stream) {
		q.rcode = dns.RcodeFormatError
	}
	return nil
}

func (q *query) parseQuestion() bool {
	p, at := q.packet, headerLen
	for {
		if at >= len(p) {
			return false
		}
		n := int(p[at])
		if n > 63 || at+1+n > len(p) || q.nameLen+1+n > maxName {
			return false // a pointer in a question is nonsense, too
		}
		if n == 0 {
			q.buf[q.nameLen] = 0
			q.nameLen++
			at++
			break
		}
		q.labels[q.nlabels] = uint8(q.nameLen)
		q.nlabels++
		q.buf[q.nameLen] = byte(n)
		for i, c := range p[at+1 : at+1+n] {
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.buf[q.nameLen+1+i] = c
		}
		q.nameLen += 1 + n
		at += 1 + n
	}
	if at+4 > len(p) {
		return false
	}
	q.qtype, q.qclass = binary.BigEndian.Uint16(p[at:]), binary.BigEndian.Uint16(p[at+2:])
	q.end = at + 4
	return true
}

// parseRest looks for the OPT record.
func (q *query) parseRest(before, additional int, stream bool) bool {
	at := q.end
	for i := range before + additional {
		start := at
		at = skipName(q.packet, at)
		if at < 0 || at+fixedLen > len(q.packet) {
			return false
		}
		typ, rdlen := binary.BigEndian.Uint16(q.packet[at:]), int(binary.BigEndian.Uint16(q.packet[at+8:]))
		if at+fixedLen+rdlen > len(q.packet) {
			return false
		}
		if typ == dns.TypeOPT {
			if i < before || q.edns || q.packet[start] != 0 {
				return false
			}
			q.edns = true
			q.do = binary.BigEndian.Uint16(q.packet[at+6:])&flagDO != 0
			if !stream {
				q.size = min(max(int(binary.BigEndian.Uint16(q.packet[at+2:])), minUDP), maxUDP)
			}
			if q.packet[at+5] != 0 {
				q.rcode = dns.RcodeBadVers
			}
		}
		at += fixedLen + rdlen
	}
	return true
}

// skipName is the offset after a name, or -1.
func skipName(p []byte, at int) int {
	for at < len(p) {
		switch n := int(p[at]); {
		case n == 0:
			return at + 1
		case n >= 0xC0:
			if at+2 > len(p) {
				return -1
			}
			return at + 2
		case n > 63:
			return -1
		default:
			at += 1 + n
		}
	}
	return -1
}

// reply begins an answer in out: the header, and the question as it was asked. Counts are set by counts.
func (q *query) reply(out []byte, flags uint16, rcode int) []byte {
	out = append(out, q.packet[0], q.packet[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(out[2:], flagQR|flagRA|q.flags&(0xF<<11|flagRD|flagCD)|flags|uint16(rcode&0xF))
	if q.end > headerLen {
		out[5] = 1
		out = append(out, q.packet[headerLen:q.end]...)
	}
	return out
}

// counts sets how many records are in the three sections of an answer.
func counts(out []byte, answer, authority, additional int) {
	binary.BigEndian.PutUint16(out[6:], uint16(answer))
	binary.BigEndian.PutUint16(out[8:], uint16(authority))
	binary.BigEndian.PutUint16(out[10:], uint16(additional))
}

// room is how many bytes an answer may have before its OPT record.
func (q *query) room() int {
	if q.edns {
		return q.size - optLen
	}
	return q.size
}

// finish adds an OPT record to an answer if the question had one.
func (q *query) finish(out []byte, rcode int) []byte {
	if !q.edns {
		return out
	}
	var ext uint16
	if q.do {
		ext = flagDO
	}
	out = append(out, 0, 0, byte(dns.TypeOPT), maxUDP>>8, maxUDP&0xFF, byte(rcode>>4), 0, byte(ext>>8), byte(ext), 0, 0)
	binary.BigEndian.PutUint16(out[10:], binary.BigEndian.Uint16(out[10:])+1)
	return out
}

// failure is an answer without records.
func (q *query) failure(out []byte, rcode int) []byte {
	return q.finish(q.reply(out, 0, rcode), rcode)
}

// wireName packs a name: on the wire and in lower case, and without compression.
func wireName(name string) (string, error) {
	var buf [maxName]byte
	n, err := dns.PackDomainName(dns.Fqdn(strings.ToLower(name)), buf[:], 0, nil, false)
	if err != nil {
		return "", fmt.Errorf("dns: %q is no name: %w", name, err)
	}
	return string(buf[:n]), nil
}

// joined packs labels that stand before a packed name. The labels are known to be right, as names of objects are.
func joined(zone string, labels ...string) string {
	var b strings.Builder
	for _, l := range labels {
		b.WriteByte(byte(len(l)))
		b.WriteString(strings.ToLower(l))
	}
	b.WriteString(zone)
	return b.String()
}

// textName is a packed name as people write it.
func textName(wire []byte) string {
	name, _, err := dns.UnpackDomainName(wire, 0)
	if err != nil {
		return "."
	}
	return name
}

// reverseName is the packed name under which the name of an address is found.
func reverseName(a netip.Addr) string {
	name, err := dns.ReverseAddr(a.WithZone("").String())
	if err != nil {
		return "\x00"
	}
	wire, _ := wireName(name)
	return wire
}

// parent is a packed name without its first label.
func parent(wire string) string {
	if wire == "" || wire[0] == 0 {
		return ""
	}
	return wire[1+int(wire[0]):]
}
