package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/node/cgroup"
	"github.com/keelson-io/keelson/orchestrator/node/collect"
	"github.com/keelson-io/keelson/orchestrator/node/devices"
	"github.com/keelson-io/keelson/orchestrator/node/environ"
	"github.com/keelson-io/keelson/orchestrator/node/eviction"
	"github.com/keelson-io/keelson/orchestrator/node/logs"
	"github.com/keelson-io/keelson/orchestrator/node/probe"
	"github.com/keelson-io/keelson/orchestrator/node/registration"
	"github.com/keelson-io/keelson/orchestrator/node/serve"
	"github.com/keelson-io/keelson/orchestrator/node/stats"
	"github.com/keelson-io/keelson/orchestrator/node/volume"
	"github.com/keelson-io/keelson/orchestrator/node/workers"
)

// Config is what an Agent is made of. Name, Credentials, Authorities, RuntimeEndpoint and Dir must be set.
type Config struct {
	Name        string
	Credentials *registration.Credentials
	// Authorities sign the certificates of the API server and of clients.
	Authorities *x509.CertPool
	// RuntimeEndpoint is the CRI socket, as "unix:///run/containerd/containerd.sock".
	RuntimeEndpoint string
	// Dir holds what the agent keeps, an absolute path; Logs is the directory of pods' logs, "": /var/log/pods.
	Dir, Logs string
	Spec      registration.Spec
	Addresses func() []netip.Addr // of the node; nil: those of the machine
	// Address is where the node's server listens, as host:port; "": port 10250 of all addresses.
	Address string
	DNS     DNS
	Cgroups cgroup.Config // Limits and MemoryCapacity are filled in
	// Reserved is what pods do not get; MaxPods is how many there may be, 0: 110.
	Reserved corev1.ResourceList
	MaxPods  int64
	Pods     workers.Options
	Eviction Eviction
	// DevicePlugins is where plugins of devices register; "": device-plugins below Dir.
	DevicePlugins string
	Version       string // of the kubelet that the node claims to be
	Registry      *prometheus.Registry
	Clock         clock.Clock
	Logger        *zap.Logger
}

// DNS is what pods resolve names with.
type DNS struct {
	Servers    []netip.Addr // of the cluster
	Domain     string
	ResolvConf string // of the node
}

// Agent is described in the package comment.
type Agent struct {
	cfg      Config
	conn     *grpc.ClientConn
	runtime  runtimeapi.RuntimeServiceClient
	images   runtimeapi.ImageServiceClient
	client   kubernetes.Interface
	register *registration.Registration
	serving  *registration.Serving
	events   record.EventRecorder
	stop     func()                           // of the events
	pressure atomic.Pointer[eviction.Manager] // nil until pods are worked on
	devices  *devices.Manager                 // nil: there can be none
	known    atomic.Pointer[pods]             // nil until all pods of the node are known
}

// New makes an Agent. It needs Close.
func New(cfg Config) (*Agent, error) {
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("node: the agent's directory has to be absolute, not %q", cfg.Dir)
	}
	conn, err := grpc.NewClient(cfg.RuntimeEndpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("node: the runtime at %s: %w", cfg.RuntimeEndpoint, err)
	}
	a := &Agent{cfg: cfg, conn: conn, runtime: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn)}
	config := rest.AddUserAgent(cfg.Credentials.Config(), "keelson-node")
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = protobuf, protobuf+",application/json"
	if a.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	broadcaster := record.NewBroadcaster()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.client.CoreV1().Events("")})
	a.events, a.stop = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: cfg.Name}), broadcaster.Shutdown
	if err := errors.Join(a.openDevices(), a.registration()); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

const (
	protobuf = "application/vnd.kubernetes.protobuf"
	// maxAnswer bounds what the runtime says at once, in bytes.
	maxAnswer = 64 << 20
)

// registration prepares the node's entry.
func (a *Agent) registration() (err error) {
	_, port, err := splitAddress(a.cfg.Address)
	if err != nil {
		return err
	}
	a.register, err = registration.New(registration.Config{
		Client: a.client, Name: a.cfg.Name, Runtime: a.runtime, Images: a.images, Spec: a.cfg.Spec, Addresses: a.cfg.Addresses, Port: port,
		Version: a.cfg.Version, Reserved: a.cfg.Reserved, MaxPods: a.cfg.MaxPods, ReservedOf: a.reservedOf, Pressure: a.underPressure, Devices: a.countDevices, Events: a.events, Clock: a.cfg.Clock, Logger: a.cfg.Logger,
	})
	if err != nil {
		return err
	}
	a.serving, err = a.cfg.Credentials.Serving(a.register.Node)
	return err
}

// Close lets go of the runtime.
func (a *Agent) Close() error {
	a.stop()
	return a.conn.Close()
}

// Node is the node's entry as it is known, nil as long as it is not.
func (a *Agent) Node() *corev1.Node { return a.register.Node() }

// Run runs the agent until ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.register.Run(ctx) })
	g.Go(func() error {
		if !a.registered(ctx) {
			return nil
		}
		p, err := a.pods()
		if err != nil {
			return err
		}
		return p.run(ctx)
	})
	return g.Wait()
}

// registered waits until the node has its entry.
func (a *Agent) registered(ctx context.Context) bool {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for a.register.Node() == nil {
		select {
		case <-t.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// pods are the parts of an agent that work on pods.
type pods struct {
	*Agent
	mine, all informers.SharedInformerFactory // of the node's pods; of what the whole cluster shares
	volumes   *volume.Volumes
	tree      *cgroup.Tree
	prober    *probe.Prober
	workers   *workers.Workers
	usage     *stats.Stats
	evictions *eviction.Manager
	collect   *collect.Collector
	rotator   *logs.Rotator
	server    *serve.Server
}

// pods makes these parts.
func (a *Agent) pods() (*pods, error) {
	p := &pods{Agent: a, all: informers.NewSharedInformerFactory(a.client, 0)}
	dir := filepath.Join(a.cfg.Dir, "pods")
	if err := p.plant(); err != nil {
		return nil, err
	}
	var err error
	p.volumes, err = volume.New(volume.Config{
		Dir: dir, Client: a.client, Node: a.register.Node, Images: a.images, Events: a.events, Clock: a.cfg.Clock, Logger: a.cfg.Logger.Named("volumes"),
		// The workers come after the volumes, and before any pod.
		Credentials: func(ctx context.Context, pod *corev1.Pod, image string) ([]*runtimeapi.AuthConfig, error) {
			return p.workers.Credentials(ctx, pod, image)
		},
		IDMappings:        func(pod *corev1.Pod) (uids, gids []*runtimeapi.IDMapping) { return p.workers.IDMappings(pod) },
		RecursiveReadOnly: func(pod *corev1.Pod) bool { return p.workers.RecursiveReadOnly(pod) },
	})
	if err != nil {
		return nil, err
	}
	services := p.all.Core().V1().Services()
	env, err := environ.New(environ.Config{
		Client: a.client, Services: services.Lister(), ServicesSynced: services.Informer().HasSynced, Node: a.register.Node,
		ClusterDNS: a.cfg.DNS.Servers, ClusterDomain: a.cfg.DNS.Domain, ResolvConf: a.cfg.DNS.ResolvConf, Dir: dir,
		VolumeDir: p.volumes.Path, Events: a.events, Logger: a.cfg.Logger.Named("environment"),
	})
	if err != nil {
		return nil, err
	}
	p.prober = probe.New(probe.Config{Runtime: a.runtime, Clock: a.cfg.Clock, Events: a.events, Logger: a.cfg.Logger.Named("probes")})
	cfg := workers.Config{
		Runtime: a.runtime, Images: a.images, Client: a.client, NodeName: a.cfg.Name, Node: a.register.Node,
		Volumes: p.volumes, Environ: env, Prober: p.prober, Cgroups: p.tree, Events: a.events,
		Admit: []func(*corev1.Pod) *workers.Rejection{a.admit},
		Dir:   dir, Logs: a.cfg.Logs, Options: a.cfg.Pods, Clock: a.cfg.Clock, Logger: a.cfg.Logger.Named("pods"),
	}
	if a.devices != nil {
		cfg.Devices = a.devices
	}
	if p.workers, err = workers.New(cfg); err != nil {
		return nil, err
	}
	if err := errors.Join(p.measure(), p.collector()); err != nil {
		return nil, err
	}
	rotation := logs.Rotation{Runtime: a.runtime, Clock: a.cfg.Clock, Logger: a.cfg.Logger.Named("logs")}
	if p.rotator, err = logs.NewRotator(rotation); err != nil {
		return nil, err
	}
	return p, p.listen()
}

// plant makes the cgroups that pods are in. All together they get more than is allocatable: what eviction keeps free is theirs
// until they are evicted.
func (p *pods) plant() (err error) {
	cfg, capacity := p.cfg.Cgroups, p.register.Node().Status.Capacity
	cfg.MemoryCapacity = capacity.Memory().Value()
	cfg.Limits = corev1.ResourceList{}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		q, reserved := capacity[name], p.cfg.Reserved[name]
		if q.Cmp(reserved) <= 0 {
			return fmt.Errorf("node: %s of %s are reserved, and there are %s", reserved.String(), name, q.String())
		}
		q.Sub(reserved)
		cfg.Limits[name] = q
	}
	cfg.Logger = p.cfg.Logger.Named("cgroups")
	p.tree, err = cgroup.New(cfg)
	return err
}

// run runs the parts until ctx ends.
func (p *pods) run(ctx context.Context) error {
	if err := p.follow(); err != nil {
		return err
	}
	reclaim := &reclaimer{client: p.client, volumes: p.all.Core().V1().PersistentVolumes().Lister(), node: p.register.Node, lg: p.cfg.Logger.Named("volumes")}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.volumes.Run(ctx) })
	g.Go(func() error { return p.prober.Run(ctx) })
	g.Go(func() error { return p.workers.Run(ctx) })
	if p.devices != nil {
		g.Go(func() error { return p.devices.Run(ctx) })
	}
	g.Go(func() error { return p.evictions.Run(ctx) })
	g.Go(func() error { return p.collect.Run(ctx) })
	g.Go(func() error { return p.rotator.Run(ctx) })
	g.Go(func() error { return p.server.Run(ctx) })
	g.Go(func() error { return reclaim.run(ctx) })
	g.Go(func() error {
		defer p.mine.Shutdown()
		defer p.all.Shutdown()
		p.all.StartWithContext(ctx)
		p.mine.StartWithContext(ctx)
		p.mine.WaitForCacheSync(ctx.Done())
		if ctx.Err() == nil {
			p.workers.Synced()
			p.known.Store(p)
		}
		<-ctx.Done()
		return nil
	})
	return g.Wait()
}
