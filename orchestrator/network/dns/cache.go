package dns

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of how long answers are kept.
const (
	minTTL         = 1 * time.Second
	maxTTL         = time.Hour
	maxNegativeTTL = 30 * time.Second
	// failureTTL keeps one that fails from being asked for every client that does not give up.
	failureTTL = time.Second
	// staleFor is how long an answer may be given after its end if there is no newer one, and staleTTL what it says then.
	staleFor = 10 * time.Minute
	staleTTL = 5 * time.Second
	// holdFor is how long an old answer is given without asking again, after nobody had a newer one.
	holdFor = 5 * time.Second
	// An answer that was given popular times is asked for again when the last tenth of its time has begun.
	popular     = 3
	refreshPart = 10

	cacheShards = 16
	// entryOverhead is what an entry takes besides its message and its key, in bytes, about.
	entryOverhead = 256
)

// Kinds of keys.
const (
	plainKey  byte = 0
	dnssecKey byte = 1 // with DO
	checkKey  byte = 2 // with CD
	pathKey   byte = 4 // of a search path
)

// key says what an answer is to.
type key struct {
	buf [12 + maxName]byte
	n   int
}

func (k *key) bytes() []byte { return k.buf[:k.n] }

// key is that of a question.
func (q *query) key(kind byte) *key {
	k := &q.scratch
	if q.do {
		kind |= dnssecKey
	}
	if q.flags&flagCD != 0 {
		kind |= checkKey
	}
	k.buf[0] = kind
	binary.BigEndian.PutUint16(k.buf[1:], q.qtype)
	k.n = 3 + copy(k.buf[3:], q.name())
	return k
}

// searchKey is that of a question for which a client's search path was walked.
func (q *query) searchKey(c *client) *key {
	k := q.key(pathKey)
	binary.BigEndian.PutUint64(k.buf[3:], c.path)
	k.n = 11 + copy(k.buf[11:], q.name())
	return k
}

// entry is a packed answer.
type entry struct {
	key     string
	msg     []byte // without an OPT record; begins with a question whose name has nameLen bytes
	nameLen int
	rcode   int
	ttls    []int // where in msg times to live are
	ends    []int // of the records of the answer section
	stored  time.Time
	until   time.Time

	// of the cache, under its lock
	hits       int
	refreshing bool
	held       time.Time // until when it is given although it is old
	prev, next *entry
}

// newEntry makes an entry of a message. It packs it, so that what came from elsewhere is known to be sound.
func newEntry(m *dns.Msg, now time.Time) (*entry, error) {
	m.Compress = true
	var extra []dns.RR
	for _, rr := range m.Extra {
		if _, ok := rr.(*dns.OPT); !ok {
			extra = append(extra, rr)
		}
	}
	m.Extra = extra
	rcode := m.Rcode
	m.Rcode &= 0xF // the rest would be in an OPT record
	msg, err := m.Pack()
	if err != nil {
		return nil, fmt.Errorf("dns: an answer that cannot be packed: %w", err)
	}
	e := &entry{msg: msg, rcode: rcode, stored: now}
	at := skipName(msg, headerLen)
	if len(m.Question) != 1 || at < 0 {
		return nil, fmt.Errorf("dns: an answer with %d questions", len(m.Question))
	}
	e.nameLen = at - headerLen
	at += 4
	for i := range len(m.Answer) + len(m.Ns) + len(m.Extra) {
		if at = skipName(msg, at); at < 0 || at+fixedLen > len(msg) {
			return nil, fmt.Errorf("dns: an answer that was packed wrongly")
		}
		e.ttls = append(e.ttls, at+4)
		at += fixedLen + int(binary.BigEndian.Uint16(msg[at+8:]))
		if i < len(m.Answer) {
			e.ends = append(e.ends, at)
		}
	}
	e.until = now.Add(lifetime(m, rcode))
	return e, nil
}

// lifetime is how long an answer may be kept.
func lifetime(m *dns.Msg, rcode int) time.Duration {
	if rcode != dns.RcodeSuccess && rcode != dns.RcodeNameError {
		return failureTTL
	}
	ttl, found := uint32(1<<31), false
	for _, rr := range m.Answer {
		ttl, found = min(ttl, rr.Header().Ttl), true
	}
	negative := rcode == dns.RcodeNameError || !answers(m)
	if negative {
		for _, rr := range m.Ns {
			if soa, ok := rr.(*dns.SOA); ok { // RFC 2308
				ttl, found = min(ttl, soa.Minttl, soa.Hdr.Ttl), true
			}
		}
	}
	switch d := time.Duration(ttl) * time.Second; {
	case !found:
		return minTTL
	case negative:
		return min(max(d, minTTL), maxNegativeTTL)
	default:
		return min(max(d, minTTL), maxTTL)
	}
}

// answers says whether a message has what it was asked for, and not only names that stand for others.
func answers(m *dns.Msg) bool {
	for _, rr := range m.Answer {
		if t := rr.Header().Rrtype; t == m.Question[0].Qtype || m.Question[0].Qtype == dns.TypeANY {
			return true
		}
	}
	return false
}

// reply is the answer to a question that has the entry's name and type.
func (e *entry) reply(q *query, out []byte, now time.Time) []byte {
	var flags uint16
	if q.do || q.flags&flagAD != 0 {
		flags = binary.BigEndian.Uint16(e.msg[2:]) & flagAD
	}
	out = q.reply(out, flags, e.rcode)
	if q.nameLen != e.nameLen {
		return q.finish(out, dns.RcodeServerFailure) // not an answer to this
	}
	body := len(out)
	room := q.room()
	if len(e.msg) > room {
		n := len(e.ends)
		for n > 0 && e.ends[n-1] > room {
			n--
		}
		if n > 0 {
			out = append(out, e.msg[body:e.ends[n-1]]...)
		}
		out[2] |= flagTC >> 8
		counts(out, n, 0, 0)
	} else {
		out = append(out, e.msg[body:]...)
		copy(out[6:headerLen], e.msg[6:headerLen])
	}
	left := e.until.Sub(now)
	age := uint32(max(now.Sub(e.stored), 0) / time.Second)
	for _, at := range e.ttls {
		if at+4 > len(out) {
			break
		}
		ttl := binary.BigEndian.Uint32(out[at:])
		switch {
		case left <= 0:
			ttl = min(ttl, uint32(staleTTL/time.Second))
		default:
			ttl = min(max(ttl, age)-age, uint32(maxTTL/time.Second))
		}
		binary.BigEndian.PutUint32(out[at:], ttl)
	}
	return q.finish(out, e.rcode)
}

func (e *entry) size() int64 {
	return int64(len(e.msg) + len(e.key) + 8*(len(e.ttls)+len(e.ends)) + entryOverhead)
}

// cache keeps answers, those last that were used last, within a number of bytes.
type cache struct {
	seed   maphash.Seed
	shards [cacheShards]shard
}

type shard struct {
	mu      sync.Mutex
	entries map[string]*entry
	ring    entry // its next was used last, its prev first
	bytes   int64
	limit   int64
}

func newCache(bytes int64) *cache {
	c := &cache{seed: maphash.MakeSeed()}
	for i := range c.shards {
		s := &c.shards[i]
		s.entries, s.limit = map[string]*entry{}, bytes/cacheShards
		s.ring.prev, s.ring.next = &s.ring, &s.ring
	}
	return c
}

func (c *cache) shard(key []byte) *shard {
	return &c.shards[maphash.Bytes(c.seed, key)%cacheShards]
}

// get is the answer for a key, if there is one that may be given without asking. A popular one that ends soon is reported
// as not fresh once, so that somebody asks for it again; e is given to others meanwhile.
func (c *cache) get(k *key, now time.Time) (e *entry, fresh bool) {
	s := c.shard(k.bytes())
	s.mu.Lock()
	defer s.mu.Unlock()
	e = s.entries[string(k.bytes())]
	if e == nil {
		return nil, false
	}
	left := e.until.Sub(now)
	switch {
	case left <= -staleFor:
		s.remove(e)
		return nil, false
	case left <= 0:
		return e, now.Before(e.held)
	}
	e.hits++
	s.unlink(e)
	s.link(e)
	if e.hits >= popular && !e.refreshing && left < e.until.Sub(e.stored)/refreshPart {
		e.refreshing = true
		return e, false
	}
	return e, true
}

// hold says that nobody had a newer answer, and returns the old one if there is one that may be given.
func (c *cache) hold(k string, now time.Time) *entry {
	s := c.shard([]byte(k))
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[k]
	if e == nil || e.failure() || now.Sub(e.until) >= staleFor {
		return nil
	}
	e.held = now.Add(holdFor)
	return e
}

// failure says that an answer is that there is none.
func (e *entry) failure() bool { return e.rcode != dns.RcodeSuccess && e.rcode != dns.RcodeNameError }

// put keeps an answer.
func (c *cache) put(k string, e *entry, now time.Time) {
	e.key = k
	s := c.shard([]byte(k))
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.entries[k]; old != nil {
		s.remove(old)
	}
	if e.size() > s.limit {
		return
	}
	s.entries[k] = e
	s.bytes += e.size()
	s.link(e)
	for s.bytes > s.limit {
		s.remove(s.ring.prev)
	}
}

func (s *shard) link(e *entry) {
	e.next, e.prev = s.ring.next, &s.ring
	s.ring.next.prev = e
	s.ring.next = e
}

func (s *shard) unlink(e *entry) { e.prev.next, e.next.prev = e.next, e.prev }

func (s *shard) remove(e *entry) {
	s.unlink(e)
	delete(s.entries, e.key)
	s.bytes -= e.size()
}

// size is how many answers there are, and how many bytes they take.
func (c *cache) size() (entries int, bytes int64) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		entries, bytes = entries+len(s.entries), bytes+s.bytes
		s.mu.Unlock()
	}
	return entries, bytes
}
