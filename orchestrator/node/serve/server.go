package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/keelson-io/keelson/internal/clock"
)

// Workers know the pods of the node.
type Workers interface {
	// Pods are all pods of the node, with their status.
	Pods() []*corev1.Pod
	// Container finds a container of a pod: the one that there is, or the one before that. It is an error if there is none.
	Container(namespace, pod, container string, previous bool) (id, logPath string, err error)
}

// Runtime is the part of a CRI runtime that the server needs.
type Runtime interface {
	ListPodSandbox(ctx context.Context, in *runtimeapi.ListPodSandboxRequest, opts ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error)
	ListContainers(ctx context.Context, in *runtimeapi.ListContainersRequest, opts ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error)
	ContainerStatus(ctx context.Context, in *runtimeapi.ContainerStatusRequest, opts ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error)
	ExecSync(ctx context.Context, in *runtimeapi.ExecSyncRequest, opts ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error)
	Exec(ctx context.Context, in *runtimeapi.ExecRequest, opts ...grpc.CallOption) (*runtimeapi.ExecResponse, error)
	Attach(ctx context.Context, in *runtimeapi.AttachRequest, opts ...grpc.CallOption) (*runtimeapi.AttachResponse, error)
	PortForward(ctx context.Context, in *runtimeapi.PortForwardRequest, opts ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error)
}

// Metrics are what the server shows of the node and its containers. What is nil is not served.
type Metrics struct {
	// Agent is at /metrics, Probes at /metrics/probes, Resource at /metrics/resource, Containers at /metrics/cadvisor.
	Agent, Probes, Resource, Containers prometheus.Gatherer
	// Summary is at /stats/summary.
	Summary func(ctx context.Context, onlyCPUAndMemory bool) (*stats.Summary, error)
}

// Config is what a Server is made of. Node, Certificate, ClientCAs, Client, Workers and Runtime must be set.
type Config struct {
	// Node is the node's name.
	Node string
	// Address is where the server listens, as host:port; "": port 10250 of all addresses.
	Address string
	// Certificate is the one that the server shows at the moment.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// ClientCAs sign the certificates of clients.
	ClientCAs *x509.CertPool
	// Client asks the API server about tokens and rights.
	Client  kubernetes.Interface
	Workers Workers
	Runtime Runtime
	Metrics Metrics
	// Healthy says what is wrong with the node's agent; nil: nothing is.
	Healthy func(ctx context.Context) error
	// Settings are shown at /configz, in JSON; nil: none.
	Settings any
	Clock    clock.Clock // nil: clock.Real
	Logger   *zap.Logger // nil: none
}

const (
	defaultAddress = ":10250"
	headerTimeout  = 10 * time.Second
	idleTimeout    = 5 * time.Minute
	// stopTimeout is how long requests may go on when the server ends.
	stopTimeout = 2 * time.Second
)

// Server is described in the package comment.
type Server struct {
	cfg      Config
	listener *listener
	who      *authenticator
	may      *authorizer
	ending   context.Context // ends with Run
	end      context.CancelFunc
}

// New makes a Server and listens. Run it.
func New(cfg Config) (*Server, error) {
	if cfg.Address == "" {
		cfg.Address = defaultAddress
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	l, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	s := &Server{
		cfg: cfg, listener: &listener{Listener: l, open: map[*conn]struct{}{}},
		who: newAuthenticator(&cfg), may: newAuthorizer(&cfg),
	}
	s.ending, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until the context ends, and then ends all that goes on.
func (s *Server) Run(ctx context.Context) error {
	server := &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, ErrorLog: log.New(quiet{s.cfg.Logger}, "", 0),
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: s.cfg.Certificate, ClientAuth: tls.RequestClientCert, NextProtos: []string{"h2", "http/1.1"},
		},
	}
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(s.listener, "", "") }()
	var err error
	select {
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	s.end()
	stop, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if server.Shutdown(stop) != nil {
		_ = server.Close() // what is open is closed next
	}
	s.listener.closeAll()
	return err
}

// listener knows its open connections, those that were upgraded, too.
type listener struct {
	net.Listener
	mu     sync.Mutex
	open   map[*conn]struct{}
	closed bool
}

type conn struct {
	net.Conn
	of *listener
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	mine := &conn{c, l}
	l.open[mine] = struct{}{}
	return mine, nil
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func (l *listener) closeAll() {
	l.mu.Lock()
	l.closed = true
	var all []*conn
	for c := range l.open {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		_ = c.Close() // it may be closed already
	}
}

// quiet logs what net/http has to say about clients that do not speak TLS, and the like.
type quiet struct{ lg *zap.Logger }

func (q quiet) Write(p []byte) (int, error) {
	q.lg.Debug("node server", zap.ByteString("message", p))
	return len(p), nil
}
