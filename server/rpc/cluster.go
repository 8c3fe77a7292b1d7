package rpc

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/server/membership"
)

// Reconfigurer changes the cluster; every call returns the members after the change.
type Reconfigurer interface {
	AddMember(ctx context.Context, peerURLs []string, learner bool) (added *membership.Member, all []*membership.Member, err error)
	RemoveMember(ctx context.Context, id uint64) ([]*membership.Member, error)
	UpdateMember(ctx context.Context, id uint64, peerURLs []string) ([]*membership.Member, error)
	PromoteMember(ctx context.Context, id uint64) ([]*membership.Member, error)
}

// ClusterConfig is what the Cluster service needs.
type ClusterConfig struct {
	Header  *Header
	Errors  *Translator
	Access  *Access
	Gate    ReadGate
	Members func() []*membership.Member
	Change  Reconfigurer
}

// Cluster is etcdserverpb.Cluster.
type Cluster struct {
	pb.UnsafeClusterServer
	cfg ClusterConfig
}

// NewCluster makes the Cluster service.
func NewCluster(cfg ClusterConfig) *Cluster { return &Cluster{cfg: cfg} }

// header is without a revision, as etcd's.
func (s *Cluster) header() *pb.ResponseHeader {
	h := &pb.ResponseHeader{}
	s.cfg.Header.FillIDs(h)
	return h
}

// MemberAdd adds a voting member or a learner.
func (s *Cluster) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if err := membership.ValidateURLs(r.PeerURLs); err != nil {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	if err := s.cfg.Access.Admin(ctx); err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	m, all, err := s.cfg.Change.AddMember(ctx, r.PeerURLs, r.IsLearner)
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	added := &pb.Member{ID: m.ID, PeerURLs: m.PeerURLs, IsLearner: m.IsLearner}
	return &pb.MemberAddResponse{Header: s.header(), Member: added, Members: memberMessages(all)}, nil
}

// MemberRemove removes a member.
func (s *Cluster) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := s.cfg.Access.Admin(ctx); err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	all, err := s.cfg.Change.RemoveMember(ctx, r.ID)
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	return &pb.MemberRemoveResponse{Header: s.header(), Members: memberMessages(all)}, nil
}

// MemberUpdate changes the peer URLs of a member.
func (s *Cluster) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := s.cfg.Access.Admin(ctx); err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	all, err := s.cfg.Change.UpdateMember(ctx, r.ID, r.PeerURLs)
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	return &pb.MemberUpdateResponse{Header: s.header(), Members: memberMessages(all)}, nil
}

// MemberPromote makes a learner a voting member.
func (s *Cluster) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := s.cfg.Access.Admin(ctx); err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	all, err := s.cfg.Change.PromoteMember(ctx, r.ID)
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	return &pb.MemberPromoteResponse{Header: s.header(), Members: memberMessages(all)}, nil
}

// MemberList lists the members, linearizably if asked to.
func (s *Cluster) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if err := s.cfg.Gate.Wait(ctx); err != nil {
			return nil, s.cfg.Errors.GRPC(err)
		}
	}
	if err := s.cfg.Access.Known(ctx); err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	return &pb.MemberListResponse{Header: s.header(), Members: memberMessages(s.cfg.Members())}, nil
}

func memberMessages(all []*membership.Member) []*pb.Member {
	out := make([]*pb.Member, len(all))
	for i, m := range all {
		out[i] = &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, IsLearner: m.IsLearner}
	}
	return out
}
