package transport

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"time"

	"github.com/keelson-io/keelson/internal/clock"
)

// pieceBytes is how much is written under one deadline, so that a deadline bounds silence and not the size of a message.
const pieceBytes = 256 << 10

// timedConn is a connection on which every read and write must make progress in time. A timeout of 0 is none.
type timedConn struct {
	net.Conn
	read, write time.Duration
}

// Read implements net.Conn.
func (c *timedConn) Read(p []byte) (int, error) {
	if c.read > 0 {
		if err := c.SetReadDeadline(clock.Real.Now().Add(c.read)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
}

// Write implements net.Conn.
func (c *timedConn) Write(p []byte) (int, error) {
	done := 0
	for {
		if err := c.SetWriteDeadline(clock.Real.Now().Add(c.write)); err != nil {
			return done, err
		}
		n, err := c.Conn.Write(p[:min(len(p), pieceBytes)])
		done += n
		if p = p[n:]; err != nil || len(p) == 0 {
			return done, err
		}
	}
}

// Dial opens a connection to an address (host:port).
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// handshakeTimeout bounds TLS handshakes.
const handshakeTimeout = 10 * time.Second

// OverTLS secures the connections that dial opens. config is asked for each; the other side is to have a certificate for the
// host of its address.
func OverTLS(dial Dial, config func() *tls.Config) Dial {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		cfg := config().Clone()
		cfg.NextProtos = nil // the protocol is HTTP/1
		if cfg.ServerName == "" {
			cfg.ServerName = host
		}
		tc := tls.Client(c, cfg)
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		if err := tc.HandshakeContext(ctx); err != nil {
			_ = c.Close()
			return nil, err
		}
		return tc, nil
	}
}

// WithSockets makes rt also take URLs of the schemes unix and unixs: HTTP over the unix socket whose path is the host and port. dial is
// given the network "unix"; tls is as for OverTLS, nil where none is spoken. It returns the client of these connections.
func WithSockets(rt *http.Transport, dial Dial, tls func() *tls.Config) *http.Transport {
	over := rt.Clone()
	over.Proxy = nil
	over.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, "unix", addr) }
	if tls != nil {
		over.DialTLSContext = OverTLS(over.DialContext, tls)
	}
	rt.RegisterProtocol("unix", socket{over, "http"})
	rt.RegisterProtocol("unixs", socket{over, "https"})
	return over
}

// socket sends requests under another scheme.
type socket struct {
	*http.Transport
	scheme string
}

func (s socket) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = s.scheme
	return s.Transport.RoundTrip(r)
}

// roundTripper returns a client for connections with these timeouts.
func (t *Transport) roundTripper(read, write, header time.Duration, idle int) *http.Transport {
	dialer := &net.Dialer{Timeout: t.cfg.DialTimeout, KeepAlive: 30 * time.Second, LocalAddr: t.cfg.Source}
	local := &net.Dialer{Timeout: t.cfg.DialTimeout}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		by := dialer
		if network == "unix" {
			by = local // without an address of its own
		}
		c, err := by.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &timedConn{Conn: c, read: read, write: write}, nil
	}
	rt := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dial,
		TLSHandshakeTimeout:   handshakeTimeout,
		ResponseHeaderTimeout: header,
		MaxIdleConnsPerHost:   idle,
		// Peers close what has been idle for their read timeout: do not use a connection that is about to be closed.
		IdleConnTimeout: t.cfg.ReadTimeout * 4 / 5,
		ReadBufferSize:  64 << 10,
		WriteBufferSize: 64 << 10,
	}
	if t.cfg.TLS != nil {
		rt.DialTLSContext = OverTLS(dial, t.cfg.TLS)
		rt.TLSClientConfig = t.cfg.TLS() // for connections through a proxy
	}
	t.clients = append(t.clients, rt, WithSockets(rt, dial, t.cfg.TLS))
	return rt
}
