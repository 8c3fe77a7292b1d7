package tcpproxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/srv"
)

// trusted returns those endpoints that can be reached and show a certificate that is valid for the domain. Whoever can forge
// the records can then not send clients elsewhere. caFile is a file of authorities in PEM; empty: the system's.
func trusted(ctx context.Context, found []srv.Endpoint, domain, caFile string, lg *zap.Logger) ([]srv.Endpoint, error) {
	var roots *x509.CertPool
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("--trusted-ca-file: %w", err)
		}
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--trusted-ca-file: there is no certificate in %s", caFile)
		}
	}
	errs := make([]error, len(found))
	var checks sync.WaitGroup
	for i, e := range found {
		checks.Go(func() { errs[i] = verify(ctx, e, domain, roots) })
	}
	checks.Wait()
	var out []srv.Endpoint
	for i, e := range found {
		if errs[i] != nil {
			lg.Warn("failed to validate a discovered endpoint", zap.String("endpoint", e.URL()), zap.Error(errs[i]))
			continue
		}
		out = append(out, e)
	}
	return out, nil
}

// verify looks at an endpoint's certificate. It is enough that this is valid: the endpoint may want one of its clients, which the
// gateway does not have.
func verify(ctx context.Context, e srv.Endpoint, domain string, roots *x509.CertPool) error {
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
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: dialTimeout}, Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", e.Addr())
	if err == nil {
		return conn.Close()
	}
	if proved {
		return nil
	}
	return err
}
