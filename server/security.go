package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/tlsconfig"
)

// security is TLS towards clients and towards other members. client is nil if no listener needs it.
type security struct {
	client, peer *tlsconfig.Side
}

func newSecurity(cfg *config.Config, clk clock.Clock, lg *zap.Logger) (*security, error) {
	l := &cfg.Listen
	clients := append(append([]string(nil), l.ClientURLs...), l.ClientHTTPURLs...)
	warnPlain(lg, "client", clients, &cfg.Security.Client)
	warnPlain(lg, "peer", l.PeerURLs, &cfg.Security.Peer)
	s := &security{}
	var err error
	peer := cfg.Security.Peer
	if peer, err = ownCertificate(cfg, peer, "peer", l.PeerURLs, clk, lg); err != nil {
		return nil, err
	}
	if s.peer, err = tlsconfig.New(peer, clk, lg.Named("peer-tls")); err != nil {
		return nil, err
	}
	if !anySecure(clients) && !anySecure(l.MetricsURLs) {
		return s, nil
	}
	client := cfg.Security.Client
	if client, err = ownCertificate(cfg, client, "client", clients, clk, lg); err != nil {
		return nil, err
	}
	s.client, err = tlsconfig.New(client, clk, lg.Named("client-tls"))
	return s, err
}

// ownCertificate makes a certificate if that is wanted and none is given.
func ownCertificate(cfg *config.Config, s tlsconfig.Settings, side string, urls []string, clk clock.Clock, lg *zap.Logger) (tlsconfig.Settings, error) {
	switch {
	case !s.AutoTLS:
		return s, nil
	case !s.Empty():
		lg.Warn("ignoring " + side + " auto TLS since certs given")
		return s, nil
	}
	var hosts []string
	for _, u := range urls {
		if network, addr, _, err := listen.Address(u); err == nil && network == "tcp" {
			hosts = append(hosts, addr)
		}
	}
	return tlsconfig.SelfSigned(s, filepath.Join(cfg.DataDir, "fixtures", side), hosts, cfg.Security.SelfSignedYears, clk, lg)
}

func secureURL(u string) bool {
	return strings.HasPrefix(u, "https:") || strings.HasPrefix(u, "unixs:")
}

func anySecure(urls []string) bool {
	for _, u := range urls {
		if secureURL(u) {
			return true
		}
	}
	return false
}

// warnPlain tells of listeners that do not use what is configured.
func warnPlain(lg *zap.Logger, side string, urls []string, s *tlsconfig.Settings) {
	for _, u := range urls {
		if secureURL(u) {
			continue
		}
		if !s.Empty() {
			lg.Warn("scheme is http or unix while key and cert files are present; ignoring key and cert files", zap.String(side+"-url", u))
		}
		if s.ClientCertAuth {
			lg.Warn("scheme is http or unix while client certificates are asked for; ignoring client cert auth for this URL", zap.String(side+"-url", u))
		}
	}
}

// checkAddress refuses certificates that do not fit the address that they come from.
func checkAddress(ctx context.Context, c *tls.Conn) error {
	certs := c.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return nil
	}
	return tlsconfig.CheckAddress(ctx, net.DefaultResolver, certs[0], c.RemoteAddr().String())
}

// refused logs connections that did not get in. Those that just end are mostly probes of ports.
func (d *doors) refused(msg string) func(c *tls.Conn, err error) {
	return func(c *tls.Conn, err error) {
		say := d.lg.Warn
		if errors.Is(err, io.EOF) {
			say = d.lg.Debug
		}
		fields := []zap.Field{zap.String("remote-addr", c.RemoteAddr().String()), zap.String("server-name", c.ConnectionState().ServerName), zap.Error(err)}
		if certs := c.ConnectionState().PeerCertificates; len(certs) > 0 {
			fields = append(fields, zap.Stringer("subject", certs[0].Subject), zap.Strings("dns-names", certs[0].DNSNames))
		}
		say(msg, fields...)
	}
}
