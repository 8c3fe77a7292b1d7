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

// LeaseKeepAlive renews leases as they are named on the stream, several at a time. A lease that does not exist is answered
// with TTL 0.
func (s *LeaseService) LeaseKeepAlive(stream pb.Lease_LeaseKeepAliveServer) error {
	ended := make(chan error, 1+maxRenewals)
	fail := func(err error) { ended <- err }
	go func() { fail(s.keepAlive(stream, fail)) }() // Recv may block until this method has returned
	select {
	case err := <-ended:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// maxRenewals is how many renewals of one stream are under way at once: each may wait for a round of consensus, or for
// the leader. After a failure no more begin.
const maxRenewals = 32

func (s *LeaseService) keepAlive(stream pb.Lease_LeaseKeepAliveServer, fail func(error)) error {
	g, ctx := errgroup.WithContext(stream.Context())
	g.SetLimit(maxRenewals)
	var sending sync.Mutex
	for ctx.Err() == nil {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		g.Go(func() error {
			resp, err := s.renew(ctx, req.ID)
			if err == nil {
				sending.Lock()
				err = stream.Send(resp)
				sending.Unlock()
			}
			if err != nil {
				fail(err)
			}
			return err
		})
	}
	return g.Wait()
}

func (s *LeaseService) renew(ctx context.Context, id int64) (*pb.LeaseKeepAliveResponse, error) {
	// The header is made before the renewal: a client never sees a renewal at a revision at which the lease was already
	// revoked.
	resp := &pb.LeaseKeepAliveResponse{ID: id, Header: s.cfg.Header.Fill(&pb.ResponseHeader{})}
	ttl, err := s.cfg.Leases.Renew(ctx, lease.ID(id))
	switch {
	case errors.Is(err, lease.ErrLeaseNotFound):
		ttl = 0
	case err != nil:
		return nil, s.cfg.Errors.GRPC(err)
	}
	resp.TTL = ttl
	return resp, nil
}
