package grpcproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/grpcproxy/cache"
	renewals "github.com/keelson-io/keelson/server/grpcproxy/keepalive"
	"github.com/keelson-io/keelson/server/grpcproxy/leasing"
	"github.com/keelson-io/keelson/server/grpcproxy/members"
	"github.com/keelson-io/keelson/server/grpcproxy/namespace"
	"github.com/keelson-io/keelson/server/grpcproxy/relay"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
	"github.com/keelson-io/keelson/server/grpcproxy/watch"
	"github.com/keelson-io/keelson/server/listen"
)

// discard swallows what net/http logs.
var discard = log.New(io.Discard, "", 0)

// Proxy is a proxy that listens. See the package comment.
type Proxy struct {
	o         Options
	lg        *zap.Logger
	reg       *prometheus.Registry
	memberTLS func() *tls.Config
	conn      *upstream.Conn
	prefix    namespace.Prefix
	watches   *watch.Hub
	renewals  *renewals.Hub
	proxies   *members.Registry
	leasing   *leasing.KV // nil: all reads go to the members
	grpc      *grpc.Server
	over      *listen.OverHTTP
	pipe      *listen.Pipe // to this proxy itself
	self      *grpc.ClientConn
	pages     *pages
	doors     []*door
}

// door is a listener.
type door struct {
	*listen.Splitter
	http *http.Server
	grpc bool
}

// Open listens, and prepares everything; nothing is sent to the members before Serve, unless Ordered asks for it.
func Open(ctx context.Context, o Options, lg *zap.Logger) (_ *Proxy, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	p := &Proxy{o: o, lg: lg, reg: prometheus.NewRegistry(), prefix: namespace.Prefix(o.Namespace), pipe: listen.NewPipe()}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.memberTLS, err = o.memberTLS(lg); err != nil {
		return nil, err
	}
	endpoints, err := o.endpoints(ctx, lg)
	if err != nil {
		return nil, err
	}
	if p.conn, err = upstream.Dial(upstream.Config{
		Endpoints: endpoints, TLS: p.memberTLS, MaxSend: o.Member.MaxSend, MaxRecv: o.Member.MaxRecv, Codec: relay.NewCodec(),
		KeepAlive: keepalive.ClientParameters{
			Time: o.Member.KeepAliveTime, Timeout: o.Member.KeepAliveTimeout, PermitWithoutStream: o.Member.PermitWithoutStream,
		},
	}); err != nil {
		return nil, fmt.Errorf("--endpoints: %w", err)
	}
	if o.Naming.Advertise != "" {
		if p.self, err = grpc.NewClient("passthrough:///proxy", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return p.pipe.Dial(ctx) })); err != nil {
			return nil, err
		}
	}
	if err := p.listen(); err != nil {
		return nil, err
	}
	return p, p.build(ctx)
}

// listen opens the listeners.
func (p *Proxy) listen() error {
	side, err := p.o.clientTLS(p.lg)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", p.o.Listen)
	if err != nil {
		return err
	}
	p.doors = append(p.doors, &door{Splitter: listen.Split(l, serves(side, true, p.lg)), grpc: true})
	p.lg.Info("listening for gRPC proxy client requests", zap.String("address", l.Addr().String()))
	if p.o.MetricsAddr == "" {
		return nil
	}
	if u, err := url.Parse(p.o.MetricsAddr); err != nil || u.Scheme == "" {
		return fmt.Errorf("--metrics-addr: cannot parse %q: it must be a URL", p.o.MetricsAddr)
	}
	_, _, secure, err := listen.Address(p.o.MetricsAddr)
	switch {
	case err != nil:
		return err
	case secure && side == nil:
		return errors.New("--metrics-addr: there is no certificate (--cert-file, --key-file, --auto-tls)")
	case !secure:
		side = nil
	}
	if l, err = listen.Open(p.o.MetricsAddr, listen.Options{}); err != nil {
		return err
	}
	p.doors = append(p.doors, &door{Splitter: listen.Split(l, serves(side, false, p.lg))})
	p.lg.Info("gRPC proxy listening for metrics", zap.String("address", p.o.MetricsAddr))
	return nil
}

// build puts the services together.
func (p *Proxy) build(ctx context.Context) error {
	p.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	p.watches = watch.New(watch.Config{
		Conn: p.conn, Prefix: p.prefix, Metrics: watch.NewMetrics(p.reg), Clock: clock.Real, Logger: p.lg.Named("watch"),
	})
	p.renewals = renewals.New(pb.NewLeaseClient(p.conn), clock.Real)
	kv, err := p.kvs(ctx)
	if err != nil {
		return err
	}
	p.proxies = members.New(members.Config{
		Prefix: p.o.Naming.Prefix, Advertise: p.o.Naming.Advertise, TTL: int64(p.o.Naming.TTL),
		KV: kv, Leases: pb.NewLeaseClient(p.conn), Watch: p.followKeys, Clock: clock.Real, Logger: p.lg.Named("members"),
	})
	if p.o.Leasing != "" {
		p.leasing = leasing.New(leasing.Config{
			Next: kv, Prefix: namespace.Prefix(p.o.Leasing), Leases: pb.NewLeaseClient(p.conn), Watch: p.followKeys,
			Anonymous: func(ctx context.Context) bool { return upstream.CallerOf(ctx).Anonymous() }, Clock: clock.Real, Logger: p.lg.Named("leasing"),
		})
		kv = p.leasing
	}
	answers := cache.New(clock.Real)
	p.grpc = grpc.NewServer(p.serverOptions()...)
	p.register(p.grpc, kv, newCachedKV(kv, answers, p.reg, pb.NewKVClient(p.conn), p.prefix), answers)
	p.pages = newPages(p, kv)
	p.over = &listen.OverHTTP{GRPC: p.grpc, Other: p.pages.handler(p.o.Pprof)}
	for _, d := range p.doors {
		if d.grpc {
			d.http = p.o.httpServer(p.over, true)
		} else {
			d.http = p.o.httpServer(p.pages.handler(false), false)
		}
	}
	return nil
}

// kvs stacks what reads and writes go through.
func (p *Proxy) kvs(ctx context.Context) (KV, error) {
	var kv KV = remoteKV{pb.NewKVClient(p.conn), func(h *pb.ResponseHeader) { p.watches.Note(h) }}
	if p.o.Ordered {
		ord := orderedKV{KV: kv, seen: new(atomic.Int64), attempts: func() int { return 5*len(p.conn.Endpoints()) + 1 }}
		p.lg.Info("waiting for linearized read from cluster to recover ordering")
		for {
			_, err := ord.Range(ctx, &pb.RangeRequest{Key: []byte("_"), KeysOnly: true})
			if err == nil {
				break
			}
			p.lg.Warn("ordering recovery failed, retrying in 1s", zap.Error(err))
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(time.Second):
			}
		}
		kv = ord
	}
	if p.prefix != "" {
		kv = spacedKV{kv, p.prefix}
	}
	return kv, nil
}

// Bounds of the gRPC server.
const (
	streamWorkers  = 128 // calls on goroutines that are kept
	prefaceTimeout = 20 * time.Second
	minRecvBytes   = 4 << 20 // of a client's message, gRPC's default
)

func (p *Proxy) serverOptions() []grpc.ServerOption {
	calls := grpcprom.NewServerMetrics()
	p.reg.MustRegister(calls)
	unary, streams := []grpc.UnaryServerInterceptor{calls.UnaryServerInterceptor()}, []grpc.StreamServerInterceptor{calls.StreamServerInterceptor()}
	if p.o.LogCalls {
		u, s := logCalls(p.lg.Named("calls"))
		unary, streams = append(unary, u), append(streams, s)
	}
	c := &p.o.Clients
	opts := []grpc.ServerOption{
		grpc.Creds(listen.Credentials()), grpc.ConnectionTimeout(prefaceTimeout), grpc.ForceServerCodecV2(relay.NewCodec()),
		grpc.ChainUnaryInterceptor(unary...), grpc.ChainStreamInterceptor(streams...),
		grpc.MaxRecvMsgSize(max(minRecvBytes, p.o.Member.MaxSend)), grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(c.MaxStreams), grpc.NumStreamWorkers(streamWorkers),
	}
	if c.KeepAliveMinTime > 0 {
		opts = append(opts, grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: c.KeepAliveMinTime}))
	}
	if c.KeepAliveInterval > 0 || c.KeepAliveTimeout > 0 {
		opts = append(opts, grpc.KeepaliveParams(keepalive.ServerParameters{Time: c.KeepAliveInterval, Timeout: c.KeepAliveTimeout}))
	}
	return opts
}

// Addr is where clients connect to.
func (p *Proxy) Addr() net.Addr { return p.doors[0].HTTP().Addr() }

// MetricsAddr is the address of the listener for monitoring, nil: there is none.
func (p *Proxy) MetricsAddr() net.Addr {
	if len(p.doors) < 2 {
		return nil
	}
	return p.doors[1].HTTP().Addr()
}

// Serve serves until ctx ends, which is no error, or a listener fails.
func (p *Proxy) Serve(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var wg, farewell sync.WaitGroup // the second one: of what says good-bye to the members
	serve := func(f func() error) {
		wg.Go(func() {
			if err := f(); !ended(err) {
				fail(err)
			}
		})
	}
	for _, d := range p.doors {
		wg.Go(d.Run)
		serve(func() error { return d.http.Serve(d.HTTP()) })
		if d.grpc {
			serve(func() error { return p.grpc.Serve(d.GRPC()) })
		}
	}
	serve(func() error { return p.grpc.Serve(p.pipe) })
	farewell.Go(func() { p.proxies.Run(ctx) })
	if p.leasing != nil {
		farewell.Go(func() { p.leasing.Run(ctx) })
	}
	if p.o.SyncInterval > 0 {
		wg.Go(func() { p.conn.Sync(ctx, p.o.SyncInterval, clock.Real, p.lg) })
	}
	p.lg.Info("started gRPC proxy", zap.String("address", p.Addr().String()))
	<-ctx.Done()
	p.lg.Info("stop listening gRPC proxy client requests", zap.String("address", p.Addr().String()))
	farewell.Wait()
	p.close()
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// drainTimeout is how long calls under way may take at the end. Streams are told to go elsewhere.
const drainTimeout = 500 * time.Millisecond

// close ends everything, calls under way last.
func (p *Proxy) close() {
	if p.watches != nil {
		p.watches.Close()
		p.renewals.Close()
	}
	if p.over != nil {
		p.stopGRPC()
	}
	for _, d := range p.doors {
		if d.http != nil {
			_ = d.http.Close()
		}
		_ = d.Close()
	}
	if p.self != nil {
		_ = p.self.Close()
	}
	_ = p.pipe.Close()
	if p.conn != nil {
		_ = p.conn.Close()
	}
}

func (p *Proxy) stopGRPC() {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	p.over.Shutdown(ctx)
}
