package prefixquota

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/mvcc"
)

// touched says whether a command puts a key that has a quota.
func (b *Book) touched(r *pb.InternalRaftRequest) bool {
	switch {
	case r.Put != nil:
		return b.counts(r.Put.Key)
	case r.Txn != nil:
		return b.touchedByTxn(r.Txn)
	}
	return false
}

func (b *Book) touchedByTxn(r *pb.TxnRequest) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if p := op.GetRequestPut(); p != nil && b.counts(p.Key) {
				return true
			}
			if t := op.GetRequestTxn(); t != nil && b.touchedByTxn(t) {
				return true
			}
		}
	}
	return false
}

// needs is what a command may add to each account.
func (b *Book) needs(r *pb.InternalRaftRequest, sizes sizer) []amount {
	needs := make([]amount, len(b.accounts))
	if r.Put != nil {
		b.addPut(needs, r.Put, sizes)
	} else {
		b.addTxn(needs, r.Txn, sizes)
	}
	for i := range needs {
		needs[i] = needs[i].max(amount{}) // what may become free is not counted on
	}
	return needs
}

func (b *Book) addPut(needs []amount, r *pb.PutRequest, sizes sizer) {
	if r.IgnoreValue || !b.counts(r.Key) { // without a value: a key that exists gets another lease
		return
	}
	add := sizes.added(r)
	for i := range b.accounts {
		if bytes.HasPrefix(r.Key, b.accounts[i].raw) {
			needs[i] = needs[i].plus(add)
		}
	}
}

// addTxn adds what the dearer branch adds, for each account.
func (b *Book) addTxn(needs []amount, r *pb.TxnRequest, sizes sizer) {
	then, otherwise := b.ops(r.Success, sizes), b.ops(r.Failure, sizes)
	for i := range needs {
		needs[i] = needs[i].plus(then[i].max(otherwise[i]))
	}
}

func (b *Book) ops(ops []*pb.RequestOp, sizes sizer) []amount {
	needs := make([]amount, len(b.accounts))
	for _, op := range ops {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			b.addPut(needs, o.RequestPut, sizes)
		case *pb.RequestOp_RequestTxn:
			b.addTxn(needs, o.RequestTxn, sizes)
		}
	}
	return needs
}

// sizer finds out what a put adds. Without a transaction it takes all keys for new.
type sizer struct {
	rev int64
	txn *mvcc.ReadTxn
}

// inflight is by how much the revision may have risen when a command is applied.
const inflight = 1 << 14

func (s sizer) added(r *pb.PutRequest) amount {
	f := mvcc.Fields{Key: r.Key, Value: r.Value, CreateRev: s.rev + inflight, ModRev: s.rev + inflight, Version: 1, Lease: r.Lease}
	if s.txn == nil {
		return amount{1, size(f)}
	}
	res, err := s.txn.Range(r.Key, nil, mvcc.RangeOptions{})
	if err != nil || len(res.KVs) == 0 {
		return amount{1, size(f)}
	}
	old := res.KVs[0].Parse()
	f.CreateRev, f.Version = old.CreateRev, old.Version+1
	if r.IgnoreLease {
		f.Lease = old.Lease
	}
	more := size(f) - int64(len(res.KVs[0]))
	if len(r.Value) <= len(old.Value) {
		more = min(more, 0) // a number that needs one more byte does not stop who replaces a value by a smaller one
	}
	return amount{0, more}
}

// size is the bytes that are stored for a key-value.
func size(f mvcc.Fields) int64 { return int64(len(f.Marshal())) }
