package connect

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Config says how nodes are reached.
type Config struct {
	// Certificate is who this server is to nodes; nil: nobody. It is asked for every connection.
	Certificate func() (*tls.Certificate, error)
	// Authorities sign the certificates of nodes; nil: nodes are not reached.
	Authorities *x509.CertPool
	// Fail answers with an error.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
	// Ending ends what goes on.
	Ending context.Context
	// Dial makes connections; nil: as net.Dialer does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Connector is described in the package comment.
type Connector struct {
	cfg Config
	// nodes reaches nodes, anyNode those whose certificates are not looked at, others pods and services.
	nodes, anyNode, others *http.Transport
}

const (
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	keepAlive        = 30 * time.Second
	idleTimeout      = 90 * time.Second
	idlePerHost      = 8
)

// New makes a Connector.
func New(cfg Config) *Connector {
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext
	}
	c := &Connector{cfg: cfg}
	own := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cfg.Certificate == nil {
			return &tls.Certificate{}, nil
		}
		return cfg.Certificate()
	}
	c.nodes = c.transport(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.Authorities, GetClientCertificate: own})
	c.anyNode = c.transport(&tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, GetClientCertificate: own}) //nolint:gosec // only for who asks for it
	c.others = c.transport(&tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true})                             //nolint:gosec // nobody knows who signs for pods
	return c
}

// transport speaks HTTP/1.1: connections of HTTP/2 cannot be upgraded.
func (c *Connector) transport(secure *tls.Config) *http.Transport {
	secure.NextProtos = []string{"http/1.1"}
	return &http.Transport{
		DialContext: c.cfg.Dial, TLSClientConfig: secure, TLSHandshakeTimeout: handshakeTimeout, IdleConnTimeout: idleTimeout,
		MaxIdleConnsPerHost: idlePerHost, DisableCompression: true,
	}
}

// Close closes connections that nobody uses.
func (c *Connector) Close() {
	for _, t := range []*http.Transport{c.nodes, c.anyNode, c.others} {
		t.CloseIdleConnections()
	}
}

// Target is where a request goes.
type Target struct {
	URL *url.URL
	via *http.Transport
	// upgraded targets serve nothing but connections that are upgraded.
	upgraded bool
	// rewritten says that links in what comes back are to lead through the API server.
	rewritten bool
}

// Node is the server of a node, at a path. 503 if it has none.
func (c *Connector) Node(node *corev1.Node, path string, query url.Values) (*Target, error) {
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 || c.cfg.Authorities == nil {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s serves no streams", node.Name))
	}
	host, err := HostOf(node)
	if err != nil {
		return nil, err
	}
	u := &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port))), Path: path, RawQuery: query.Encode()}
	return &Target{URL: u, via: c.nodes}, nil
}

// Upgraded is for what is always upgraded.
func (t *Target) Upgraded() *Target {
	t.upgraded = true
	return t
}

// Unverified does not look at the node's certificate.
func (c *Connector) Unverified(t *Target) *Target {
	t.via = c.anyNode
	return t
}

// addressTypes are the kinds of addresses by which a node is reached, the best first.
var addressTypes = []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeInternalDNS, corev1.NodeExternalDNS, corev1.NodeHostName}

// HostOf is the address by which a node is reached. 503 if it has none.
func HostOf(node *corev1.Node) (string, error) {
	for _, t := range addressTypes {
		for _, a := range node.Status.Addresses {
			if a.Type == t && a.Address != "" {
				return a.Address, nil
			}
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has no address", node.Name))
}

// errAddress refuses addresses by which this server, or something near it, would be reached instead of a pod.
var errAddress = errors.New("address not allowed")

func allowed(host string) error {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return nil //nolint:nilerr // a name
	}
	ip = ip.Unmap()
	if ip.IsUnspecified() || ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast() {
		return errAddress
	}
	return nil
}

// At is a port of a pod or of another port of a node, over http or https.
func (c *Connector) At(scheme, address, path string) (*Target, error) {
	host, _, err := net.SplitHostPort(address)
	if err == nil {
		err = allowed(host)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s: %v", address, err))
	}
	if scheme == "" {
		scheme = "http"
	}
	return &Target{URL: &url.URL{Scheme: scheme, Host: address, Path: path}, via: c.others, rewritten: true}, nil
}
