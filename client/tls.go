package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
)

// TLSFiles makes a TLS configuration of files in PEM, as the flags of command line tools name them.
type TLSFiles struct {
	CACert    string // authorities of servers' certificates; "" is the system's
	Cert, Key string // to show to servers; both or none
	// ServerName is what servers' certificates must be for; "" is the host of the endpoint.
	ServerName string
	// SkipVerify takes every certificate. For tests.
	SkipVerify bool
}

// Config reads the files. Certificate and key are read again for every connection, so that they may be replaced.
func (f TLSFiles) Config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName, InsecureSkipVerify: f.SkipVerify}
	if f.Cert != "" || f.Key != "" {
		if f.Cert == "" || f.Key == "" {
			return nil, fmt.Errorf("KeyFile and CertFile must both be present[key: %v, cert: %v]", f.Key, f.Cert)
		}
		if _, err := tls.LoadX509KeyPair(f.Cert, f.Key); err != nil {
			return nil, err
		}
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
			return &pair, err
		}
	}
	if f.CACert != "" {
		data, err := os.ReadFile(f.CACert)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		found := false
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, err
			}
			cfg.RootCAs.AddCert(cert)
			found = true
		}
		if !found {
			return nil, fmt.Errorf("no certificates in %s", f.CACert)
		}
	}
	return cfg, nil
}
