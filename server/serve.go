package server

import (
	"context"
	"math"
	"net/http"
	"slices"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/keelson-io/keelson/api/backuppb"
	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/api/integritypb"
	"github.com/keelson-io/keelson/api/v3electionpb"
	"github.com/keelson-io/keelson/api/v3lockpb"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/backup/feed"
	"github.com/keelson-io/keelson/server/concurrency"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/httpapi"
	"github.com/keelson-io/keelson/server/insight"
	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/rpc"
	"github.com/keelson-io/keelson/server/tracing"
	"github.com/keelson-io/keelson/server/ui"
)

// services are what clients talk to.
type services struct {
	grpc    *grpc.Server
	http    http.Handler
	metrics http.Handler
	guard   *rpc.Guard
	feed    *feed.Service
}

// streamWorkers is how many calls run on goroutines that are kept; more get one of their own.
const streamWorkers = 128

// prefaceTimeout is how long a gRPC connection may take to begin.
const prefaceTimeout = 20 * time.Second

// grpcOverhead is what a message may be larger than the request in it, in bytes.
const grpcOverhead = 512 << 10

func newServices(cfg *config.Config, m *member, d *doors, reg *prometheus.Registry, tr *tracing.Tracing) *services {
	guard := rpc.NewGuard(rpc.GuardConfig{
		Lead: m.node.Lead, IsLearner: m.boot.Members.IsLearner, Election: cfg.Raft.Election, Clock: m.env.Clock,
		Called: clientRequests(reg), Quarantine: &m.data.quarantine,
	})
	calls := grpcprom.NewServerMetrics()
	if cfg.Features.Metrics == "extensive" {
		calls = grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram())
	}
	reg.MustRegister(calls)
	wire := rpc.NewMetrics(reg)
	traffic := &rpc.Traffic{Calls: &insight.Calls{}, Heat: insight.NewHeat(m.env.Clock.Now()), Clock: m.env.Clock}
	requests := rpc.RequestLog{Slow: cfg.Log.WarnUnary, Clock: m.env.Clock, Logger: m.env.Logger, Traffic: traffic}
	unary := []grpc.UnaryServerInterceptor{calls.UnaryServerInterceptor(), requests.Unary, guard.Unary}
	stream := []grpc.StreamServerInterceptor{calls.StreamServerInterceptor(), traffic.Stream, guard.Stream}
	if d.access != nil {
		d.access.Register(reg)
		log := &rpc.AccessLog{Log: d.access, Access: m.access, Clock: m.env.Clock}
		unary, stream = slices.Insert(unary, 1, log.Unary), slices.Insert(stream, 1, log.Stream)
	}
	lim := &cfg.Limits
	g := grpc.NewServer(append([]grpc.ServerOption{
		grpc.Creds(listen.Credentials()),
		grpc.ConnectionTimeout(prefaceTimeout),
		grpc.ForceServerCodecV2(rpc.NewCodec(wire)),
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
		grpc.MaxRecvMsgSize(int(lim.MaxRequestBytes) + grpcOverhead),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.NumStreamWorkers(streamWorkers), // calls on goroutines whose stacks have grown already
		grpc.MaxConcurrentStreams(lim.MaxConcurrentStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: lim.KeepAliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: lim.KeepAliveInterval, Timeout: lim.KeepAliveTimeout}),
	}, tr.ServerOptions()...)...)
	registerServices(g, cfg, m, wire, reg, tr.Spans())
	log := newFeed(m, reg)
	backuppb.RegisterBackupServer(g, log)
	insightpb.RegisterInsightServer(g, newInsight(m, d, traffic))
	traffic.Calls.Init(rpc.Methods(g))
	if cfg.Features.EnableReflection {
		if err := rpc.RegisterReflection(g); err != nil {
			m.env.Logger.Error("there is no gRPC reflection", zap.Error(err))
		}
	}
	calls.InitializeMetrics(g)
	api := httpapi.Config{
		Health: httpapi.Health{
			Alarms: m.alarms, Lead: m.node.Lead, IsLearner: m.boot.Members.IsLearner, Read: m.readOneKey, Timeout: cfg.RequestTimeout(),
			Registerer: reg, Logger: m.env.Logger,
		},
		Metrics: reg, Registerer: reg, ClusterVersion: m.boot.Members.Version, StorageVersion: m.storageVersion, Pprof: cfg.Features.EnablePprof,
		Gateway: d.gateway,
	}
	if cfg.Features.EnableUI {
		api.UI = ui.Handler()
	}
	registerMetrics(reg, cfg, m)
	access := httpapi.Access{Hosts: cfg.Security.HostWhitelist, Origins: cfg.Security.CORS, Logger: m.env.Logger}
	if cfg.Security.Client.ClientCertAuth && d.gateway != nil {
		access.Names = func() bool { return m.state.Auth.Load().Enabled() }
	}
	return &services{grpc: g, http: access.Wrap(httpapi.NewClient(api)), metrics: httpapi.NewMetrics(api), guard: guard, feed: log}
}

func registerServices(g *grpc.Server, cfg *config.Config, m *member, wire *rpc.Metrics, reg prometheus.Registerer, spans *rpc.Spans) {
	header := m.header()
	errs := rpc.NewTranslator()
	proposer := spans.Proposer(m.proposer)
	healthy, aside := newHealth(cfg, m.env.Logger)
	space := &rpc.SpaceGuard{MemberID: m.boot.MemberID, Quota: m.quota, Proposer: proposer}
	shares, budget := m.newShares(reg), m.newBudget(reg)
	authorized := rpc.Authorized{Proposer: proposer, Access: m.access, Lane: shares.Writes, Prefixes: m.newPrefixes(reg)}
	kv := rpc.NewKV(rpc.KVConfig{
		Header: header, Errors: errs, Proposer: authorized, Access: m.access, Gate: m.gate, Store: m.state.Store, Leases: m.state.Leases, Space: space,
		MaxTxnOps: int(cfg.Limits.MaxTxnOps), MaxRequestBytes: int(cfg.Limits.MaxRequestBytes),
		Commit: func() error { return m.state.Backend().Commit() }, Metrics: m.proposer.Metrics(), Shares: shares, Budget: budget,
	})
	kv.Register(g)
	pb.RegisterWatchServer(g, rpc.NewWatch(rpc.WatchConfig{
		Header: header, Hub: m.watches, Access: m.access, Errors: errs, MaxResponseBytes: int(cfg.Limits.MaxRequestBytes) + grpcOverhead,
		ProgressInterval: cfg.Features.WatchProgressInterval, Clock: m.env.Clock, Metrics: wire, Budget: budget, Spans: spans,
	}))
	leases := rpc.NewLease(rpc.LeaseConfig{
		Header: header, Errors: errs, Proposer: authorized, Access: m.access, Gate: m.gate, Leases: m.leasing, Space: space, Metrics: wire,
	})
	pb.RegisterLeaseServer(g, leases)
	queues := concurrency.New(kv, leases, m.watches)
	v3lockpb.RegisterLockServer(g, concurrency.NewLock(queues))
	v3electionpb.RegisterElectionServer(g, concurrency.NewElection(queues))
	pb.RegisterClusterServer(g, rpc.NewCluster(rpc.ClusterConfig{
		Header: header, Errors: errs, Access: m.access, Gate: m.gate, Members: m.boot.Members.Members, Change: m.reconfig,
	}))
	pb.RegisterMaintenanceServer(g, rpc.GuardMaintenance(maintenance(m, header, errs, proposer, budget, aside), m.access, errs))
	pb.RegisterAuthServer(g, rpc.NewAuth(rpc.AuthConfig{
		Errors: errs, Proposer: proposer, Access: m.access, Gate: m.gate,
		Passwords: m.passwords, Tokens: m.tokens, Header: header, Clock: m.env.Clock, Shares: shares, Logger: m.access.Logger,
	}))
	integritypb.RegisterIntegrityServer(g, &rpc.Integrity{Header: header, Errors: errs, Access: m.access, Replace: m.data.refetcher.Refetch})
	healthpb.RegisterHealthServer(g, healthy)
}

// newHealth is the health of the services, and what changes it around defragmentations, if that is asked for.
func newHealth(cfg *config.Config, lg *zap.Logger) (*health.Server, func(serving bool)) {
	hs := health.NewServer()
	set := func(serving bool) {
		status := healthpb.HealthCheckResponse_NOT_SERVING
		if serving {
			status = healthpb.HealthCheckResponse_SERVING
		}
		hs.SetServingStatus("", status)
		lg.Info("grpc service status changed", zap.Stringer("status", status))
	}
	set(true)
	if !cfg.Features.Gates.Enabled(config.StopGRPCServiceOnDefrag) {
		return hs, nil // a member serves while it defragments
	}
	return hs, set
}

// header fills the headers of responses.
func (m *member) header() *rpc.Header {
	return &rpc.Header{ClusterID: m.boot.Members.ClusterID(), MemberID: m.boot.MemberID, Term: m.node.Term, Rev: m.state.Store.Rev}
}

// newFeed is the service that streams the log to backups.
func newFeed(m *member, reg prometheus.Registerer) *feed.Service {
	errs := rpc.NewTranslator()
	return feed.New(feed.Config{
		ClusterID: m.boot.Members.ClusterID(), MemberID: m.boot.MemberID, MinLeaseTTL: m.minLeaseTTL(),
		Position: m.machine.Position, WaitApplied: m.node.WaitApplied, CatchUp: m.gate.Wait, Entries: m.node.Entries,
		Allow: func(ctx context.Context) error { return errs.GRPC(m.access.Admin(ctx)) },
		Clock: m.env.Clock, Registerer: reg,
	})
}

func maintenance(m *member, header *rpc.Header, errs *rpc.Translator, proposer rpc.Proposer, budget *rpc.Budget, serving func(bool)) *rpc.Maintenance {
	return rpc.NewMaintenance(rpc.MaintenanceConfig{
		Header: header, Errors: errs, Proposer: proposer, Raft: m.node,
		Backend: func() rpc.Backend { return m.state.Backend() }, Hasher: m.state.Store,
		Alarms: m.alarms, Troubles: m.troubles, QuotaBytes: m.quota.Limit(), IsLearner: m.boot.Members.IsLearner, StorageVersion: m.storageVersion,
		Versions: m.boot.Members, Gate: m.gate,
		MoveLeader: m.moveLeader, Logger: m.env.Logger, Budget: budget, User: m.access.User, Serving: serving,
	})
}

// readOneKey is the read of the health checks.
func (m *member) readOneKey(ctx context.Context, serializable bool) error {
	if !serializable {
		if err := m.gate.Wait(ctx); err != nil {
			return err
		}
	}
	txn := m.state.Store.Read()
	defer txn.Close()
	_, err := txn.Range([]byte{0}, []byte{0}, mvcc.RangeOptions{Limit: 1})
	return err
}
