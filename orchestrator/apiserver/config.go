package apiserver

import (
	"crypto/x509"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/audit"
	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// Config is what an API server is made of.
type Config struct {
	Kinds []*kinds.Kind // the built-in ones
	Store *objectstore.Store

	// ClientCAs sign the certificates of clients; nil: none are known.
	ClientCAs *x509.CertPool
	// Tokens are fixed bearer tokens; nil: none.
	Tokens map[string]request.User
	// Keys sign and verify service account tokens.
	Keys *identity.Keyring
	// Issuer is the issuer in service account tokens, a URL; Audiences are the server's names for itself, default the issuer.
	Issuer    string
	Audiences []string
	// Address is where others reach the server, as host:port.
	Address string

	// AuditPolicy and AuditLog turn the audit log on if both are set.
	AuditPolicy *audit.Policy
	AuditLog    io.Writer

	Clock    clock.Clock          // nil: clock.Real
	Logger   *zap.Logger          // nil: none
	Registry *prometheus.Registry // nil: an own one
}

func (c *Config) setDefaults() {
	if c.Clock == nil {
		c.Clock = clock.Real
	}
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Audiences == nil {
		c.Audiences = []string{c.Issuer}
	}
}
