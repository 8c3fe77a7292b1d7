package leasing

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Range reads keys, without asking the members if it can.
func (k *KV) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if len(r.Key) == 0 || len(r.RangeEnd) > 0 || r.Revision != 0 || r.Serializable || !k.cfg.Anonymous(ctx) {
		return k.cfg.Next.Range(ctx, r)
	}
	k.mu.Lock()
	e, alive := k.entries[string(r.Key)], k.alive()
	var gen int64
	if e != nil {
		gen = e.gen
		if alive && e.writers == 0 && e.resp != nil {
			resp := e.resp
			k.mu.Unlock()
			return project(resp, r), nil
		}
	}
	_, wanted := k.wanted[string(r.Key)]
	lease := k.lease
	k.mu.Unlock()
	if e == nil && alive && !wanted {
		return k.acquire(ctx, r, lease)
	}
	if e == nil {
		return k.cfg.Next.Range(ctx, r)
	}
	resp, err := k.cfg.Next.Range(ctx, &pb.RangeRequest{Key: r.Key})
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	if k.entries[string(r.Key)] == e && e.gen == gen && e.writers == 0 {
		e.resp = resp
	}
	k.mu.Unlock()
	return project(resp, r), nil
}

// project makes the answer to a request of what is known of its key.
func project(all *pb.RangeResponse, r *pb.RangeRequest) *pb.RangeResponse {
	out := &pb.RangeResponse{Header: proto.CloneOf(all.Header), Count: all.Count}
	if r.CountOnly || len(all.Kvs) == 0 {
		return out
	}
	kv := all.Kvs[0]
	if kv.ModRevision < r.MinModRevision || r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
		kv.CreateRevision < r.MinCreateRevision || r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision {
		return out
	}
	kv = proto.CloneOf(kv)
	if r.KeysOnly {
		kv.Value = nil
	}
	out.Kvs = append(out.Kvs, kv)
	return out
}

// acquire reads a key, and owns it from then on if it can.
func (k *KV) acquire(ctx context.Context, r *pb.RangeRequest, lease int64) (*pb.RangeResponse, error) {
	lk := k.cfg.Prefix.Key(r.Key)
	read := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: r.Key}}}
	began := k.cfg.Clock.Now()
	own := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: lk, Lease: lease}}}
	txn, err := k.cfg.Next.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{
			olderThan(lk, nil, 1),
			{Key: r.Key, Target: pb.Compare_LEASE, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_Lease{Lease: 0}},
		},
		Success: []*pb.RequestOp{read, own},
		Failure: []*pb.RequestOp{read, {Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: lk, KeysOnly: true}}}},
	})
	if err != nil {
		if ctx.Err() == nil {
			return k.cfg.Next.Range(ctx, r) // the lease may be gone, or the client may not write the leasing key
		}
		return nil, err
	}
	resp := txn.Responses[0].GetResponseRange()
	resp.Header = txn.Header
	k.acquired(string(r.Key), lease, began, txn)
	return project(resp, r), nil
}

// acquired takes note of what became of an attempt to own a key that began at a time.
func (k *KV) acquired(key string, lease int64, began time.Time, txn *pb.TxnResponse) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch rev := txn.Header.GetRevision(); {
	case k.lease != lease:
	case txn.Succeeded:
		// Somebody may have wanted the key before this is known here; that is remembered for a while.
		if k.wanted[key].rev < rev && k.cfg.Clock.Now().Sub(began) < revokeBackoff {
			k.entries[key] = &entry{rev: rev, resp: txn.Responses[0].GetResponseRange()}
		} else {
			k.release(key, rev+1)
		}
	default:
		// One attempt of several at a time, or one whose outcome was not known, may have made the leasing key.
		lks := txn.Responses[1].GetResponseRange().GetKvs()
		if len(lks) > 0 && lks[0].Lease == lease && k.entries[key] == nil {
			k.wanted[key] = want{max(k.wanted[key].rev, lks[0].CreateRevision), k.cfg.Clock.Now()}
			k.release(key, lks[0].CreateRevision+1)
		}
	}
}

// Owns says whether a key is owned at the moment.
func (k *KV) Owns(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.entries[key] != nil && k.alive()
}
