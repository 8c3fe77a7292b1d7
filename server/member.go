package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/mvcc/watch"
	"github.com/keelson-io/keelson/raftnode"
	"github.com/keelson-io/keelson/raftnode/transport"
	"github.com/keelson-io/keelson/server/alarm"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/auth/token"
	"github.com/keelson-io/keelson/server/auth/verify"
	"github.com/keelson-io/keelson/server/autocompact"
	"github.com/keelson-io/keelson/server/bootstrap"
	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/corruption"
	"github.com/keelson-io/keelson/server/errdefs"
	"github.com/keelson-io/keelson/server/integrity"
	"github.com/keelson-io/keelson/server/leasing"
	"github.com/keelson-io/keelson/server/membership"
	"github.com/keelson-io/keelson/server/overview"
	"github.com/keelson-io/keelson/server/peers"
	"github.com/keelson-io/keelson/server/propose"
	"github.com/keelson-io/keelson/server/quota"
	"github.com/keelson-io/keelson/server/readgate"
	"github.com/keelson-io/keelson/server/reconfig"
	"github.com/keelson-io/keelson/server/replica"
	"github.com/keelson-io/keelson/server/rpc"
	"github.com/keelson-io/keelson/server/tlsconfig"
	"github.com/keelson-io/keelson/server/upkeep"
	"github.com/keelson-io/keelson/wal"
)

// member is everything below the services.
type member struct {
	cfg       *config.Config
	env       bootstrap.Env
	boot      *bootstrap.Result
	state     *replica.State
	machine   *replica.Machine
	node      *raftnode.Node
	transport *transport.Transport
	proposer  *propose.Proposer
	gate      *readgate.Gate
	tokens    token.Provider
	passwords *verify.Verifier
	access    *rpc.Access
	quota     *quota.Quota
	leasing   *leasing.Service
	reconfig  *reconfig.Reconfigurer
	upkeep    *upkeep.Upkeep
	data      watchdog
	watches   *watch.Hub
	sight     sight
	stopping  chan struct{}
}

var errRemoved = errors.New("the member has been permanently removed from the cluster")

// raftRef is the consensus node for those who are made before it. It is set before anything runs.
type raftRef struct{ *raftnode.Node }

// peerRaft is what the transport sees of the member.
type peerRaft struct {
	*raftRef
	members *membership.Cluster
}

// IsIDRemoved says whether a member was removed for good.
func (p peerRaft) IsIDRemoved(id uint64) bool { return p.members.IsRemoved(id) }

// cluster is the membership as commands change it. The storage version follows the cluster's.
type cluster struct {
	*membership.Cluster
	state    func() *replica.State
	snapshot func() // makes a point in the log from which a restart begins, after the present batch
}

// SetVersion sets the version of the cluster.
func (c cluster) SetVersion(r *membershippb.ClusterVersionSetRequest) error {
	before := c.Version()
	if err := c.Cluster.SetVersion(r); err != nil {
		return err
	}
	if lower, err := membership.NewerVersion(before, c.Version()); err == nil && lower {
		c.snapshot() // the older program must not see in the log that the version was higher once
	}
	replica.SetStorageVersion(c.state().Backend(), c.Version())
	return nil
}

func newMember(cfg *config.Config, env bootstrap.Env, boot *bootstrap.Result, tls *tlsconfig.Side, fail func(error)) (*member, error) {
	m := &member{cfg: cfg, env: env, boot: boot, passwords: verify.New(cfg.Auth.BcryptCost), stopping: make(chan struct{})}
	var err error
	if m.tokens, err = m.newTokens(); err != nil {
		return nil, err
	}
	if err := m.openState(); err != nil {
		return nil, err
	}
	ref := &raftRef{}
	if m.transport, err = transport.New(transport.Config{
		ID: boot.MemberID, ClusterID: boot.Members.ClusterID(), LocalURLs: cfg.Listen.AdvertisePeerURLs,
		Raft: peerRaft{ref, boot.Members}, Snapshots: boot.Snapshots,
		DialTimeout: time.Second + cfg.Raft.Election, ReadTimeout: cfg.Raft.ReadTimeout, WriteTimeout: cfg.Raft.WriteTimeout,
		Source: cfg.PeerSource(), TLS: tls.Client, Logger: env.Logger.Named("peers"), Registerer: env.Registerer,
	}); err != nil {
		return nil, err
	}
	durations := apply.NewMetrics(apply.MetricsConfig{
		Slow: cfg.Log.WarnApply, Registerer: env.Registerer, Clock: env.Clock, Logger: env.Logger,
	})
	m.proposer = propose.New(propose.Config{
		Log: ref, MemberID: boot.MemberID, MaxBytes: int(cfg.Limits.MaxRequestBytes), Timeout: cfg.RequestTimeout(),
		TimeoutReason: m.timeoutReason, Clock: env.Clock, Metrics: durations,
	})
	m.machine = m.newMachine(ref, fail)
	if m.node, err = m.newNode(); err != nil {
		return nil, err
	}
	ref.Node = m.node
	m.connect()
	m.compose()
	return m, nil
}

func (m *member) newTokens() (token.Provider, error) {
	return token.New(m.cfg.Auth.Token, token.Config{
		TTL: m.cfg.Auth.TokenTTL, Patience: m.cfg.RequestTimeout(), Clock: m.env.Clock, Logger: m.env.Logger.Named("auth"),
		Applied:     func() uint64 { return m.node.Applied() },
		WaitApplied: func(ctx context.Context, index uint64) error { return m.node.WaitApplied(ctx, index) },
	})
}

// openState reads the state from the backend.
func (m *member) openState() error {
	lg, be := m.env.Logger, m.boot.Backend
	leases := lease.NewTable(lease.Config{
		MinTTL: m.minLeaseTTL(), Extend: m.cfg.Raft.Election,
		Clock: m.env.Clock, Logger: lg.Named("lease"), Registerer: m.env.Registerer,
	})
	if err := leases.Restore(replica.Rows{Backend: be, Bucket: backend.Lease}); err != nil {
		return err
	}
	users, err := auth.Open(replica.AuthRows{Backend: be}, m.tokens, m.passwords.Cost())
	if err != nil {
		return err
	}
	store, err := mvcc.Open(be, mvcc.Config{
		CompactionBatchLimit: m.cfg.Backend.CompactionBatchLimit, CompactionSleep: m.cfg.Backend.CompactionSleep,
		HashCompactions: m.cfg.Features.Gates.Enabled(config.CompactHashCheck),
		Clock:           m.env.Clock, Logger: lg.Named("mvcc"), Registerer: m.env.Registerer,
	}, func(key []byte, id int64) { _ = leases.Attach(lease.ID(id), key) })
	if err != nil {
		return err
	}
	alarms, err := alarm.Open(replica.Rows{Backend: be, Bucket: backend.Alarm})
	if err != nil {
		store.Close()
		return err
	}
	m.state = &replica.State{Store: store, Leases: leases, Alarms: alarms, Auth: users, Members: m.boot.Members}
	m.state.SetBackend(be)
	m.quota = quota.New(m.cfg.Backend.QuotaBytes, func() int64 { return m.state.Backend().SizeInUse() })
	m.watches = watch.NewHub(store.Log(), store, watch.Config{Logger: lg.Named("watch"), Registerer: m.env.Registerer})
	return nil
}

func (m *member) newMachine(ref *raftRef, fail func(error)) *replica.Machine {
	boot := m.boot
	applier := apply.New(apply.Config{
		Store: m.state.Store, Leases: m.state.Leases, Alarms: m.state.Alarms, Auth: m.state.Auth, Tokens: m.tokens, Quota: m.quota,
		Cluster: cluster{boot.Members, func() *replica.State { return m.state }, func() { ref.ForceSnapshot() }},
		Header: func() *pb.ResponseHeader {
			return &pb.ResponseHeader{ClusterId: boot.Members.ClusterID(), MemberId: boot.MemberID, RaftTerm: m.node.Term()}
		},
		Metrics: m.proposer.Metrics(), Logger: m.env.Logger.Named("apply"),
	})
	index, term := boot.Backend.ConsistentIndex()
	return replica.New(replica.Config{
		MemberID: boot.MemberID, State: m.state, Applier: applier, Proposer: m.proposer, Raft: ref, Peers: m.transport,
		OpenSnapshot: func(index uint64) (*backend.Backend, error) {
			path, err := boot.Snapshots.DBPath(index)
			if err != nil {
				return nil, err
			}
			return bootstrap.Install(m.cfg, m.env, path)
		},
		Distrusted: m.distrusted, Fatal: fail,
		Removed: func() {
			// A little later, so that the others hear that it was applied here.
			time.AfterFunc(m.cfg.Raft.Election, func() {
				fail(errRemoved)
			})
		},
		Logger: m.env.Logger.Named("apply"),
	}, index, term)
}

func (m *member) newNode() (*raftnode.Node, error) {
	raft := &m.cfg.Raft
	index, _ := m.boot.Backend.ConsistentIndex()
	m.boot.Recovered.Applied = index
	return raftnode.New(raftnode.Config{
		ID: m.boot.MemberID, Peers: m.boot.Peers, Recovered: m.boot.Recovered,
		Log: m.boot.Log, Snapshots: m.boot.Snapshots, StateMachine: m.machine, Transport: m.transport,
		Timing: raftnode.Timing{
			Tick: raft.Heartbeat, ElectionTicks: raft.ElectionTicks(), PreVote: raft.PreVote,
			InitialElectionTickAdvance: raft.InitialElectionAdvance,
			ReadTimeout:                m.cfg.RequestTimeout(), ProposalTimeout: m.cfg.RequestTimeout(),
		},
		Limits: raftnode.Limits{SnapshotCount: raft.SnapshotCount, SnapshotCatchUpEntries: raft.CatchUpEntries},
		Hooks: raftnode.Hooks{Leadership: func(lead, term uint64, isLeader bool) {
			m.sight.leaders.note(lead, term, m.env.Clock.Now())
			m.state.Leases.Leadership(term, isLeader)
		}},
		Clock: m.env.Clock, Logger: m.env.Logger.Named("raft"), Registerer: m.env.Registerer,
	})
}

// connect tells the transport about the other members.
func (m *member) connect() {
	if m.boot.HadLog && m.cfg.Unsafe.ForceNewCluster {
		return // they are about to be removed
	}
	for _, r := range m.boot.Remotes {
		if r.ID != m.boot.MemberID {
			m.transport.AddRemote(r.ID, r.PeerURLs)
		}
	}
	for _, p := range m.boot.Members.Members() {
		if p.ID != m.boot.MemberID {
			m.transport.AddPeer(p.ID, p.PeerURLs)
		}
	}
}

// compose makes what works on top of consensus.
func (m *member) compose() {
	members := m.boot.Members
	m.gate = &readgate.Gate{
		ReadIndex: m.node.ReadIndex, Applied: m.node.Applied, WaitApplied: m.node.WaitApplied, Timeout: m.cfg.RequestTimeout(),
	}
	m.access = &rpc.Access{
		State: m.state.Auth, Tokens: m.tokens, Leases: m.state.Leases, Gate: m.gate,
		ClientCertAuth: m.cfg.Security.Client.ClientCertAuth, Logger: m.env.Logger.Named("auth"),
	}
	m.leasing = leasing.New(leasing.Config{
		Table: m.state.Leases, IsLeader: m.node.IsLeader,
		Confirm: func(ctx context.Context) error {
			_, err := m.node.ReadIndex(ctx)
			return err
		},
		Fresh:   m.cfg.Raft.Heartbeat,
		CatchUp: func(ctx context.Context) error { return m.node.WaitApplied(ctx, m.node.Committed()) },
		LeaderURLs: func() []string {
			if l := members.Member(m.node.Lead()); l != nil {
				return l.PeerURLs
			}
			return nil
		},
		LeaderChanged: m.node.LeaderChanged,
		Remote:        &leasing.Remote{Client: m.env.Peers}, Timeout: m.cfg.RequestTimeout(), Election: m.cfg.Raft.Election, Clock: m.env.Clock,
	})
	m.reconfig = reconfig.New(reconfig.Config{
		Members: members, Raft: m.node, Waiters: m.machine.Changes(), NextID: m.proposer.NextID, Active: m.transport.ActiveSince,
		Strict: m.cfg.Bootstrap.StrictReconfigCheck, Timeout: m.cfg.RequestTimeout(), Peers: m.env.Peers,
		Stopped: m.stopping, Clock: m.env.Clock, Registerer: m.env.Registerer,
	})
	m.upkeep = upkeep.New(upkeep.Config{
		MemberID: m.boot.MemberID, Proposer: m.proposer, Raft: m.node, Members: members, Leases: m.state.Leases, Auth: m.state.Auth,
		Peers: m.env.Peers, Timeout: m.cfg.RequestTimeout(), Clock: m.env.Clock, Logger: m.env.Logger,
	})
	m.watchData()
	m.sight.overview = overview.New(overview.Config{
		Members: members, MemberID: m.boot.MemberID, Timeout: lookTimeout,
		Asker: peers.Asker{Client: m.env.Peers, Cluster: members.ClusterID},
	})
}

// minLeaseTTL is the shortest time to live of a lease, in seconds.
func (m *member) minLeaseTTL() int64 {
	return lease.MinTTL(m.cfg.Raft.ElectionTicks(), m.cfg.Raft.Heartbeat)
}

// background starts the duties of the member.
func (m *member) background(ctx context.Context, work *sync.WaitGroup) {
	own := func() bool {
		for _, a := range m.state.Alarms.Get(pb.AlarmType_NOSPACE) {
			if a.MemberID == m.boot.MemberID {
				return true
			}
		}
		return false
	}
	purger := wal.NewPurger(m.env.FS, m.env.Clock, m.env.Logger, []wal.Retention{
		{Dir: m.cfg.WALPath(), Suffix: ".wal", Keep: m.cfg.Raft.MaxWALs},
		{Dir: m.cfg.SnapDir(), Suffix: ".snap", Keep: m.cfg.Raft.MaxSnapshots},
		{Dir: m.cfg.SnapDir(), Suffix: ".snap.db", Keep: m.cfg.Raft.MaxSnapshots},
	})
	for _, duty := range []func(context.Context) error{
		m.upkeep.ExpireLeases,
		m.upkeep.CheckpointLeases,
		m.upkeep.ClusterVersion,
		func(ctx context.Context) error { return m.upkeep.EndDowngrade(ctx, m.cfg.Upkeep.DowngradeCheckTime) },
		m.autoCompact,
		func(ctx context.Context) error { return m.data.checker.Periodic(ctx, m.cfg.Upkeep.CorruptCheckTime) },
		m.checkCompactions,
		m.data.integrity.Run,
		m.autoPromote,
		func(ctx context.Context) error { return m.upkeep.Relieve(ctx, own, m.quota.Relieved) },
		func(ctx context.Context) error { m.state.Leases.Run(ctx); return nil },
		func(ctx context.Context) error { purger.Run(ctx); return nil },
		func(ctx context.Context) error { m.tokens.Run(ctx); return nil },
	} {
		work.Go(func() { _ = duty(ctx) })
	}
}

// autoCompact keeps the history that the configuration asks for.
func (m *member) autoCompact(ctx context.Context) error {
	mode := m.cfg.Upkeep.AutoCompaction
	retention, err := mode.Parse()
	if err != nil {
		return err
	}
	return autocompact.Run(ctx, autocompact.Config{
		Revisions: mode.Mode == config.CompactRevision, Retention: retention, Rev: m.state.Store.Rev, IsLeader: m.node.IsLeader,
		Compact: func(ctx context.Context, rev int64) error {
			res, err := m.proposer.Do(ctx, &pb.InternalRaftRequest{Compaction: &pb.CompactionRequest{Revision: rev}})
			return errors.Join(err, res.Err)
		},
		Clock: m.env.Clock, Logger: m.env.Logger,
	})
}

// autoPromote makes learners voting members, if that is asked for.
func (m *member) autoPromote(ctx context.Context) error {
	if !m.cfg.Bootstrap.AutoPromote {
		return nil
	}
	promoted := reconfig.NewAutoPromoted()
	m.env.Registerer.MustRegister(promoted)
	return reconfig.AutoPromote{
		Status: m.node.Status,
		Started: func(id uint64) bool {
			l := m.boot.Members.Member(id)
			return l != nil && l.IsStarted() && m.boot.Members.IsReadyToPromote()
		},
		Promote: func(ctx context.Context, id uint64) error {
			_, err := m.reconfig.Promote(ctx, id)
			return err
		},
		Stay: 5 * m.cfg.Raft.Election, Clock: m.env.Clock, Logger: m.env.Logger.Named("promote"), Promoted: promoted,
	}.Run(ctx)
}

// checkCompactions compares what compactions left, if that is asked for.
func (m *member) checkCompactions(ctx context.Context) error {
	if !m.cfg.Features.Gates.Enabled(config.CompactHashCheck) {
		return nil
	}
	return m.data.checker.Compactions(ctx, m.cfg.Upkeep.CompactHashCheckTime)
}

// peerHandler serves other members.
func (m *member) peerHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/raft", m.transport.Handler())
	mux.Handle("/raft/", m.transport.Handler())
	mux.Handle(leasing.RenewPath, m.leasing.Handler())
	mux.Handle(leasing.RenewPath+"/", m.leasing.Handler())
	mux.Handle(corruption.Path, m.data.checker.Handler())
	mux.Handle(integrity.Path, m.data.integrity.Handler())
	mux.Handle(integrity.StatePath, m.stateHandler())
	mux.Handle(overview.Path, m.sight.overview)
	mux.Handle("/", membership.NewHandler(membership.HandlerConfig{
		Cluster: m.boot.Members, Promote: m.promote, Gate: m.gate.Wait, StorageVersion: m.storageVersion, Logger: m.env.Logger,
	}))
	return mux
}

// promote promotes a learner for a client of another member.
func (m *member) promote(ctx context.Context, id uint64) ([]*membership.Member, error) {
	if err := m.access.Admin(ctx); err != nil {
		return nil, err
	}
	return m.reconfig.Promote(ctx, id)
}

func (m *member) storageVersion() string {
	return replica.StorageVersion(m.state.Backend())
}

// timeoutReason says why a command that was proposed at start may have had no answer.
func (m *member) timeoutReason(start time.Time) error {
	elected := time.Unix(0, m.sight.leaders.elected.Load())
	if start.After(elected.Add(-2*m.cfg.Raft.Election)) && start.Before(elected) {
		return errdefs.ErrTimeoutDueToLeaderFail
	}
	since := func(id uint64) bool {
		at := m.transport.ActiveSince(id)
		return !at.IsZero() && at.Before(start)
	}
	switch lead := m.node.Lead(); lead {
	case 0:
	case m.boot.MemberID:
		connected := 1
		members := m.boot.Members.VotingMembers()
		for _, p := range members {
			if p.ID != m.boot.MemberID && since(p.ID) {
				connected++
			}
		}
		if connected < len(members)/2+1 {
			return errdefs.ErrTimeoutDueToConnectionLost
		}
	default:
		if !since(lead) {
			return errdefs.ErrTimeoutDueToConnectionLost
		}
	}
	return errdefs.ErrTimeout
}

// moveLeader hands leadership to a voting member.
func (m *member) moveLeader(ctx context.Context, to uint64) error {
	target := m.boot.Members.Member(to)
	if target == nil || target.IsLearner {
		return errdefs.ErrBadLeaderTransferee
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.RequestTimeout())
	defer cancel()
	err := m.node.TransferLeadership(ctx, to)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, raftnode.ErrTimeout) {
		return errdefs.ErrTimeoutLeaderTransfer
	}
	return err
}

// close stops consensus and makes everything durable.
func (m *member) close(ctx context.Context) error {
	close(m.stopping)
	m.proposer.Close()
	err := m.node.Stop(ctx)
	m.transport.Stop()
	m.watches.Close()
	m.state.Store.Close()
	m.boot.Backend = m.state.Backend()
	if cerr := m.boot.Close(); cerr != nil {
		err = errors.Join(err, fmt.Errorf("closing: %w", cerr))
	}
	return err
}
