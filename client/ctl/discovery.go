package ctl

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// discoveryFlags say how members are found by SRV records (RFC 2782).
type discoveryFlags struct {
	domain, name string
	insecure     bool // take endpoints without TLS, too
}

func (d *discoveryFlags) register(fs *pflag.FlagSet) {
	fs.StringVarP(&d.domain, "discovery-srv", "d", "", "domain whose SRV records name the endpoints, instead of --endpoints")
	fs.StringVar(&d.name, "discovery-srv-name", "", "suffix of the service's name in these records")
	fs.BoolVar(&d.insecure, "insecure-discovery", true, "take endpoints without TLS from these records, too")
}

// lookupSRV is that of a net.Resolver.
type lookupSRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)

// find returns the endpoints that the records name, none without a domain. What is left out is told by say.
func (d *discoveryFlags) find(ctx context.Context, lookup lookupSRV, say func(string)) ([]string, error) {
	if d.domain == "" {
		return nil, nil
	}
	var out []string
	find := func(service, scheme string) error {
		if d.name != "" {
			service += "-" + d.name
		}
		_, records, err := lookup(ctx, service, "tcp", d.domain)
		for _, r := range records {
			ep := scheme + "://" + net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port)))
			if scheme == "http" && !d.insecure {
				say(fmt.Sprintf("ignoring discovered insecure endpoint %q", ep))
				continue
			}
			out = append(out, ep)
		}
		return err
	}
	secure, plain := find("etcd-client-ssl", "https"), find("etcd-client", "http")
	if secure != nil && plain != nil {
		return nil, fmt.Errorf("dns lookup errors: %w and %w", secure, plain)
	}
	return out, nil
}

// serverName is the name that servers' certificates must be for, if it is not that of their addresses.
func (d *discoveryFlags) serverName() string {
	if d.insecure {
		return ""
	}
	return d.domain
}
