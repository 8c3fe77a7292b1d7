package rpc

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/apply"
)

// What several services need of a member. Each service declares what it alone needs beside itself.
type (
	// Proposer runs a command through the replicated log.
	Proposer interface {
		Do(ctx context.Context, r *pb.InternalRaftRequest) (apply.Result, error)
		NextID() uint64
	}

	// ReadGate lets a linearizable read pass: when Wait returns nil, the state that readers see contains everything that
	// was committed when Wait was called.
	ReadGate interface {
		Wait(ctx context.Context) error
	}

	// Store gives read transactions.
	Store interface {
		Read() *mvcc.ReadTxn
		Rev() int64
	}

	// Raft tells where the log stands.
	Raft interface {
		Lead() uint64 // 0: none
		Term() uint64
		Committed() uint64
		Applied() uint64
	}
)

// Header fills response headers.
type Header struct {
	ClusterID, MemberID uint64
	Term                func() uint64
	Rev                 func() int64
}

// Fill sets all fields of h, the revision only if it is not set yet.
func (d *Header) Fill(h *pb.ResponseHeader) *pb.ResponseHeader {
	d.FillIDs(h)
	if h.Revision == 0 {
		h.Revision = d.Rev()
	}
	return h
}

// FillIDs sets all fields of h but the revision.
func (d *Header) FillIDs(h *pb.ResponseHeader) {
	h.ClusterId, h.MemberId, h.RaftTerm = d.ClusterID, d.MemberID, d.Term()
}

// propose runs a command and returns the response of its type.
func propose[R any](ctx context.Context, p Proposer, t *Translator, r *pb.InternalRaftRequest) (R, error) {
	var none R
	res, err := p.Do(ctx, r)
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return none, t.GRPC(err)
	}
	return res.Resp.(R), nil
}
