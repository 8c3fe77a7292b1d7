package tlsconfig

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

// Side is one place where TLS is used. See the package comment.
type Side struct {
	s    Settings
	own  *reloaded[*tls.Certificate] // nil: there is none
	show *reloaded[*tls.Certificate] // to others, when connecting
	cas  *reloaded[*authorities]     // nil: the system's authorities
	crl  *reloaded[revoked]          // nil: no certificate is revoked
}

// revoked has the serial numbers of revoked certificates.
type revoked map[string]bool

var errNotAllowed = errors.New("client certificate authentication failed")

// New reads the files for the first time. A side without a certificate is good for connecting only.
func New(s Settings, clk clock.Clock, lg *zap.Logger) (*Side, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	t := &Side{s: s}
	pair := func(what, cert, key string) (*reloaded[*tls.Certificate], error) {
		return newReloaded(what, clk, lg, func() (*tls.Certificate, error) { return readPair(cert, key) }, cert, key)
	}
	var err error
	if !s.Empty() {
		if t.own, err = pair("certificate", s.CertFile, s.KeyFile); err != nil {
			return nil, err
		}
		t.show = t.own
		if s.ClientCertFile != "" {
			if t.show, err = pair("certificate for connecting", s.ClientCertFile, s.ClientKeyFile); err != nil {
				return nil, err
			}
		}
	}
	if s.TrustedCAFile != "" {
		load := func() (*authorities, error) { return readAuthorities(s.TrustedCAFile) }
		if t.cas, err = newReloaded("authorities", clk, lg, load, s.TrustedCAFile); err != nil {
			return nil, err
		}
	}
	if s.CRLFile != "" && !s.Empty() {
		load := func() (revoked, error) { return readRevoked(s.CRLFile) }
		if t.crl, err = newReloaded("revocation list", clk, lg, load, s.CRLFile); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Empty says whether there is no certificate, so that nothing can be listened for.
func (t *Side) Empty() bool { return t.own == nil }

// ChecksAddresses says whether clients' certificates must fit the addresses that they come from, where a listener checks
// that at all. See CheckAddress.
func (t *Side) ChecksAddresses() bool { return !t.s.SkipClientSANVerification }

// Server returns the configuration of a listener for these protocols (RFC 7301). The side must not be Empty.
func (t *Side) Server(protocols ...string) *tls.Config {
	cfg := t.common()
	cfg.NextProtos = protocols
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.own.get(), nil }
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil // was not asked for
		}
		return errors.Join(t.checkAllowed(cs), t.checkRevoked(cs))
	}
	if !t.s.wantsClients() {
		return cfg
	}
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.SessionTicketsDisabled = true
	if t.cas == nil {
		return cfg
	}
	type bundled struct {
		cas *authorities
		cfg *tls.Config
	}
	var last atomic.Pointer[bundled] // what was made of the authorities that were last in use
	outer := cfg.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		cas := t.cas.get()
		b := last.Load()
		if b == nil || b.cas != cas {
			b = &bundled{cas: cas, cfg: cfg.Clone()}
			b.cfg.ClientCAs = cas.pool
			last.Store(b)
		}
		return b.cfg, nil
	}
	return outer
}

// Client returns the configuration of a connection that is made now. Unless one is configured, it is without the other side's name.
func (t *Side) Client() *tls.Config {
	cfg := t.common()
	cfg.ServerName = t.s.ServerName
	if t.cas != nil {
		cfg.RootCAs = t.cas.get().pool
	}
	cfg.InsecureSkipVerify = t.s.selfSigned
	if t.show != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.show.get(), nil }
		cfg.VerifyConnection = t.checkAllowed
	}
	return cfg
}

// common is what both ends of connections have in common.
func (t *Side) common() *tls.Config {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: t.s.MaxVersion, CipherSuites: t.s.CipherSuites}
	if t.s.MinVersion != 0 {
		cfg.MinVersion = t.s.MinVersion
	}
	return cfg
}

// checkAllowed compares the other side's certificate with the allowed names.
func (t *Side) checkAllowed(cs tls.ConnectionState) error {
	if len(t.s.AllowedCNs) == 0 && len(t.s.AllowedHostnames) == 0 {
		return nil
	}
	for _, chain := range cs.VerifiedChains {
		if len(chain) > 0 && t.allowed(chain[0]) {
			return nil
		}
	}
	return errNotAllowed
}

func (t *Side) allowed(cert *x509.Certificate) bool {
	return slices.Contains(t.s.AllowedCNs, cert.Subject.CommonName) ||
		slices.ContainsFunc(t.s.AllowedHostnames, func(h string) bool { return cert.VerifyHostname(h) == nil })
}

func (t *Side) checkRevoked(cs tls.ConnectionState) error {
	if t.crl == nil {
		return nil
	}
	list := t.crl.get()
	for _, c := range cs.PeerCertificates {
		if list[string(c.SerialNumber.Bytes())] {
			return fmt.Errorf("certificate serial %x revoked", c.SerialNumber)
		}
	}
	return nil
}

func readPair(cert, key string) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", cert, key, err)
	}
	return &pair, nil
}

// authorities are certificates that others are verified by.
type authorities struct {
	pool  *x509.CertPool
	certs []*x509.Certificate
}

func readAuthorities(path string) (*authorities, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	as := &authorities{pool: x509.NewCertPool()}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		as.pool.AddCert(cert)
		as.certs = append(as.certs, cert)
	}
	if len(as.certs) == 0 {
		return nil, fmt.Errorf("%s: no certificates in it", path)
	}
	return as, nil
}

// readRevoked reads a list in DER, or one or several in PEM.
func readRevoked(path string) (revoked, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	lists := [][]byte{data}
	if bytes.Contains(data, []byte("-----BEGIN")) {
		lists = nil
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			lists = append(lists, block.Bytes)
		}
	}
	out := revoked{}
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, e := range list.RevokedCertificateEntries {
			out[string(e.SerialNumber.Bytes())] = true
		}
	}
	return out, nil
}
