package dns

import (
	"hash/fnv"
	"net/netip"
	"strings"
	"sync"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// client is what is known of a pod: the path along which its resolver looks for names.
type client struct {
	first string   // <namespace>.svc.cluster.local, packed
	after []string // domains after those of the cluster, packed
	path  uint64   // a hash of after
}

// clients are the pods of this node by their addresses.
type clients struct {
	mu     sync.RWMutex
	byAddr map[netip.Addr]*client
	owner  map[netip.Addr]string // which pod has an address: one that ended may have had it before
}

func newClients() *clients {
	return &clients{byAddr: map[netip.Addr]*client{}, owner: map[netip.Addr]string{}}
}

func (c *clients) of(a netip.Addr) *client {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.byAddr[a.Unmap().WithZone("")]
}

// set says what there is to know of a pod.
func (c *clients) set(z zone, node []string, pod *corev1.Pod) {
	c.drop(pod)
	switch {
	case pod.Spec.HostNetwork, pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return
	case pod.Spec.DNSPolicy != corev1.DNSClusterFirst && pod.Spec.DNSPolicy != "" && pod.Spec.DNSPolicy != corev1.DNSClusterFirstWithHostNet:
		return // it has another path
	}
	after := node
	if d := pod.Spec.DNSConfig; d != nil {
		for _, domain := range d.Searches {
			if wire, err := wireName(domain); err == nil {
				after = append(after[:len(after):len(after)], wire)
			}
		}
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(strings.Join(after, "")))
	is := &client{first: joined(z.svc, pod.Namespace), after: after, path: h.Sum64()}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addressesOf(pod) {
		c.byAddr[a], c.owner[a] = is, string(pod.UID)
	}
}

// drop forgets a pod.
func (c *clients) drop(pod *corev1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range addressesOf(pod) {
		if c.owner[a] == string(pod.UID) {
			delete(c.byAddr, a)
			delete(c.owner, a)
		}
	}
}

func addressesOf(pod *corev1.Pod) (all []netip.Addr) {
	for _, ip := range append([]corev1.PodIP{{IP: pod.Status.PodIP}}, pod.Status.PodIPs...) {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			all = append(all, a.Unmap())
		}
	}
	return all
}

// search walks the search path of a client for a name that does not exist under its first domain.
func (s *Server) search(q *query, c *client, salt uint32, out []byte) ([]byte, verdict) {
	rest := q.buf[:q.nameLen-len(c.first)]
	var buf [maxName]byte
	for _, domain := range [...]string{s.zone.svc, s.zone.apex} {
		candidate := append(append(buf[:0], rest...), domain...)
		n := s.index.find(candidate)
		if n == nil {
			if domain == s.zone.apex && s.isPodName(candidate) {
				return out, chases
			}
			continue
		}
		switch {
		case n.sets[dns.TypeCNAME] != nil:
			return out, chases
		case n.sets[dns.TypeA] != nil || n.sets[dns.TypeAAAA] != nil:
			return s.alias(q, candidate, n.sets[q.qtype], salt, out), answered
		}
	}
	if e, fresh := s.cache.get(q.searchKey(c), s.clock.Now()); fresh {
		s.metrics.cacheHits.Inc()
		return e.reply(q, out, s.clock.Now()), answered
	}
	return out, searches
}

// isPodName says whether a packed name is that of a pod.
func (s *Server) isPodName(name []byte) bool {
	if !strings.HasSuffix(string(name), s.zone.pod) {
		return false
	}
	first := 1 + int(name[0])
	if first >= len(name) || first+1+int(name[first]) != len(name)-len(s.zone.pod) {
		return false
	}
	_, ok := undashed(name[1:first])
	return ok
}

// alias answers with a CNAME to another name of the zone, and the addresses of that.
func (s *Server) alias(q *query, target []byte, set *set, salt uint32, out []byte) []byte {
	out = q.reply(out, flagAA, dns.RcodeSuccess)
	at := len(out) + ownerLen + fixedLen // where the name is that the alias has
	out = append(out, questionName...)
	out = append(out, 0, byte(dns.TypeCNAME), 0, dns.ClassINET, byte(s.index.ttl>>24), byte(s.index.ttl>>16), byte(s.index.ttl>>8), byte(s.index.ttl),
		byte(len(target)>>8), byte(len(target)))
	out = append(out, target...)
	if set == nil {
		out = s.appendSOA(q, out)
		counts(out, 1, 1, 0)
		return q.finish(out, dns.RcodeSuccess)
	}
	n, flags := 1, uint16(0)
	for i := range set.ends {
		j := (i + int(salt%uint32(len(set.ends)))) % len(set.ends)
		begin := 0
		if j > 0 {
			begin = set.ends[j-1]
		}
		if len(out)+set.ends[j]-begin > q.room() {
			flags = flagTC
			break
		}
		record := len(out)
		out = append(out, set.packed[begin:set.ends[j]]...)
		out[record], out[record+1] = 0xC0|byte(at>>8), byte(at)
		n++
	}
	out[2] |= byte(flags >> 8)
	counts(out, n, 0, 0)
	return q.finish(out, dns.RcodeSuccess)
}
