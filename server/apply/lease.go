package apply

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/lease"
)

func (a *Applier) leaseGrant(r *pb.LeaseGrantRequest) Result {
	ttl, err := a.cfg.Leases.Grant(lease.ID(r.ID), r.TTL)
	if err != nil {
		return Result{Err: err}
	}
	return Result{Resp: &pb.LeaseGrantResponse{Header: a.header(), ID: r.ID, TTL: ttl}}
}

// leaseRevoke ends a lease and deletes its keys, all at one revision.
func (a *Applier) leaseRevoke(r *pb.LeaseRevokeRequest) Result {
	keys, err := a.cfg.Leases.Revoke(lease.ID(r.ID))
	if err != nil {
		return Result{Resp: &pb.LeaseRevokeResponse{Header: a.header()}, Err: err}
	}
	w := a.cfg.Store.Write()
	for _, k := range keys {
		w.DeleteRange([]byte(k), nil)
	}
	w.End()
	return Result{Resp: &pb.LeaseRevokeResponse{Header: a.header()}}
}

func (a *Applier) leaseCheckpoint(r *pb.LeaseCheckpointRequest) Result {
	resp := &pb.LeaseCheckpointResponse{Header: a.header()}
	for _, c := range r.Checkpoints {
		if err := a.cfg.Leases.Checkpoint(lease.ID(c.ID), c.Remaining_TTL); err != nil {
			return Result{Resp: resp, Err: err}
		}
	}
	return Result{Resp: resp}
}
