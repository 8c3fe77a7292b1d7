package client

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"strings"
)

// security says what an endpoint's scheme asks of the transport.
type security uint8

const (
	securityOptional security = iota // bare address, unix: TLS when the client has a TLS configuration
	securityNone                     // http
	securityRequired                 // https, unixs
)

// address is an endpoint as the dialer needs it.
type address struct {
	network    string // "tcp" or "unix"
	addr       string // host:port, or a socket path
	serverName string // for certificates and the :authority header
	security   security
}

// parseEndpoint understands the spellings that etcd's tools accept: host:port, http(s)://host:port,
// unix(s):path, unix(s)://path and unix(s):///absolute/path.
func parseEndpoint(ep string) (address, error) {
	scheme, rest, found := strings.Cut(ep, ":")
	switch {
	case found && (scheme == "unix" || scheme == "unixs"):
		p := strings.TrimPrefix(rest, "//")
		if p == "" {
			return address{}, fmt.Errorf("client: endpoint %q has no path", ep)
		}
		a := address{network: "unix", addr: p, serverName: path.Base(p)}
		if scheme == "unixs" {
			a.security = securityRequired
		}
		return a, nil
	case strings.Contains(ep, "://"):
		u, err := url.Parse(ep)
		if err != nil {
			return address{}, fmt.Errorf("client: endpoint %q: %w", ep, err)
		}
		a := address{network: "tcp", addr: u.Host, serverName: hostOf(u.Host)}
		switch u.Scheme {
		case "http":
			a.security = securityNone
		case "https":
			a.security = securityRequired
		default:
			return address{}, fmt.Errorf("client: endpoint %q: unknown scheme %q", ep, u.Scheme)
		}
		if u.Host == "" {
			return address{}, fmt.Errorf("client: endpoint %q has no host", ep)
		}
		return a, nil
	case ep == "":
		return address{}, fmt.Errorf("client: empty endpoint")
	default:
		return address{network: "tcp", addr: ep, serverName: hostOf(ep)}, nil
	}
}

func hostOf(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return h
	}
	return hostport
}
