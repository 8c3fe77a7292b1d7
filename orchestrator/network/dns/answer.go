package dns

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/miekg/dns"
)

// verdict is what becomes of a question.
type verdict int

const (
	answered verdict = iota
	// asks is for names that are not ours and not in the cache.
	asks
	// searches is for a name that does not exist, of a pod whose search path may have another.
	searches
	// chases is for a name of ours that stands for another one.
	chases
)

// quick answers what can be answered at once, in out. salt turns the order of addresses.
func (s *Server) quick(q *query, src netip.Addr, salt uint32, out []byte) ([]byte, verdict) {
	switch {
	case q.rcode != 0:
		return q.failure(out, q.rcode), answered
	case q.qclass != dns.ClassINET:
		return q.failure(out, dns.RcodeRefused), answered
	case q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR || q.qtype == dns.TypeOPT:
		return q.failure(out, dns.RcodeRefused), answered
	}
	if q.under(s.zone.apex) {
		if !s.synced() {
			return q.failure(out, dns.RcodeServerFailure), answered
		}
		return s.ours(q, src, salt, out)
	}
	if q.qtype == dns.TypePTR || q.under(arpa4) || q.under(arpa6) {
		if reply, done := s.reverse(q, out); done {
			return reply, answered
		}
	}
	if q.qtype == dns.TypeHINFO && s.forward.isProbe(q.name()) {
		return q.failure(out, dns.RcodeNameError), answered
	}
	now := s.clock.Now()
	e, fresh := s.cache.get(q.key(plainKey), now)
	switch {
	case e == nil || !fresh && !now.Before(e.until):
		return out, asks
	case !fresh:
		s.forward.refresh(s.ctx, q.question())
	}
	s.metrics.cacheHits.Inc()
	return e.reply(q, out, now), answered
}

// Zones of reverse names, packed.
const (
	arpa4 = "\x07in-addr\x04arpa\x00"
	arpa6 = "\x03ip6\x04arpa\x00"
)

// under says whether the name in question is in a zone.
func (q *query) under(apex string) bool {
	at := q.nameLen - len(apex)
	if at < 0 || string(q.buf[at:q.nameLen]) != apex {
		return false
	}
	if at == 0 || len(apex) == 1 {
		return true
	}
	for i := q.nlabels - 1; i >= 0; i-- {
		if int(q.labels[i]) <= at {
			return int(q.labels[i]) == at
		}
	}
	return false
}

// ours answers for a name of the zone.
func (s *Server) ours(q *query, src netip.Addr, salt uint32, out []byte) ([]byte, verdict) {
	n := s.index.find(q.name())
	if n == nil {
		if a, ok := s.podAddress(q); ok {
			return s.podAnswer(q, a, out), answered
		}
		if q.under(s.zone.pod) && 1+int(q.buf[0]) == q.nameLen-len(s.zone.pod) {
			return s.nothing(q, dns.RcodeSuccess, out), answered // a namespace, below which there are names
		}
		if q.qtype == dns.TypeA || q.qtype == dns.TypeAAAA {
			if c := s.clients.of(src); c != nil && q.under(c.first) && q.nameLen > len(c.first) {
				return s.search(q, c, salt, out)
			}
		}
		return s.nothing(q, dns.RcodeNameError, out), answered
	}
	set := n.sets[q.qtype]
	if set == nil && q.qtype == dns.TypeANY { // RFC 8482: any one will do
		for _, any := range n.sets {
			set = any
			break
		}
	}
	switch {
	case set != nil && q.qtype == dns.TypeSOA:
		return s.soaAnswer(q, out), answered
	case set != nil:
		return set.reply(q, salt, out), answered
	case n.sets[dns.TypeCNAME] != nil:
		return out, chases
	}
	return s.nothing(q, dns.RcodeSuccess, out), answered
}

// reply is the answer of a set of records. If it does not fit, it is cut after a record, and says so.
func (set *set) reply(q *query, salt uint32, out []byte) []byte {
	out = q.reply(out, flagAA, dns.RcodeSuccess)
	n := len(set.ends)
	if room := q.room() - len(out); len(set.packed) > room {
		for n > 0 && set.ends[n-1] > room {
			n--
		}
		if n > 0 {
			out = append(out, set.packed[:set.ends[n-1]]...)
		}
		binary.BigEndian.PutUint16(out[2:], binary.BigEndian.Uint16(out[2:])|flagTC)
		counts(out, n, 0, 0)
		return q.finish(out, dns.RcodeSuccess)
	}
	turn := 0
	if n > 1 && (q.qtype == dns.TypeA || q.qtype == dns.TypeAAAA) {
		turn = set.ends[int(salt%uint32(n))]
	}
	out = append(out, set.packed[turn:]...)
	out = append(out, set.packed[:turn]...)
	extras := 0
	if len(set.extra) > 0 && len(out)+len(set.extra) <= q.room() {
		out, extras = append(out, set.extra...), set.extras
	}
	counts(out, n, 0, extras)
	return q.finish(out, dns.RcodeSuccess)
}

// nothing is the answer that there is no such name, or no such record, with the zone's SOA record.
func (s *Server) nothing(q *query, rcode int, out []byte) []byte {
	out = q.reply(out, flagAA, rcode)
	out = s.appendSOA(q, out)
	counts(out, 0, 1, 0)
	return q.finish(out, rcode)
}

func (s *Server) soaAnswer(q *query, out []byte) []byte {
	out = s.appendSOA(q, q.reply(out, flagAA, dns.RcodeSuccess))
	counts(out, 1, 0, 0)
	return q.finish(out, dns.RcodeSuccess)
}

// appendSOA appends the zone's SOA record, whose name is the end of the name in question.
func (s *Server) appendSOA(q *query, out []byte) []byte {
	at := headerLen + q.nameLen - len(s.zone.apex)
	owner := [ownerLen]byte{0xC0 | byte(at>>8), byte(at)}
	begin := len(out)
	out = packRecord(out, owner[:], dns.TypeSOA, s.index.ttl, s.soa)
	serial := begin + ownerLen + fixedLen + len(s.soa) - 20
	binary.BigEndian.PutUint32(out[serial:], s.serial0+s.index.serial.Load())
	return out
}

// podAddress is the address in a name as 10-0-0-1.namespace.pod.cluster.local.
func (s *Server) podAddress(q *query) (netip.Addr, bool) {
	// the zone has pod in front, a namespace stands before that, and a label before it
	if !q.under(s.zone.pod) || q.nlabels < 3 {
		return netip.Addr{}, false
	}
	namespace := q.nameLen - len(s.zone.pod)
	first := 1 + int(q.buf[0])
	if first >= namespace || first+1+int(q.buf[first]) != namespace {
		return netip.Addr{}, false
	}
	return undashed(q.buf[1:first])
}

func (s *Server) podAnswer(q *query, a netip.Addr, out []byte) []byte {
	r := address("", a)
	if r.typ != q.qtype {
		return s.nothing(q, dns.RcodeSuccess, out)
	}
	out = packRecord(q.reply(out, flagAA, dns.RcodeSuccess), questionName, r.typ, s.index.ttl, r.data)
	counts(out, 1, 0, 0)
	return q.finish(out, dns.RcodeSuccess)
}

// reverse answers for an address of ours. done is false for those that others know.
func (s *Server) reverse(q *query, out []byte) (reply []byte, done bool) {
	n := s.index.find(q.name())
	if n == nil {
		if len(s.reversed) == 0 || !s.isOurs(q) {
			return out, false
		}
		out = q.reply(out, flagAA, dns.RcodeNameError)
		return q.finish(out, dns.RcodeNameError), true
	}
	if set := n.sets[q.qtype]; set != nil {
		return set.reply(q, 0, out), true
	}
	out = q.reply(out, flagAA, dns.RcodeSuccess)
	return q.finish(out, dns.RcodeSuccess), true
}

// isOurs says whether a reverse name is of an address in one of the ranges that nobody else knows.
func (s *Server) isOurs(q *query) bool {
	a, ok := reversed(q)
	if !ok {
		return false
	}
	for _, p := range s.reversed {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// reversed is the address that a reverse name is of.
func reversed(q *query) (netip.Addr, bool) {
	switch {
	case q.under(arpa4) && q.nlabels == 6:
		var a [4]byte
		for i := range a {
			label := q.buf[q.labels[i]+1:][:q.buf[q.labels[i]]]
			n := 0
			for _, c := range label {
				if c < '0' || c > '9' {
					return netip.Addr{}, false
				}
				if n = n*10 + int(c-'0'); n > 255 {
					return netip.Addr{}, false
				}
			}
			a[3-i] = byte(n)
		}
		return netip.AddrFrom4(a), true
	case q.under(arpa6) && q.nlabels == 34:
		var a [16]byte
		for i := range 32 {
			label := q.buf[q.labels[i]+1:][:q.buf[q.labels[i]]]
			digit := bytes.IndexByte([]byte("0123456789abcdef"), label[0])
			if len(label) != 1 || digit < 0 {
				return netip.Addr{}, false
			}
			a[15-i/2] |= byte(digit) << (4 * (i % 2))
		}
		return netip.AddrFrom16(a), true
	}
	return netip.Addr{}, false
}
