package ctl

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/keelson-io/keelson/internal/srv"
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

// find returns the endpoints that the records name, none without a domain. What is left out is told by say.
func (d *discoveryFlags) find(ctx context.Context, lookup srv.Lookup, say func(string)) ([]string, error) {
	if d.domain == "" {
		return nil, nil
	}
	found, err := srv.Clients(ctx, lookup, d.domain, d.name)
	var out []string
	for _, e := range found {
		if !e.Secure && !d.insecure {
			say(fmt.Sprintf("ignoring discovered insecure endpoint %q", e.URL()))
			continue
		}
		out = append(out, e.URL())
	}
	return out, err
}

// serverName is the name that servers' certificates must be for, if it is not that of their addresses.
func (d *discoveryFlags) serverName() string {
	if d.insecure {
		return ""
	}
	return d.domain
}
