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

// Dial opens a connection to an address: host:port, or the path of a unix socket.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// DialFrom opens connections from a local address, nil for any, which sockets have none of.
func DialFrom(source net.Addr, timeout time.Duration) Dial {
	overTCP := &net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second, LocalAddr: source}
	toSocket := &net.Dialer{Timeout: timeout}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if network == "unix" {
			return toSocket.DialContext(ctx, network, addr)
		}
		return overTCP.DialContext(ctx, network, addr)
	}
}

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

// roundTripper returns a client for connections with these timeouts.
func (t *Transport) roundTripper(read, write, header time.Duration, idle int) *RoundTripper {
	open := DialFrom(t.cfg.Source, t.cfg.DialTimeout)
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := open(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &timedConn{Conn: c, read: read, write: write}, nil
	}
	return NewRoundTripper(&http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSHandshakeTimeout:   handshakeTimeout,
		ResponseHeaderTimeout: header,
		MaxIdleConnsPerHost:   idle,
		// Peers close what has been idle for their read timeout: do not use a connection that is about to be closed.
		IdleConnTimeout: t.cfg.ReadTimeout * 4 / 5,
		ReadBufferSize:  64 << 10,
		WriteBufferSize: 64 << 10,
	}, dial, t.cfg.TLS)
}
