// Package upkeep is what a member does by itself, without being asked: it tells the others its name and client URLs, ends
// leases that expired, keeps the cluster's version, and clears the NOSPACE alarm once there is space again.
//
// Every duty is a function that runs until its context ends. Duties of the leader do nothing on other members.
//
// # Concurrency
//
// Each duty is one goroutine; they share nothing.
package upkeep

import (
	"context"
	"errors"
	"net/http"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/until"
	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/membership"
)

// Proposer runs a command through the log.
type Proposer interface {
	Do(ctx context.Context, r *pb.InternalRaftRequest) (apply.Result, error)
	// DoIn is Do for what this member may only command as the leader of a term.
	DoIn(ctx context.Context, term uint64, r *pb.InternalRaftRequest) (apply.Result, error)
}

// Raft is the consensus node as duties use it.
type Raft interface {
	Term() uint64
	IsLeader() bool
	FirstCommitInTerm() <-chan struct{}
	LeaderChanged() <-chan struct{}
}

// Config is what the duties need.
type Config struct {
	MemberID uint64
	Proposer Proposer
	Raft     Raft
	Members  *membership.Cluster
	Leases   *lease.Table
	Auth     *auth.State
	Peers    *http.Client
	Timeout  time.Duration // of a command
	Clock    clock.Clock
	Logger   *zap.Logger
}

// Upkeep is described in the package comment.
type Upkeep struct{ cfg Config }

// New makes an Upkeep.
func New(cfg Config) *Upkeep { return &Upkeep{cfg} }

// propose runs a command with the duties' timeout.
func (u *Upkeep) propose(ctx context.Context, r *pb.InternalRaftRequest) error {
	ctx, cancel := context.WithTimeout(ctx, u.cfg.Timeout)
	defer cancel()
	res, err := u.cfg.Proposer.Do(ctx, r)
	if err != nil {
		return err
	}
	return res.Err
}

// pause waits, or returns false when the context has ended.
func (u *Upkeep) pause(ctx context.Context, d time.Duration) bool {
	t := u.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
		return false
	}
}

// retryPause is the pause after a command that failed.
const retryPause = 500 * time.Millisecond

// firstPatience is how long the first attempt to publish waits; each further one waits twice as long. What a member that
// joins hands to the leader may be lost while their connections are made, and nothing is served before it is repeated.
const firstPatience = time.Second

// Publish tells the cluster this member's name and client URLs, until it knows. A member that is not in the cluster (yet)
// is silent.
func (u *Upkeep) Publish(ctx context.Context, name string, clientURLs []string) error {
	for patience := firstPatience; ; patience *= 2 {
		attempt, cancel := context.WithTimeout(ctx, patience)
		err := u.propose(attempt, &pb.InternalRaftRequest{ClusterMemberAttrSet: &membershippb.ClusterMemberAttrSetRequest{
			Member_ID:        u.cfg.MemberID,
			MemberAttributes: &membershippb.Attributes{Name: name, ClientUrls: clientURLs},
		}})
		cancel()
		if err == nil {
			u.cfg.Logger.Info("published local member to cluster through raft", zap.String("local-member-id", membership.FormatID(u.cfg.MemberID)),
				zap.Strings("client-urls", clientURLs))
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		u.cfg.Logger.Warn("failed to publish local member to cluster through raft", zap.Error(err))
		if !u.pause(ctx, retryPause) {
			return ctx.Err()
		}
	}
}

// maxRevokes is how many revocations are under way at once.
const maxRevokes = 16

// ExpireLeases revokes the leases that the table says have expired.
func (u *Upkeep) ExpireLeases(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case batch := <-u.cfg.Leases.Expired():
			u.revoke(ctx, batch)
		}
	}
}

// CheckpointLeases records what is left of long leases, so that another leader does not begin them anew.
func (u *Upkeep) CheckpointLeases(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case batch := <-u.cfg.Leases.CheckpointsDue():
			r := &pb.LeaseCheckpointRequest{}
			for _, c := range batch {
				r.Checkpoints = append(r.Checkpoints, &pb.LeaseCheckpoint{ID: int64(c.ID), Remaining_TTL: c.Remaining})
			}
			if err := u.propose(ctx, &pb.InternalRaftRequest{LeaseCheckpoint: r}); err != nil {
				u.cfg.Logger.Warn("could not record the remaining time of leases", zap.Int("leases", len(batch)), zap.Error(err))
			}
		}
	}
}

// revoke ends a batch of leases. What fails is offered again by the table. That they have expired is this member's word as the
// leader of its term: another leader may have renewed them, so it does not count once there is one.
func (u *Upkeep) revoke(ctx context.Context, batch []lease.ID) {
	term, changed := u.cfg.Raft.Term(), u.cfg.Raft.LeaderChanged() // before the table is asked
	ctx, cancel := until.Closed(ctx, changed)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(maxRevokes)
	for _, id := range u.cfg.Leases.StillExpired(batch) {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, u.cfg.Timeout)
			defer cancel()
			res, err := u.cfg.Proposer.DoIn(ctx, term, &pb.InternalRaftRequest{
				Header:      &pb.RequestHeader{Username: auth.Root, AuthRevision: u.cfg.Auth.Load().Revision()},
				LeaseRevoke: &pb.LeaseRevokeRequest{ID: int64(id)},
			})
			return errors.Join(err, res.Err)
		})
	}
	if err := g.Wait(); err != nil && ctx.Err() == nil {
		u.cfg.Logger.Warn("could not revoke all expired leases, trying again", zap.Error(err))
	}
}

// versionInterval is how often the leader compares the members' versions.
const versionInterval = 4 * time.Second

// ClusterVersion makes the leader decide the cluster's version: soon after it was elected, and when members change theirs.
func (u *Upkeep) ClusterVersion(ctx context.Context) error {
	for {
		first := u.cfg.Raft.FirstCommitInTerm()
		if u.cfg.Raft.IsLeader() {
			u.decideVersion(ctx)
		}
		t := u.cfg.Clock.NewTimer(versionInterval)
		select {
		case <-first:
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		t.Stop()
	}
}

func (u *Upkeep) decideVersion(ctx context.Context) {
	all := u.cfg.Members.AllVersions(ctx, u.cfg.Peers)
	ver, err := u.cfg.Members.DecideVersion(all)
	if err == nil && ver != "" {
		err = u.propose(ctx, &pb.InternalRaftRequest{ClusterVersionSet: &membershippb.ClusterVersionSetRequest{Ver: ver}})
	}
	if err != nil && ctx.Err() == nil {
		u.cfg.Logger.Warn("could not set the cluster version", zap.Error(err))
	}
}

// EndDowngrade makes the leader end a downgrade, soon after all members run at its target. interval 0: never.
func (u *Upkeep) EndDowngrade(ctx context.Context, interval time.Duration) error {
	if interval == 0 {
		return nil
	}
	for u.pause(ctx, interval) {
		if !u.cfg.Raft.IsLeader() || !u.cfg.Members.Downgrade().Enabled || !u.cfg.Members.DowngradeDone(u.cfg.Members.AllVersions(ctx, u.cfg.Peers)) {
			continue
		}
		u.cfg.Logger.Info("the cluster has been downgraded", zap.String("cluster-version", u.cfg.Members.Version()))
		err := u.propose(ctx, &pb.InternalRaftRequest{DowngradeInfoSet: &membershippb.DowngradeInfoSetRequest{Enabled: false}})
		if err != nil {
			u.cfg.Logger.Warn("could not end the downgrade, trying again", zap.Error(err))
		}
	}
	return ctx.Err()
}

// reliefInterval is how often a member looks whether its own NOSPACE alarm is out of date.
const reliefInterval = time.Second

// Relieve clears this member's NOSPACE alarm when relieved says that there is space again: unlike in etcd, compaction and
// deletions suffice, nobody has to disarm.
func (u *Upkeep) Relieve(ctx context.Context, raised, relieved func() bool) error {
	for u.pause(ctx, reliefInterval) {
		if !raised() || !relieved() {
			continue
		}
		err := u.propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
			MemberID: u.cfg.MemberID, Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_NOSPACE,
		}})
		if err != nil {
			u.cfg.Logger.Warn("there is space again, but the alarm could not be cleared", zap.Error(err))
			continue
		}
		u.cfg.Logger.Info("there is space again, cleared the alarm")
	}
	return ctx.Err()
}

// RaiseCorrupt raises the CORRUPT alarm of a member, 0 for the whole cluster: from then on the cluster serves no data.
func (u *Upkeep) RaiseCorrupt(ctx context.Context, member uint64) error {
	return u.propose(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		MemberID: member, Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_CORRUPT,
	}})
}
