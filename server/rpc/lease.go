package rpc

import (
	"context"
	"errors"
	"io"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/lease"
)

// Leases answers what does not go through the log: on the leader from its own table, elsewhere by asking the leader.
type Leases interface {
	// Renew resets the lease's clock and returns its time to live in seconds. lease.ErrLeaseNotFound.
	Renew(ctx context.Context, id lease.ID) (ttl int64, err error)
	// RenewAll is Renew for several leases at once. A negative time to live: ask Renew, which may have to wait.
	RenewAll(ctx context.Context, ids []lease.ID) (ttls []int64, err error)
	// TimeToLive describes a lease. lease.ErrLeaseNotFound.
	TimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error)
	// All lists the leases that this member knows.
	All() []lease.ID
}

// LeaseConfig is what the Lease service needs.
type LeaseConfig struct {
	Header   *Header
	Errors   *Translator
	Proposer Proposer // Authorized
	Access   *Access
	Gate     ReadGate
	Leases   Leases
	Space    *SpaceGuard
	Metrics  *Metrics
}

// LeaseService is etcdserverpb.Lease.
type LeaseService struct {
	pb.UnsafeLeaseServer
	cfg LeaseConfig
}

// NewLease makes the Lease service.
func NewLease(cfg LeaseConfig) *LeaseService { return &LeaseService{cfg: cfg} }

// LeaseGrant makes a lease, with an ID of the member's choice if the request names none.
func (s *LeaseService) LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if err := s.cfg.Space.CheckLease(ctx); err != nil {
		return nil, err
	}
	for r.ID == 0 {
		r.ID = int64(s.cfg.Proposer.NextID() & (1<<63 - 1))
	}
	resp, err := propose[*pb.LeaseGrantResponse](ctx, s.cfg.Proposer, s.cfg.Errors, &pb.InternalRaftRequest{LeaseGrant: r})
	if err != nil {
		return nil, err
	}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}

// LeaseRevoke ends a lease and deletes its keys.
func (s *LeaseService) LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	resp, err := propose[*pb.LeaseRevokeResponse](ctx, s.cfg.Proposer, s.cfg.Errors, &pb.InternalRaftRequest{LeaseRevoke: r})
	if err != nil {
		return nil, err
	}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}

// LeaseTimeToLive describes a lease; one that does not exist has TTL -1.
func (s *LeaseService) LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	reading, err := s.cfg.Access.known(ctx)
	if err == nil && r.Keys {
		err = reading.LeaseKeys(lease.ID(r.ID))
	}
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	resp, err := s.cfg.Leases.TimeToLive(ctx, r)
	if err == nil && r.Keys {
		err = reading.keysOf(resp)
	}
	switch {
	case errors.Is(err, lease.ErrLeaseNotFound):
		resp = &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}
	case err != nil:
		return nil, s.cfg.Errors.GRPC(err)
	}
	if resp.Header == nil {
		resp.Header = &pb.ResponseHeader{}
	}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}

// LeaseLeases lists the leases, to those who may read all of their keys.
func (s *LeaseService) LeaseLeases(ctx context.Context, _ *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	ids := s.cfg.Leases.All()
	reading, err := s.cfg.Access.known(ctx)
	for _, id := range ids {
		if err == nil {
			err = reading.LeaseKeys(id)
		}
	}
	if err == nil {
		err = reading.Done()
	}
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	structs := make([]pb.LeaseStatus, len(ids))
	resp := &pb.LeaseLeasesResponse{Header: s.cfg.Header.Fill(&pb.ResponseHeader{}), Leases: make([]*pb.LeaseStatus, len(ids))}
	for i, id := range ids {
		structs[i].ID = int64(id)
		resp.Leases[i] = &structs[i]
	}
	return resp, nil
}

// LeaseKeepAlive renews leases as they are named on the stream: those that have come in meanwhile all at once. A lease that
// does not exist is answered with TTL 0.
func (s *LeaseService) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	r := &renewals{s: s, stream: stream, ids: make(chan lease.ID, maxRenewals)}
	go r.receive() // Recv may block until this method has returned
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	r.slow, r.ctx = errgroup.WithContext(ctx)
	r.slow.SetLimit(maxSlow)
	for more := true; more; {
		select {
		case id, ok := <-r.ids:
			if more = ok; ok {
				if err := r.renew(r.drain(id)); err != nil {
					cancel()
					_ = r.slow.Wait()
					return err
				}
			}
		case <-r.ctx.Done():
			more = false
		}
	}
	if err := r.slow.Wait(); err != nil {
		return err
	}
	if err := stream.Context().Err(); err != nil {
		return err
	}
	return r.err
}

// Bounds on the renewals of one stream.
const (
	maxRenewals = 1024 // that are done at once
	maxSlow     = 32   // that wait, each for itself, for something to be decided about their lease
)

// renewals is one stream of keep-alives.
type renewals struct {
	s      *LeaseService
	stream pb.Lease_LeaseKeepAliveServer
	ids    chan lease.ID // closed at the end of the requests
	err    error         // why they ended; set before ids is closed
	ctx    context.Context
	slow   *errgroup.Group
	mu     sync.Mutex // of Send
}

func (r *renewals) receive() {
	defer close(r.ids)
	for {
		req, err := r.stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				r.s.cfg.Metrics.failed(r.stream.Context(), "receive", "lease-keepalive", err)
				r.err = err
			}
			return
		}
		select {
		case r.ids <- lease.ID(req.ID):
		case <-r.stream.Context().Done():
			return
		}
	}
}

// drain returns all leases that wait to be renewed.
func (r *renewals) drain(first lease.ID) []lease.ID {
	ids := append(make([]lease.ID, 0, 1+len(r.ids)), first)
	for len(ids) < cap(ids) {
		id, ok := <-r.ids
		if !ok {
			break
		}
		ids = append(ids, id)
	}
	return ids
}

// permit refuses the renewal of leases with keys that the caller may not write.
func (r *renewals) permit(ids []lease.ID) error {
	ctx := r.stream.Context()
	reading, err := r.s.cfg.Access.known(ctx)
	if err != nil || reading.admin() {
		return err
	}
	// What is known of the keys of leases must not lag behind.
	if err := r.s.cfg.Gate.Wait(ctx); err != nil {
		return err
	}
	if err := reading.Renew(ids...); err != nil {
		return err
	}
	return reading.Done()
}

func (r *renewals) renew(ids []lease.ID) error {
	if err := r.permit(ids); err != nil {
		return r.s.cfg.Errors.GRPC(err)
	}
	// The header is made before the renewal: a client never sees a renewal at a revision at which the lease was already
	// revoked.
	h := r.s.cfg.Header.Fill(&pb.ResponseHeader{})
	ttls, err := r.s.cfg.Leases.RenewAll(r.ctx, ids)
	if err != nil {
		return r.s.cfg.Errors.GRPC(err)
	}
	for i, id := range ids {
		if ttls[i] < 0 {
			r.slow.Go(func() error { return r.renewSlowly(id) })
		} else if err := r.answer(h, id, ttls[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *renewals) renewSlowly(id lease.ID) error {
	h := r.s.cfg.Header.Fill(&pb.ResponseHeader{})
	ttl, err := r.s.cfg.Leases.Renew(r.ctx, id)
	switch {
	case errors.Is(err, lease.ErrLeaseNotFound):
		ttl = 0
	case err != nil:
		return r.s.cfg.Errors.GRPC(err)
	}
	return r.answer(h, id, ttl)
}

func (r *renewals) answer(h *pb.ResponseHeader, id lease.ID, ttl int64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.stream.Send(&pb.LeaseKeepAliveResponse{Header: h, ID: int64(id), TTL: ttl})
	r.s.cfg.Metrics.failed(r.stream.Context(), "send", "lease-keepalive", err)
	return err
}
