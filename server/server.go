// Package server is one member of the store: it builds the parts, starts them in order and stops them in reverse.
//
//	listeners            taken first, so that nothing is written when a port is in use
//	bootstrap            data directory: own, of a new cluster, or of a running one that is joined
//	state                backend, mvcc store, leases, alarms, members (server/replica)
//	transport, consensus raftnode applies the log to the state
//	upkeep               duties of the member (server/upkeep)
//	services             gRPC and HTTP, once the member is known to the cluster
//
// # Concurrency
//
// Start and Stop are called once each. A member that cannot go on closes Done; Err says why.
package server

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.etcd.io/etcd/api/v3/version"
	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/srv"
	"github.com/keelson-io/keelson/internal/vfs"
	"github.com/keelson-io/keelson/server/bootstrap"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/logging"
	"github.com/keelson-io/keelson/server/tracing"
)

// stopTimeout bounds an orderly stop: handing over leadership and ending the calls under way.
const stopTimeout = 10 * time.Second

// Run runs a member until ctx ends or the member cannot go on.
func Run(ctx context.Context, cfg *config.Config) error {
	lg, closeLog, err := logging.New(cfg.Log)
	if err != nil {
		return err
	}
	defer closeLog()
	announce(cfg, lg)
	s, err := Start(ctx, cfg, lg)
	if err != nil {
		lg.Error("failed to start", zap.Error(err))
		return err
	}
	tell := manager{lg: lg}
	tell.say("STATUS=joining the cluster")
	select {
	case <-s.Ready():
		tell.say(daemon.SdNotifyReady, "STATUS=serving clients at "+strings.Join(cfg.Listen.ClientURLs, ", "))
	case <-ctx.Done():
	case <-s.Done():
	}
	select {
	case <-ctx.Done():
		lg.Info("received signal; shutting down")
	case <-s.Done():
	}
	tell.say(daemon.SdNotifyStopping, "STATUS=stopping")
	stopCtx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return errors.Join(s.Err(), s.Stop(stopCtx))
}

// announce logs what is started and with which settings.
func announce(cfg *config.Config, lg *zap.Logger) {
	for _, why := range cfg.Deprecated() {
		lg.Warn(why)
	}
	fields := []zap.Field{
		zap.String("etcd-version", version.Version), zap.String("go-version", runtime.Version()), zap.String("go-os", runtime.GOOS),
		zap.String("go-arch", runtime.GOARCH), zap.Int("max-cpu-set", runtime.GOMAXPROCS(0)), zap.Int("max-cpu-available", runtime.NumCPU()),
	}
	cfg.Settings(func(name string, value any) { fields = append(fields, zap.Any(name, value)) })
	lg.Info("starting a member", fields...)
}

// Server is a running member.
type Server struct {
	cfg      *config.Config
	lg       *zap.Logger
	registry *prometheus.Registry

	doors   *doors
	member  *member
	tracing *tracing.Tracing // nil: none

	cancel context.CancelFunc // ends the background work
	work   sync.WaitGroup
	ready  chan struct{}
	failed chan struct{}
	fail   sync.Once
	err    error
}

// Start starts a member. It returns when the member takes part in consensus; Ready tells when it serves clients.
func Start(ctx context.Context, cfg *config.Config, lg *zap.Logger) (*Server, error) {
	s := &Server{cfg: cfg, lg: lg, registry: prometheus.NewRegistry(), ready: make(chan struct{}), failed: make(chan struct{})}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	if s.doors, err = openDoors(cfg, lg); err != nil {
		return nil, err
	}
	env := bootstrap.Env{
		FS: vfs.OS, Clock: clock.Real, Peers: peerClient(s.doors.security.peer, cfg.PeerSource()), Logger: lg, Registerer: s.registry, Names: srv.System(),
		OnError: func(err error) { lg.Error("the database cannot be written", zap.Error(err)) },
	}
	boot, err := bootstrap.Run(ctx, cfg, env)
	if err != nil {
		s.doors.close()
		return nil, err
	}
	background, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	if s.member, err = newMember(cfg, env, boot, s.doors.security.peer, s.failWith); err != nil {
		cancel()
		s.doors.close()
		return nil, errors.Join(err, boot.Close())
	}
	if boot.HadLog && cfg.Features.Gates.Enabled(config.InitialCorruptCheck) {
		if err := s.member.data.checker.Initial(ctx); err != nil {
			cancel()
			s.doors.close()
			return nil, errors.Join(err, s.member.close(ctx))
		}
	}
	if cfg.Tracing.Enabled {
		if s.tracing, err = tracing.New(ctx, cfg.Tracing, lg.Named("tracing")); err != nil {
			cancel()
			s.doors.close()
			return nil, errors.Join(err, s.member.close(ctx))
		}
	}
	s.run(background)
	return s, nil
}

// run starts everything that was built.
func (s *Server) run(ctx context.Context) {
	m := s.member
	s.doors.servePeers(m.peerHandler(), s.failWith)
	services := newServices(s.cfg, m, s.doors, s.registry, s.tracing)
	s.doors.serveMetrics(services.metrics, s.failWith)
	m.node.Start()
	s.work.Go(func() {
		select {
		case <-m.node.Done():
			if err := m.node.Err(); err != nil {
				s.failWith(fmt.Errorf("consensus: %w", err))
			}
		case <-ctx.Done():
		}
	})
	s.work.Go(func() {
		select {
		case <-m.transport.Removed():
			s.failWith(errRemoved)
		case <-ctx.Done():
		}
	})
	m.background(ctx, &s.work)
	s.work.Go(func() { services.guard.Run(ctx.Done()) })
	s.work.Go(func() { _ = services.feed.Run(ctx) })
	s.work.Go(func() {
		if m.upkeep.Publish(ctx, s.cfg.Name, s.cfg.Listen.AdvertiseClientURLs) != nil {
			return
		}
		s.doors.serveClients(services.grpc, services.http, s.failWith)
		s.lg.Info("ready to serve client requests", zap.Strings("urls", s.cfg.Listen.ClientURLs))
		close(s.ready)
	})
}

// Ready is closed when the member serves clients.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Done is closed when the member cannot go on.
func (s *Server) Done() <-chan struct{} { return s.failed }

// Err returns why the member could not go on, nil otherwise.
func (s *Server) Err() error {
	select {
	case <-s.failed:
		return s.err
	default:
		return nil
	}
}

// ID is the member's id.
func (s *Server) ID() uint64 { return s.member.boot.MemberID }

// Cut drops everything between this member and another one until Mend. It is for tests of partitions.
func (s *Server) Cut(id uint64) { s.member.transport.Cut(id) }

// Mend undoes Cut.
func (s *Server) Mend(id uint64) { s.member.transport.Mend(id) }

func (s *Server) failWith(err error) {
	s.fail.Do(func() {
		s.err = err
		s.lg.Error("the member cannot go on", zap.Error(err))
		close(s.failed)
	})
}

// Stop drains the calls under way, hands leadership over, stops, and makes everything durable. After ctx ends it no longer
// waits for others.
func (s *Server) Stop(ctx context.Context) error {
	leave := s.member.node.TransferLeadership
	if s.member.node.IsLeader() && len(s.member.boot.Members.VotingMembers()) > 1 {
		tctx, cancel := context.WithTimeout(ctx, 2*s.cfg.Raft.Election)
		if err := leave(tctx, 0); err != nil {
			s.lg.Info("leadership was not handed over before stopping", zap.Error(err))
		}
		cancel()
	}
	s.doors.drainClients(ctx)
	s.cancel()
	s.work.Wait()
	err := s.member.close(ctx)
	s.doors.close()
	s.tracing.Close(ctx)
	s.lg.Info("stopped")
	return err
}
