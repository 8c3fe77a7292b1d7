//go:build linux

package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"net/http"
	"os"
)

// credentials are files, in PEM, of one end of a TLS connection.
type credentials struct {
	cert, key *string // the key may be in the certificate's file
	ca        *string // of the authorities whose certificates the other end may have
}

func credentialFlags(fs *flag.FlagSet) credentials {
	return credentials{
		cert: fs.String("cert", "", "file of the own certificate"),
		key:  fs.String("key", "", "file of its key, if it is another one"),
		ca:   fs.String("ca", "", "file of the authorities that the other end's certificate has to be of"),
	}
}

// pair reads the own certificate anew, since such files change. There may be none.
func (c credentials) pair() (*tls.Certificate, error) {
	if *c.cert == "" {
		return new(tls.Certificate), nil
	}
	key := *c.key
	if key == "" {
		key = *c.cert
	}
	pair, err := tls.LoadX509KeyPair(*c.cert, key)
	return &pair, err
}

// pool reads the authorities: without a file they are the usual ones.
func (c credentials) pool() (*x509.CertPool, error) {
	if *c.ca == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(*c.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", *c.ca)
	}
	return pool, nil
}

// server is a server's configuration, or nil for one with a certificate of nobody.
func (c credentials) server() (*tls.Config, error) {
	if *c.cert == "" {
		return nil, nil
	}
	pool, err := c.pool()
	if err != nil {
		return nil, err
	}
	pair, err := c.pair() // what is wrong with it is told at once
	if err != nil {
		return nil, err
	}
	// a certificate in the list keeps the test server of net/http from adding its own; each connection asks the function first
	config := &tls.Config{
		Certificates: []tls.Certificate{*pair}, ClientCAs: pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.pair() },
	}
	if pool != nil {
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

func (c credentials) client() (*tls.Config, error) {
	pool, err := c.pool()
	return &tls.Config{
		RootCAs:              pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.pair() },
	}, err
}

// identity is whose certificate a client has: its common name, or its first URI.
func identity(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "nobody"
	}
	cert := r.TLS.PeerCertificates[0]
	if len(cert.URIs) > 0 {
		return cert.URIs[0].String()
	}
	return cert.Subject.CommonName
}
