package rpc

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// GuardedMaintenance is etcdserverpb.Maintenance for those who may use it. Every method is named here, so that none is served
// to everybody by accident.
type GuardedMaintenance struct {
	pb.UnsafeMaintenanceServer
	next   pb.MaintenanceServer
	access *Access
	errs   *Translator
}

// GuardMaintenance puts a guard before a Maintenance service.
func GuardMaintenance(next pb.MaintenanceServer, access *Access, errs *Translator) *GuardedMaintenance {
	return &GuardedMaintenance{next: next, access: access, errs: errs}
}

// guarded calls a method if allow does.
func guarded[Q, R any](ctx context.Context, g *GuardedMaintenance, allow func(context.Context) error, call func(context.Context, Q) (R, error), r Q) (R, error) {
	if err := allow(ctx); err != nil {
		var none R
		return none, g.errs.GRPC(err)
	}
	return call(ctx, r)
}

// Alarm lists, raises or clears alarms.
func (g *GuardedMaintenance) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	allow := g.access.Admin
	if r.Action == pb.AlarmRequest_GET {
		allow = g.access.Known
	}
	return guarded(ctx, g, allow, g.next.Alarm, r)
}

// Status describes this member.
func (g *GuardedMaintenance) Status(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error) {
	return guarded(ctx, g, g.access.Known, g.next.Status, r)
}

// Defragment rewrites the database file without its holes.
func (g *GuardedMaintenance) Defragment(ctx context.Context, r *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	return guarded(ctx, g, g.access.Admin, g.next.Defragment, r)
}

// Hash is the hash of the whole backend.
func (g *GuardedMaintenance) Hash(ctx context.Context, r *pb.HashRequest) (*pb.HashResponse, error) {
	return guarded(ctx, g, g.access.Admin, g.next.Hash, r)
}

// HashKV is the hash of the keys up to a revision.
func (g *GuardedMaintenance) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	return guarded(ctx, g, g.access.Admin, g.next.HashKV, r)
}

// MoveLeader hands leadership over.
func (g *GuardedMaintenance) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	return guarded(ctx, g, g.access.Admin, g.next.MoveLeader, r)
}

// Downgrade prepares a downgrade of the cluster.
func (g *GuardedMaintenance) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	return guarded(ctx, g, g.access.Admin, g.next.Downgrade, r)
}

// Snapshot streams the database file.
func (g *GuardedMaintenance) Snapshot(r *pb.SnapshotRequest, stream pb.Maintenance_SnapshotServer) error {
	if err := g.access.Admin(stream.Context()); err != nil {
		return g.errs.GRPC(err)
	}
	return g.next.Snapshot(r, stream)
}
