// Package listen opens a member's listeners and shares one client port between gRPC and HTTP/1.
//
// The two are told apart once, by the first bytes of a connection: a gRPC client begins with the HTTP/2 preface. After
// that the connection belongs to the one server or the other alone, so that neither can starve the other. The bytes must
// come within a deadline, each connection waits for them in a goroutine of its own.
//
// # Concurrency
//
// A Splitter and its two listeners may be used from any number of goroutines.
package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Options are socket options.
type Options struct {
	ReusePort, ReuseAddress bool
}

// Open listens on the address of an URL of the form http://host:port, or unix://path: a socket in the file system, for which a
// path without a leading slash is relative. A socket that is left of a process that is gone is taken over.
func Open(rawURL string, o Options) (net.Listener, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	if u.Scheme == "unix" {
		return openSocket(u.Host + u.Path)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var inner error
		err := c.Control(func(fd uintptr) { inner = o.set(int(fd)) })
		return errors.Join(err, inner)
	}}
	l, err := lc.Listen(context.Background(), "tcp", u.Host)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", rawURL, err)
	}
	return l, nil
}

func openSocket(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("listening on %s: %w", path, syscall.EADDRINUSE)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	return l, nil
}

func (o Options) set(fd int) error {
	var errs []error
	if o.ReusePort {
		errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if o.ReuseAddress {
		errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	return errors.Join(errs...)
}

// preface is how an HTTP/2 connection begins; its first bytes are no HTTP/1 method.
const preface = "PRI * HTTP/2.0"

// helloTimeout is how long a new connection may stay silent.
const helloTimeout = 10 * time.Second

// Splitter shares a listener between gRPC and HTTP/1.
type Splitter struct {
	base       net.Listener
	grpc, http *branch
	ctx        context.Context // ends when the Splitter is closed
	cancel     context.CancelFunc
	waiting    sync.WaitGroup
}

// Split takes over a listener. Run must be running for its branches to get connections.
func Split(l net.Listener) *Splitter {
	s := &Splitter{base: l}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.grpc = &branch{s: s, conns: make(chan net.Conn)}
	s.http = &branch{s: s, conns: make(chan net.Conn)}
	return s
}

// GRPC is the listener of HTTP/2 connections.
func (s *Splitter) GRPC() net.Listener { return s.grpc }

// HTTP is the listener of all other connections.
func (s *Splitter) HTTP() net.Listener { return s.http }

// Run accepts connections until the Splitter is closed.
func (s *Splitter) Run() {
	defer s.waiting.Wait()
	for {
		c, err := s.base.Accept()
		if err != nil {
			var ne net.Error
			if errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			s.Close()
			return
		}
		s.waiting.Go(func() { s.sort(c) })
	}
}

// sort reads the first bytes of a connection and gives it to the branch that they belong to.
func (s *Splitter) sort(c net.Conn) {
	stop := context.AfterFunc(s.ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	head := make([]byte, 0, len(preface))
	for len(head) < len(preface) && string(head) == preface[:len(head)] {
		n, err := c.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if err != nil && (n == 0 || !errors.Is(err, io.EOF)) {
			_ = c.Close()
			return
		}
	}
	_ = c.SetReadDeadline(time.Time{})
	to := s.http
	if string(head) == preface {
		to = s.grpc
	}
	select {
	case to.conns <- &conn{Conn: c, head: head}:
	case <-s.ctx.Done():
		_ = c.Close()
	}
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
	head []byte
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
