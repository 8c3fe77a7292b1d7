package rpc

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/server/quota"
)

// SpaceGuard refuses what does not fit the quota before it is proposed, and raises the NOSPACE alarm.
type SpaceGuard struct {
	MemberID uint64
	Quota    *quota.Quota
	Proposer Proposer
}

// CheckPut refuses a put that does not fit.
func (g *SpaceGuard) CheckPut(ctx context.Context, r *pb.PutRequest) error {
	return g.check(ctx, quota.CostPut(r))
}

// CheckTxn refuses a transaction that does not fit.
func (g *SpaceGuard) CheckTxn(ctx context.Context, r *pb.TxnRequest) error {
	return g.check(ctx, quota.CostTxn(r))
}

// CheckLease refuses a lease that does not fit.
func (g *SpaceGuard) CheckLease(ctx context.Context) error { return g.check(ctx, quota.CostLease()) }

func (g *SpaceGuard) check(ctx context.Context, cost int) error {
	if g.Quota.Available(cost) {
		return nil
	}
	_, _ = g.Proposer.Do(ctx, &pb.InternalRaftRequest{Alarm: &pb.AlarmRequest{
		MemberID: g.MemberID,
		Action:   pb.AlarmRequest_ACTIVATE,
		Alarm:    pb.AlarmType_NOSPACE,
	}})
	return rpctypes.ErrGRPCNoSpace
}
