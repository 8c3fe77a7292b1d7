package ctl

import (
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/keelson-io/keelson/client"
)

// fields is the format of one named field a line.
type fields struct {
	out io.Writer
	hex bool
}

// Print is Printer's.
func (p fields) Print(result any) error {
	switch r := result.(type) {
	case valuesOnly:
		p.read(r.RangeResponse)
	case *pb.RangeResponse:
		p.read(r)
	case *pb.PutResponse:
		p.put(r)
	case *pb.DeleteRangeResponse:
		p.deleted(r)
	case *pb.TxnResponse:
		p.txn(r)
	case *client.WatchResponse:
		p.watch(r)
	case watchEnd:
		p.header(r.header)
	default:
		if !p.lease(result) && !p.cluster(result) && !p.roles(result) {
			return unsupported("fields")
		}
	}
	return nil
}

// field writes a field as it is, text writes one in quotes.
func (p fields) field(name string, v any)   { fmt.Fprintf(p.out, "\"%s\" : %v\n", name, v) }
func (p fields) text(name string, v string) { fmt.Fprintf(p.out, "\"%s\" : %q\n", name, v) }
func (p fields) end()                       { fmt.Fprintln(p.out) }

// id writes a member's or cluster's ID.
func (p fields) id(name string, id uint64) {
	if p.hex {
		p.field(name, hexID(id))
	} else {
		p.field(name, id)
	}
}

// leaseID writes a lease's ID.
func (p fields) leaseID(name string, id int64) {
	if p.hex {
		p.field(name, fmt.Sprintf("%016x", id))
	} else {
		p.field(name, id)
	}
}

func (p fields) header(h *pb.ResponseHeader) {
	p.id("ClusterID", h.GetClusterId())
	p.id("MemberID", h.GetMemberId())
	if h.GetRevision() > 0 { // it is 0 where there is no keyspace involved
		p.field("Revision", h.GetRevision())
	}
	p.field("RaftTerm", h.GetRaftTerm())
}

func (p fields) kv(prefix string, kv *mvccpb.KeyValue) {
	p.text(prefix+"Key", string(kv.GetKey()))
	p.field(prefix+"CreateRevision", kv.GetCreateRevision())
	p.field(prefix+"ModRevision", kv.GetModRevision())
	p.field(prefix+"Version", kv.GetVersion())
	p.text(prefix+"Value", string(kv.GetValue()))
	p.leaseID(prefix+"Lease", kv.GetLease())
}

func (p fields) read(r *pb.RangeResponse) {
	p.header(r.Header)
	for _, kv := range r.Kvs {
		p.kv("", kv)
	}
	p.field("More", r.More)
	p.field("Count", r.Count)
}

func (p fields) put(r *pb.PutResponse) {
	p.header(r.Header)
	if r.PrevKv != nil {
		p.kv("Prev", r.PrevKv)
	}
}

func (p fields) deleted(r *pb.DeleteRangeResponse) {
	p.header(r.Header)
	p.field("Deleted", r.Deleted)
	for _, kv := range r.PrevKvs {
		p.kv("Prev", kv)
	}
}

func (p fields) txn(r *pb.TxnResponse) {
	p.header(r.Header)
	p.field("Succeeded", r.Succeeded)
	for _, op := range r.Responses {
		switch x := op.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			p.read(x.ResponseRange)
		case *pb.ResponseOp_ResponsePut:
			p.put(x.ResponsePut)
		case *pb.ResponseOp_ResponseDeleteRange:
			p.deleted(x.ResponseDeleteRange)
		case *pb.ResponseOp_ResponseTxn:
			p.txn(x.ResponseTxn)
		}
	}
}

func (p fields) watch(r *client.WatchResponse) {
	p.header(r.Header)
	for _, ev := range r.Events {
		p.field("Type", ev.Type)
		if ev.PrevKv != nil {
			p.kv("Prev", ev.PrevKv)
		}
		p.kv("", ev.Kv)
	}
}

func (p fields) lease(result any) bool {
	switch r := result.(type) {
	case *pb.LeaseGrantResponse:
		p.header(r.Header)
		p.leaseID("ID", r.ID)
		p.field("TTL", r.TTL)
	case revoked:
		p.header(r.Header)
	case *pb.LeaseKeepAliveResponse:
		p.header(r.Header)
		p.leaseID("ID", r.ID)
		p.field("TTL", r.TTL)
	case timeToLive:
		p.header(r.Header)
		p.leaseID("ID", r.ID)
		p.field("TTL", r.TTL)
		p.field("GrantedTTL", r.GrantedTTL)
		for _, k := range r.Keys {
			p.text("Key", string(k))
		}
	case *pb.LeaseLeasesResponse:
		p.header(r.Header)
		for _, l := range r.Leases {
			p.leaseID("ID", l.ID)
		}
	default:
		return false
	}
	return true
}

func (p fields) cluster(result any) bool {
	switch r := result.(type) {
	case *pb.MemberListResponse:
		p.members(r)
	case *pb.AlarmResponse:
		p.header(r.Header)
		for _, a := range r.Alarms {
			p.id("MemberID", a.MemberID)
			p.field("AlarmType", a.Alarm)
			p.end()
		}
	case []health:
		for _, h := range r {
			p.text("Endpoint", h.Ep)
			p.field("Health", h.Health)
			p.field("Took", h.Took)
			p.field("Error", h.Error)
			p.end()
		}
	case []status:
		for _, s := range r {
			p.status(s)
		}
	case []hashKV:
		for _, h := range r {
			p.header(h.Resp.GetHeader())
			p.text("Endpoint", h.Ep)
			p.field("Hash", h.Resp.GetHash())
			p.field("HashRevision", h.Resp.GetHashRevision())
			p.end()
		}
	default:
		return false
	}
	return true
}

func (p fields) members(r *pb.MemberListResponse) {
	p.header(r.Header)
	for _, m := range r.Members {
		p.id("ID", m.ID)
		p.text("Name", m.Name)
		for _, u := range m.PeerURLs {
			p.text("PeerURL", u)
		}
		for _, u := range m.ClientURLs {
			p.text("ClientURL", u)
		}
		p.field("IsLearner", m.IsLearner)
		p.end()
	}
}

func (p fields) status(s status) {
	r := s.Resp
	p.header(r.GetHeader())
	p.text("Version", r.GetVersion())
	p.text("StorageVersion", r.GetStorageVersion())
	p.field("DBSize", r.GetDbSize())
	p.field("DBSizeInUse", r.GetDbSizeInUse())
	p.field("DBSizeQuota", r.GetDbSizeQuota())
	p.field("Leader", r.GetLeader())
	p.field("IsLearner", r.GetIsLearner())
	p.field("RaftIndex", r.GetRaftIndex())
	p.field("RaftAppliedIndex", r.GetRaftAppliedIndex())
	p.field("Errors", r.GetErrors())
	p.text("Endpoint", s.Ep)
	p.text("DowngradeTargetVersion", r.GetDowngradeInfo().GetTargetVersion())
	p.field("DowngradeEnabled", r.GetDowngradeInfo().GetEnabled())
	p.end()
}

// roles shows what is about users and roles. What is one user, all users, or the status of authentication has no form, as in
// etcdctl.
func (p fields) roles(result any) bool {
	switch r := result.(type) {
	case said:
		h, ok := r.Message.(interface{ GetHeader() *pb.ResponseHeader })
		if !ok {
			return false
		}
		p.header(h.GetHeader())
	case *pb.AuthRoleListResponse:
		p.header(r.Header)
		fmt.Fprint(p.out, `"Roles" :`)
		for _, role := range r.Roles {
			fmt.Fprintf(p.out, " %q", role)
		}
		p.end()
	case oneRole:
		p.header(r.Header)
		for _, perm := range r.Perm {
			fmt.Fprintln(p.out, `"PermType" : `, perm.PermType)
			p.text("Key", string(perm.Key))
			p.text("RangeEnd", string(perm.RangeEnd))
		}
	default:
		return false
	}
	return true
}
