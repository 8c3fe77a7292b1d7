package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/zap"
)

// maxAliases is how many names may stand for each other in a row.
const maxAliases = 8

// later answers a question that has to wait, by a call of send from another goroutine. If too many wait, it fails at once.
func (s *Server) later(q *query, src netip.Addr, v verdict, began time.Time, proto int, send func(reply []byte)) {
	reply := func(q *query, b []byte) {
		send(b)
		s.metrics.note(proto, q.qtype, b, s.clock.Now().Sub(began))
	}
	select {
	case s.waiting <- struct{}{}:
	default:
		s.metrics.refused.Inc()
		reply(q, q.failure(nil, dns.RcodeServerFailure))
		return
	}
	own := *q
	own.packet = append([]byte(nil), q.packet...)
	s.jobs.Go(func() {
		defer func() { <-s.waiting }()
		reply(&own, s.slow(s.ctx, &own, src, v))
	})
}

// slow answers a question that quick left open.
func (s *Server) slow(ctx context.Context, q *query, src netip.Addr, v verdict) []byte {
	switch v {
	case asks:
		s.metrics.cacheMisses.Inc()
		e, err := s.forward.answer(ctx, q.question())
		if err != nil {
			s.lg.Debug("no answer", zap.String("name", textName(q.name())), zap.Error(err))
			return q.failure(nil, dns.RcodeServerFailure)
		}
		return e.reply(q, nil, s.clock.Now())
	case searches, chases:
		return s.follows(ctx, q, src)
	}
	return q.failure(nil, dns.RcodeServerFailure)
}

// follows answers a question for a name of the zone that stands for another one, or that a search path leads to.
func (s *Server) follows(ctx context.Context, q *query, src netip.Addr) []byte {
	if s.index.find(q.name()) != nil {
		m, err := s.lookup(ctx, textName(q.name()), q, 0)
		if err != nil {
			s.lg.Debug("no answer", zap.String("name", textName(q.name())), zap.Error(err))
			return q.failure(nil, dns.RcodeServerFailure)
		}
		return s.packed(q, m, "")
	}
	c := s.clients.of(src)
	if c == nil {
		return s.nothing(q, dns.RcodeNameError, nil)
	}
	s.metrics.searched.Inc()
	m, found := s.walk(ctx, q, c)
	if !found {
		return s.nothing(q, dns.RcodeNameError, nil)
	}
	return s.packed(q, m, string(q.searchKey(c).bytes()))
}

// packed packs an answer to a question, and keeps it under a key if that is not empty.
func (s *Server) packed(q *query, m *dns.Msg, keep string) []byte {
	now := s.clock.Now()
	e, err := newEntry(m, now)
	if err != nil {
		return q.failure(nil, dns.RcodeServerFailure)
	}
	if keep != "" {
		s.cache.put(keep, e, now)
	}
	return e.reply(q, nil, now)
}

// walk looks for the first name along a client's search path that exists.
func (s *Server) walk(ctx context.Context, q *query, c *client) (*dns.Msg, bool) {
	rest := q.buf[:q.nameLen-len(c.first)]
	domains := append([]string{s.zone.svc, s.zone.apex}, c.after...)
	if 1+int(rest[0]) < len(rest) { // nobody has a name of one label, and many ask for services that do not exist
		domains = append(domains, "\x00")
	}
	for i, domain := range domains {
		if len(rest)+len(domain) > maxName {
			continue
		}
		candidate := append(append(make([]byte, 0, maxName), rest...), domain...)
		if i < 2 {
			n := s.index.find(candidate)
			if !(n != nil && n.sets[dns.TypeCNAME] != nil || n == nil && s.isPodName(candidate)) {
				continue // quick has seen to those
			}
		}
		name := textName(candidate)
		m, err := s.lookup(ctx, name, q, 0)
		if err != nil || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return nil, false // the client will find out itself
		}
		if m.Rcode == dns.RcodeSuccess {
			return standFor(textName(q.name()), name, m), true
		}
	}
	return nil, false
}

// standFor makes an answer for a name that of another one, by a CNAME.
func standFor(name, target string, m *dns.Msg) *dns.Msg {
	ttl := uint32(maxNegativeTTL / time.Second)
	for _, rr := range m.Answer {
		ttl = min(ttl, rr.Header().Ttl)
	}
	m.Question[0].Name = name
	m.Answer = append([]dns.RR{&dns.CNAME{
		Hdr:    dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: ttl},
		Target: target,
	}}, m.Answer...)
	m.AuthenticatedData = false
	return m
}

var errAliases = errors.New("dns: names stand for each other without end")

// lookup answers a question like another one for a name, of ours or not.
func (s *Server) lookup(ctx context.Context, name string, like *query, depth int) (*dns.Msg, error) {
	if depth > maxAliases {
		return nil, errAliases
	}
	ask := question{name: name, qtype: like.qtype, do: like.do, check: like.flags&flagCD != 0}
	packet, err := ask.message(true).Pack()
	if err != nil {
		return nil, fmt.Errorf("dns: asking for %q: %w", name, err)
	}
	var q query
	if err := q.parse(packet, true); err != nil {
		return nil, err
	}
	reply, v := s.quick(&q, netip.Addr{}, salt(), nil)
	switch v {
	case answered:
	case asks:
		e, err := s.forward.answer(ctx, ask)
		if err != nil {
			return nil, err
		}
		reply = e.reply(&q, nil, s.clock.Now())
	default:
		n := s.index.find(q.name())
		if n == nil || n.sets[dns.TypeCNAME] == nil {
			return nil, fmt.Errorf("dns: %q went away", name)
		}
		target := textName([]byte(n.sets[dns.TypeCNAME].target))
		m, err := s.lookup(ctx, target, like, depth+1)
		if err != nil {
			return nil, err
		}
		return standFor(name, target, m), nil
	}
	m := new(dns.Msg)
	if err := m.Unpack(reply); err != nil {
		return nil, fmt.Errorf("dns: an answer for %q: %w", name, err)
	}
	return m, nil
}
