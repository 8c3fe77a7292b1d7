// Package upgrade is for who hands connections on that are no longer HTTP.
//
// # Concurrency
//
// A connection may be read, written and closed by different goroutines, but written by one at a time.
package upgrade

import (
	"context"
	"net"
	"net/http"
)

// Transport dials as another one does, for connections that are upgraded and copied in both directions until the first of these
// ends. Writes to them do not fail: a server that has ended takes nothing more, but what it said last is still to be read, and
// reading tells that it is gone.
func Transport(via *http.Transport) *http.Transport {
	dial := via.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return &http.Transport{
		TLSClientConfig: via.TLSClientConfig, TLSHandshakeTimeout: via.TLSHandshakeTimeout, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &conn{Conn: c}, nil
		},
	}
}

// conn forgets what nobody takes.
type conn struct {
	net.Conn
	deaf bool // its other end takes nothing more
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	if !c.deaf {
		_, err := c.Conn.Write(b)
		c.deaf = err != nil
	}
	return len(b), nil
}
