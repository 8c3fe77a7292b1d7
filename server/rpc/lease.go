package rpc

import (
	"context"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/lease"
)

// Leases answers what does not go through the log: on the leader from its own table, elsewhere by asking the leader.
type Leases interface {
	// Renew resets the lease's clock and returns its time to live in seconds. lease.ErrLeaseNotFound.
	Renew(ctx context.Context, id lease.ID) (ttl int64, err error)
	// TimeToLive describes a lease. lease.ErrLeaseNotFound.
	TimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error)
	// All lists the leases that this member knows.
	All() []lease.ID
}

// LeaseConfig is what the Lease service needs.
type LeaseConfig struct {
	Header   *Header
	Errors   *Translator
	Proposer Proposer
	Leases   Leases
	Space    *SpaceGuard
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
	resp, err := s.cfg.Leases.TimeToLive(ctx, r)
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

// LeaseLeases lists the leases.
func (s *LeaseService) LeaseLeases(context.Context, *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error) {
	ids := s.cfg.Leases.All()
	structs := make([]pb.LeaseStatus, len(ids))
	resp := &pb.LeaseLeasesResponse{Header: s.cfg.Header.Fill(&pb.ResponseHeader{}), Leases: make([]*pb.LeaseStatus, len(ids))}
	for i, id := range ids {
		structs[i].ID = int64(id)
		resp.Leases[i] = &structs[i]
	}
	return resp, nil
}

// LeaseKeepAlive renews leases as they are named on the stream. A lease that does not exist is answered with TTL 0.
func (s *LeaseService) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	done := make(chan error, 1)
	go func() { done <- s.keepAlive(stream) }()
	select {
	case err := <-done:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func (s *LeaseService) keepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		// The header is made before the renewal: a client never sees a renewal at a revision at which the lease was
		// already revoked.
		resp := &pb.LeaseKeepAliveResponse{ID: req.ID, Header: s.cfg.Header.Fill(&pb.ResponseHeader{})}
		ttl, err := s.cfg.Leases.Renew(stream.Context(), lease.ID(req.ID))
		switch {
		case errors.Is(err, lease.ErrLeaseNotFound):
			ttl = 0
		case err != nil:
			return s.cfg.Errors.GRPC(err)
		}
		resp.TTL = ttl
		if err := stream.Send(resp); err != nil {
			return err
		}
	}
}
