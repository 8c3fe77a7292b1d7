package listen

import (
	"context"
	"net"
	"sync"
)

// Pipe is a listener within the process. It may be used from any number of goroutines.
type Pipe struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewPipe makes a Pipe.
func NewPipe() *Pipe { return &Pipe{conns: make(chan net.Conn), closed: make(chan struct{})} }

// Dial waits until a connection is accepted.
func (l *Pipe) Dial(ctx context.Context) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case l.conns <- there:
		return here, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept is net.Listener's.
func (l *Pipe) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's.
func (l *Pipe) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is net.Listener's.
func (l *Pipe) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

// Network is net.Addr's.
func (pipeAddr) Network() string { return "pipe" }

// String is net.Addr's.
func (pipeAddr) String() string { return "pipe" }
