package listen

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

const (
	// preface is how an HTTP/2 connection begins; its first bytes are no HTTP/1 method.
	preface = "PRI * HTTP/2.0"
	// tlsRecord is how a TLS connection begins: a record of the kind "handshake".
	tlsRecord = 22
	// helloTimeout is how long a new connection may stay silent, and how long a TLS handshake may take.
	helloTimeout = 10 * time.Second
	// acceptRetry is the longest pause after an error of accepting.
	acceptRetry = time.Second
)

// Protocols of TLS connections, as in RFC 7301.
const (
	HTTP2 = "h2"
	HTTP1 = "http/1.1"
)

// TLS secures connections.
type TLS struct {
	Config *tls.Config
	// Check refuses a connection after its handshake by an error; nil refuses none.
	Check func(ctx context.Context, c *tls.Conn) error
	// Refused is told of connections that did not get through their handshake or the check; nil: nobody is.
	Refused func(c *tls.Conn, err error)
}

// Config says what connections there are on a listener, and what is served on them.
type Config struct {
	Plain      bool // without TLS
	TLS        *TLS // nil: none with TLS
	GRPC, HTTP bool
	// Slots bounds the connections that are open at the same time, on all listeners that have the same ones: further ones wait
	// to be accepted. nil: no bound.
	Slots chan struct{}
}

// Splitter shares a listener between gRPC and HTTP.
type Splitter struct {
	cfg        Config
	base       net.Listener
	quiet      time.Duration
	grpc, http *branch
	ctx        context.Context // ends when the Splitter is closed
	cancel     context.CancelFunc
	waiting    sync.WaitGroup
}

// Split takes over a listener. Run must be running for its branches to get connections.
func Split(l net.Listener, cfg Config) *Splitter {
	s := &Splitter{base: l, cfg: cfg, quiet: quiet}
	if cfg.TLS != nil {
		secure := *cfg.TLS
		secure.Config = noting(secure.Config)
		s.cfg.TLS = &secure
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.grpc = &branch{s: s, conns: make(chan net.Conn)}
	s.http = &branch{s: s, conns: make(chan net.Conn)}
	return s
}

// noting keeps what protocols a client offers in its connection.
func noting(cfg *tls.Config) *tls.Config {
	inner := cfg.GetConfigForClient
	cfg = cfg.Clone()
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if c, ok := hello.Conn.(*conn); ok {
			c.offered = hello.SupportedProtos
		}
		if inner == nil {
			return nil, nil
		}
		return inner(hello)
	}
	return cfg
}

// GRPC is the listener of gRPC's connections.
func (s *Splitter) GRPC() net.Listener { return s.grpc }

// HTTP is the listener of all other connections. Those with TLS are of the type *tls.Conn, but for those of HTTP/2 from
// clients that offer nothing else: they are to be served as if they were not encrypted, and have a State.
func (s *Splitter) HTTP() net.Listener { return s.http }

// Run accepts connections until the Splitter is closed.
func (s *Splitter) Run() {
	defer s.waiting.Wait()
	pause := 5 * time.Millisecond
	for {
		if !s.takeSlot() {
			return
		}
		c, err := s.base.Accept()
		if err != nil {
			s.freeSlot()
		}
		switch {
		case err == nil:
			pause = 5 * time.Millisecond
			s.waiting.Go(func() { s.sort(&conn{Conn: c, closed: s.freeSlot}) })
			continue
		case errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil:
			s.Close()
			return
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, acceptRetry)
		case <-s.ctx.Done():
		}
	}
}

// takeSlot waits until a connection may be accepted, and says whether there will be any.
func (s *Splitter) takeSlot() bool {
	if s.cfg.Slots == nil {
		return true
	}
	select {
	case s.cfg.Slots <- struct{}{}:
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *Splitter) freeSlot() {
	if s.cfg.Slots != nil {
		<-s.cfg.Slots
	}
}

// sort finds the branch that a connection belongs to and gives it away.
func (s *Splitter) sort(c *conn) {
	stop := context.AfterFunc(s.ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	_ = c.SetDeadline(time.Now().Add(helloTimeout))
	out, to, err := s.look(c)
	if !stop() || err != nil {
		_ = c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	select {
	case to.conns <- out:
	case <-s.ctx.Done():
		_ = c.Close()
	}
}

// look returns a connection as its server is to see it, and the server's branch.
func (s *Splitter) look(c *conn) (net.Conn, *branch, error) {
	secure := s.cfg.TLS != nil
	if secure && s.cfg.Plain {
		first, err := c.peek(1)
		if err != nil {
			return nil, nil, err
		}
		secure = first[0] == tlsRecord
	}
	if secure {
		return s.handshake(c)
	}
	to, err := s.plain(c)
	return c, to, err
}

// plain tells gRPC from HTTP/1 by the first bytes.
func (s *Splitter) plain(c *conn) (*branch, error) {
	switch {
	case !s.cfg.GRPC:
		return s.http, nil
	case !s.cfg.HTTP:
		return s.grpc, nil
	}
	for n := 1; ; n = len(c.head) + 1 {
		head, err := c.peek(n)
		switch {
		case len(head) >= len(preface) && string(head[:len(preface)]) == preface:
			return s.grpc, nil
		case len(head) > 0 && string(head) != preface[:min(len(head), len(preface))]:
			return s.http, nil
		case errors.Is(err, io.EOF) && len(head) > 0:
			return s.http, nil
		case err != nil:
			return nil, err
		}
	}
}

// handshake makes the connection a TLS one.
func (s *Splitter) handshake(c *conn) (net.Conn, *branch, error) {
	ctx, cancel := context.WithTimeout(s.ctx, helloTimeout)
	defer cancel()
	tc := tls.Server(c, s.cfg.TLS.Config)
	err := tc.HandshakeContext(ctx)
	if err == nil && s.cfg.TLS.Check != nil {
		err = s.cfg.TLS.Check(ctx, tc)
	}
	switch {
	case err != nil:
		if s.cfg.TLS.Refused != nil && s.ctx.Err() == nil {
			s.cfg.TLS.Refused(tc, err)
		}
		return nil, nil, err
	case !s.cfg.GRPC:
		return tc, s.http, nil
	case !s.cfg.HTTP:
		return tc, s.grpc, nil
	case tc.ConnectionState().NegotiatedProtocol == HTTP2 && !slices.Contains(c.offered, HTTP1):
		return s.first(tc)
	}
	return tc, s.http, nil
}

// Close closes the base listener and with it both branches.
func (s *Splitter) Close() error {
	s.cancel()
	if err := s.base.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// branch is one of the two listeners.
type branch struct {
	s     *Splitter
	conns chan net.Conn
}

// Accept waits for a connection.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.s.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close closes the whole Splitter.
func (b *branch) Close() error { return b.s.Close() }

// Addr is that of the base listener.
func (b *branch) Addr() net.Addr { return b.s.base.Addr() }

// conn gives back the bytes that were read ahead.
type conn struct {
	net.Conn
	head    []byte   // read ahead
	offered []string // protocols of a TLS client
	once    sync.Once
	closed  func() // called once
}

// Close closes the connection.
func (c *conn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

// peek reads ahead until there are n bytes, and returns all that were read ahead.
func (c *conn) peek(n int) ([]byte, error) {
	for len(c.head) < n {
		buf := make([]byte, len(preface)-min(len(c.head), len(preface)-1))
		got, err := c.Conn.Read(buf)
		c.head = append(c.head, buf[:got]...)
		if err != nil && len(c.head) < n {
			return c.head, err
		}
	}
	return c.head, nil
}

// Read reads what was read ahead first.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
