package srv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
)

// Resolver looks names up, as a net.Resolver does.
type Resolver struct {
	SRV  Lookup
	Host func(ctx context.Context, host string) (addrs []string, err error)
}

// System is the resolver of the system.
func System() Resolver {
	return Resolver{SRV: net.DefaultResolver.LookupSRV, Host: net.DefaultResolver.LookupHost}
}

// Members returns the members of a new cluster, each as name=url, that the records _etcd-server-ssl._tcp and _etcd-server._tcp
// of a domain name. A record that leads to one of the advertised URLs is this member's, and has its name; others are numbered,
// as only the URLs count for members' ids. What could not be found out is in the error; it matters only without any member.
func Members(ctx context.Context, r Resolver, domain, suffix, name string, advertised []string) ([]string, error) {
	own, err := ownSchemes(ctx, r, advertised)
	if err != nil {
		return nil, err
	}
	var members []string
	var errs []error
	for _, secure := range []bool{true, false} {
		found, err := find(ctx, r.SRV, domain, "etcd-server", suffix, secure)
		if err != nil {
			errs = append(errs, fmt.Errorf("error querying DNS SRV records for _%s %w", Service("etcd-server", suffix, secure), err))
			continue
		}
		more, err := nameAll(ctx, r, found, name, own)
		members, errs = append(members, more...), append(errs, err)
	}
	return members, errors.Join(errs...)
}

// nameAll writes endpoints as name=url. Those that cannot be resolved, or are this member's with another scheme, are left out.
func nameAll(ctx context.Context, r Resolver, found []Endpoint, name string, own map[string]string) (members []string, err error) {
	var errs []error
	others := 0
	for _, e := range found {
		addr, err := resolve(ctx, r, e.Addr())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		of := name
		scheme, mine := own[addr]
		if !mine {
			of = strconv.Itoa(others)
			others++
		}
		member := e.URL()
		if u, err := url.Parse(member); mine && (err != nil || u.Scheme != scheme) {
			errs = append(errs, fmt.Errorf("bootstrap at %s from DNS has scheme mismatch with expected peer %s://%s", member, scheme, addr))
			continue
		}
		members = append(members, of+"="+member)
	}
	return members, errors.Join(errs...)
}

// ownSchemes maps the addresses of advertised URLs to their schemes.
func ownSchemes(ctx context.Context, r Resolver, advertised []string) (map[string]string, error) {
	own := map[string]string{}
	for _, a := range advertised {
		u, err := url.Parse(a)
		if err != nil {
			return nil, err
		}
		addr, err := resolve(ctx, r, u.Host)
		if err != nil {
			return nil, err
		}
		own[addr] = u.Scheme
	}
	return own, nil
}

// resolve replaces the host of host:port by its first IPv4 address, or its first one.
func resolve(ctx context.Context, r Resolver, addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	addrs, err := r.Host(ctx, host)
	if err != nil {
		return "", err
	}
	if len(addrs) == 0 {
		return "", fmt.Errorf("no addresses of %s", host)
	}
	for _, a := range addrs {
		if ip := net.ParseIP(a); ip != nil && ip.To4() != nil {
			return net.JoinHostPort(a, port), nil
		}
	}
	return net.JoinHostPort(addrs[0], port), nil
}
