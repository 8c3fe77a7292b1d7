// Package leasing answers what clients ask of leases outside the log: renewals and times to live.
//
// Only the leader's clock counts. The leader answers from its own table, after making sure that it still leads; any other
// member asks the leader over the peer port, in etcd's protocol (POST /leases and /leases/internal), which Handler serves.
//
// A lease that the leader does not know may be one whose grant is committed but not applied yet, so the leader catches up
// with its log before it says that a lease does not exist.
//
// # Concurrency
//
// A Service may be used from any number of goroutines.
package leasing

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/server/errdefs"
)

// Config is what a Service needs.
type Config struct {
	Table    *lease.Table
	IsLeader func() bool
	// Confirm returns nil if this member certainly leads at the moment of the call.
	Confirm func(ctx context.Context) error
	// CatchUp returns when everything that is committed now is applied.
	CatchUp func(ctx context.Context) error
	// LeaderURLs are the peer URLs of the leader, none while there is no leader.
	LeaderURLs func() []string
	Remote     *Remote
	Timeout    time.Duration // of a forwarded request
	Election   time.Duration // pause while there is no leader
	Clock      clock.Clock
}

const (
	// retryPause is the pause between attempts to reach the leader.
	retryPause = 50 * time.Millisecond
	// catchUpTimeout is how long the leader may take to apply what is committed.
	catchUpTimeout = time.Second
)

// Service is described in the package comment.
type Service struct {
	cfg Config
}

// New makes a Service.
func New(cfg Config) *Service { return &Service{cfg: cfg} }

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
	if err := s.cfg.Confirm(ctx); err != nil {
		return 0, lease.ErrNotPrimary
	}
	if !s.cfg.Table.Exists(id) {
		if err := s.catchUp(ctx); err != nil {
			return 0, err
		}
	}
	return s.cfg.Table.Renew(ctx, id)
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
		urls := s.cfg.LeaderURLs()
		for _, url := range urls {
			err := call(cctx, url)
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
