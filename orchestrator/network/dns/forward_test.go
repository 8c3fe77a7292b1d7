package dns

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/keelson-io/keelson/internal/testkit"
)

// asking is a configuration with servers upstream.
func asking(servers ...netip.AddrPort) func(*Config) {
	return func(c *Config) { c.Upstreams = servers }
}

func TestUpstream(t *testing.T) {
	answer := from("a.example. 300 IN A 192.0.2.1", "a.example. 300 IN TXT hello", "c.example. 300 IN CNAME a.example.")
	up := upstreamServer(t, answer)
	c := newManual()
	r := run(t, func(cfg *Config) { cfg.Upstreams, cfg.Clock = []netip.AddrPort{up.addr}, c })
	for range 3 {
		for _, q := range []struct {
			name string
			typ  uint16
			want string
		}{
			{"a.example", dns.TypeA, "a.example. A 192.0.2.1"},
			{"A.Example", dns.TypeA, "A.Example. A 192.0.2.1"},
			{"a.example", dns.TypeTXT, `a.example. TXT "hello"`},
			{"a.example", dns.TypeAAAA, ""},
			{"c.example", dns.TypeA, "a.example. A 192.0.2.1; c.example. CNAME a.example."},
			{"nope.example", dns.TypeA, "NXDOMAIN"},
		} {
			if got := r.ask(q.name, q.typ); got != q.want {
				t.Errorf("%v: %s", q, got)
			}
		}
	}
	if got := len(strings.Split(up.heard(), ";")); got != 5 {
		t.Errorf("asked %d times: %s", got, up.heard())
	}
	c.move(100 * time.Second)
	m := new(dns.Msg)
	m.SetQuestion("a.example.", dns.TypeA)
	if a := r.exchange("udp", m); a.Answer[0].Header().Ttl != 200 {
		t.Errorf("after 100 s: %v", a.Answer)
	}
	if r.ask("nope.example", dns.TypeA); up.count("nope.example. A") != 2 {
		t.Errorf("that there is no such name was kept for longer than the zone says: %s", up.heard())
	}
	c.move(201 * time.Second)
	if r.ask("a.example", dns.TypeA); up.count("a.example. A ") != 2 {
		t.Errorf("kept for too long: %s", up.heard())
	}
}

// TestOldAnswers asks when nobody upstream answers any more.
func TestOldAnswers(t *testing.T) {
	up := upstreamServer(t, from("a.example. 10 IN A 192.0.2.1"))
	c := newManual()
	r := run(t, func(cfg *Config) { cfg.Upstreams, cfg.Clock = []netip.AddrPort{up.addr}, c })
	r.ask("a.example", dns.TypeA)
	up.become(silent)
	c.move(11 * time.Second)
	if got := r.ask("a.example", dns.TypeA); got != "a.example. A 192.0.2.1" {
		t.Errorf("got %q", got)
	}
	if got := r.ask("b.example", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("got %q", got)
	}
	c.move(staleFor)
	if got := r.ask("a.example", dns.TypeA); got != "SERVFAIL" {
		t.Errorf("an answer that is too old: %q", got)
	}
}

// TestPopularAnswersAreRefreshed asks for the same name until shortly before its end.
func TestPopularAnswersAreRefreshed(t *testing.T) {
	up := upstreamServer(t, from("a.example. 100 IN A 192.0.2.1"))
	c := newManual()
	r := run(t, func(cfg *Config) { cfg.Upstreams, cfg.Clock = []netip.AddrPort{up.addr}, c })
	for range 1 + popular {
		r.ask("a.example", dns.TypeA)
	}
	up.become(from("a.example. 100 IN A 192.0.2.2"))
	c.move(95 * time.Second)
	if got := r.ask("a.example", dns.TypeA); got != "a.example. A 192.0.2.1" {
		t.Errorf("got %q: a client waited although there is an answer", got)
	}
	eventually(t, "new answer", func() bool { return r.ask("a.example", dns.TypeA) == "a.example. A 192.0.2.2" })
	if up.count("a.example. A") != 2 {
		t.Errorf("asked: %s", up.heard())
	}
}

// TestFailingServers asks with servers that fail in various ways before one that does not.
func TestFailingServers(t *testing.T) {
	failing := map[string]func(q *dns.Msg, network string) *dns.Msg{
		"silent": silent,
		"fails": func(q *dns.Msg, _ string) *dns.Msg {
			return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
		},
		"refuses": func(q *dns.Msg, _ string) *dns.Msg { return new(dns.Msg).SetRcode(q, dns.RcodeRefused) },
		"lies": func(q *dns.Msg, _ string) *dns.Msg {
			m := from("other.example. 9 IN A 192.0.2.66")(q, "")
			m.Question[0].Name = "other.example."
			return m
		},
	}
	good := upstreamServer(t, from("a.example. 300 IN A 192.0.2.1"))
	for name, f := range failing {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := upstreamServer(t, f)
			r := run(t, asking(bad.addr, good.addr))
			if got := r.ask("a.example", dns.TypeA); got != "a.example. A 192.0.2.1" {
				t.Errorf("got %q", got)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		r := run(t, asking(unused(t), good.addr))
		if got := r.ask("a.example", dns.TypeA); got != "a.example. A 192.0.2.1" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("one is skipped when it is known to fail", func(t *testing.T) {
		t.Parallel()
		bad := upstreamServer(t, silent)
		r := run(t, asking(bad.addr, good.addr))
		for i := range downAfter {
			r.ask(fmt.Sprintf("x%d.example", i), dns.TypeA)
		}
		before := bad.heard()
		r.ask("y.example", dns.TypeA)
		if bad.heard() != before {
			t.Errorf("asked nevertheless: %s", bad.heard())
		}
		bad.become(from("z.example. 300 IN A 192.0.2.9"))
		eventually(t, "well again", func() bool { return !r.forward.servers[0].down() })
		if got := r.ask("z.example", dns.TypeA); got != "z.example. A 192.0.2.9" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("all fail", func(t *testing.T) {
		t.Parallel()
		bad := upstreamServer(t, silent)
		r := run(t, asking(bad.addr))
		if got := r.ask("a.example", dns.TypeA); got != "SERVFAIL" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		if got := run(t, nil).ask("a.example", dns.TypeA); got != "SERVFAIL" {
			t.Errorf("got %q", got)
		}
	})
}

// TestOddServers asks servers that know less than they should.
func TestOddServers(t *testing.T) {
	big := func(q *dns.Msg, network string) *dns.Msg {
		m := new(dns.Msg).SetReply(q)
		for i := range 100 {
			rr, _ := dns.NewRR(fmt.Sprintf("big.example. 60 IN A 192.0.2.%d", i))
			m.Answer = append(m.Answer, rr)
		}
		if network == "udp" {
			m.Truncate(512)
		}
		return m
	}
	up := upstreamServer(t, big)
	r := run(t, asking(up.addr))
	if got := r.ask("big.example", dns.TypeA); !strings.HasSuffix(got, "truncated") || !strings.HasPrefix(got, "big.example. A 192.0.2.") {
		t.Errorf("got %q", got)
	}
	m := new(dns.Msg)
	m.SetQuestion("big.example.", dns.TypeA)
	if a := r.exchange("tcp", m); len(a.Answer) != 100 || a.Truncated {
		t.Errorf("by TCP: %d records", len(a.Answer))
	}
	if up.heard() != "big.example. A udp; big.example. A tcp" {
		t.Errorf("asked: %s", up.heard())
	}
	old := upstreamServer(t, func(q *dns.Msg, _ string) *dns.Msg {
		if q.IsEdns0() != nil {
			return &dns.Msg{MsgHdr: dns.MsgHdr{Id: q.Id, Response: true, Rcode: dns.RcodeFormatError}}
		}
		return from("a.example. 300 IN A 192.0.2.1")(q, "")
	})
	if got := run(t, asking(old.addr)).ask("a.example", dns.TypeA); got != "a.example. A 192.0.2.1" {
		t.Errorf("without EDNS: %q", got)
	}
}

// TestLoop has a server upstream that asks us.
func TestLoop(t *testing.T) {
	var r *rig
	ready := make(chan struct{})
	up := upstreamServer(t, func(q *dns.Msg, _ string) *dns.Msg {
		<-ready
		c := &dns.Client{Timeout: 3 * time.Second}
		m, _, _ := c.Exchange(q.Copy(), r.at)
		return m
	})
	r = run(t, asking(up.addr))
	close(ready)
	eventually(t, "loop seen", func() bool { return r.forward.servers[0].loops.Load() })
	if got := r.ask("a.example", dns.TypeA); got != "SERVFAIL" || up.heard() != "" {
		t.Errorf("got %q, asked %s", got, up.heard())
	}
	own := run(t, func(c *Config) {
		c.Listen = []netip.AddrPort{unused(t)}
		c.Upstreams = c.Listen
	})
	if len(own.forward.servers) != 0 {
		t.Error("the server asks itself")
	}
}

// TestEqualQuestionsWaitForOneAnswer asks the same at once.
func TestEqualQuestionsWaitForOneAnswer(t *testing.T) {
	const n = 50
	var r *rig
	begun := make(chan struct{}, n)
	up := upstreamServer(t, func(q *dns.Msg, _ string) *dns.Msg {
		if q.Question[0].Qtype == dns.TypeA {
			for range n - 1 { // all others wait by now
				<-begun
			}
		}
		return from("a.example. 300 IN A 192.0.2.1")(q, "")
	})
	r = run(t, asking(up.addr))
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			m := new(dns.Msg)
			m.SetQuestion("a.example.", dns.TypeA)
			conn, err := dns.Dial("tcp", r.at)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = conn.Close() }()
			if err := conn.WriteMsg(m); err != nil {
				t.Error(err)
			}
			begun <- struct{}{}
			if a, err := conn.ReadMsg(); err != nil || len(a.Answer) != 1 {
				t.Error(err, a)
			}
		})
	}
	wg.Wait()
	if up.heard() != "a.example. A udp" {
		t.Errorf("asked: %s", up.heard())
	}
}

// TestCacheIsBounded fills the cache.
func TestCacheIsBounded(t *testing.T) {
	c := newCache(64 << 10)
	now := time.Unix(1e9, 0)
	for i := range 5000 {
		m := new(dns.Msg)
		m.SetQuestion(fmt.Sprintf("n%d.example.", i), dns.TypeA)
		rr, _ := dns.NewRR(fmt.Sprintf("n%d.example. 60 IN A 192.0.2.1", i))
		m.Answer = []dns.RR{rr}
		e, err := newEntry(m, now)
		if err != nil {
			t.Fatal(err)
		}
		c.put(fmt.Sprint("key", i), e, now)
	}
	entries, bytes := c.size()
	if entries < 50 || bytes > 64<<10 {
		t.Errorf("%d entries of %d bytes", entries, bytes)
	}
}

// TestSearchPath asks as a pod's resolver does.
func TestSearchPath(t *testing.T) {
	up := upstreamServer(t, from("www.example. 300 IN A 192.0.2.1", "host.corp.example. 300 IN A 192.0.2.2", "far.own.example. 60 IN A 192.0.2.3", "t.example. 60 IN TXT t"))
	var c *manual
	in := func(tune func(p *corev1.Pod)) *rig {
		p := pod("prod/me", "127.0.0.1")
		if tune != nil {
			tune(p)
		}
		c = newManual()
		objects := append(town(), runtime.Object(p), service("other/api", "10.96.0.3"), external("other/out", "www.example"))
		r := run(t, func(cfg *Config) {
			cfg.Upstreams, cfg.Search, cfg.Clock = []netip.AddrPort{up.addr}, []string{"corp.example"}, c
		}, objects...)
		return r
	}
	const first = ".prod.svc.cluster.local"
	r := in(nil)
	for range 2 {
		for _, q := range []struct{ name, want string }{
			{"web", "web" + first + ". A 10.96.0.1"},
			{"api.other", "api.other" + first + ". CNAME api.other.svc.cluster.local.; api.other.svc.cluster.local. A 10.96.0.3"},
			{"api.other.svc", "api.other.svc" + first + ". CNAME api.other.svc.cluster.local.; api.other.svc.cluster.local. A 10.96.0.3"},
			{"www.example", "www.example" + first + ". CNAME www.example.; www.example. A 192.0.2.1"},
			{"t.example", "t.example" + first + ". CNAME t.example."}, // it exists, but has no address
			{"host", "host" + first + ". CNAME host.corp.example.; host.corp.example. A 192.0.2.2"},
			{"out.other", "out.other" + first + ". CNAME out.other.svc.cluster.local.; out.other.svc.cluster.local. CNAME www.example.; www.example. A 192.0.2.1"},
			{"10-1-1-1.prod.pod", "10-1-1-1.prod.pod" + first + ". CNAME 10-1-1-1.prod.pod.cluster.local.; 10-1-1-1.prod.pod.cluster.local. A 10.1.1.1"},
			{"nope.nope", "NXDOMAIN"},
			{"nope", "NXDOMAIN"},
			{"other", "NXDOMAIN"},
			{"far", "NXDOMAIN"},
		} {
			got := r.ask(q.name+first, dns.TypeA)
			if want := strings.Join(sortedWords(q.want), "; "); got != want {
				t.Errorf("%s: %s\nwant %s", q.name, got, want)
			}
		}
	}
	if n := up.count("www.example. A"); n != 1 {
		t.Errorf("www.example was asked for %d times", n)
	}
	if up.count(" nope. A") != 0 {
		t.Errorf("a name of one label went upstream: %s", up.heard())
	}
	if got := r.ask("www.example.other.svc.cluster.local", dns.TypeA); got != "NXDOMAIN" {
		t.Errorf("another namespace's path: %s", got)
	}
	if got := r.ask("t.example"+first, dns.TypeTXT); got != "NXDOMAIN" {
		t.Errorf("TXT: %s", got)
	}
	for name, c := range map[string]struct {
		tune func(*corev1.Pod)
		name string
		want string
	}{
		"other searches": {func(p *corev1.Pod) { p.Spec.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"own.example"}} }, "far",
			"far.own.example. A 192.0.2.3; far" + first + ". CNAME far.own.example."},
		"host network":   {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "www.example", "NXDOMAIN"},
		"other policy":   {func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone }, "www.example", "NXDOMAIN"},
		"another's path": {func(p *corev1.Pod) { p.Namespace = "other" }, "www.example", "NXDOMAIN"},
		"ended":          {func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }, "www.example", "NXDOMAIN"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := in(c.tune).ask(c.name+first, dns.TypeA); got != c.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

func sortedWords(s string) []string {
	all := strings.Split(s, "; ")
	for i := range all {
		for j := range i {
			if all[j] > all[i] {
				all[i], all[j] = all[j], all[i]
			}
		}
	}
	return all
}

// TestInANamespace listens and asks in a network namespace, at an address that does not exist yet when the server starts.
func TestInANamespace(t *testing.T) {
	n := testkit.NewNetNS(t)
	r := run(t, func(c *Config) {
		c.NetNS, c.Listen = n.Path(), []netip.AddrPort{netip.MustParseAddrPort("127.0.0.9:53"), netip.MustParseAddrPort("0.0.0.0:5353"), netip.MustParseAddrPort("[::]:5353")}
	}, town()...)
	for _, at := range []string{"127.0.0.9:53", "127.0.0.7:5353", "[::1]:5353"} {
		r.at = at
		for _, network := range []string{"udp", "tcp"} {
			err := n.Do(func() error {
				m := new(dns.Msg)
				m.SetQuestion("web.prod.svc.cluster.local.", dns.TypeA)
				conn, err := dns.Dial(network, at)
				if err != nil {
					return err
				}
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
				if err := conn.WriteMsg(m); err != nil {
					return err
				}
				a, err := conn.ReadMsg()
				if err == nil && said(a) != "web.prod.svc.cluster.local. A 10.96.0.1" {
					t.Errorf("%s: %s", at, said(a))
				}
				return err
			})
			if err != nil {
				t.Errorf("%s %s: %v", network, at, err)
			}
		}
	}
}
