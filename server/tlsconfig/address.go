package tlsconfig

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Resolver is what CheckAddress asks; net.DefaultResolver is one.
type Resolver interface {
	LookupAddr(ctx context.Context, addr string) ([]string, error)
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// CheckAddress says, by returning nil, that a certificate fits the address (host:port) that it is shown from: one of its
// addresses is this one, or one of its names belongs to it by the name service, asked in both directions. A certificate
// without names and addresses fits everywhere.
func CheckAddress(ctx context.Context, r Resolver, cert *x509.Certificate, remote string) error {
	if len(cert.IPAddresses) == 0 && len(cert.DNSNames) == 0 {
		return nil
	}
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return err
	}
	if len(cert.IPAddresses) > 0 {
		err := cert.VerifyHostname(host)
		if err == nil || len(cert.DNSNames) == 0 {
			return err
		}
	}
	ok, err := named(ctx, r, host, cert.DNSNames)
	switch {
	case ok:
		return nil
	case err != nil:
		return fmt.Errorf("tls: %q does not match any of DNSNames %q (%w)", host, cert.DNSNames, err)
	}
	return fmt.Errorf("tls: %q does not match any of DNSNames %q", host, cert.DNSNames)
}

// named says whether one of the names, which may begin with "*.", is one of the host's.
func named(ctx context.Context, r Resolver, host string, names []string) (bool, error) {
	found, err := r.LookupAddr(ctx, host)
	errs := []error{err}
	for _, f := range found {
		f = strings.TrimSuffix(f, ".")
		if slices.ContainsFunc(names, func(n string) bool {
			tail, wild := strings.CutPrefix(n, "*")
			return n == f || wild && strings.HasPrefix(tail, ".") && strings.HasSuffix(f, tail)
		}) {
			return true, nil
		}
	}
	for _, n := range names {
		if strings.HasPrefix(n, "*.") {
			continue
		}
		addrs, err := r.LookupHost(ctx, n)
		errs = append(errs, err)
		if slices.Contains(addrs, host) {
			return true, nil
		}
	}
	return false, errors.Join(errs...)
}
