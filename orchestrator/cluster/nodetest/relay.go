//go:build linux

package nodetest

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/keelson-io/keelson/internal/testkit"
)

// relay carries connections to a port of the loopback interface into a network namespace.
type relay struct {
	ns     *testkit.NetNS
	target string
	l      net.Listener
}

func newRelay(ns *testkit.NetNS, target string) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{ns: ns, target: target, l: l}
	go r.run()
	return r, nil
}

func (r *relay) address() string { return r.l.Addr().String() }

func (r *relay) close() error { return r.l.Close() }

func (r *relay) run() {
	for {
		conn, err := r.l.Accept()
		if err != nil {
			return
		}
		go r.carry(conn)
	}
}

// carry ends a direction when its source ends it, and the connection when both are through.
func (r *relay) carry(from net.Conn) {
	defer from.Close()
	to, err := Dial(context.Background(), r.ns, "tcp", r.target)
	if err != nil {
		return // who is there finds out by the end of the connection
	}
	defer to.Close()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
		both.Go(func() {
			if _, err := io.Copy(way[1], way[0]); err != nil {
				_, _ = from.Close(), to.Close() // one has failed: both are over
				return
			}
			_ = way[1].(*net.TCPConn).CloseWrite()
		})
	}
	both.Wait()
}
