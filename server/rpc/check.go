package rpc

import (
	"slices"
	"sort"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/apply"
)

// Checks that need no state: they run before a request goes anywhere.

func checkRange(r *pb.RangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkRangeStream(r *pb.RangeRequest) error {
	if err := checkRange(r); err != nil {
		return err
	}
	if !apply.DefaultOrder(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if apply.HasRevisionFilters(r) {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

func checkPut(r *pb.PutRequest) error {
	switch {
	case len(r.GetKey()) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case r.IgnoreValue && len(r.Value) != 0:
		return rpctypes.ErrGRPCValueProvided
	case r.IgnoreLease && r.Lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(r *pb.DeleteRangeRequest) error {
	if len(r.GetKey()) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks a transaction and all that is nested in it. Each level's operations count against maxOps, the room left
// shrinking with the depth.
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	ops := max(len(r.GetCompare()), len(r.GetSuccess()), len(r.GetFailure()))
	if ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.GetCompare() {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.GetSuccess(), r.GetFailure()} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		return checkRange(o.RequestRange)
	case *pb.RequestOp_RequestPut:
		return checkPut(o.RequestPut)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return checkTxn(o.RequestTxn, maxOps)
	}
	return rpctypes.ErrGRPCKeyNotFound // an operation without content
}

// touched is what the operations of a branch put and delete.
type touched struct {
	puts map[string]struct{}
	dels intervals
}

// checkOverlap refuses a branch that puts a key twice, or puts and deletes it. The branches of a nested transaction exclude
// each other, so the same key may be put in both.
func checkOverlap(ops []*pb.RequestOp) (*touched, error) {
	t := &touched{puts: make(map[string]struct{})}
	for _, op := range ops {
		if d := op.GetRequestDeleteRange(); d != nil {
			t.dels.add(string(d.Key), string(d.RangeEnd))
		}
	}
	for _, op := range ops {
		if n := op.GetRequestTxn(); n != nil {
			if err := t.nest(n); err != nil {
				return nil, err
			}
		}
	}
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			if err := t.put(string(p.Key)); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

func (t *touched) put(key string) error {
	if _, ok := t.puts[key]; ok || t.dels.cover(key) {
		return rpctypes.ErrGRPCDuplicateKey
	}
	t.puts[key] = struct{}{}
	return nil
}

func (t *touched) nest(r *pb.TxnRequest) error {
	then, err := checkOverlap(r.Success)
	if err != nil {
		return err
	}
	otherwise, err := checkOverlap(r.Failure)
	if err != nil {
		return err
	}
	for k := range then.puts {
		if err := t.put(k); err != nil {
			return err
		}
	}
	for k := range otherwise.puts {
		if _, both := then.puts[k]; both && !t.dels.cover(k) {
			continue
		}
		if err := t.put(k); err != nil {
			return err
		}
	}
	t.dels.join(&then.dels)
	t.dels.join(&otherwise.dels)
	return nil
}

// intervals is a set of key intervals [from, to). Lookups merge what was added since the last one.
type intervals struct {
	list   []interval
	merged bool
}

// interval is [from, to); to "" is the end of the key space; a from at or past to covers nothing.
type interval struct{ from, to string }

// add adds the keys of a delete request: one key if end is empty.
func (s *intervals) add(key, end string) {
	if end == "" {
		end = key + "\x00"
	}
	if end <= key {
		return
	}
	s.list = append(s.list, interval{key, end})
	s.merged = false
}

func (s *intervals) join(o *intervals) {
	s.list = append(s.list, o.list...)
	s.merged = false
}

func (s *intervals) cover(key string) bool {
	if !s.merged {
		s.merge()
	}
	i := sort.Search(len(s.list), func(i int) bool { return s.list[i].to > key })
	return i < len(s.list) && s.list[i].from <= key
}

func (s *intervals) merge() {
	slices.SortFunc(s.list, func(a, b interval) int { return strings.Compare(a.from, b.from) })
	out := s.list[:0]
	for _, iv := range s.list {
		if n := len(out); n > 0 && iv.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, iv.to)
			continue
		}
		out = append(out, iv)
	}
	s.list, s.merged = out, true
}
