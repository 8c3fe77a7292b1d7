package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver/allocation"
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
	// Discovery is a kubeconfig that tells strangers where the cluster is and by which authority to know it; "": none is told.
	Discovery string
	// ServiceRanges are the cluster IPs of services: one range, or one of each family. NodePorts are theirs.
	ServiceRanges []netip.Prefix
	NodePorts     allocation.Ports

	// AuditPolicy and AuditLog turn the audit log on if both are set.
	AuditPolicy *audit.Policy
	AuditLog    io.Writer

	Limits      Limits
	Aggregation Aggregation
	Nodes       Nodes
	// Metrics is what metrics.k8s.io is answered from; nil: it is not served.
	Metrics Metrics

	Clock    clock.Clock          // nil: clock.Real
	Logger   *zap.Logger          // nil: none
	Registry *prometheus.Registry // nil: an own one
}

// Nodes is how the server reaches nodes, pods and services.
type Nodes struct {
	// Authorities sign the certificates of nodes; nil: nodes are not reached.
	Authorities *x509.CertPool
	// Certificate is shown to nodes. It is asked for every connection; nil: none is shown.
	Certificate func() (*tls.Certificate, error)
	// Dial makes connections; nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Limits bound what requests may take.
type Limits struct {
	// RequestsInFlight and MutatingInFlight are together the seats of the server (package fairness). Default 400 and 200.
	RequestsInFlight, MutatingInFlight int
	// RequestTime is how long a request may take that is not long-running; it may ask for less. Default 60 s.
	RequestTime time.Duration
}

func (c *Config) setDefaults() {
	if c.Limits.RequestsInFlight == 0 {
		c.Limits.RequestsInFlight = 400
	}
	if c.Limits.MutatingInFlight == 0 {
		c.Limits.MutatingInFlight = 200
	}
	if c.Limits.RequestTime == 0 {
		c.Limits.RequestTime = time.Minute
	}
	if len(c.ServiceRanges) == 0 {
		c.ServiceRanges = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	}
	if c.NodePorts == (allocation.Ports{}) {
		c.NodePorts = allocation.Ports{First: 30000, Last: 32767}
	}
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
