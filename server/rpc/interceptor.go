package rpc

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/api/backuppb"
	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/api/integritypb"
	"github.com/keelson-io/keelson/internal/clock"
)

// Guard stands before every call: it refuses what a learner does not serve, and calls that ask for a leader when there is
// none. Streams that asked for a leader end when it has been gone for three election timeouts. In quarantine it refuses data.
type Guard struct {
	cfg     GuardConfig
	mu      sync.Mutex
	streams map[*leaderStream]struct{}
}

// GuardConfig is what a Guard needs.
type GuardConfig struct {
	Lead      func() uint64
	IsLearner func() bool
	Election  time.Duration
	Clock     clock.Clock
	// Quarantine refuses what a member with wrong data must not serve; may be nil.
	Quarantine *Quarantine
	// Called counts a request of a client by its kind ("unary" or "stream") and API version; may be nil.
	Called func(kind, clientVersion string)
}

// leaderlessLimit is how many election timeouts without a leader end a stream that asked for one.
const leaderlessLimit = 3

// NewGuard makes a Guard. Run must be running for streams to be ended.
func NewGuard(cfg GuardConfig) *Guard {
	return &Guard{cfg: cfg, streams: make(map[*leaderStream]struct{})}
}

// Run ends streams that lost their leader, until stop is closed.
func (g *Guard) Run(stop <-chan struct{}) {
	timer := g.cfg.Clock.NewTimer(g.cfg.Election)
	defer timer.Stop()
	leaderless := 0
	for {
		select {
		case <-stop:
			return
		case <-timer.C():
		}
		timer.Reset(g.cfg.Election)
		if g.cfg.Lead() != 0 {
			leaderless = 0
			continue
		}
		if leaderless++; leaderless >= leaderlessLimit {
			g.mu.Lock()
			for s := range g.streams {
				s.cancel(rpctypes.ErrGRPCNoLeader)
			}
			clear(g.streams)
			g.mu.Unlock()
		}
	}
}

// Unary is the interceptor of unary calls.
func (g *Guard) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if err := g.cfg.Quarantine.check(info.FullMethod); err != nil {
		return nil, err
	}
	if g.cfg.IsLearner() && !servedByLearner(req) {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	if _, err := g.metadata(ctx, "unary"); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Stream is the interceptor of streams.
func (g *Guard) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if g.cfg.IsLearner() && info.FullMethod != pb.Maintenance_Snapshot_FullMethodName && info.FullMethod != backuppb.Backup_Log_FullMethodName {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	needsLeader, err := g.metadata(ss.Context(), "stream")
	if err != nil {
		return err
	}
	ss, done, err := g.cfg.Quarantine.track(info.FullMethod, ss)
	if err != nil {
		return err
	}
	defer done()
	if !needsLeader {
		return handler(srv, ss)
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	ls := &leaderStream{ServerStream: ss, ctx: &causeContext{ctx}, cancel: cancel}
	g.mu.Lock()
	g.streams[ls] = struct{}{}
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.streams, ls)
		g.mu.Unlock()
		cancel(nil)
	}()
	return handler(srv, ls)
}

// metadata checks the client's metadata and says whether it asks for a leader.
func (g *Guard) metadata(ctx context.Context, kind string) (needsLeader bool, err error) {
	ver := "unknown"
	if vs := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(vs) > 0 {
		ver = vs[0]
	}
	if !utf8.ValidString(ver) {
		return false, rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	if g.cfg.Called != nil {
		g.cfg.Called(kind, ver)
	}
	vs := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	needsLeader = len(vs) > 0 && vs[0] == rpctypes.MetadataHasLeader
	if needsLeader && g.cfg.Lead() == 0 {
		return true, rpctypes.ErrGRPCNoLeader
	}
	return needsLeader, nil
}

// leaderStream is a stream whose context ends with ErrGRPCNoLeader when the leader is gone, or with ErrGRPCCorrupt in quarantine.
type leaderStream struct {
	grpc.ServerStream
	ctx    context.Context
	cancel context.CancelCauseFunc
}

// Context is that of the stream.
func (s *leaderStream) Context() context.Context { return s.ctx }

// causeContext reports the cause of its end as its error.
type causeContext struct{ context.Context }

// Err is the cause once the context has ended.
func (c *causeContext) Err() error {
	if c.Context.Err() == nil {
		return nil
	}
	return context.Cause(c.Context)
}

// servedByLearner says whether a learner answers a unary request.
func servedByLearner(req any) bool {
	switch r := req.(type) {
	case *pb.StatusRequest, *insightpb.LookRequest, *integritypb.RefetchRequest:
		return true
	case *pb.RangeRequest:
		return r.Serializable
	}
	return false
}
