// Package leasing answers what clients ask of leases outside the log: renewals and times to live.
//
// Only the leader's clock counts. The leader answers from its own table, after making sure that it still leads; any other
// member asks the leader over the peer port, in etcd's protocol (POST /leases and /leases/internal), which Handler serves.
//
// A lease that the leader does not know may be one whose grant is committed but not applied yet, so the leader catches up
// with its log before it says that a lease does not exist.
//
// Whoever was told of a revocation finds the lease gone: the leader, which knows of every commitment first, renews only
// when it has applied what is committed.
//
// # What a renewal costs
//
// A renewal that was told to a client must bind the next leader, which knows nothing of it. It does: the next leader's reign
// begins with all of every lease's time and an election timeout more (lease.Config.Extend). So it is enough that a member
// was the leader at most that long before it renewed. It asks the cluster after a renewal, unless a question that began
// less than Fresh ago was answered: one round of consensus serves all renewals of a heartbeat.
//
// Other members gather the renewals that wait and send them to the leader in one request (POST /leases/batch, Keelson's own:
// a sequence of length-prefixed messages). A leader that does not know it, such as etcd's, is asked for each.
//
// # Concurrency
//
// A Service may be used from any number of goroutines.
package leasing

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/internal/until"
	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/server/errdefs"
)

// Config is what a Service needs.
type Config struct {
	Table    *lease.Table
	IsLeader func() bool
	// Confirm asks the cluster, at or after the call, and returns nil if this member leads or does not believe to lead any
	// more.
	Confirm func(ctx context.Context) error
	// Fresh is how long such an answer is good, from the beginning of the question. At most lease.Config.Extend.
	Fresh time.Duration
	// CatchUp returns when everything that is committed now is applied.
	CatchUp func(ctx context.Context) error
	// LeaderURLs are the peer URLs of the leader, none while there is no leader.
	LeaderURLs func() []string
	// LeaderChanged is closed when there is another leader; one that hangs is not waited for any longer.
	LeaderChanged func() <-chan struct{}
	Remote        *Remote
	Timeout       time.Duration // of a forwarded request
	Election      time.Duration // pause while there is no leader
	Clock         clock.Clock
}

const (
	// retryPause is the pause between attempts to reach the leader.
	retryPause = 50 * time.Millisecond
	// catchUpTimeout is how long the leader may take to apply what is committed.
	catchUpTimeout = time.Second
)

// Service is described in the package comment.
type Service struct {
	cfg       Config
	began     time.Time
	confirmed atomic.Int64 // when the last question that was answered began, nanoseconds after began
	gathered  gatherer
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, began: cfg.Clock.Now()}
	s.confirmed.Store(math.MinInt64 / 2)
	s.gathered.post = s.forwardAll
	return s
}

// All lists the leases that this member knows.
func (s *Service) All() []lease.ID { return s.cfg.Table.Leases() }

// Renew resets the clock of a lease and returns its time to live in seconds. Errors: lease.ErrLeaseNotFound,
// lease.ErrNotPrimary if this member may have lost its leadership, errdefs.ErrTimeout, errdefs.ErrCanceled,
// errdefs.ErrNoLeader.
func (s *Service) Renew(ctx context.Context, id lease.ID) (int64, error) {
	if s.cfg.IsLeader() {
		ttl, err := s.renewHere(ctx, id)
		if !errors.Is(err, lease.ErrNotPrimary) || s.cfg.IsLeader() {
			return ttl, err
		}
	}
	var ttl int64
	err := s.forward(ctx, func(ctx context.Context, url string) (err error) {
		ttl, err = s.cfg.Remote.Renew(ctx, url, id)
		return err
	})
	return ttl, err
}

func (s *Service) renewHere(ctx context.Context, id lease.ID) (int64, error) {
	if err := s.catchUp(ctx); err != nil {
		return 0, err
	}
	ttl, err := s.cfg.Table.Renew(ctx, id)
	if errors.Is(err, lease.ErrLeaseNotFound) || errors.Is(err, lease.ErrNotPrimary) { // perhaps not yet
		if s.cfg.Confirm(ctx) != nil {
			return 0, lease.ErrNotPrimary
		}
		if err := s.catchUp(ctx); err != nil {
			return 0, err
		}
		ttl, err = s.cfg.Table.Renew(ctx, id)
	}
	if confirmed := s.confirm(ctx); confirmed != nil {
		return 0, confirmed
	}
	return ttl, err
}

// Pending stands for the time to live of a lease that RenewAll left to Renew.
const Pending = -1

// RenewAll renews leases as Renew does, as long as there is nothing to wait for but the cluster, and returns their times to
// live in seconds, Pending where only Renew can tell. Errors are those of Renew and stand for all.
func (s *Service) RenewAll(ctx context.Context, ids []lease.ID) ([]int64, error) {
	if s.cfg.IsLeader() {
		ttls, err := s.renewAllHere(ctx, ids)
		if !errors.Is(err, lease.ErrNotPrimary) || s.cfg.IsLeader() {
			return ttls, err
		}
	}
	return s.gathered.renew(ctx, ids)
}

func (s *Service) renewAllHere(ctx context.Context, ids []lease.ID) (ttls []int64, err error) {
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	ttls = make([]int64, len(ids))
	renewed := false
	for i, id := range ids {
		ttl, ok := s.cfg.Table.TryRenew(id)
		if ttls[i] = ttl; !ok {
			ttls[i] = Pending
		}
		renewed = renewed || ok
	}
	if renewed {
		err = s.confirm(ctx)
	}
	return ttls, err
}

// forwardAll has the leader renew leases.
func (s *Service) forwardAll(ids []lease.ID) (ttls []int64, err error) {
	err = s.forward(context.Background(), func(ctx context.Context, url string) (err error) {
		ttls, err = s.cfg.Remote.RenewAll(ctx, url, ids)
		return err
	})
	return ttls, err
}

// confirm returns nil if this member led at most Fresh ago, or leads after the call. lease.ErrNotPrimary.
func (s *Service) confirm(ctx context.Context) error {
	now := int64(s.cfg.Clock.Now().Sub(s.began))
	if now-s.confirmed.Load() > int64(s.cfg.Fresh) {
		if s.cfg.Confirm(ctx) != nil {
			return lease.ErrNotPrimary
		}
		if s.cfg.Table.IsPrimary() {
			s.confirmed.Store(now)
		}
	}
	if !s.cfg.Table.IsPrimary() {
		return lease.ErrNotPrimary
	}
	return nil
}

func (s *Service) catchUp(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
	defer cancel()
	if err := s.cfg.CatchUp(cctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errdefs.ErrTimeoutWaitAppliedIndex
	}
	return nil
}

// TimeToLive describes a lease: granted and remaining time in seconds and, if asked for, its keys. Errors as for Renew,
// and errdefs.ErrLeaderChanged.
func (s *Service) TimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if s.cfg.IsLeader() {
		return s.describe(ctx, r)
	}
	var resp *pb.LeaseTimeToLiveResponse
	err := s.forward(ctx, func(ctx context.Context, url string) (err error) {
		resp, err = s.cfg.Remote.TimeToLive(ctx, url, r)
		return err
	})
	return resp, err
}

func (s *Service) describe(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	if err := s.catchUp(ctx); err != nil {
		return nil, err
	}
	info, err := s.cfg.Table.TimeToLive(lease.ID(r.ID), r.Keys)
	if errors.Is(err, lease.ErrNotPrimary) {
		return nil, errdefs.ErrLeaderChanged
	}
	if err != nil {
		return nil, err
	}
	resp := &pb.LeaseTimeToLiveResponse{Header: &pb.ResponseHeader{}, ID: r.ID, TTL: info.Remaining, GrantedTTL: info.Granted}
	for _, k := range info.Keys {
		resp.Keys = append(resp.Keys, []byte(k))
	}
	return resp, nil
}

// forward calls the leader's URLs in turn until one answers, the lease is known not to exist, or time is up.
func (s *Service) forward(ctx context.Context, call func(ctx context.Context, url string) error) error {
	cctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	for cctx.Err() == nil {
		changed := s.cfg.LeaderChanged() // before the URLs
		urls := s.cfg.LeaderURLs()
		for _, url := range urls {
			uctx, cancel := until.Closed(cctx, changed)
			err := call(uctx, url)
			cancel()
			if err == nil || errors.Is(err, lease.ErrLeaseNotFound) {
				return err
			}
		}
		pause := retryPause
		if len(urls) == 0 {
			pause = s.cfg.Election
		}
		s.sleep(cctx, pause)
	}
	if ctx.Err() != nil && errors.Is(ctx.Err(), context.Canceled) {
		return errdefs.ErrCanceled
	}
	if len(s.cfg.LeaderURLs()) == 0 {
		return errdefs.ErrNoLeader
	}
	return errdefs.ErrTimeout
}

func (s *Service) sleep(ctx context.Context, d time.Duration) {
	t := s.cfg.Clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
	case <-ctx.Done():
	}
}
