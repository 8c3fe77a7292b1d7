// Package quota estimates what a request will add to the backend and says whether that still fits.
//
// The estimate is etcd's: 256 bytes plus key and value for a put, 64 for a lease, the larger branch for a transaction.
// Unlike etcd, which compares with the size of the file, the quota counts bytes in use: space that deletions and
// compaction freed is available again without a defragmentation.
//
// # Concurrency
//
// A Quota is immutable; its Used function must be safe for concurrent use.
package quota

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	// DefaultBytes is the quota when none is configured.
	DefaultBytes int64 = 2 << 30

	putOverhead   = 256
	leaseOverhead = 64
)

// Quota is a bound on the bytes in use of the backend.
type Quota struct {
	limit int64
	used  func() int64
}

// New makes a quota. limit 0 means DefaultBytes, a negative one no quota at all. used returns the bytes in use.
func New(limit int64, used func() int64) *Quota {
	if limit == 0 {
		limit = DefaultBytes
	}
	return &Quota{limit: limit, used: used}
}

// Limit is the bound in bytes, negative if there is none.
func (q *Quota) Limit() int64 { return q.limit }

// Available says whether a request of the given cost fits. A cost of 0 always does.
func (q *Quota) Available(cost int) bool {
	if cost == 0 || q.limit < 0 {
		return true
	}
	return q.used()+int64(cost) < q.limit
}

// Relieved says that usage has fallen so far below the limit (nine tenths of it) that a NOSPACE alarm may be cleared
// without being raised again at once.
func (q *Quota) Relieved() bool {
	return q.limit < 0 || q.used() < q.limit/10*9
}

// CostPut is the estimate for a put, in bytes.
func CostPut(r *pb.PutRequest) int { return putOverhead + len(r.Key) + len(r.Value) }

// CostLease is the estimate for a lease, in bytes.
func CostLease() int { return leaseOverhead }

// CostTxn is the estimate for a transaction: that of its more expensive branch, in bytes.
func CostTxn(r *pb.TxnRequest) int {
	return max(costOps(r.Success), costOps(r.Failure))
}

func costOps(ops []*pb.RequestOp) int {
	sum := 0
	for _, op := range ops {
		switch r := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			sum += CostPut(r.RequestPut)
		case *pb.RequestOp_RequestTxn:
			sum += CostTxn(r.RequestTxn)
		}
	}
	return sum
}
