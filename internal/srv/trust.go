package srv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// helloTimeout is how long an endpoint may take to show its certificate.
const helloTimeout = 10 * time.Second

// Trusted returns those endpoints that can be reached and show a certificate that is valid for the domain. Whoever can forge
// the records can then not send clients elsewhere. caFile is a file of authorities in PEM; empty: the system's.
// refused is told of the others.
func Trusted(ctx context.Context, found []Endpoint, domain, caFile string, refused func(Endpoint, error)) ([]Endpoint, error) {
	var roots *x509.CertPool
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("there is no certificate in %s", caFile)
		}
	}
	errs := make([]error, len(found))
	var checks sync.WaitGroup
	for i, e := range found {
		checks.Go(func() { errs[i] = verify(ctx, e, domain, roots) })
	}
	checks.Wait()
	var out []Endpoint
	for i, e := range found {
		if errs[i] != nil {
			refused(e, errs[i])
			continue
		}
		out = append(out, e)
	}
	return out, nil
}

// verify looks at an endpoint's certificate. It is enough that this is valid: the endpoint may want one of its clients, which the
// caller does not have.
func verify(ctx context.Context, e Endpoint, domain string, roots *x509.CertPool) error {
	if !e.Secure {
		return fmt.Errorf("%q is insecure", e.URL())
	}
	proved := false
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: domain,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			proved = true // this is asked after the certificate and the proof of its key
			return &tls.Certificate{}, nil
		},
	}
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: helloTimeout}, Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", e.Addr())
	if err == nil {
		return conn.Close()
	}
	if proved {
		return nil
	}
	return err
}
