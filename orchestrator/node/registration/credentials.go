package registration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr/funcr"
	"go.uber.org/zap"
	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/klog/v2"
)

// JoinConfig says how a machine gets its certificate. Dir, Name and Bootstrap must be set.
type JoinConfig struct {
	// Dir holds the node's keys and certificates.
	Dir string
	// Name is the node's name.
	Name string
	// Bootstrap reaches the API server as somebody who may ask for the certificates of nodes, with a bootstrap token for example.
	// What it says of the user is needed as long as there is no certificate that is good.
	Bootstrap *rest.Config
	// Life is how long certificates are asked for; 0: as long as the cluster gives.
	Life   time.Duration
	Logger *zap.Logger // nil: none
}

const (
	nodeUser   = "system:node:"
	nodesGroup = "system:nodes"
)

// Credentials are a node's certificates.
type Credentials struct {
	cfg    JoinConfig
	client *store
	config *rest.Config
	conns  *connrotation.ConnectionTracker
	ctx    context.Context
	end    context.CancelFunc
}

// Join has a certificate for the node, which it may have to wait for. Until Close it asks for new ones in time.
func Join(ctx context.Context, cfg JoinConfig) (*Credentials, error) {
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	c := &Credentials{cfg: cfg, conns: connrotation.NewConnectionTracker()}
	c.ctx, c.end = context.WithCancel(klog.NewContext(context.Background(), verbose(cfg.Logger)))
	var err error
	if c.client, err = openStore(cfg.Dir, "client", c.conns.CloseAll, cfg.Logger); err != nil {
		return nil, err
	}
	if c.config, err = c.makeConfig(); err != nil {
		return nil, err
	}
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	m, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: c.clientset, CertificateStore: c.client, SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
		Template: &x509.CertificateRequest{Subject: subject(cfg.Name)}, GetUsages: certificate.DefaultKubeletClientGetUsages,
		RequestedCertificateLifetime: life(cfg.Life), Name: "client", Ctx: &c.ctx,
	})
	if err != nil {
		c.end()
		return nil, fmt.Errorf("registration: %w", err)
	}
	m.Start()
	if !c.client.good() {
		cfg.Logger.Info("waiting for the cluster to sign the node's certificate", zap.String("node", cfg.Name))
	}
	if err := c.client.wait(ctx); err != nil {
		c.Close()
		return nil, fmt.Errorf("registration: no certificate for node %q: %w", cfg.Name, err)
	}
	return c, nil
}

// probeTimeout bounds the question whether a certificate is still good.
const probeTimeout = 5 * time.Second

// check leaves a certificate behind that is for another node, or that the API server does not know: there may be another cluster
// by now. Without anything else to show it is kept.
func (c *Credentials) check(ctx context.Context) error {
	if !c.client.good() {
		return nil
	}
	if name := c.client.current.Load().Leaf.Subject.CommonName; name != nodeUser+c.cfg.Name {
		return c.client.drop("it is for " + name)
	}
	b := c.cfg.Bootstrap
	if b.BearerToken == "" && b.BearerTokenFile == "" && len(b.CertData) == 0 && b.CertFile == "" && b.ExecProvider == nil {
		return nil
	}
	client, err := kubernetes.NewForConfig(c.Config())
	if err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err = client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) { // nobody is forbidden to ask that
		return c.client.drop("the API server does not know it")
	}
	return nil // also if it cannot be asked
}

// Close ends the asking for new certificates.
func (c *Credentials) Close() { c.end() }

// Config reaches the API server as the node. It goes on with new certificates by itself.
func (c *Credentials) Config() *rest.Config { return rest.CopyConfig(c.config) }

func subject(name string) pkix.Name {
	return pkix.Name{CommonName: nodeUser + name, Organization: []string{nodesGroup}}
}

func life(d time.Duration) *time.Duration {
	if d == 0 {
		return nil
	}
	return &d
}

// verbose is a logger for client-go.
func verbose(lg *zap.Logger) klog.Logger {
	return funcr.New(func(prefix, args string) {
		lg.Info("certificates", zap.String("name", prefix), zap.String("message", args))
	}, funcr.Options{})
}

// makeConfig makes the way to the API server that uses the node's certificate.
func (c *Credentials) makeConfig() (*rest.Config, error) {
	config := rest.AnonymousClientConfig(c.cfg.Bootstrap)
	secure, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	if secure == nil {
		secure = &tls.Config{}
	}
	secure.MinVersion = tls.VersionTLS12
	secure.Certificates = nil
	secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if cert := c.client.current.Load(); cert != nil {
			return cert, nil
		}
		return &tls.Certificate{}, nil
	}
	dialer := connrotation.NewDialerWithTracker((&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext, c.conns)
	config.Transport = utilnet.SetTransportDefaults(&http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: handshakeTimeout, TLSClientConfig: secure, MaxIdleConnsPerHost: maxIdle,
		DialContext: dialer.DialContext,
	})
	config.TLSClientConfig = rest.TLSClientConfig{}
	if !strings.Contains(config.Host, "://") {
		config.Host = "https://" + config.Host
	}
	return config, nil
}

const (
	dialTimeout      = 30 * time.Second
	handshakeTimeout = 10 * time.Second
	keepAlive        = 30 * time.Second
	maxIdle          = 25
)

// clientset asks as the node if it can, and as whoever bootstraps it otherwise.
func (c *Credentials) clientset(*tls.Certificate) (kubernetes.Interface, error) {
	config := c.cfg.Bootstrap
	if c.client.good() {
		config = c.config
	}
	return kubernetes.NewForConfig(rest.AddUserAgent(rest.CopyConfig(config), "keelson-node"))
}

// store keeps a certificate in files.
type store struct {
	certificate.FileStore
	dir, prefix string
	changed     func()
	lg          *zap.Logger
	current     atomic.Pointer[tls.Certificate]
	updated     chan struct{} // there was one
}

// openStore opens the files of a prefix. Those that cannot be read are left behind: there will be new ones.
func openStore(dir, prefix string, changed func(), lg *zap.Logger) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	files, err := certificate.NewFileStoreWithLogger(verbose(lg), prefix, dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	s := &store{FileStore: files, dir: dir, prefix: prefix, changed: changed, lg: lg, updated: make(chan struct{}, 1)}
	cert, err := files.Current()
	var none *certificate.NoCertKeyError
	switch {
	case err == nil:
		s.current.Store(cert)
	case !errors.As(err, &none):
		return s, s.drop(err.Error())
	}
	return s, nil
}

// drop leaves the current certificate behind.
func (s *store) drop(why string) error {
	s.lg.Warn("a certificate is of no use and is asked for anew", zap.String("file", s.CurrentPath()), zap.String("reason", why))
	s.current.Store(nil)
	if err := os.Remove(s.CurrentPath()); err != nil {
		return fmt.Errorf("registration: %w", err)
	}
	return nil
}

// Update implements certificate.Store.
func (s *store) Update(cert, key []byte) (*tls.Certificate, error) {
	c, err := s.FileStore.Update(cert, key)
	if err != nil {
		return nil, err
	}
	s.current.Store(c)
	s.clean()
	select {
	case s.updated <- struct{}{}:
	default:
	}
	if s.changed != nil {
		s.changed()
	}
	return c, nil
}

// clean removes files that are no longer current.
func (s *store) clean() {
	link := filepath.Join(s.dir, s.prefix+"-current.pem")
	now, err := filepath.EvalSymlinks(link)
	if err != nil {
		return
	}
	names, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	for _, n := range names {
		path := filepath.Join(s.dir, n.Name())
		if strings.HasPrefix(n.Name(), s.prefix+"-") && n.Type().IsRegular() && filepath.Base(now) != n.Name() {
			_ = os.Remove(path) // the next time will do
		}
	}
}

// good says whether there is a certificate that has not ended.
func (s *store) good() bool {
	c := s.current.Load()
	return c != nil && c.Leaf != nil && time.Now().Before(c.Leaf.NotAfter)
}

// wait waits until there is one.
func (s *store) wait(ctx context.Context) error {
	for !s.good() {
		select {
		case <-s.updated:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
