package cluster

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"k8s.io/client-go/rest"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/apiserver"
	"github.com/keelson-io/keelson/orchestrator/apiserver/aggregate"
	"github.com/keelson-io/keelson/orchestrator/apiserver/identity"
	"github.com/keelson-io/keelson/orchestrator/apiserver/request"
	"github.com/keelson-io/keelson/orchestrator/cluster/inprocess"
	"github.com/keelson-io/keelson/orchestrator/cluster/pki"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/metrics"
	"github.com/keelson-io/keelson/orchestrator/node/registration"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
)

// API says how the API server is run.
type API struct {
	// DataDir holds certificates and keys, in pki.
	DataDir string
	// BindAddress and SecurePort are where it listens; "": 127.0.0.1; port 0 is any free one.
	BindAddress string
	SecurePort  int
	// AdvertiseAddress is the IP address by which pods reach it; "": BindAddress, or one of the machine's if that is unspecified.
	AdvertiseAddress string
	// Kubeconfig is the file into which the way to reach it is written, "" for <DataDir>/kubeconfig.
	Kubeconfig string
	// StoreEndpoints are client URLs of the store.
	StoreEndpoints []string
	// ShutdownDelay is how long it serves on while it says that it is not ready, so that balancers send nobody any more.
	ShutdownDelay time.Duration
	// Limits bound what requests may take; zero ones are the defaults.
	Limits   apiserver.Limits
	Settings Settings
	Logger   *zap.Logger
}

// compactEvery is how long old revisions are kept in the store, at least.
const compactEvery = 5 * time.Minute

// apiServer is a running API server.
type apiServer struct {
	cfg    API
	set    *settings
	lg     *zap.Logger
	pki    *pki.Store
	client *client.Client
	store  *objectstore.Store
	tokens *identity.Issuer // of those that are kept in secrets
	api    *apiserver.API
	usage  *metrics.Collector // of nodes and pods
	// registry has the metrics of this process.
	registry *prometheus.Registry
	listen   net.Listener
	http     *http.Server
	token    string // of this process's own clients
	ended    chan error
	cancel   context.CancelFunc
}

// startAPI starts an API server and returns when it is ready.
func startAPI(ctx context.Context, cfg API) (s *apiServer, err error) {
	cfg.BindAddress = cmp.Or(cfg.BindAddress, "127.0.0.1")
	s = &apiServer{cfg: cfg, lg: sampled(cfg.Logger), ended: make(chan error, 2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.set, err = cfg.Settings.read(); err != nil {
		return s, err
	}
	if s.pki, err = pki.Open(filepath.Join(cfg.DataDir, "pki"), time.Now); err != nil {
		return s, err
	}
	if cfg.AdvertiseAddress != "" && net.ParseIP(cfg.AdvertiseAddress) == nil {
		return s, fmt.Errorf("cluster: the advertise address %q is no IP address", cfg.AdvertiseAddress)
	}
	if s.listen, err = net.Listen("tcp", net.JoinHostPort(cfg.BindAddress, strconv.Itoa(cfg.SecurePort))); err != nil {
		return s, fmt.Errorf("cluster: %w", err)
	}
	if s.client, err = client.New(client.Config{Endpoints: cfg.StoreEndpoints}); err != nil {
		return s, fmt.Errorf("cluster: the store: %w", err)
	}
	if err := s.reach(ctx); err != nil {
		return s, err
	}
	if err := s.build(); err != nil {
		return s, err
	}
	return s, s.run(ctx)
}

// sampled is a logger that says the same thing a few times in a while only: what goes wrong with the store goes wrong for every
// kind.
func sampled(lg *zap.Logger) *zap.Logger {
	return lg.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, 10*time.Second, 2, 0)
	}))
}

// storeAttempt bounds one attempt to reach the store, and is how often it is tried.
const storeAttempt = 2 * time.Second

// reach waits until the store answers.
func (s *apiServer) reach(ctx context.Context) error {
	for told := false; ; told = true {
		attempt, cancel := context.WithTimeout(ctx, storeAttempt)
		_, err := s.client.Get(attempt, "/registry", client.WithCountOnly())
		if err == nil {
			cancel()
			return nil
		}
		if !told && ctx.Err() == nil {
			s.lg.Warn("waiting for the store", zap.Strings("endpoints", s.cfg.StoreEndpoints), zap.Error(err))
		}
		<-attempt.Done()
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// keyring holds the key of service account tokens.
func keyring(p *pki.Store) (*identity.Keyring, error) {
	key, err := p.TokenKey()
	if err != nil {
		return nil, err
	}
	return identity.NewKeyring(key)
}

// build makes the parts of the server.
func (s *apiServer) build() error {
	s.registry = newRegistry()
	s.store = objectstore.New(objectstore.Config{
		Client: s.client, Transformer: s.set.transformers, CompactEvery: compactEvery, Logger: s.lg, Registerer: s.registry,
	})
	keys, err := keyring(s.pki)
	if err != nil {
		return err
	}
	s.tokens = &identity.Issuer{Keys: keys}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails
	s.token = hex.EncodeToString(secret)
	tokens := map[string]request.User{s.token: {Name: "system:keelson", Groups: []string{"system:masters"}}}
	maps.Copy(tokens, s.set.tokens)
	clients := s.pki.Pool().Clone()
	clients.AppendCertsFromPEM(s.set.clientCAs)
	aggregation, err := s.aggregation()
	if err != nil {
		return err
	}
	told, err := forStrangers("https://"+s.advertised(), s.authorities())
	if err != nil {
		return err
	}
	s.usage = metrics.New(metrics.Config{Every: s.cfg.Settings.MetricResolution, Logger: s.lg.Named("metrics")})
	cfg := apiserver.Config{
		Kinds: kinds.Builtin(), Store: s.store, ClientCAs: clients, Keys: keys, Issuer: s.set.issuer, Address: s.advertised(), Discovery: told,
		Tokens: tokens, ServiceRanges: s.set.ranges, NodePorts: s.set.ports, AuditPolicy: s.set.auditPolicy,
		Aggregation: aggregation, Nodes: s.nodes(), Metrics: s.usage, Limits: s.cfg.Limits, Clock: clock.Real, Logger: s.lg, Registry: s.registry,
	}
	if s.set.auditLog != nil {
		cfg.AuditLog = s.set.auditLog
	}
	s.api, err = apiserver.New(cfg)
	return err
}

// certificate is what the server shows to its clients.
func (s *apiServer) certificate() (tls.Certificate, error) {
	if s.set.serving != nil {
		return *s.set.serving, nil
	}
	return s.pki.Server("apiserver", s.hosts()...)
}

// maxStreams is how many requests one connection may carry at a time: controllers have a watch for every kind.
const maxStreams = 1000

// run starts to serve, and waits until the server is ready.
func (s *apiServer) run(ctx context.Context) error {
	cert, err := s.certificate()
	if err != nil {
		return err
	}
	if err := s.writeKubeconfig(); err != nil { // whoever finds the server ready finds it, too
		return err
	}
	s.http = &http.Server{
		Handler: s.api, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(quiet{s.lg}, "", 0),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"},
		},
	}
	background, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	ready := make(chan struct{})
	go func() { s.ended <- s.serve(background, cancel, func() { close(ready) }) }()
	go func() {
		if err := s.http.ServeTLS(s.listen, "", ""); !errors.Is(err, http.ErrServerClosed) {
			s.ended <- err
		}
	}()
	select {
	case <-ready:
		return nil
	case err := <-s.ended:
		s.ended <- nil // close waits for it
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serve runs what an API server does beside answering, until the context ends or something goes wrong.
func (s *apiServer) serve(ctx context.Context, cancel func(), ready func()) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.usage.Run(ctx, s.api) })
	err := s.api.Run(ctx, ready)
	cancel()
	wg.Wait()
	return err
}

// advertised is where others reach the server, as host:port. With an unspecified bind address it is the machine's address
// towards the rest of the world, of the family of services.
func (s *apiServer) advertised() string {
	host, port, _ := net.SplitHostPort(s.listen.Addr().String())
	if s.cfg.AdvertiseAddress != "" {
		return net.JoinHostPort(s.cfg.AdvertiseAddress, port)
	}
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		all := registration.MachineAddresses()
		slices.SortStableFunc(all, func(a, b netip.Addr) int { return s.foreign(a) - s.foreign(b) })
		if len(all) > 0 {
			host = all[0].String()
		}
	}
	return net.JoinHostPort(host, port)
}

// foreign is 1 for an address that is not of the family of services, else 0.
func (s *apiServer) foreign(a netip.Addr) int {
	if len(s.set.ranges) > 0 && s.set.ranges[0].Addr().Is4() != a.Is4() {
		return 1
	}
	return 0
}

// addresses are this machine's, without those that others cannot reach.
func addresses() (out []string) {
	all, _ := net.InterfaceAddrs() // without them there are none
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && !n.IP.IsLinkLocalUnicast() {
			out = append(out, n.IP.String())
		}
	}
	return out
}

// hosts are the names and addresses in the server's certificate.
func (s *apiServer) hosts() []string {
	hosts := []string{"localhost", "127.0.0.1", "::1", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}
	for _, r := range s.set.ranges {
		hosts = append(hosts, r.Addr().Next().String()) // of the service kubernetes
	}
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	if s.cfg.AdvertiseAddress != "" {
		hosts = append(hosts, s.cfg.AdvertiseAddress)
	}
	ip := net.ParseIP(s.cfg.BindAddress)
	switch {
	case ip == nil || ip.IsLoopback():
	case ip.IsUnspecified():
		hosts = append(hosts, addresses()...)
	default:
		hosts = append(hosts, ip.String())
	}
	return hosts
}

// url is where clients on this machine reach the server.
func (s *apiServer) url() string {
	host, port, _ := net.SplitHostPort(s.listen.Addr().String())
	if ip := net.ParseIP(host); ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "https://" + net.JoinHostPort(host, port)
}

// frontProxy names the certificate by which aggregated API servers know this one. It has an authority of its own, so that no
// other client can be taken for it.
const frontProxy = "front-proxy-client"

// aggregation is how aggregated API servers know this one.
func (s *apiServer) aggregation() (apiserver.Aggregation, error) {
	p, err := pki.Open(filepath.Join(s.cfg.DataDir, "pki", "front-proxy"), time.Now)
	if err != nil {
		return apiserver.Aggregation{}, err
	}
	cert, err := p.Client(frontProxy, frontProxy)
	return apiserver.Aggregation{Certificate: &cert, Trust: aggregate.Trust{
		ClientAuthorities: slices.Concat(s.pki.CA(), s.set.clientCAs), Authority: p.CA(), Name: frontProxy,
	}}, err
}

// nodeClient names the certificate by which nodes know the API server.
const nodeClient = "apiserver-kubelet-client"

// nodes is how nodes are reached. The certificate is looked at for every connection, so that it never ends.
func (s *apiServer) nodes() apiserver.Nodes {
	return apiserver.Nodes{Authorities: s.pki.Pool(), Certificate: func() (*tls.Certificate, error) {
		c, err := s.pki.Client(nodeClient, "kube-apiserver-kubelet-client", "system:masters")
		return &c, err
	}}
}

// authorities are what clients know the server by, in PEM. A certificate that somebody else signed is known by itself.
func (s *apiServer) authorities() []byte { return slices.Concat(s.pki.CA(), s.set.servingPEM) }

func (s *apiServer) writeKubeconfig() error {
	if _, err := s.pki.Client("admin", "kubernetes-admin", "system:masters"); err != nil {
		return err
	}
	cert, key, err := s.pki.PEM("admin")
	if err != nil {
		return err
	}
	return WriteKubeconfig(s.kubeconfig(), s.url(), s.authorities(), cert, key)
}

func (s *apiServer) kubeconfig() string {
	if s.cfg.Kubeconfig != "" {
		return s.cfg.Kubeconfig
	}
	return filepath.Join(s.cfg.DataDir, "kubeconfig")
}

// config is how clients in this process reach the server.
func (s *apiServer) config() *rest.Config {
	return &rest.Config{
		Host: "http://apiserver", Transport: &inprocess.Transport{Handler: s.api}, BearerToken: s.token, QPS: -1,
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
	}
}

// apiStop bounds an orderly stop: requests that are being served have that long.
const apiStop = 10 * time.Second

// close stops what was started, in reverse.
func (s *apiServer) close() error {
	var errs []error
	if s.api != nil {
		s.api.Retire()
		if s.http != nil {
			time.Sleep(s.cfg.ShutdownDelay)
		}
		s.api.Drain()
	}
	if s.http != nil {
		ctx, cancel := context.WithTimeout(context.Background(), apiStop)
		if err := s.http.Shutdown(ctx); err != nil {
			errs = append(errs, s.http.Close())
		}
		cancel()
	} else if s.listen != nil {
		errs = append(errs, s.listen.Close())
	}
	if s.cancel != nil {
		s.cancel()
		errs = append(errs, <-s.ended)
	}
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	return errors.Join(append(errs, s.set.close())...)
}

// quiet logs what net/http has to say about clients that do not speak TLS, and the like.
type quiet struct{ lg *zap.Logger }

func (q quiet) Write(p []byte) (int, error) {
	q.lg.Debug("http", zap.ByteString("message", p))
	return len(p), nil
}

// Serve runs an API server until the context ends.
func Serve(ctx context.Context, cfg API) error {
	s, err := startAPI(ctx, cfg)
	if err != nil {
		return ended(ctx, err)
	}
	select {
	case <-ctx.Done():
	case err = <-s.ended:
		s.ended <- nil
	}
	return errors.Join(err, s.close())
}
