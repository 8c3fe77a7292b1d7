package transport

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/keelson-io/keelson/internal/vfs"
)

// RoundTripper sends HTTP requests to peers, whose URLs are http://host:port, https://host:port, or unix sockets:
//
//	unix://host:port/version        the socket "host:port" in the working directory, as in etcd
//	unix:///run/a.sock/version      the socket /run/a.sock
//	unix://run/a.sock/version       the socket run/a.sock below the working directory
//
// unixs is the same with TLS. What follows the socket is the path of the request. Where no port says where the socket ends, it is
// the first part of the path that is one.
type RoundTripper struct{ overTCP, overSockets *http.Transport }

// NewRoundTripper makes a RoundTripper with the settings of an http.Transport. config is asked for each connection with TLS; nil:
// the system's roots, no certificate.
func NewRoundTripper(settings *http.Transport, dial Dial, config func() *tls.Config) *RoundTripper {
	rt := &RoundTripper{settings.Clone(), settings.Clone()}
	rt.overTCP.DialContext = dial
	rt.overSockets.Proxy = nil
	rt.overSockets.DialContext = func(ctx context.Context, _, addr string) (net.Conn, error) {
		path, err := decodeSocket(addr)
		if err != nil {
			return nil, err
		}
		return dial(ctx, "unix", path)
	}
	if config == nil {
		config = func() *tls.Config { return &tls.Config{} }
	} else {
		rt.overTCP.DialTLSContext = OverTLS(dial, config)
		rt.overTCP.TLSClientConfig = config() // for connections through a proxy
	}
	rt.overSockets.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		path, err := decodeSocket(addr)
		if err != nil {
			return nil, err
		}
		toSocket := func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "unix", path) }
		return OverTLS(toSocket, config)(ctx, network, certified(path))
	}
	return rt
}

// RoundTrip implements http.RoundTripper.
func (rt *RoundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if !isSocket(r.URL) {
		return rt.overTCP.RoundTrip(r)
	}
	path, rest, err := splitSocket(r.URL)
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	local := r.WithContext(r.Context())
	target := *r.URL
	target.Scheme = strings.Replace(target.Scheme, "unix", "http", 1)
	target.Host, target.Path, target.RawPath = encodeSocket(path), rest, ""
	local.URL, local.Host = &target, certified(path)
	return rt.overSockets.RoundTrip(local)
}

// CloseIdleConnections closes connections that are not in use.
func (rt *RoundTripper) CloseIdleConnections() {
	rt.overTCP.CloseIdleConnections()
	rt.overSockets.CloseIdleConnections()
}

func isSocket(u *url.URL) bool { return u.Scheme == "unix" || u.Scheme == "unixs" }

// splitSocket tells a socket from the path of a request to it.
func splitSocket(u *url.URL) (socket, path string, err error) {
	if u.Port() != "" {
		return u.Host, u.Path, nil
	}
	all := u.Host + u.Path
	for end := 1; end <= len(all); end++ {
		if end < len(all) && all[end] != '/' {
			continue
		}
		info, err := vfs.OS.Stat(all[:end]) // sockets are the real ones, as the connections to them
		switch {
		case err != nil:
			return "", "", fmt.Errorf("transport: %w", err)
		case info.Mode()&fs.ModeSocket != 0:
			return all[:end], all[end:], nil
		}
	}
	return "", "", fmt.Errorf("transport: there is no socket in %q", u.String())
}

// encodeSocket and decodeSocket carry the path of a socket through an http.Transport, as a host with a port.
func encodeSocket(path string) string { return hex.EncodeToString([]byte(path)) + ":0" }

func decodeSocket(addr string) (string, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	path, err := hex.DecodeString(host)
	return string(path), err
}

// certified is the address (host:port) that the certificate at a socket is to be for.
func certified(path string) string {
	if _, _, err := net.SplitHostPort(path); err == nil && !strings.Contains(path, "/") {
		return path
	}
	return "localhost:0"
}
