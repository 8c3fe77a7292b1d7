package listen

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"

	"github.com/keelson-io/keelson/internal/testkit/certs"
)

// port is a listener with both servers behind it.
type port struct {
	t    *testing.T
	addr string

	mu      sync.Mutex
	callers []*peer.Peer // of gRPC calls
	refused []error
}

func openPort(t *testing.T, url string, cfg Config) *port {
	t.Helper()
	l, err := Open(url, Options{})
	require.NoError(t, err)
	return servePort(t, l, cfg)
}

func servePort(t *testing.T, l net.Listener, cfg Config) *port {
	p := &port{t: t, addr: l.Addr().String()}
	if cfg.TLS != nil {
		cfg.TLS.Refused = func(_ *tls.Conn, err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.refused = append(p.refused, err)
		}
	}
	s := Split(l, cfg)
	s.quiet = 50 * time.Millisecond
	var wg sync.WaitGroup
	wg.Go(s.Run)
	g := grpc.NewServer(grpc.Creds(Credentials()), grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		who, _ := peer.FromContext(ctx)
		p.mu.Lock()
		p.callers = append(p.callers, who)
		p.mu.Unlock()
		return h(ctx, req)
	}))
	healthpb.RegisterHealthServer(g, health.NewServer())
	wg.Go(func() { _ = g.Serve(s.GRPC()) })
	h := &http.Server{Protocols: protocols(true, true), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto)
		_, _ = io.Copy(w, r.Body)
	})}
	h.Protocols.SetUnencryptedHTTP2(true)
	wg.Go(func() { _ = h.Serve(s.HTTP()) })
	t.Cleanup(func() {
		g.Stop()
		require.NoError(t, h.Close())
		require.NoError(t, s.Close())
		wg.Wait()
	})
	return p
}

func protocols(http1, http2 bool) *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(http1)
	p.SetHTTP2(http2)
	return p
}

// get asks by HTTP and returns the protocol that was spoken.
func (p *port) get(cfg *tls.Config, http2 bool) (string, error) {
	return p.getBy(&http.Transport{TLSClientConfig: cfg, Protocols: protocols(true, http2)})
}

func (p *port) getBy(tr *http.Transport) (string, error) {
	tr.DialContext = dialAny(p.addr)
	defer tr.CloseIdleConnections()
	scheme := "http"
	if tr.TLSClientConfig != nil {
		scheme = "https"
	}
	resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Get(scheme + "://localhost/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func dialAny(addr string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		network := "tcp"
		if strings.HasPrefix(addr, "/") {
			network = "unix"
		}
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
}

// call makes a gRPC call and returns the certificate's common name that the server saw.
func (p *port) call(cfg *tls.Config) (string, error) {
	creds := insecure.NewCredentials()
	if cfg != nil {
		creds = credentials.NewTLS(cfg)
	}
	cc, err := grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialAny(p.addr)(ctx, "", "") }))
	require.NoError(p.t, err)
	defer cc.Close()
	ctx, cancel := context.WithTimeout(p.t.Context(), 20*time.Second)
	defer cancel()
	if _, err = healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		return "", err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	who := p.callers[len(p.callers)-1]
	info, ok := who.AuthInfo.(credentials.TLSInfo)
	if !ok {
		require.Nil(p.t, who.AuthInfo)
		return "plain", nil
	}
	if len(info.State.VerifiedChains) == 0 {
		return "nobody", nil
	}
	return info.State.VerifiedChains[0][0].Subject.CommonName, nil
}

func TestOnePortForAll(t *testing.T) {
	defer goleak.VerifyNone(t)
	t.Run("ports", func(t *testing.T) {
		ca := certs.New(t)
		server, alice := ca.Issue("server", "server", "localhost"), ca.Issue("alice", "alice")
		serverCfg := func() *tls.Config {
			cfg := ca.TLS(server)
			cfg.NextProtos = []string{HTTP2, HTTP1}
			cfg.ClientCAs, cfg.ClientAuth = ca.Pool(), tls.VerifyClientCertIfGiven
			return cfg
		}
		for _, c := range []struct {
			name       string
			url        string
			cfg        Config
			plain, tls bool
			grpc, http bool
		}{
			{"tls", "https://127.0.0.1:0", Config{TLS: &TLS{}, GRPC: true, HTTP: true}, false, true, true, true},
			{"plain and tls", "https://127.0.0.1:0", Config{Plain: true, TLS: &TLS{}, GRPC: true, HTTP: true}, true, true, true, true},
			{"plain", "http://127.0.0.1:0", Config{Plain: true, GRPC: true, HTTP: true}, true, false, true, true},
			{"gRPC alone", "https://127.0.0.1:0", Config{TLS: &TLS{}, GRPC: true}, false, true, true, false},
			{"http alone", "https://127.0.0.1:0", Config{Plain: true, TLS: &TLS{}, HTTP: true}, true, true, false, true},
			{"socket", "unixs://" + filepath.Join(t.TempDir(), "s"), Config{TLS: &TLS{}, GRPC: true, HTTP: true}, false, true, true, true},
		} {
			t.Run(c.name, func(t *testing.T) {
				if c.cfg.TLS != nil {
					c.cfg.TLS.Config = serverCfg()
				}
				p := openPort(t, c.url, c.cfg)
				expect := func(ok bool, want, got string, err error) {
					t.Helper()
					if ok {
						require.NoError(t, err)
						require.Equal(t, want, got)
					} else {
						require.Error(t, err)
					}
				}
				got, err := p.get(ca.TLS(), false)
				expect(c.tls && c.http, "HTTP/1.1", got, err)
				got, err = p.get(ca.TLS(), true)
				expect(c.tls && c.http, "HTTP/2.0", got, err)
				got, err = p.getBy(&http.Transport{TLSClientConfig: ca.TLS(), Protocols: protocols(false, true)})
				expect(c.tls && c.http, "HTTP/2.0", got, err)
				if c.grpc { // a client would try again and again
					for want, cfg := range map[string]*tls.Config{"nobody": ca.TLS(), "alice": ca.TLS(alice)} {
						got, err = p.call(cfg)
						expect(c.tls, want, got, err)
					}
					got, err = p.call(nil)
					expect(c.plain, "plain", got, err)
				}
				got, err = p.get(nil, false)
				expect(c.plain && c.http, "HTTP/1.1", got, err)
			})
		}
	})
}

// TestHTTP2Alone has a client that offers HTTP/2 alone and is none of gRPC's.
func TestHTTP2Alone(t *testing.T) {
	ca := certs.New(t)
	cfg := ca.TLS(ca.Issue("server", "server", "localhost"))
	cfg.NextProtos = []string{HTTP2, HTTP1}
	p := openPort(t, "https://127.0.0.1:0", Config{TLS: &TLS{Config: cfg}, GRPC: true, HTTP: true})
	tr := &http.Transport{TLSClientConfig: ca.TLS(), Protocols: protocols(false, true), DialContext: dialAny(p.addr)}
	defer tr.CloseIdleConnections()
	body := strings.Repeat("x", 300_000)
	for range 5 { // on one connection
		resp, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Post("https://localhost/", "text/plain", strings.NewReader(body))
		require.NoError(t, err)
		got, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, "HTTP/2.0"+body, string(got))
	}
}

// TestQuietClient connects long before it asks.
func TestQuietClient(t *testing.T) {
	ca := certs.New(t)
	cfg := ca.TLS(ca.Issue("server", "server", "localhost"))
	cfg.NextProtos = []string{HTTP2, HTTP1}
	p := openPort(t, "https://127.0.0.1:0", Config{TLS: &TLS{Config: cfg}, GRPC: true, HTTP: true})
	cc, err := grpc.NewClient("passthrough:///localhost", grpc.WithTransportCredentials(credentials.NewTLS(ca.TLS())),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dialAny(p.addr)(ctx, "", "") }))
	require.NoError(t, err)
	defer cc.Close()
	cc.Connect()
	time.Sleep(200 * time.Millisecond)
	_, err = healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
}

// frame is one of HTTP/2.
func frame(typ, flags byte, payload ...byte) string {
	return string([]byte{0, 0, byte(len(payload)), typ, flags, 0, 0, 0, 1}) + string(payload)
}

func fields(kv ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i < len(kv); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return b.Bytes()
}

func TestFirstRequest(t *testing.T) {
	ofGRPC := fields(":method", "POST", "content-type", "application/grpc+proto", "te", "trailers")
	plain := fields(":method", "GET", ":path", "/health")
	head := fullPreface + frame(frameSettings, 0)
	for name, c := range map[string]struct {
		sent string
		want who
	}{
		"nothing":             {"", nobodyYet},
		"preface":             {fullPreface[:10], nobodyYet},
		"something else":      {"GET / HTTP/1.1\r\n", byGRPC},
		"settings":            {head + frame(8, 0, 0, 0, 1, 0), nobodyYet},
		"ping":                {head + frame(framePing, 0, 1, 2, 3, 4, 5, 6, 7, 8), byGRPC},
		"request":             {head + frame(frameHeaders, 5, plain...), byOthers},
		"gRPC":                {head + frame(frameSettings, flagAck) + frame(frameHeaders, 4, ofGRPC...), byGRPC},
		"half of one":         {(head + frame(frameHeaders, 4, ofGRPC...))[:len(head)+20], nobodyYet},
		"padding":             {head + frame(frameHeaders, 4|flagPadded, append(append([]byte{2}, ofGRPC...), 0, 0)...), byGRPC},
		"padding and more":    {head + frame(frameHeaders, 4|flagPadded|flagPriority, append(append([]byte{1, 0, 0, 0, 0, 9}, plain...), 0)...), byOthers},
		"too much padding":    {head + frame(frameHeaders, 4|flagPadded, 9, 1), byGRPC},
		"priority cut off":    {head + frame(frameHeaders, 4|flagPriority, 9, 1), byGRPC},
		"no header at all":    {head + frame(frameHeaders, 4), byOthers},
		"what is no encoding": {head + frame(frameHeaders, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), byGRPC},
	} {
		require.Equal(t, c.want, asks([]byte(c.sent)), name)
	}
}

func FuzzFirstRequest(f *testing.F) {
	f.Add([]byte(fullPreface+frame(frameSettings, 0)+frame(frameHeaders, 4, fields("content-type", "application/grpc")...)), 30)
	f.Fuzz(func(t *testing.T, sent []byte, n int) {
		all := asks(sent)
		if n >= 0 && n < len(sent) {
			if before := asks(sent[:n]); before != nobodyYet && before != all {
				t.Fatalf("%d at first, then %d", before, all)
			}
		}
	})
}

// TestSlowHandshakes holds connections open that say nothing or half a handshake, and is served all the same.
func TestSlowHandshakes(t *testing.T) {
	ca := certs.New(t)
	cfg := ca.TLS(ca.Issue("server", "server", "localhost"))
	cfg.NextProtos = []string{HTTP2, HTTP1}
	p := openPort(t, "https://127.0.0.1:0", Config{TLS: &TLS{Config: cfg}, GRPC: true, HTTP: true})
	for i := range 20 {
		c, err := net.Dial("tcp", p.addr)
		require.NoError(t, err)
		defer c.Close()
		_, err = c.Write([]byte{tlsRecord, 3, 1, 2, 0, 1}[:i%7])
		require.NoError(t, err)
	}
	_, err := p.get(ca.TLS(), true)
	require.NoError(t, err)
	_, err = p.call(ca.TLS())
	require.NoError(t, err)
}

func TestCheckAfterHandshake(t *testing.T) {
	ca := certs.New(t)
	cfg := ca.TLS(ca.Issue("server", "server", "localhost"))
	no := errors.New("not today")
	p := openPort(t, "https://127.0.0.1:0", Config{HTTP: true, TLS: &TLS{Config: cfg, Check: func(context.Context, *tls.Conn) error { return no }}})
	_, err := p.get(ca.TLS(), false)
	require.Error(t, err)
	_, err = p.get(certs.New(t).TLS(), false)
	require.Error(t, err)
	require.Eventually(t, func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.refused) >= 2 && errors.Is(p.refused[0], no) && !errors.Is(p.refused[len(p.refused)-1], no)
	}, 20*time.Second, 5*time.Millisecond)
}

// exhausted is a listener that fails now and then.
type exhausted struct {
	net.Listener
	left int
}

func (e *exhausted) Accept() (net.Conn, error) {
	if e.left > 0 {
		e.left--
		return nil, errors.New("too many open files")
	}
	return e.Listener.Accept()
}

func TestErrorsOfAcceptingDoNotEndAListener(t *testing.T) {
	l, err := Open("http://127.0.0.1:0", Options{})
	require.NoError(t, err)
	p := servePort(t, &exhausted{Listener: l, left: 3}, Config{Plain: true, GRPC: true, HTTP: true})
	got, err := p.get(nil, false)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.1", got)
}

// TestSlots has fewer slots than connections: the others wait until some are closed.
func TestSlots(t *testing.T) {
	ca := certs.New(t)
	cfg := ca.TLS(ca.Issue("server", "server", "localhost"))
	cfg.NextProtos = []string{HTTP2, HTTP1}
	slots := make(chan struct{}, 2)
	p := openPort(t, "https://127.0.0.1:0", Config{Plain: true, TLS: &TLS{Config: cfg}, GRPC: true, HTTP: true, Slots: slots})
	for range 4 { // they are given back, however a connection ends
		_, err := p.get(ca.TLS(), true)
		require.NoError(t, err)
		_, err = p.get(nil, false)
		require.NoError(t, err)
		_, err = p.get(certs.New(t).TLS(), false)
		require.Error(t, err)
		_, err = p.call(ca.TLS())
		require.NoError(t, err)
	}
	var held []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", p.addr)
		require.NoError(t, err)
		defer c.Close()
		held = append(held, c)
	}
	require.Eventually(t, func() bool { return len(slots) == 2 }, 20*time.Second, time.Millisecond)
	answered := make(chan error, 1)
	go func() {
		_, err := p.get(nil, false)
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Fatal("there was no slot", err)
	case <-time.After(50 * time.Millisecond):
	}
	require.NoError(t, held[0].Close())
	require.NoError(t, <-answered)
}

func TestAddress(t *testing.T) {
	for _, c := range []struct {
		url, network, addr string
		secure             bool
	}{
		{"http://127.0.0.1:1", "tcp", "127.0.0.1:1", false},
		{"https://[::1]:1", "tcp", "[::1]:1", true},
		{"unix://localhost:1", "unix", "localhost:1", false},
		{"unixs:///run/s", "unix", "/run/s", true},
	} {
		network, addr, secure, err := Address(c.url)
		require.NoError(t, err)
		require.Equal(t, []any{c.network, c.addr, c.secure}, []any{network, addr, secure})
	}
}
