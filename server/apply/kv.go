package apply

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/errdefs"
)

// LeaseLookup says whether a lease exists.
type LeaseLookup interface {
	Exists(id lease.ID) bool
}

// writer is one mvcc write transaction with the bookkeeping of which key belongs to which lease.
type writer struct {
	*mvcc.WriteTxn
	leases *lease.Table
}

func checkLease(leases LeaseLookup, r *pb.PutRequest) error {
	if r.Lease != 0 && !leases.Exists(lease.ID(r.Lease)) {
		return lease.ErrLeaseNotFound
	}
	return nil
}

// previous returns the key-value that a put needs to know, or nil. ErrKeyNotFound: the put keeps the value or the lease of
// a key that does not exist.
func previous(rd mvcc.Reader, r *pb.PutRequest) (mvcc.KV, error) {
	if !r.PrevKv && !r.IgnoreValue && !r.IgnoreLease {
		return nil, nil
	}
	res, err := rd.Range(r.Key, nil, mvcc.RangeOptions{})
	if err != nil {
		return nil, err
	}
	if len(res.KVs) == 0 {
		if r.IgnoreValue || r.IgnoreLease {
			return nil, errdefs.ErrKeyNotFound
		}
		return nil, nil
	}
	return res.KVs[0], nil
}

func (w *writer) put(r *pb.PutRequest) (*pb.PutResponse, error) {
	prev, err := previous(w, r)
	if err != nil {
		return nil, err
	}
	resp := &pb.PutResponse{Header: &pb.ResponseHeader{}}
	value, id := r.Value, r.Lease
	if prev != nil {
		f := prev.Parse()
		if r.IgnoreValue {
			value = f.Value
		}
		if r.IgnoreLease {
			id = f.Lease
		}
		if r.PrevKv {
			resp.PrevKv = keyValues([]mvcc.KV{prev}, false)[0]
		}
	}
	w.WriteTxn.Put(r.Key, value, id)
	w.relate(r.Key, lease.ID(id))
	resp.Header.Revision = w.Rev()
	return resp, nil
}

// relate records that key now belongs to lease id (0: to none).
func (w *writer) relate(key []byte, id lease.ID) {
	old := w.leases.LeaseOf(key)
	switch {
	case old == id:
	case id == 0:
		w.leases.Detach(key)
	case w.leases.Attach(id, key) != nil:
		w.leases.Detach(key) // a kept lease that is gone: the key outlived it in a snapshot
	}
}

func (w *writer) deleteRange(r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	resp := &pb.DeleteRangeResponse{Header: &pb.ResponseHeader{}}
	if r.PrevKv {
		res, err := w.Range(r.Key, r.RangeEnd, mvcc.RangeOptions{})
		if err != nil {
			return nil, err
		}
		resp.PrevKvs = keyValues(res.KVs, false)
	}
	resp.Deleted = int64(w.deleteKeys(r.Key, r.RangeEnd))
	resp.Header.Revision = w.Rev()
	return resp, nil
}

func (w *writer) deleteKeys(key, end []byte) int {
	deleted := w.DeleteRange(key, end)
	for _, k := range deleted {
		w.relate(k, 0)
	}
	return len(deleted)
}
