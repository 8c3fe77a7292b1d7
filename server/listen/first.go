package listen

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
)

const (
	// quiet is how long an HTTP/2 connection may be without a request before it counts as gRPC's: gRPC's clients connect
	// before they have anything to ask, and want their pings answered.
	quiet = time.Second
	// maxFirst is how many bytes are read ahead at most, in search of a request.
	maxFirst = 16 << 10
)

// fullPreface is what an HTTP/2 client sends before its frames (RFC 9113, 3.4).
const fullPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frames of HTTP/2 (RFC 9113, 4.1): a header of 9 bytes, which are a length in 3, a type, flags, and a stream's number in 4.
const (
	frameHeader   = 9
	frameHeaders  = 1
	frameSettings = 4
	framePing     = 6
	flagAck       = 0x1
	flagPadded    = 0x8
	flagPriority  = 0x20
)

// settings is a frame that says nothing. gRPC's clients ask nothing before they have seen one.
var settings = []byte{0, 0, 0, frameSettings, 0, 0, 0, 0, 0}

// first waits for the first request of an HTTP/2 connection and returns who is to serve it.
func (s *Splitter) first(tc *tls.Conn) (net.Conn, *branch, error) {
	if _, err := tc.Write(settings); err != nil {
		return nil, nil, err
	}
	c := &settled{Conn: tc, acked: true}
	until := time.Now().Add(s.quiet)
	if err := tc.SetReadDeadline(until); err != nil {
		return nil, nil, err
	}
	buf := make([]byte, 4096)
	for len(c.head) < maxFirst {
		n, err := tc.Read(buf)
		c.head = append(c.head, buf[:n]...)
		switch who := asks(c.head); {
		case who == byGRPC:
			return c, s.grpc, nil
		case who == byOthers:
			c.acked, c.rest = false, len(fullPreface)
			return &veiled{Conn: c, state: tc.ConnectionState()}, s.http, nil
		case errors.Is(err, os.ErrDeadlineExceeded) && s.ctx.Err() == nil && !time.Now().Before(until):
			return c, s.grpc, nil
		case err != nil:
			return nil, nil, err
		}
	}
	return c, s.grpc, nil
}

// who asks on a connection.
type who int

const (
	nobodyYet who = iota
	byGRPC
	byOthers
)

// asks finds the first request in what a client has sent so far.
func asks(b []byte) who {
	n := min(len(b), len(fullPreface))
	if string(b[:n]) != fullPreface[:n] {
		return byGRPC // which refuses it
	}
	for b = b[n:]; len(b) >= frameHeader; {
		length, typ, flags := int(binary.BigEndian.Uint32(b)>>8), b[3], b[4]
		payload := b[frameHeader:min(len(b), frameHeader+length)]
		whole := len(payload) == length
		switch typ {
		case framePing:
			return byGRPC
		case frameHeaders:
			if !whole {
				return nobodyYet
			}
			return asksIn(payload, flags)
		}
		if !whole {
			return nobodyYet
		}
		b = b[frameHeader+length:]
	}
	return nobodyYet
}

// asksIn reads a HEADERS frame.
func asksIn(payload []byte, flags byte) who {
	if flags&flagPadded != 0 {
		if len(payload) == 0 || int(payload[0]) >= len(payload) {
			return byGRPC
		}
		payload = payload[1 : len(payload)-int(payload[0])]
	}
	if flags&flagPriority != 0 {
		if len(payload) < 5 {
			return byGRPC
		}
		payload = payload[5:]
	}
	out := byOthers
	d := hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == "content-type" && strings.HasPrefix(f.Value, "application/grpc") {
			out = byGRPC
		}
	})
	if _, err := d.Write(payload); err != nil {
		return byGRPC
	}
	return out
}

// veiled is a connection that net/http serves as if it were not encrypted: it takes HTTP/2 with TLS from a *tls.Conn alone.
type veiled struct {
	net.Conn
	state tls.ConnectionState
}

// State is the TLS state of a connection of Splitter.HTTP that net/http holds for one without TLS, nil of any other.
func State(c net.Conn) *tls.ConnectionState {
	if v, ok := c.(*veiled); ok {
		return &v.state
	}
	return nil
}

// settled is an HTTP/2 connection on which a client was sent settings, that its server does not know of. It gives back what
// was read ahead, and keeps the client's acknowledgement of these settings from the server.
type settled struct {
	*tls.Conn
	head   []byte // read ahead
	acked  bool   // nothing is kept any more
	rest   int    // bytes until the next frame
	header []byte // of a frame, to be given back
}

// Read implements net.Conn.
func (c *settled) Read(p []byte) (int, error) {
	for {
		switch {
		case len(c.header) > 0:
			n := copy(p, c.header)
			c.header = c.header[n:]
			return n, nil
		case c.acked:
			return c.source(p)
		case c.rest > 0:
			n, err := c.source(p[:min(len(p), c.rest)])
			c.rest -= n
			return n, err
		}
		var h [frameHeader]byte
		for got := 0; got < frameHeader; {
			n, err := c.source(h[got:])
			if got += n; err != nil && got < frameHeader {
				return 0, err
			}
		}
		if h[3] == frameSettings && h[4]&flagAck != 0 {
			c.acked = true
			continue
		}
		c.header, c.rest = h[:], int(binary.BigEndian.Uint32(h[:])>>8)
	}
}

// source reads what was read ahead first.
func (c *settled) source(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
