package dial

import (
	"net/url"
	"strings"
)

// Endpoint is where to connect to.
type Endpoint struct {
	Network string // tcp or unix
	Addr    string // host:port, or the path of a socket
	Secure  bool   // with TLS
}

// Parse reads an endpoint: http://host:port, https://host:port, unix://path and unixs://path, or host:port, which is with TLS if
// secure. http and unix are without TLS; unix is with TLS if secure.
func Parse(ep string, secure bool) Endpoint {
	ep = strings.TrimSpace(ep)
	scheme, rest, found := strings.Cut(ep, "://")
	if !found {
		scheme, rest = "", ep
	}
	if u, err := url.Parse(ep); err == nil && (scheme == "http" || scheme == "https") {
		rest = u.Host
	}
	e := Endpoint{Network: "tcp", Addr: rest, Secure: secure && scheme != "http" || scheme == "https" || scheme == "unixs"}
	if scheme == "unix" || scheme == "unixs" {
		e.Network = "unix"
	}
	return e
}

// Target is the endpoint's name for gRPC.
func (e Endpoint) Target() string {
	if e.Network == "unix" {
		return "unix:" + e.Addr
	}
	return "dns:///" + e.Addr
}
