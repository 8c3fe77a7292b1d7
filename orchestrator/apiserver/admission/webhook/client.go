package webhook

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	admissionapi "k8s.io/api/admission/v1"
	admissionbeta "k8s.io/api/admission/v1beta1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// Resolver finds where a service is.
type Resolver interface {
	// Resolve returns host and port of an endpoint of a service's port, or of its cluster IP.
	Resolve(ctx context.Context, namespace, service string, port int32) (address string, err error)
}

const (
	userAgent        = "keelson-admission"
	defaultPort      = 443
	dialTimeout      = 10 * time.Second
	handshakeTimeout = 10 * time.Second
	idleTimeout      = 90 * time.Second
	idleConnections  = 32 // per server
)

// server is what connections depend on.
type server struct {
	host               string // and port
	namespace, service string // "" for a URL
	port               int32
	ca                 [sha256.Size]byte
}

// clients are HTTP clients by server.
type clients struct {
	resolver Resolver
	codec    runtime.NegotiatedSerializer

	mu   sync.Mutex
	open map[server]*http.Client
}

func newClients(r Resolver) *clients {
	scheme := runtime.NewScheme()
	scheme.AddKnownTypes(admissionapi.SchemeGroupVersion, &admissionapi.AdmissionReview{})
	scheme.AddKnownTypes(admissionbeta.SchemeGroupVersion, &admissionbeta.AdmissionReview{})
	codec := serializer.NewCodecFactory(scheme).LegacyCodec(admissionapi.SchemeGroupVersion, admissionbeta.SchemeGroupVersion)
	return &clients{
		resolver: r, open: map[server]*http.Client{},
		codec: serializer.NegotiatedSerializerWrapper(runtime.SerializerInfo{Serializer: codec}),
	}
}

// retain closes the idle connections to servers that no hook uses any more.
func (c *clients) retain(used map[server]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s, client := range c.open {
		if !used[s] {
			client.CloseIdleConnections()
			delete(c.open, s)
		}
	}
}

// Close closes idle connections.
func (p *plugin) Close() { p.source.clients.retain(nil) }

// target is where a webhook is.
type target struct {
	server
	scheme, path string
	serverName   string // in the certificate, "" for the host's
}

func targetOf(cc *admissionv1.WebhookClientConfig) (target, error) {
	t := target{scheme: "https", server: server{ca: sha256.Sum256(cc.CABundle)}}
	if s := cc.Service; s != nil {
		t.namespace, t.service, t.port = s.Namespace, s.Name, defaultPort
		if s.Port != nil && *s.Port != 0 {
			t.port = *s.Port
		}
		if s.Path != nil {
			t.path = *s.Path
		}
		t.serverName = s.Name + "." + s.Namespace + ".svc"
		t.host = net.JoinHostPort(t.serverName, strconv.Itoa(int(t.port)))
		return t, nil
	}
	if cc.URL == nil || *cc.URL == "" {
		return t, errors.New("webhook configuration must have either service or URL")
	}
	u, err := url.Parse(*cc.URL)
	if err != nil {
		return t, fmt.Errorf("unparsable URL: %w", err)
	}
	t.scheme, t.host, t.path = u.Scheme, u.Host, u.Path
	return t, nil
}

// client returns what speaks to a webhook.
func (c *clients) client(cc *admissionv1.WebhookClientConfig) (*rest.RESTClient, error) {
	t, err := targetOf(cc)
	if err != nil {
		return nil, err
	}
	h, err := c.http(t, cc.CABundle)
	if err != nil {
		return nil, err
	}
	config := &rest.Config{
		Host: t.scheme + "://" + t.host, APIPath: t.path, QPS: -1, UserAgent: userAgent, WarningHandler: rest.NoWarnings{},
		ContentConfig: rest.ContentConfig{NegotiatedSerializer: c.codec, ContentType: runtime.ContentTypeJSON},
	}
	client, err := rest.UnversionedRESTClientForConfigAndClient(config, h)
	if err != nil {
		return nil, fmt.Errorf("webhook client: %w", err)
	}
	return client, nil
}

// http returns the client for a server. It speaks HTTP/1.1: one connection of HTTP/2 would take all requests to one endpoint.
func (c *clients) http(t target, ca []byte) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.open[t.server]; h != nil {
		return h, nil
	}
	config := &tls.Config{ServerName: t.serverName, MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	dial := dialer.DialContext
	if t.service != "" {
		dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if address == t.host {
				if c.resolver == nil {
					return nil, fmt.Errorf("service %q in namespace %q: no resolver", t.service, t.namespace)
				}
				at, err := c.resolver.Resolve(ctx, t.namespace, t.service, t.port)
				if err != nil {
					return nil, err
				}
				address = at
			}
			return dialer.DialContext(ctx, network, address)
		}
	}
	h := &http.Client{Transport: &http.Transport{
		DialContext: dial, TLSClientConfig: config, TLSHandshakeTimeout: handshakeTimeout,
		MaxIdleConnsPerHost: idleConnections, IdleConnTimeout: idleTimeout,
	}}
	c.open[t.server] = h
	return h, nil
}
