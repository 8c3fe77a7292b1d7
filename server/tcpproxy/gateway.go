package tcpproxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/srv"
)

// Options say where a gateway listens and where it passes connections on to.
type Options struct {
	Listen     string   // host:port
	Endpoints  []string // host:port or URLs; used if Domain is empty or names none
	Domain     string   // whose SRV records name the endpoints
	Suffix     string   // of the service's name in these records
	Insecure   bool     // take endpoints of these records unseen; otherwise only those whose certificate is for Domain
	CAFile     string   // authorities of these certificates, in PEM; empty: the system's
	RetryDelay time.Duration
	Lookup     srv.Lookup // of records
}

// Open finds the targets and listens. It refuses to pass connections on to itself.
func Open(ctx context.Context, o Options, lg *zap.Logger) (net.Listener, *Proxy, error) {
	targets, err := o.targets(ctx, lg)
	if err != nil {
		return nil, nil, err
	}
	if err := notItself(ctx, o.Listen, targets); err != nil {
		return nil, nil, err
	}
	if len(targets) == 0 {
		return nil, nil, errors.New("no endpoints found")
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return nil, nil, err
	}
	return l, New(Config{Targets: targets, RetryDelay: o.RetryDelay, Logger: lg}), nil
}

func (o *Options) targets(ctx context.Context, lg *zap.Logger) ([]*net.SRV, error) {
	if o.Domain != "" {
		found, err := srv.Clients(ctx, o.Lookup, o.Domain, o.Suffix)
		if err != nil {
			return nil, err
		}
		lg.Info("discovered cluster from SRV", zap.String("srv-server", o.Domain), zap.Int("endpoints", len(found)))
		if !o.Insecure {
			if found, err = srv.Trusted(ctx, found, o.Domain, o.CAFile, func(e srv.Endpoint, err error) {
				lg.Warn("failed to validate a discovered endpoint", zap.String("endpoint", e.URL()), zap.Error(err))
			}); err != nil {
				return nil, fmt.Errorf("--trusted-ca-file: %w", err)
			}
		}
		var out []*net.SRV
		for _, e := range found {
			r := *e.SRV
			r.Target = strings.TrimSuffix(r.Target, ".")
			out = append(out, &r)
		}
		if len(out) > 0 {
			return out, nil
		}
		lg.Warn("no endpoint was discovered that can be used; using the given ones", zap.Strings("endpoints", o.Endpoints))
	}
	return fixed(o.Endpoints)
}

// fixed makes targets of host:port or of URLs.
func fixed(endpoints []string) ([]*net.SRV, error) {
	var out []*net.SRV
	for _, ep := range endpoints {
		addr := ep
		if u, err := url.Parse(ep); err == nil && u.Host != "" {
			addr = u.Host
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("error parsing endpoint %q", addr)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("error parsing endpoint %q: the port must be a number", addr)
		}
		out = append(out, &net.SRV{Target: host, Port: uint16(n)})
	}
	return out, nil
}

// notItself refuses targets that are the address to listen on.
func notItself(ctx context.Context, listen string, targets []*net.SRV) error {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return fmt.Errorf("failed to validate listen address: %s", listen)
	}
	own, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return fmt.Errorf("failed to resolve listen host: %s", host)
	}
	for _, t := range targets {
		addrs, err := net.DefaultResolver.LookupHost(ctx, t.Target)
		if err != nil {
			return fmt.Errorf("failed to resolve endpoint host: %s", t.Target)
		}
		if strconv.Itoa(int(t.Port)) != port {
			continue
		}
		for _, a := range addrs {
			if slices.Contains(own, a) {
				return fmt.Errorf("SRV or endpoint (%s:%d->%s:%d) should not resolve to the gateway listen addr (%s)", t.Target, t.Port, a, t.Port, listen)
			}
		}
	}
	return nil
}
