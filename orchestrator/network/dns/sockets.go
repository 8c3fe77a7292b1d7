package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/network/netns"
)

const (
	// idle is how long a TCP connection may be silent, and patience how long a client may take to read an answer.
	idle     = 10 * time.Second
	patience = 3 * time.Second
	maxConns = 512 // of TCP, per address
	// maxPipelined is how many questions of a connection may wait for others at a time.
	maxPipelined = 64
)

// socket is where a server listens.
type socket struct {
	addr netip.AddrPort
	udp  *net.UDPConn
	tcp  net.Listener
}

func (so socket) close() error { return errors.Join(so.udp.Close(), so.tcp.Close()) }

// listen opens sockets in a network namespace: all, or none.
func listen(ns *netns.NS, addrs []netip.AddrPort) ([]socket, error) {
	var all []socket
	for _, a := range addrs {
		var so socket
		err := ns.Do(func() (err error) {
			so, err = open(a)
			return err
		})
		if err != nil {
			for _, so := range all {
				_ = so.close()
			}
			return nil, fmt.Errorf("dns: listening on %s: %w", a, err)
		}
		all = append(all, so)
	}
	return all, nil
}

// open opens both sockets of an address. If any port will do, it takes one that is free for both.
func open(a netip.AddrPort) (socket, error) {
	family := "4"
	if a.Addr().Is6() && !a.Addr().Is4In6() {
		family = "6"
	}
	cfg := net.ListenConfig{Control: func(network, _ string, c syscall.RawConn) error { return prepare(network, a.Addr(), c) }}
	for try := 0; ; try++ {
		udp, err := cfg.ListenPacket(context.Background(), "udp"+family, a.String())
		if err != nil {
			return socket{}, err
		}
		at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
		at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		tcp, err := cfg.Listen(context.Background(), "tcp"+family, at.String())
		if err == nil {
			return socket{addr: at, udp: udp.(*net.UDPConn), tcp: tcp}, nil
		}
		_ = udp.Close()
		if a.Port() != 0 || !errors.Is(err, unix.EADDRINUSE) || try == 20 {
			return socket{}, err
		}
	}
}

// prepare lets a socket have an address that does not exist yet, and lets one that has all addresses know which one a
// question came to.
func prepare(network string, a netip.Addr, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1)
		if !a.IsUnspecified() {
			return
		}
		switch network {
		case "udp4":
			failed = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1)
		case "udp6":
			failed = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	return errors.Join(err, failed)
}

// serveUDP answers what comes to a socket until it is closed. all is whether the socket has all addresses.
func (s *Server) serveUDP(ctx context.Context, conn *net.UDPConn, all bool) error {
	var (
		q      query
		packet = make([]byte, maxUDP)
		out    = make([]byte, 0, maxMsg)
		oob    []byte
		turn   = salt()
	)
	if all {
		oob = make([]byte, 128)
	}
	for {
		n, control, _, from, err := conn.ReadMsgUDPAddrPort(packet, oob)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.lg.Debug("reading", zap.Error(err))
			continue
		}
		began := s.clock.Now()
		if q.parse(packet[:n], false) != nil {
			continue
		}
		turn++
		reply, v := s.quick(&q, from.Addr(), turn, out)
		if v == answered {
			_, _, _ = conn.WriteMsgUDPAddrPort(reply, oob[:control], from)
			s.metrics.note(0, q.qtype, reply, s.clock.Now().Sub(began))
			continue
		}
		back := append([]byte(nil), oob[:control]...)
		s.later(&q, from.Addr(), v, began, 0, func(reply []byte) { _, _, _ = conn.WriteMsgUDPAddrPort(reply, back, from) })
	}
}

// serveTCP answers what comes by connections to a listener until it is closed.
func (s *Server) serveTCP(ctx context.Context, l net.Listener) error {
	conns := make(chan struct{}, maxConns)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			s.lg.Warn("accepting", zap.Error(err))
			t := s.clock.NewTimer(100 * time.Millisecond)
			select {
			case <-t.C():
			case <-ctx.Done():
			}
			t.Stop()
			continue
		}
		select {
		case conns <- struct{}{}:
		default:
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-conns }()
			s.converse(ctx, conn)
		})
	}
}

// converse answers the questions of a connection.
func (s *Server) converse(ctx context.Context, conn net.Conn) {
	var (
		mu      sync.Mutex // of writes
		pending = make(chan struct{}, maxPipelined)
		wg      sync.WaitGroup
		q       query
		packet  []byte
		head    [2]byte
	)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		wg.Wait()
		stop()
		_ = conn.Close()
	}()
	write := func(reply []byte) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		_ = conn.SetWriteDeadline(time.Now().Add(patience))
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(reply)), uint16(len(reply))), reply...)); err != nil {
			_ = conn.Close()
		}
	}
	from, _ := netip.ParseAddrPort(conn.RemoteAddr().String())
	for ctx.Err() == nil {
		_ = conn.SetReadDeadline(time.Now().Add(idle))
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		packet = append(packet[:0], make([]byte, binary.BigEndian.Uint16(head[:]))...)
		if _, err := io.ReadFull(conn, packet); err != nil {
			return
		}
		began := s.clock.Now()
		if q.parse(packet, true) != nil {
			return
		}
		reply, v := s.quick(&q, from.Addr(), salt(), nil)
		if v == answered {
			write(reply)
			s.metrics.note(1, q.qtype, reply, s.clock.Now().Sub(began))
			continue
		}
		pending <- struct{}{}
		wg.Add(1)
		s.later(&q, from.Addr(), v, began, 1, func(reply []byte) {
			write(reply)
			<-pending
			wg.Done()
		})
	}
}
