package client

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Messages of the cluster calls.
type (
	Member                = pb.Member
	MemberListResponse    = pb.MemberListResponse
	MemberAddResponse     = pb.MemberAddResponse
	MemberRemoveResponse  = pb.MemberRemoveResponse
	MemberUpdateResponse  = pb.MemberUpdateResponse
	MemberPromoteResponse = pb.MemberPromoteResponse
)

// MemberList lists the members, linearizably.
func (c *Client) MemberList(ctx context.Context) (*MemberListResponse, error) {
	return c.memberList(ctx, true)
}

// MemberListSerializable lists the members as the member that is asked knows them.
func (c *Client) MemberListSerializable(ctx context.Context) (*MemberListResponse, error) {
	return c.memberList(ctx, false)
}

func (c *Client) memberList(ctx context.Context, linearizable bool) (*MemberListResponse, error) {
	resp := new(MemberListResponse)
	req := &pb.MemberListRequest{Linearizable: linearizable}
	if err := c.unary(ctx, pb.Cluster_MemberList_FullMethodName, req, resp, read); err != nil {
		return nil, err
	}
	return resp, nil
}

// MemberAdd adds a voting member.
func (c *Client) MemberAdd(ctx context.Context, peerURLs []string) (*MemberAddResponse, error) {
	return c.memberAdd(ctx, peerURLs, false)
}

// MemberAddAsLearner adds a member that receives the log but does not vote.
func (c *Client) MemberAddAsLearner(ctx context.Context, peerURLs []string) (*MemberAddResponse, error) {
	return c.memberAdd(ctx, peerURLs, true)
}

func (c *Client) memberAdd(ctx context.Context, peerURLs []string, learner bool) (*MemberAddResponse, error) {
	resp := new(MemberAddResponse)
	req := &pb.MemberAddRequest{PeerURLs: peerURLs, IsLearner: learner}
	if err := c.unary(ctx, pb.Cluster_MemberAdd_FullMethodName, req, resp, write); err != nil {
		return nil, err
	}
	return resp, nil
}

// MemberRemove removes a member.
func (c *Client) MemberRemove(ctx context.Context, id uint64) (*MemberRemoveResponse, error) {
	resp := new(MemberRemoveResponse)
	if err := c.unary(ctx, pb.Cluster_MemberRemove_FullMethodName, &pb.MemberRemoveRequest{ID: id}, resp, write); err != nil {
		return nil, err
	}
	return resp, nil
}

// MemberUpdate replaces a member's peer URLs.
func (c *Client) MemberUpdate(ctx context.Context, id uint64, peerURLs []string) (*MemberUpdateResponse, error) {
	resp := new(MemberUpdateResponse)
	req := &pb.MemberUpdateRequest{ID: id, PeerURLs: peerURLs}
	if err := c.unary(ctx, pb.Cluster_MemberUpdate_FullMethodName, req, resp, write); err != nil {
		return nil, err
	}
	return resp, nil
}

// MemberPromote makes a learner a voting member.
func (c *Client) MemberPromote(ctx context.Context, id uint64) (*MemberPromoteResponse, error) {
	resp := new(MemberPromoteResponse)
	if err := c.unary(ctx, pb.Cluster_MemberPromote_FullMethodName, &pb.MemberPromoteRequest{ID: id}, resp, write); err != nil {
		return nil, err
	}
	return resp, nil
}
