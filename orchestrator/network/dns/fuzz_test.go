package dns

import (
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// still is a server that knows the town and does not run.
func still(t testing.TB) *Server {
	s, err := New(Config{Search: []string{"corp.example"}, Reversed: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	src := newSource(s.zone, s.index)
	for _, o := range town() {
		switch o := o.(type) {
		case *corev1.Service:
			src.setService(o)
		case *discoveryv1.EndpointSlice:
			src.setSlice(o)
		}
	}
	s.clients.set(s.zone, s.searches, pod("prod/me", "10.1.0.1"))
	s.ready.Store(true)
	return s
}

func packed(name string, typ uint16, edns bool) []byte {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	if edns {
		m.SetEdns0(1232, true)
	}
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// FuzzQuestion answers anything. Answers are sound and fit, and a question that miekg/dns reads is read the same way.
func FuzzQuestion(f *testing.F) {
	s := still(f)
	for _, name := range []string{"web.prod.svc.cluster.local.", "x.prod.svc.cluster.local.", "api.other.prod.svc.cluster.local.", ".", "a.example.", "1.0.96.10.in-addr.arpa.",
		"10-1-1-1.prod.pod.cluster.local.", "prod.pod.cluster.local.", "cluster.local.", "_http._tcp.db.prod.svc.cluster.local.", "out.prod.svc.cluster.local."} {
		for _, typ := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypePTR, dns.TypeSOA, dns.TypeANY} {
			f.Add(packed(name, typ, typ == dns.TypeA))
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		for _, stream := range []bool{false, true} {
			var q query
			if q.parse(packet, stream) != nil {
				continue
			}
			reply, v := s.quick(&q, netip.MustParseAddr("10.1.0.1"), 1, nil)
			if v != answered {
				reply = q.failure(nil, dns.RcodeServerFailure)
			}
			if len(reply) > q.size {
				t.Fatalf("%d bytes for a client that takes %d", len(reply), q.size)
			}
			var m dns.Msg
			if err := m.Unpack(reply); err != nil {
				t.Fatalf("%x: %v", reply, err)
			}
			var asked dns.Msg
			if asked.Unpack(packet) == nil && len(asked.Question) == 1 && q.end > headerLen && m.Question[0] != asked.Question[0] {
				t.Fatalf("%v, asked %v", m.Question, asked.Question)
			}
		}
	})
}

// FuzzAnswer takes anything as the answer of a server upstream.
func FuzzAnswer(f *testing.F) {
	ask := question{name: "c.example.", qtype: dns.TypeA}.message(true)
	ask.Id = 7
	m := from("c.example. 3 IN CNAME a.example.", "a.example. 300 IN A 192.0.2.1")(ask, "")
	m.SetEdns0(1232, false)
	b, _ := m.Pack()
	f.Add(b)
	f.Add(b[:len(b)-5])
	now := time.Unix(1e9, 0)
	f.Fuzz(func(t *testing.T, packet []byte) {
		m, err := accept(ask, packet)
		if err != nil {
			return
		}
		e, err := newEntry(m, now)
		if err != nil {
			return
		}
		var q query
		if err := q.parse(packed("c.example.", dns.TypeA, false), false); err != nil {
			t.Fatal(err)
		}
		reply := e.reply(&q, nil, now.Add(time.Second))
		if len(reply) > q.size {
			t.Fatalf("%d bytes", len(reply))
		}
		if err := new(dns.Msg).Unpack(reply); err != nil {
			t.Fatalf("%v: %v", m, err)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	s := still(b)
	m := new(dns.Msg)
	m.SetQuestion("a.example.", dns.TypeA)
	e, err := newEntry(from("a.example. 300 IN A 192.0.2.1")(m, ""), time.Now())
	if err != nil {
		b.Fatal(err)
	}
	s.cache.put(question{name: "a.example.", qtype: dns.TypeA}.key(), e, time.Now())
	for name, packet := range map[string][]byte{
		"service":  packed("web.prod.svc.cluster.local.", dns.TypeA, false),
		"headless": packed("db.prod.svc.cluster.local.", dns.TypeA, false),
		"srv":      packed("_http._tcp.web.prod.svc.cluster.local.", dns.TypeSRV, false),
		"nxdomain": packed("nope.svc.cluster.local.", dns.TypeA, false),
		"searched": packed("web.prod.svc.prod.svc.cluster.local.", dns.TypeA, false),
		"cached":   packed("a.example.", dns.TypeA, false),
	} {
		b.Run(name, func(b *testing.B) {
			var q query
			out := make([]byte, 0, maxMsg)
			src := netip.MustParseAddr("10.1.0.1")
			b.ReportAllocs()
			for i := range b.N {
				if err := q.parse(packet, false); err != nil {
					b.Fatal(err)
				}
				if _, v := s.quick(&q, src, uint32(i), out); v != answered {
					b.Fatal(v)
				}
			}
		})
	}
}
