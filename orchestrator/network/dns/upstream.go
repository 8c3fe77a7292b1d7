package dns

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/network/netns"
)

const (
	// downAfter is how many failures in a row a server may have.
	downAfter = 2
	// probeEvery is how often one that failed is asked whether it is well, and probeTimeout how long that may take.
	probeEvery   = 500 * time.Millisecond
	probeTimeout = time.Second
)

// upstream is a server that is asked.
type upstream struct {
	addr  netip.AddrPort
	ns    *netns.NS
	probe string // the name of questions with which we look for loops, packed
	fails atomic.Int32
	loops atomic.Bool
	ill   chan struct{} // holds a token when it is to be probed
}

func newUpstream(addr netip.AddrPort, ns *netns.NS) *upstream {
	var nonce [12]byte
	_, _ = rand.Read(nonce[:])
	h := hex.EncodeToString(nonce[:])
	return &upstream{addr: addr, ns: ns, probe: joined("\x00", h[:12], h[12:]), ill: make(chan struct{}, 1)}
}

func (u *upstream) down() bool { return u.fails.Load() >= downAfter }

func (u *upstream) wake() {
	select {
	case u.ill <- struct{}{}:
	default:
	}
}

// watch looks for a loop, and probes the server whenever it failed until it is well again. It ends with ctx.
func (u *upstream) watch(ctx context.Context, c clock.Clock, lg *zap.Logger) {
	u.lookForLoop(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-u.ill:
		}
		wasDown := false
		for u.fails.Load() > 0 && ctx.Err() == nil {
			wasDown = wasDown || u.down()
			t := c.NewTimer(probeEvery)
			select {
			case <-t.C():
			case <-ctx.Done():
				t.Stop()
				return
			}
			if u.ping(ctx) == nil {
				u.fails.Store(0)
			} else {
				u.fails.Add(1)
			}
		}
		if wasDown && ctx.Err() == nil {
			lg.Info("a server upstream answers again", zap.Stringer("server", u.addr))
			u.lookForLoop(ctx)
		}
	}
}

// lookForLoop asks for a name that nobody but us may ask us for.
func (u *upstream) lookForLoop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, _ = u.exchange(ctx, question{name: textName([]byte(u.probe)), qtype: dns.TypeHINFO})
}

// ping asks whether there is somebody. Any answer will do.
func (u *upstream) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := u.exchange(ctx, question{name: ".", qtype: dns.TypeNS})
	return err
}

// exchange asks once: by UDP, and by TCP when the answer does not fit; without EDNS when the server does not know it.
func (u *upstream) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	m := q.message(true)
	r, err := u.over(ctx, "udp", m)
	if err == nil && (r.Rcode == dns.RcodeFormatError || r.Rcode == dns.RcodeNotImplemented) && r.IsEdns0() == nil {
		m = q.message(false)
		r, err = u.over(ctx, "udp", m)
	}
	if err == nil && r.Truncated {
		r, err = u.over(ctx, "tcp", m)
	}
	if err != nil {
		return nil, fmt.Errorf("dns: %s: %w", u.addr, err)
	}
	return r, nil
}

// over asks over a network. The connection is new, so that its port is not to be guessed.
func (u *upstream) over(ctx context.Context, network string, m *dns.Msg) (*dns.Msg, error) {
	m.Id = dns.Id()
	packed, err := m.Pack()
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	err = u.ns.Do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, u.addr.String())
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		packed = append(binary.BigEndian.AppendUint16(nil, uint16(len(packed))), packed...)
	}
	if _, err := conn.Write(packed); err != nil {
		return nil, err
	}
	buf := make([]byte, maxMsg)
	for {
		n, err := readMessage(conn, network, buf)
		if err != nil {
			return nil, err
		}
		if r, err := accept(m, buf[:n]); err == nil {
			return r, nil
		} else if network == "tcp" {
			return nil, err
		}
		// something else came to our port: the answer may still come
	}
}

func readMessage(conn net.Conn, network string, buf []byte) (int, error) {
	if network == "udp" {
		return conn.Read(buf)
	}
	if _, err := io.ReadFull(conn, buf[:2]); err != nil {
		return 0, err
	}
	return io.ReadFull(conn, buf[:binary.BigEndian.Uint16(buf)])
}

var errForeign = errors.New("not the answer to what was asked")

// accept unpacks the answer to a question.
func accept(asked *dns.Msg, packed []byte) (*dns.Msg, error) {
	if len(packed) < headerLen || binary.BigEndian.Uint16(packed) != asked.Id || packed[2]&(flagQR>>8) == 0 {
		return nil, errForeign
	}
	r := new(dns.Msg)
	if err := r.Unpack(packed); err != nil {
		if !r.Truncated || len(r.Question) != 1 { // one that was cut may be cut anywhere
			return nil, err
		}
	}
	if len(r.Question) == 0 && r.Rcode != dns.RcodeSuccess {
		r.Question = asked.Question // some leave it out when they complain
	}
	if len(r.Question) != 1 || r.Question[0].Qtype != asked.Question[0].Qtype ||
		!strings.EqualFold(r.Question[0].Name, asked.Question[0].Name) {
		return nil, errForeign
	}
	return r, nil
}
