// Package srv finds the endpoints of a cluster by DNS SRV records (RFC 2782), under the names that etcd gives them:
// _etcd-client-ssl._tcp and _etcd-client._tcp.
//
// # Concurrency
//
// Everything may be called from any goroutine.
package srv

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// Lookup is that of a net.Resolver.
type Lookup func(ctx context.Context, service, proto, domain string) (string, []*net.SRV, error)

// Service is the name of a service's records: base, "-ssl" for those with TLS, and a suffix that tells clusters of one domain
// apart.
func Service(base, suffix string, secure bool) string {
	if secure {
		base += "-ssl"
	}
	if suffix != "" {
		base += "-" + suffix
	}
	return base
}

// Endpoint is one record.
type Endpoint struct {
	*net.SRV
	Secure bool // it is one of those with TLS
}

// Addr is host:port, without the dot that ends names in DNS.
func (e Endpoint) Addr() string {
	return net.JoinHostPort(strings.TrimSuffix(e.Target, "."), strconv.Itoa(int(e.Port)))
}

// URL is the address with https:// or http://.
func (e Endpoint) URL() string {
	if e.Secure {
		return "https://" + e.Addr()
	}
	return "http://" + e.Addr()
}

// Clients returns the endpoints for clients that a domain's records name, those with TLS first. It fails if neither kind can be
// looked up.
func Clients(ctx context.Context, lookup Lookup, domain, suffix string) ([]Endpoint, error) {
	secure, errSecure := find(ctx, lookup, domain, "etcd-client", suffix, true)
	plain, errPlain := find(ctx, lookup, domain, "etcd-client", suffix, false)
	if errSecure != nil && errPlain != nil {
		return nil, fmt.Errorf("dns lookup errors: %w and %w", errSecure, errPlain)
	}
	return append(secure, plain...), nil
}

func find(ctx context.Context, lookup Lookup, domain, base, suffix string, secure bool) ([]Endpoint, error) {
	_, records, err := lookup(ctx, Service(base, suffix, secure), "tcp", domain)
	var out []Endpoint
	for _, r := range records {
		out = append(out, Endpoint{SRV: r, Secure: secure})
	}
	return out, err
}
