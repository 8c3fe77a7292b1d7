package dns

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/network/netns"
)

// Config says what a server knows and where it listens.
type Config struct {
	Services toolscache.SharedIndexInformer // of *corev1.Service
	Slices   toolscache.SharedIndexInformer // of *discoveryv1.EndpointSlice
	Pods     toolscache.SharedIndexInformer // of *corev1.Pod on this node; nil: search paths are not walked
	Domain   string                         // of the cluster; "cluster.local"
	// Upstreams are asked for other names, the first one that is well. Addresses that the server listens on are left out.
	Upstreams []netip.AddrPort
	// Search are the domains that pods of policy ClusterFirst have in their search path after those of the cluster.
	Search []string
	// Reversed are ranges whose addresses nobody upstream is asked for, usually those of pods and services.
	Reversed []netip.Prefix
	// Listen is where it listens, by UDP and by TCP. The addresses need not exist yet. Port 0 is any that is free.
	Listen     []netip.AddrPort
	NetNS      string        // the path of the network namespace to listen and ask in; "": that of the process
	TTL        time.Duration // of records of the zone; 5 s
	CacheBytes int64         // 16 MiB
	Registerer prometheus.Registerer
	Clock      clock.Clock
	Logger     *zap.Logger
}

const (
	defaultTTL        = 5 * time.Second
	defaultCacheBytes = 16 << 20
	// maxWaiting is how many questions may wait for others at a time.
	maxWaiting = 4096
)

// Server is a DNS server.
type Server struct {
	cfg      Config
	lg       *zap.Logger
	clock    clock.Clock
	ns       *netns.NS
	zone     zone
	soa      string
	serial0  uint32
	index    *index
	clients  *clients
	cache    *cache
	forward  *forwarder
	metrics  *metrics
	searches []string // Config.Search, packed
	reversed []netip.Prefix
	sockets  []socket
	waiting  chan struct{}
	jobs     sync.WaitGroup
	ready    atomic.Bool
	ctx      context.Context // of Run
}

// New makes a server and opens its sockets. Run, or Close, closes them.
func New(cfg Config) (*Server, error) {
	if cfg.Domain == "" {
		cfg.Domain = "cluster.local"
	}
	if cfg.TTL == 0 {
		cfg.TTL = defaultTTL
	}
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = defaultCacheBytes
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.Real
	}
	if cfg.Logger == nil {
		cfg.Logger = zap.NewNop()
	}
	z, err := newZone(cfg.Domain)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, lg: cfg.Logger.Named("dns"), clock: cfg.Clock, zone: z, soa: z.soa(0), serial0: uint32(cfg.Clock.Now().Unix()),
		index: newIndex(z.apex, uint32(cfg.TTL/time.Second)), clients: newClients(), cache: newCache(cfg.CacheBytes),
		reversed: slices.Clone(cfg.Reversed), waiting: make(chan struct{}, maxWaiting),
	}
	for _, domain := range cfg.Search {
		wire, err := wireName(domain)
		if err != nil {
			return nil, err
		}
		s.searches = append(s.searches, wire)
	}
	s.metrics = newMetrics(s.cache)
	if s.ns, err = netns.Open(cfg.NetNS); err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	if s.sockets, err = listen(s.ns, cfg.Listen); err != nil {
		return nil, errors.Join(err, s.ns.Close())
	}
	if err := s.metrics.register(cfg.Registerer); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	var own []netip.Addr
	for _, a := range s.Addrs() {
		own = append(own, a.Addr())
	}
	s.index.set("", z.fixed(own))
	s.forward = s.newForwarder()
	return s, nil
}

func (s *Server) newForwarder() *forwarder {
	f := &forwarder{cache: s.cache, clock: s.clock, lg: s.lg, metrics: s.metrics, flying: map[string]*flight{}}
	for _, a := range s.cfg.Upstreams {
		if slices.Contains(s.Addrs(), a) {
			s.lg.Warn("the server is not its own server upstream", zap.Stringer("server", a))
			continue
		}
		f.servers = append(f.servers, newUpstream(a, s.ns))
	}
	return f
}

// Addrs is where the server listens.
func (s *Server) Addrs() []netip.AddrPort {
	var all []netip.AddrPort
	for _, so := range s.sockets {
		all = append(all, so.addr)
	}
	return all
}

// Ready says whether the server knows all names of the cluster.
func (s *Server) Ready() bool { return s.ready.Load() }

func (s *Server) synced() bool { return s.ready.Load() }

// Close closes the sockets of a server that is not run.
func (s *Server) Close() error {
	var errs []error
	for _, so := range s.sockets {
		errs = append(errs, so.close())
	}
	return errors.Join(append(errs, s.ns.Close())...)
}

// Run serves until ctx ends. Names of the cluster are answered with SERVFAIL until all informers have seen what there is.
func (s *Server) Run(ctx context.Context) error {
	synced, stop, err := s.follow()
	if err != nil {
		return errors.Join(err, s.Close())
	}
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	s.ctx = ctx
	g.Go(func() error {
		if toolscache.WaitForCacheSync(ctx.Done(), synced...) {
			s.ready.Store(true)
			s.lg.Info("ready", zap.Any("addresses", s.Addrs()))
		}
		return nil
	})
	for _, u := range s.forward.servers {
		g.Go(func() error {
			u.watch(ctx, s.clock, s.lg)
			return nil
		})
	}
	for _, so := range s.sockets {
		g.Go(func() error { return s.serveUDP(ctx, so.udp, so.addr.Addr().IsUnspecified()) })
		g.Go(func() error { return s.serveTCP(ctx, so.tcp) })
	}
	<-ctx.Done()
	s.ready.Store(false)
	closed := s.Close()
	err = g.Wait()
	s.jobs.Wait()
	s.forward.wg.Wait()
	return errors.Join(err, closed)
}

// ReadResolvConf reads the servers and the search domains of a resolv.conf.
func ReadResolvConf(path string) (servers []netip.AddrPort, search []string, err error) {
	c, err := dns.ClientConfigFromFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("dns: %w", err)
	}
	for _, s := range c.Servers {
		if a, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers, c.Search, nil
}

func salt() uint32 { return rand.Uint32() }
