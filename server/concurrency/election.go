package concurrency

import (
	"bytes"
	"context"
	"errors"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/api/v3electionpb"
	"github.com/keelson-io/keelson/mvcc/watch"
)

// The errors have etcd's texts, which clients see.
var (
	errNotLeader        = errors.New("election: not leader")
	errNoLeader         = errors.New("election: no leader")
	errMissingLeaderKey = errors.New(`"leader" field must be provided`)
)

// Election is v3electionpb.Election.
type Election struct {
	v3electionpb.UnsafeElectionServer
	queues *Queues
}

// NewElection makes the Election service.
func NewElection(q *Queues) *Election { return &Election{queues: q} }

// Campaign waits until the lease is the leader. When the call ends before, it gives its place up.
func (s *Election) Campaign(ctx context.Context, r *v3electionpb.CampaignRequest) (*v3electionpb.CampaignResponse, error) {
	lease, err := s.queues.lease(ctx, r.Lease)
	if err != nil {
		return nil, err
	}
	prefix := prefixOf(r.Name)
	e, err := s.queues.join(ctx, prefix, r.Value, lease)
	if err != nil {
		return nil, err
	}
	leader := &v3electionpb.LeaderKey{Name: r.Name, Key: e.key, Rev: e.rev, Lease: lease}
	if e.old != nil && !bytes.Equal(e.old.Value, r.Value) {
		_, err = s.proclaim(ctx, leader, r.Value)
	}
	if err == nil && !e.first {
		err = s.queues.wait(ctx, prefix, e.place)
	}
	if err != nil {
		leave, cancel := afterwards(ctx)
		defer cancel()
		_, _ = s.resign(leave, leader) // or the lease will
		return nil, err
	}
	return &v3electionpb.CampaignResponse{Header: e.header, Leader: leader}, nil
}

// Proclaim changes the leader's value.
func (s *Election) Proclaim(ctx context.Context, r *v3electionpb.ProclaimRequest) (*v3electionpb.ProclaimResponse, error) {
	if r.Leader == nil {
		return nil, errMissingLeaderKey
	}
	h, err := s.proclaim(ctx, r.Leader, r.Value)
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ProclaimResponse{Header: h}, nil
}

func (s *Election) proclaim(ctx context.Context, l *v3electionpb.LeaderKey, value []byte) (*pb.ResponseHeader, error) {
	put := &pb.PutRequest{Key: l.Key, Value: value, Lease: l.Lease}
	resp, err := s.ifLeader(ctx, l, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		return nil, errNotLeader
	}
	return resp.Header, nil
}

// Resign gives the leadership up. It is no error not to have it.
func (s *Election) Resign(ctx context.Context, r *v3electionpb.ResignRequest) (*v3electionpb.ResignResponse, error) {
	if r.Leader == nil {
		return nil, errMissingLeaderKey
	}
	h, err := s.resign(ctx, r.Leader)
	if err != nil {
		return nil, err
	}
	return &v3electionpb.ResignResponse{Header: h}, nil
}

func (s *Election) resign(ctx context.Context, l *v3electionpb.LeaderKey) (*pb.ResponseHeader, error) {
	del := &pb.DeleteRangeRequest{Key: l.Key}
	resp, err := s.ifLeader(ctx, l, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: del}})
	if err != nil {
		return nil, err
	}
	return resp.Header, nil
}

func (s *Election) ifLeader(ctx context.Context, l *v3electionpb.LeaderKey, op *pb.RequestOp) (*pb.TxnResponse, error) {
	return s.queues.kv.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{createdAt(l.Key, l.Rev)}, Success: []*pb.RequestOp{op}})
}

// Leader returns the leader's key and value.
func (s *Election) Leader(ctx context.Context, r *v3electionpb.LeaderRequest) (*v3electionpb.LeaderResponse, error) {
	resp, err := s.queues.kv.Range(ctx, firstOf(prefixOf(r.Name)))
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, errNoLeader
	}
	return &v3electionpb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}, nil
}

// Observe streams the leader's key and value: the present one's first, then one for each proclamation and each new leader.
func (s *Election) Observe(r *v3electionpb.LeaderRequest, stream v3electionpb.Election_ObserveServer) error {
	ctx := stream.Context()
	prefix := prefixOf(r.Name)
	for {
		// Asked again for each leader: rights may have changed.
		resp, err := s.queues.kv.Range(ctx, firstOf(prefix))
		if err != nil {
			return err
		}
		after := resp.Header.Revision + 1
		if len(resp.Kvs) == 0 {
			_, err = s.queues.next(ctx, watch.Request{Key: prefix, End: endOf(prefix), StartRev: after, NoDelete: true})
		} else if err = stream.Send(&v3electionpb.LeaderResponse{Header: resp.Header, Kv: resp.Kvs[0]}); err == nil {
			err = s.follow(stream, resp.Header, resp.Kvs[0].Key)
		}
		if err != nil && !errors.Is(err, errCompacted) { // compacted: look again
			return err
		}
	}
}

// follow streams a leader's proclamations after the revision of h until its key is gone.
func (s *Election) follow(stream v3electionpb.Election_ObserveServer, h *pb.ResponseHeader, key []byte) error {
	ws := s.queues.watches.NewStream()
	defer ws.Close()
	if err := ws.Watch(stream.Context(), watch.Request{Key: key, StartRev: h.Revision + 1}); err != nil {
		return err
	}
	for {
		resp, err := nextOf(stream.Context(), ws)
		if err != nil {
			return err
		}
		for _, ev := range resp.Events {
			if ev.Delete {
				return nil
			}
			kv := &mvccpb.KeyValue{}
			if err := proto.Unmarshal(ev.KV, kv); err != nil {
				return err
			}
			header := &pb.ResponseHeader{ClusterId: h.ClusterId, MemberId: h.MemberId, RaftTerm: h.RaftTerm, Revision: resp.Rev}
			if err := stream.Send(&v3electionpb.LeaderResponse{Header: header, Kv: kv}); err != nil {
				return err
			}
		}
	}
}
