package client

import (
	"context"
	"errors"
	"math/rand/v2"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// LeaseID names a lease.
type LeaseID int64

// NoLease is the ID of no lease.
const NoLease LeaseID = 0

// MaxLeaseTTL is the longest time to live that a server grants, in seconds.
const MaxLeaseTTL = 9_000_000_000

// Responses of the lease calls.
type (
	LeaseGrantResponse      = pb.LeaseGrantResponse
	LeaseRevokeResponse     = pb.LeaseRevokeResponse
	LeaseKeepAliveResponse  = pb.LeaseKeepAliveResponse
	LeaseTimeToLiveResponse = pb.LeaseTimeToLiveResponse
	LeaseLeasesResponse     = pb.LeaseLeasesResponse
)

// GrantOption changes a lease request.
type GrantOption func(*pb.LeaseGrantRequest)

// WithLeaseID asks for a lease of that ID. Without it the client chooses one at random.
func WithLeaseID(id LeaseID) GrantOption { return func(r *pb.LeaseGrantRequest) { r.ID = int64(id) } }

// Grant makes a lease that lives for ttl seconds after it was last renewed; the server may grant more. As the client
// chooses the ID, a request whose answer was lost can be repeated without leaving a second lease behind.
func (c *Client) Grant(ctx context.Context, ttl int64, opts ...GrantOption) (*LeaseGrantResponse, error) {
	req := &pb.LeaseGrantRequest{TTL: ttl}
	for _, o := range opts {
		o(req)
	}
	if req.ID != 0 {
		resp := new(LeaseGrantResponse)
		if err := c.unary(ctx, pb.Lease_LeaseGrant_FullMethodName, req, resp, write); err != nil {
			return nil, err
		}
		return resp, nil
	}
	req.ID = rand.Int64N(1<<63-1) + 1
	for attempt := 0; ; attempt++ {
		resp := new(LeaseGrantResponse)
		err := c.unary(ctx, pb.Lease_LeaseGrant_FullMethodName, req, resp, write)
		switch {
		case err == nil:
			return resp, nil
		case attempt > 0 && errors.Is(err, rpctypes.ErrLeaseExist):
			// An earlier attempt did it.
			ttl, terr := c.TimeToLive(ctx, LeaseID(req.ID), false)
			if terr != nil {
				return nil, terr
			}
			return &LeaseGrantResponse{Header: ttl.Header, ID: ttl.ID, TTL: ttl.GrantedTTL}, nil
		case !errors.Is(err, ErrUncertain) || ctx.Err() != nil || attempt >= c.cfg.MaxRetries:
			return nil, err
		}
		if perr := c.pause(ctx, attempt); perr != nil {
			return nil, withLast(perr, err)
		}
	}
}

// Revoke ends a lease and deletes its keys. It is repeated on failure: rpctypes.ErrLeaseNotFound can mean that an
// earlier attempt did it.
func (c *Client) Revoke(ctx context.Context, id LeaseID) (*LeaseRevokeResponse, error) {
	resp := new(LeaseRevokeResponse)
	if err := c.unary(ctx, pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: int64(id)}, resp, read); err != nil {
		return nil, err
	}
	return resp, nil
}

// TimeToLive returns a lease's remaining and granted time in seconds, and its keys if wanted. A lease that does not
// exist has TTL -1.
func (c *Client) TimeToLive(ctx context.Context, id LeaseID, keys bool) (*LeaseTimeToLiveResponse, error) {
	resp := new(LeaseTimeToLiveResponse)
	req := &pb.LeaseTimeToLiveRequest{ID: int64(id), Keys: keys}
	if err := c.unary(ctx, pb.Lease_LeaseTimeToLive_FullMethodName, req, resp, read); err != nil {
		return nil, err
	}
	return resp, nil
}

// Leases lists all leases.
func (c *Client) Leases(ctx context.Context) (*LeaseLeasesResponse, error) {
	resp := new(LeaseLeasesResponse)
	if err := c.unary(ctx, pb.Lease_LeaseLeases_FullMethodName, &pb.LeaseLeasesRequest{}, resp, read); err != nil {
		return nil, err
	}
	return resp, nil
}

// KeepAliveOnce renews a lease once. rpctypes.ErrLeaseNotFound means that it is gone.
func (c *Client) KeepAliveOnce(ctx context.Context, id LeaseID) (*LeaseKeepAliveResponse, error) {
	k, err := c.KeepAlive(ctx, id)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	return k.first, nil
}
