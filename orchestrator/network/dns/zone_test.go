package dns

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// town are objects of all kinds that names come from.
func town() []runtime.Object {
	unready := service("prod/unready", "None")
	unready.Spec.PublishNotReadyAddresses = true
	return []runtime.Object{
		service("prod/web", "10.96.0.1", "fd00::1"),
		service("prod/pending", ""),
		service("prod/db", "None"),
		slice("prod/db", "db-1", discoveryv1.AddressTypeIPv4, endpoint(true, "db-0", "10.1.0.1"), endpoint(true, "", "10.1.0.2"), endpoint(false, "db-2", "10.1.0.3")),
		slice("prod/db", "db-2", discoveryv1.AddressTypeIPv6, endpoint(true, "db-0", "fd01::1"), endpoint(true, "", "fd01::2")),
		service("prod/down", "None"),
		slice("prod/down", "down-1", discoveryv1.AddressTypeIPv4, endpoint(false, "a", "10.1.0.9")),
		unready,
		slice("prod/unready", "unready-1", discoveryv1.AddressTypeIPv4, endpoint(false, "a", "10.1.0.8")),
		external("prod/out", "www.example"),
		external("prod/in", "web.prod.svc.cluster.local"),
		external("prod/loop", "pool.prod.svc.cluster.local"),
		external("prod/pool", "loop.prod.svc.cluster.local"),
	}
}

func TestNamesOfTheCluster(t *testing.T) {
	up := upstreamServer(t, from("www.example. 300 IN CNAME cdn.example.", "cdn.example. 200 IN A 192.0.2.1", "9.0.2.192.in-addr.arpa. 50 IN PTR nine.example."))
	r := run(t, func(c *Config) {
		c.Upstreams = []netip.AddrPort{up.addr}
		c.Reversed = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}
	}, town()...)
	const z = ".svc.cluster.local."
	for _, c := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"web.prod.svc.cluster.local", dns.TypeA, "web.prod" + z + " A 10.96.0.1"},
		{"WEB.Prod.svc.CLUSTER.local", dns.TypeA, "WEB.Prod.svc.CLUSTER.local. A 10.96.0.1"},
		{"web.prod.svc.cluster.local", dns.TypeAAAA, "web.prod" + z + " AAAA fd00::1"},
		{"web.prod.svc.cluster.local", dns.TypeMX, ""},
		{"_http._tcp.web.prod.svc.cluster.local", dns.TypeSRV, "_http._tcp.web.prod" + z + " SRV 0 100 80 web.prod" + z},
		{"_dns._udp.web.prod.svc.cluster.local", dns.TypeSRV, "_dns._udp.web.prod" + z + " SRV 0 100 53 web.prod" + z},
		{"_http._udp.web.prod.svc.cluster.local", dns.TypeSRV, "NXDOMAIN"},
		{"_tcp.web.prod.svc.cluster.local", dns.TypeSRV, ""},
		{"x.web.prod.svc.cluster.local", dns.TypeA, "NXDOMAIN"},
		{"pending.prod.svc.cluster.local", dns.TypeA, "NXDOMAIN"},
		{"prod.svc.cluster.local", dns.TypeA, ""},
		{"svc.cluster.local", dns.TypeA, ""},
		{"cluster.local", dns.TypeA, ""},
		{"nope.svc.cluster.local", dns.TypeA, "NXDOMAIN"},
		{"xcluster.local", dns.TypeA, "NXDOMAIN"}, // that is upstream's
		{"1.0.96.10.in-addr.arpa", dns.TypePTR, "1.0.96.10.in-addr.arpa. PTR web.prod" + z},
		{strings.TrimSuffix(textName([]byte(reverseName(netip.MustParseAddr("fd00::1")))), "."), dns.TypePTR, textName([]byte(reverseName(netip.MustParseAddr("fd00::1")))) + " PTR web.prod" + z},
		{"9.0.96.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
		{"9.0.2.192.in-addr.arpa", dns.TypePTR, "9.0.2.192.in-addr.arpa. PTR nine.example."},

		{"db.prod.svc.cluster.local", dns.TypeA, "db.prod" + z + " A 10.1.0.1; db.prod" + z + " A 10.1.0.2"},
		{"db.prod.svc.cluster.local", dns.TypeAAAA, "db.prod" + z + " AAAA fd01::1; db.prod" + z + " AAAA fd01::2"},
		{"db-0.db.prod.svc.cluster.local", dns.TypeA, "db-0.db.prod" + z + " A 10.1.0.1"},
		{"db-0.db.prod.svc.cluster.local", dns.TypeAAAA, "db-0.db.prod" + z + " AAAA fd01::1"},
		{"db-2.db.prod.svc.cluster.local", dns.TypeA, "NXDOMAIN"},
		{"10-1-0-2.db.prod.svc.cluster.local", dns.TypeA, "10-1-0-2.db.prod" + z + " A 10.1.0.2"},
		{"_http._tcp.db.prod.svc.cluster.local", dns.TypeSRV, strings.Join([]string{
			"_http._tcp.db.prod" + z + " SRV 0 100 8080 10-1-0-2.db.prod" + z,
			"_http._tcp.db.prod" + z + " SRV 0 100 8080 db-0.db.prod" + z,
			"_http._tcp.db.prod" + z + " SRV 0 100 8080 fd01-0000-0000-0000-0000-0000-0000-0002.db.prod" + z,
		}, "; ")},
		{"1.0.1.10.in-addr.arpa", dns.TypePTR, "1.0.1.10.in-addr.arpa. PTR db-0.db.prod" + z},
		{"3.0.1.10.in-addr.arpa", dns.TypePTR, "NXDOMAIN"},
		{"down.prod.svc.cluster.local", dns.TypeA, "NXDOMAIN"},
		{"a.unready.prod.svc.cluster.local", dns.TypeA, "a.unready.prod" + z + " A 10.1.0.8"},

		{"out.prod.svc.cluster.local", dns.TypeCNAME, "out.prod" + z + " CNAME www.example."},
		{"out.prod.svc.cluster.local", dns.TypeA, "cdn.example. A 192.0.2.1; out.prod" + z + " CNAME www.example.; www.example. CNAME cdn.example."},
		{"in.prod.svc.cluster.local", dns.TypeA, "in.prod" + z + " CNAME web.prod" + z + "; web.prod" + z + " A 10.96.0.1"},
		{"loop.prod.svc.cluster.local", dns.TypeA, "SERVFAIL"},

		{"10-1-2-3.prod.pod.cluster.local", dns.TypeA, "10-1-2-3.prod.pod.cluster.local. A 10.1.2.3"},
		{"10-1-2-3.prod.pod.cluster.local", dns.TypeAAAA, ""},
		{"fd00--12.prod.pod.cluster.local", dns.TypeAAAA, "fd00--12.prod.pod.cluster.local. AAAA fd00::12"},
		{"10-1-2.prod.pod.cluster.local", dns.TypeA, "NXDOMAIN"},
		{"x.10-1-2-3.prod.pod.cluster.local", dns.TypeA, "NXDOMAIN"},
		{"prod.pod.cluster.local", dns.TypeA, ""},

		{"dns-version.cluster.local", dns.TypeTXT, `dns-version.cluster.local. TXT "1.1.0"`},
		{"cluster.local", dns.TypeNS, "cluster.local. NS ns.dns.cluster.local."},
		{"ns.dns.cluster.local", dns.TypeA, "ns.dns.cluster.local. A 127.0.0.1"},
		{"cluster.local", dns.TypeAXFR, "REFUSED"},
	} {
		if got := r.ask(c.name, c.typ); got != c.want {
			t.Errorf("%s %s: %s\nwant %s", c.name, dns.TypeToString[c.typ], got, c.want)
		}
	}
	if got := up.count("cluster.local"); got != 1 { // xcluster.local
		t.Errorf("upstream was asked for names of the cluster: %s", up.heard())
	}
}

// TestWholeAnswers looks at what ask does not show.
func TestWholeAnswers(t *testing.T) {
	r := run(t, func(c *Config) { c.TTL = 7e9 }, town()...)
	m := new(dns.Msg)
	m.SetQuestion("nope.prod.svc.cluster.local.", dns.TypeA)
	m.SetEdns0(1232, true)
	a := r.exchange("udp", m)
	if len(a.Ns) != 1 || !a.Authoritative || !a.RecursionAvailable || a.IsEdns0() == nil || !a.IsEdns0().Do() {
		t.Errorf("%v", a)
	}
	soa := a.Ns[0].(*dns.SOA)
	if soa.Hdr.Name != "cluster.local." || soa.Minttl != 5 || soa.Hdr.Ttl != 7 {
		t.Errorf("%v", soa)
	}
	m.SetQuestion("_http._tcp.web.prod.svc.cluster.local.", dns.TypeSRV)
	a = r.exchange("tcp", m)
	if got := fmt.Sprint(a.Extra[:2]); len(a.Extra) != 3 || !strings.Contains(got, "web.prod.svc.cluster.local.\t7\tIN\tA\t10.96.0.1") || !strings.Contains(got, "AAAA\tfd00::1") {
		t.Errorf("additional records: %v", a.Extra)
	}
	m.SetQuestion("cluster.local.", dns.TypeSOA)
	if a = r.exchange("udp", m); len(a.Answer) != 1 || a.Answer[0].(*dns.SOA).Serial < soa.Serial {
		t.Errorf("%v", a)
	}
}

// TestNamesFollowObjects changes objects.
func TestNamesFollowObjects(t *testing.T) {
	r := run(t, nil, town()...)
	ctx := context.Background()
	becomes := func(name, want string) {
		t.Helper()
		got := ""
		eventually(t, name+" "+want, func() bool { got = r.ask(name, dns.TypeA); return got == want })
	}
	db := slice("prod/db", "db-1", discoveryv1.AddressTypeIPv4, endpoint(true, "db-9", "10.1.0.9"))
	if _, err := r.client.DiscoveryV1().EndpointSlices("prod").Update(ctx, db, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes("db.prod.svc.cluster.local", "db.prod.svc.cluster.local. A 10.1.0.9")
	becomes("db-0.db.prod.svc.cluster.local", "") // it still has an address of the other family
	if err := r.client.DiscoveryV1().EndpointSlices("prod").Delete(ctx, "db-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes("db-9.db.prod.svc.cluster.local", "NXDOMAIN")
	if _, err := r.client.CoreV1().Services("prod").Update(ctx, service("prod/db", "10.96.0.77"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes("db.prod.svc.cluster.local", "db.prod.svc.cluster.local. A 10.96.0.77")
	if err := r.client.CoreV1().Services("prod").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes("web.prod.svc.cluster.local", "NXDOMAIN")
	becomes("_tcp.web.prod.svc.cluster.local", "NXDOMAIN")
}

// TestLargeAnswers asks for more than fits.
func TestLargeAnswers(t *testing.T) {
	var endpoints []discoveryv1.Endpoint
	for i := range 5000 {
		endpoints = append(endpoints, endpoint(true, "", fmt.Sprintf("10.1.%d.%d", i/250, i%250)))
	}
	r := run(t, nil, service("prod/big", "None"), slice("prod/big", "big-1", discoveryv1.AddressTypeIPv4, endpoints...))
	for _, c := range []struct {
		network string
		edns    uint16
		least   int
		most    int
		cut     bool
	}{
		{"udp", 0, 20, 512, true}, {"udp", 1232, 60, 1232, true}, {"udp", 65000, 200, maxUDP, true}, {"tcp", 0, 4000, maxMsg, false},
	} {
		m := new(dns.Msg)
		m.SetQuestion("big.prod.svc.cluster.local.", dns.TypeA)
		if c.edns > 0 {
			m.SetEdns0(c.edns, false)
		}
		a := r.exchange(c.network, m)
		a.Compress = true
		if a.Truncated != c.cut || len(a.Answer) < c.least || a.Len() > c.most {
			t.Errorf("%v: truncated %v, %d records, %d bytes", c, a.Truncated, len(a.Answer), a.Len())
		}
		m.SetQuestion("_http._tcp.big.prod.svc.cluster.local.", dns.TypeSRV)
		if a := r.exchange(c.network, m); c.network == "udp" && !a.Truncated {
			t.Errorf("%v: SRV is not truncated", c)
		}
	}
	first := map[string]bool{}
	for range 50 {
		m := new(dns.Msg)
		m.SetQuestion("big.prod.svc.cluster.local.", dns.TypeA)
		a := r.exchange("tcp", m)
		first[a.Answer[0].(*dns.A).A.String()] = true
	}
	if len(first) < 10 {
		t.Errorf("addresses do not take turns: %v", first)
	}
}

// TestIndexModel applies random changes, after which the index is that of a fresh one.
func TestIndexModel(t *testing.T) {
	z, err := newZone("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	x := newIndex(z.apex, 5)
	src := newSource(z, x)
	services, slices := map[string]*corev1.Service{}, map[string]*discoveryv1.EndpointSlice{}
	for step := range 3000 {
		name := fmt.Sprintf("ns%d/s%d", rnd.IntN(3), rnd.IntN(4))
		switch rnd.IntN(6) {
		case 0:
			services[name] = service(name, "None")
			src.setService(services[name])
		case 1:
			services[name] = service(name, fmt.Sprintf("10.96.0.%d", rnd.IntN(5)), "fd00::"+fmt.Sprint(rnd.IntN(5)))
			src.setService(services[name])
		case 2:
			if s := services[name]; s != nil {
				delete(services, name)
				src.dropService(s)
			}
		case 3:
			if s := slices[name]; s != nil {
				delete(slices, name)
				src.dropSlice(s)
			}
		default:
			of := name
			if rnd.IntN(4) == 0 { // a slice that moves to another service of its namespace
				of = name[:len(name)-1] + fmt.Sprint(rnd.IntN(4))
			}
			var endpoints []discoveryv1.Endpoint
			for range rnd.IntN(4) {
				host := ""
				if rnd.IntN(2) == 0 {
					host = fmt.Sprint("h", rnd.IntN(3))
				}
				endpoints = append(endpoints, endpoint(rnd.IntN(3) > 0, host, fmt.Sprintf("10.1.0.%d", rnd.IntN(4))))
			}
			slices[name] = slice(of, strings.Replace(name, "/", "-", 1), discoveryv1.AddressTypeIPv4, endpoints...)
			src.setSlice(slices[name])
		}
		if step%100 != 99 {
			continue
		}
		want := newIndex(z.apex, 5)
		fresh := newSource(z, want)
		for _, s := range services {
			fresh.setService(s)
		}
		for _, s := range slices {
			fresh.setSlice(s)
		}
		if !reflect.DeepEqual(x.names, want.names) {
			for name, n := range want.names {
				if !reflect.DeepEqual(x.names[name], n) {
					t.Errorf("%s: %+v, want %+v", textName([]byte(name)), x.names[name], n)
				}
			}
			t.Fatalf("seed %d, step %d: %d names, want %d", seed, step, len(x.names), len(want.names))
		}
	}
}
