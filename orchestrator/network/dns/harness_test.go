package dns

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a server that runs, and what it sees.
type rig struct {
	*Server
	t      *testing.T
	client *fake.Clientset
	at     string
}

// run starts a server that sees objects. tune may change its configuration.
func run(t *testing.T, tune func(*Config), objects ...runtime.Object) *rig {
	t.Helper()
	client := fake.NewClientset(objects...)
	factory := informers.NewSharedInformerFactory(client, 0)
	cfg := Config{
		Services: factory.Core().V1().Services().Informer(),
		Slices:   factory.Discovery().V1().EndpointSlices().Informer(),
		Pods:     factory.Core().V1().Pods().Informer(),
		Listen:   []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:0")},
		Logger:   zaptest.NewLogger(t), Registerer: prometheus.NewRegistry(),
	}
	if tune != nil {
		tune(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	factory.Start(ctx.Done())
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		factory.Shutdown()
	})
	r := &rig{Server: s, t: t, client: client, at: s.Addrs()[0].String()}
	eventually(t, "ready", s.Ready)
	return r
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// exchange asks by a network.
func (r *rig) exchange(network string, m *dns.Msg) *dns.Msg {
	r.t.Helper()
	c := &dns.Client{Net: network, Timeout: 8 * time.Second}
	reply, _, err := c.Exchange(m, r.at)
	if err != nil {
		r.t.Fatalf("%v: %v", m.Question, err)
	}
	return reply
}

// ask is the answer to a question: its code, unless it is NOERROR, and its records, ordered.
func (r *rig) ask(name string, typ uint16) string {
	r.t.Helper()
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(name), typ)
	return said(r.exchange("udp", m))
}

func said(m *dns.Msg) string {
	var all []string
	for _, rr := range m.Answer {
		f := strings.Fields(rr.String())
		all = append(all, f[0]+" "+strings.Join(f[3:], " "))
	}
	slices.Sort(all)
	if m.Rcode != dns.RcodeSuccess {
		all = append([]string{dns.RcodeToString[m.Rcode]}, all...)
	}
	if m.Truncated {
		all = append(all, "truncated")
	}
	return strings.Join(all, "; ")
}

func service(name string, ips ...string) *corev1.Service {
	ns, name, _ := strings.Cut(name, "/")
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: ips[0], ClusterIPs: ips, Ports: []corev1.ServicePort{
			{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}, {Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}, {Port: 99},
		}},
	}
}

func external(name, target string) *corev1.Service {
	s := service(name, "")
	s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: target}
	return s
}

func endpoint(ready bool, hostname string, addrs ...string) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: addrs, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		e.Hostname = &hostname
	}
	return e
}

func slice(of, name string, family discoveryv1.AddressType, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	ns, of, _ := strings.Cut(of, "/")
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: ns, Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: of}},
		AddressType: family, Endpoints: endpoints,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("http"), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)},
			{Name: ptr.To(""), Port: ptr.To[int32](99)},
		},
	}
}

func pod(name, ip string) *corev1.Pod {
	ns, name, _ := strings.Cut(name, "/")
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: "uid-of-" + "x"},
		Spec:       corev1.PodSpec{DNSPolicy: corev1.DNSClusterFirst},
		Status:     corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}},
	}
}

// others is a server upstream of a test.
type others struct {
	addr netip.AddrPort

	mu    sync.Mutex
	asked []string // "name type network"
	// answer makes an answer; nil is silence.
	answer func(q *dns.Msg, network string) *dns.Msg
}

// upstreamServer answers from records, or by a function.
func upstreamServer(t *testing.T, answer func(q *dns.Msg, network string) *dns.Msg) *others {
	t.Helper()
	so, err := open(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	o := &others{addr: so.addr, answer: answer}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	for _, s := range []*dns.Server{{PacketConn: so.udp}, {Listener: so.tcp}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		s.Handler = dns.HandlerFunc(o.serve)
		wg.Go(func() { _ = s.ActivateAndServe() })
		<-started
		t.Cleanup(func() { _ = s.Shutdown() })
	}
	return o
}

func (o *others) serve(w dns.ResponseWriter, q *dns.Msg) {
	network := w.RemoteAddr().Network()
	o.mu.Lock()
	answer := o.answer
	if q.Question[0].Qtype != dns.TypeHINFO && q.Question[0].Name != "." { // not the server's own
		o.asked = append(o.asked, q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype]+" "+network)
	}
	o.mu.Unlock()
	if m := answer(q, network); m != nil {
		_ = w.WriteMsg(m)
	}
}

func (o *others) become(answer func(q *dns.Msg, network string) *dns.Msg) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answer = answer
}

// heard is what was asked so far.
func (o *others) heard() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.asked, "; ")
}

func (o *others) count(what string) int { return strings.Count(o.heard(), what) }

// from answers from records as in a zone file; a name that has none does not exist.
func from(records ...string) func(q *dns.Msg, network string) *dns.Msg {
	var all []dns.RR
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			panic(err)
		}
		all = append(all, rr)
	}
	return func(q *dns.Msg, _ string) *dns.Msg {
		m := new(dns.Msg)
		m.SetReply(q)
		name, exists := q.Question[0].Name, false
		for last := ""; last != name; {
			last = name
			for _, rr := range all {
				if !strings.EqualFold(rr.Header().Name, last) {
					continue
				}
				exists = true
				if rr.Header().Rrtype == q.Question[0].Qtype {
					m.Answer = append(m.Answer, dns.Copy(rr))
				}
				if c, ok := rr.(*dns.CNAME); ok {
					m.Answer, name = append(m.Answer, dns.Copy(rr)), c.Target
				}
			}
		}
		if len(m.Answer) == 0 {
			soa, _ := dns.NewRR("example. 60 IN SOA ns.example. me.example. 1 2 3 4 20")
			m.Ns = []dns.RR{soa}
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		return m
	}
}

func silent(*dns.Msg, string) *dns.Msg { return nil }

// manual is a clock that a test moves. Its timers are real ones.
type manual struct {
	clock.Clock
	mu  sync.Mutex
	now time.Time
}

func newManual() *manual { return &manual{Clock: clock.Real, now: time.Unix(1e9, 0)} }

func (m *manual) Now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now
}

func (m *manual) move(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = m.now.Add(d)
}

// unused is an address where nobody listens.
func unused(t *testing.T) netip.AddrPort {
	t.Helper()
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}
