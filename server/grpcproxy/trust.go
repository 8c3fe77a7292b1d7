package grpcproxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/tlsconfig"
)

// memberTLS returns how to secure a connection to a member that is made now, nil: not at all, unless an endpoint says so.
func (o *Options) memberTLS(lg *zap.Logger) (func() *tls.Config, error) {
	d := &o.Member
	if d.CAFile == "" && d.CertFile == "" && d.KeyFile == "" && !d.InsecureSkipVerify {
		return nil, nil
	}
	if d.InsecureSkipVerify {
		lg.Warn("--insecure-skip-tls-verify: certificates of members are not verified")
	}
	side, err := tlsconfig.New(tlsconfig.Settings{CertFile: d.CertFile, KeyFile: d.KeyFile, TrustedCAFile: d.CAFile}, clock.Real, lg.Named("member-tls"))
	if err != nil {
		return nil, fmt.Errorf("--cert, --key, --cacert: %w", err)
	}
	secured := func() *tls.Config {
		cfg := side.Client()
		cfg.InsecureSkipVerify = d.InsecureSkipVerify
		show := cfg.GetClientCertificate
		if show == nil {
			return cfg
		}
		cfg.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			cert, err := show(info)
			if err == nil {
				err = nameless(cert, d.CertFile)
			}
			return cert, err
		}
		return cfg
	}
	if get := secured().GetClientCertificate; get != nil {
		if _, err := get(&tls.CertificateRequestInfo{}); err != nil {
			return nil, err
		}
	}
	return secured, nil
}

// nameless refuses a certificate with a common name: members would take that for the user of every client without a token.
func nameless(cert *tls.Certificate, file string) error {
	if cert.Leaf != nil && cert.Leaf.Subject.CommonName != "" {
		return fmt.Errorf("cert has non empty Common Name (%s): %s", cert.Leaf.Subject.CommonName, file)
	}
	return nil
}

// clientTLS returns TLS towards clients, nil: none.
func (o *Options) clientTLS(lg *zap.Logger) (*tlsconfig.Side, error) {
	c := &o.Clients
	suites, err := tlsconfig.CipherSuites(c.Ciphers)
	if err != nil {
		return nil, err
	}
	s := tlsconfig.Settings{CertFile: c.CertFile, KeyFile: c.KeyFile, TrustedCAFile: c.CAFile, CRLFile: c.CRLFile, CipherSuites: suites}
	if s.MinVersion, err = tlsconfig.Version(c.MinVersion); err != nil {
		return nil, err
	}
	if s.MaxVersion, err = tlsconfig.Version(c.MaxVersion); err != nil {
		return nil, err
	}
	switch {
	case s.Empty() && s.TrustedCAFile == "" && c.AutoTLS:
		dir := filepath.Join(o.DataDir, "fixtures", "proxy")
		if s, err = tlsconfig.SelfSigned(s, dir, []string{o.Listen}, c.SelfSignedYears, clock.Real, lg); err != nil {
			return nil, err
		}
	case s.Empty() && s.TrustedCAFile == "":
		return nil, nil
	case s.Empty():
		return nil, errors.New("--trusted-ca-file: there is no certificate to show to clients (--cert-file, --key-file)")
	}
	return tlsconfig.New(s, clock.Real, lg.Named("client-tls"))
}

// serves says what is served at a listener, with TLS if a side is given.
func serves(side *tlsconfig.Side, grpc bool, lg *zap.Logger) listen.Config {
	cfg := listen.Config{Plain: side == nil, GRPC: grpc, HTTP: true}
	if side != nil {
		cfg.TLS = &listen.TLS{Config: side.Server(listen.HTTP2, listen.HTTP1), Refused: func(c *tls.Conn, err error) {
			lg.Warn("rejected connection", zap.String("remote-addr", c.RemoteAddr().String()), zap.Error(err))
		}}
	}
	return cfg
}
