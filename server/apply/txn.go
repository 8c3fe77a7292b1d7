package apply

import (
	"bytes"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/mvcc"
)

// A transaction runs in three steps, as in etcd: the comparisons of the whole tree of nested transactions choose a branch
// at each node (path); every operation on the chosen branches is checked; only then is anything changed. So a
// transaction that fails has changed nothing, on every member alike.

// path holds the outcome of the comparisons, in the order of a depth-first walk along the chosen branches.
type path []bool

// ReadOnlyTxn evaluates a transaction without writes against a reader.
func ReadOnlyTxn(rd mvcc.Reader, leases LeaseLookup, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	p := choose(rd, r, nil)
	if _, err := checkTxn(rd, leases, r, p); err != nil {
		return nil, err
	}
	resp, _, err := runTxn(rd, nil, r, p, false)
	if err != nil {
		return nil, err
	}
	resp.Header.Revision = rd.Rev()
	return resp, nil
}

// TxnReadOnly says whether a transaction consists of range requests only.
func TxnReadOnly(r *pb.TxnRequest) bool {
	return allOps(r, func(op *pb.RequestOp) bool { return op.GetRequestRange() != nil })
}

// TxnSerializable says whether a transaction consists of serializable range requests only.
func TxnSerializable(r *pb.TxnRequest) bool {
	return allOps(r, func(op *pb.RequestOp) bool {
		rr := op.GetRequestRange()
		return rr != nil && rr.Serializable
	})
}

func allOps(r *pb.TxnRequest, ok func(*pb.RequestOp) bool) bool {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			if !ok(op) {
				return false
			}
		}
	}
	return true
}

func branch(r *pb.TxnRequest, succeeded bool) []*pb.RequestOp {
	if succeeded {
		return r.Success
	}
	return r.Failure
}

func choose(rd mvcc.Reader, r *pb.TxnRequest, p path) path {
	ok := holds(rd, r.Compare)
	p = append(p, ok)
	for _, op := range branch(r, ok) {
		if t := op.GetRequestTxn(); t != nil {
			p = choose(rd, t, p)
		}
	}
	return p
}

func holds(rd mvcc.Reader, cmps []*pb.Compare) bool {
	for _, c := range cmps {
		if !holdsOne(rd, c) {
			return false
		}
	}
	return true
}

// holdsOne compares every key in the range. A key that does not exist compares as all zeros, except that its value equals
// nothing, not even the empty one.
func holdsOne(rd mvcc.Reader, c *pb.Compare) bool {
	res, err := rd.Range(c.Key, c.RangeEnd, mvcc.RangeOptions{})
	if err != nil {
		return false
	}
	if len(res.KVs) == 0 {
		return c.Target != pb.Compare_VALUE && holdsFor(c, mvcc.Fields{})
	}
	for _, kv := range res.KVs {
		if !holdsFor(c, kv.Parse()) {
			return false
		}
	}
	return true
}

func holdsFor(c *pb.Compare, f mvcc.Fields) bool {
	var order int
	switch c.Target {
	case pb.Compare_VALUE:
		order = bytes.Compare(f.Value, c.GetValue())
	case pb.Compare_CREATE:
		order = compare64(f.CreateRev, c.GetCreateRevision())
	case pb.Compare_MOD:
		order = compare64(f.ModRev, c.GetModRevision())
	case pb.Compare_VERSION:
		order = compare64(f.Version, c.GetVersion())
	case pb.Compare_LEASE:
		order = compare64(f.Lease, c.GetLease())
	}
	switch c.Result {
	case pb.Compare_EQUAL:
		return order == 0
	case pb.Compare_NOT_EQUAL:
		return order != 0
	case pb.Compare_GREATER:
		return order > 0
	case pb.Compare_LESS:
		return order < 0
	}
	return true
}

func compare64(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// checkTxn checks the chosen operations; it returns how many nested transactions it went through.
func checkTxn(rd mvcc.Reader, leases LeaseLookup, r *pb.TxnRequest, p path) (nested int, err error) {
	succeeded, p := p[0], p[1:]
	for _, op := range branch(r, succeeded) {
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			err = checkRange(rd, o.RequestRange)
		case *pb.RequestOp_RequestPut:
			if err = checkLease(leases, o.RequestPut); err == nil {
				_, err = previous(rd, o.RequestPut)
			}
		case *pb.RequestOp_RequestTxn:
			var n int
			if n, err = checkTxn(rd, leases, o.RequestTxn, p); err == nil {
				nested += n + 1
				p = p[n+1:]
			}
		}
		if err != nil {
			return 0, err
		}
	}
	return nested, nil
}

func checkRange(rd mvcc.Reader, r *pb.RangeRequest) error {
	switch {
	case r.Revision == 0:
		return nil
	case r.Revision > rd.Rev():
		return mvcc.ErrFutureRev
	case r.Revision < rd.CompactRev():
		return mvcc.ErrCompacted
	}
	return nil
}

// runTxn executes the chosen operations. w is nil for a read-only transaction. skipRanges leaves the results of range
// requests out: nobody waits for them here.
func runTxn(rd mvcc.Reader, w *writer, r *pb.TxnRequest, p path, skipRanges bool) (resp *pb.TxnResponse, nested int, err error) {
	succeeded, p := p[0], p[1:]
	ops := branch(r, succeeded)
	resp = &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: succeeded, Responses: make([]*pb.ResponseOp, len(ops))}
	for i, op := range ops {
		out := &pb.ResponseOp{}
		resp.Responses[i] = out
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
			var m *pb.RangeResponse
			if m, err = rangeMessage(rd, o.RequestRange, skipRanges); err == nil {
				out.Response = &pb.ResponseOp_ResponseRange{ResponseRange: m}
			}
		case *pb.RequestOp_RequestPut:
			var m *pb.PutResponse
			if m, err = w.put(o.RequestPut); err == nil {
				out.Response = &pb.ResponseOp_ResponsePut{ResponsePut: m}
			}
		case *pb.RequestOp_RequestDeleteRange:
			var m *pb.DeleteRangeResponse
			if m, err = w.deleteRange(o.RequestDeleteRange); err == nil {
				out.Response = &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: m}
			}
		case *pb.RequestOp_RequestTxn:
			var m *pb.TxnResponse
			var n int
			if m, n, err = runTxn(rd, w, o.RequestTxn, p, skipRanges); err == nil {
				out.Response = &pb.ResponseOp_ResponseTxn{ResponseTxn: m}
				nested += n + 1
				p = p[n+1:]
			}
		}
		if err != nil {
			return nil, 0, fmt.Errorf("transaction: operation %d: %w", i, err)
		}
	}
	return resp, nested, nil
}

func rangeMessage(rd mvcc.Reader, r *pb.RangeRequest, skip bool) (*pb.RangeResponse, error) {
	if skip {
		return &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: rd.Rev()}}, nil
	}
	reply, err := Range(rd, r)
	if err != nil {
		return nil, err
	}
	return reply.Message(), nil
}
