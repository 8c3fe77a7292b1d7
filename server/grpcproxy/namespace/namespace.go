// Package namespace moves all keys of a client below a prefix, and back: the client sees the part of the store below it as if
// that were the whole.
//
// # Concurrency
//
// Everything may be called from any goroutine. Requests are rewritten in copies, responses in place.
package namespace

import (
	"bytes"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/mvcc"
)

// Prefix is what the keys of a namespace begin with. The empty one changes nothing.
type Prefix string

// Key moves one key below the prefix.
func (p Prefix) Key(key []byte) []byte {
	return append(append(make([]byte, 0, len(p)+len(key)), p...), key...)
}

// Interval moves a range below the prefix. end is empty for one key, and "\x00" for all keys from the first one on: these end
// where the prefix does.
func (p Prefix) Interval(key, end []byte) (newKey, newEnd []byte) {
	newKey = p.Key(key)
	switch {
	case len(end) == 0:
		return newKey, nil
	case len(end) == 1 && end[0] == 0:
		return newKey, p.end()
	}
	return newKey, p.Key(end)
}

// end is the first key behind those with the prefix, or "\x00".
func (p Prefix) end() []byte {
	if end := mvcc.PrefixEnd(string(p)); end != nil {
		return []byte(*end)
	}
	return []byte{0}
}

// Strip takes the prefix off a key that has it.
func (p Prefix) Strip(key []byte) []byte { return bytes.TrimPrefix(key, []byte(p)) }

// Keys takes the prefix off keys, and leaves out those of other namespaces.
func (p Prefix) Keys(keys [][]byte) [][]byte {
	var out [][]byte
	for _, k := range keys {
		if rest, ok := bytes.CutPrefix(k, []byte(p)); ok {
			out = append(out, rest)
		}
	}
	return out
}

// Range moves a request.
func (p Prefix) Range(r *pb.RangeRequest) (*pb.RangeRequest, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	out := &pb.RangeRequest{
		Limit: r.Limit, Revision: r.Revision, SortOrder: r.SortOrder, SortTarget: r.SortTarget, Serializable: r.Serializable,
		KeysOnly: r.KeysOnly, CountOnly: r.CountOnly, MinModRevision: r.MinModRevision, MaxModRevision: r.MaxModRevision,
		MinCreateRevision: r.MinCreateRevision, MaxCreateRevision: r.MaxCreateRevision,
	}
	out.Key, out.RangeEnd = p.Interval(r.Key, r.RangeEnd)
	return out, nil
}

// Put moves a request.
func (p Prefix) Put(r *pb.PutRequest) (*pb.PutRequest, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	return &pb.PutRequest{
		Key: p.Key(r.Key), Value: r.Value, Lease: r.Lease, PrevKv: r.PrevKv, IgnoreValue: r.IgnoreValue, IgnoreLease: r.IgnoreLease,
	}, nil
}

// Delete moves a request.
func (p Prefix) Delete(r *pb.DeleteRangeRequest) (*pb.DeleteRangeRequest, error) {
	if len(r.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	out := &pb.DeleteRangeRequest{PrevKv: r.PrevKv}
	out.Key, out.RangeEnd = p.Interval(r.Key, r.RangeEnd)
	return out, nil
}

// Txn moves a transaction, with all that it holds.
func (p Prefix) Txn(r *pb.TxnRequest) (*pb.TxnRequest, error) {
	out := &pb.TxnRequest{}
	for _, c := range r.Compare {
		if len(c.GetKey()) == 0 {
			return nil, rpctypes.ErrGRPCEmptyKey
		}
		moved := &pb.Compare{Result: c.GetResult(), Target: c.GetTarget(), TargetUnion: c.GetTargetUnion()}
		moved.Key, moved.RangeEnd = p.Interval(c.GetKey(), c.GetRangeEnd())
		out.Compare = append(out.Compare, moved)
	}
	var err error
	if out.Success, err = p.ops(r.Success); err != nil {
		return nil, err
	}
	out.Failure, err = p.ops(r.Failure)
	return out, err
}

func (p Prefix) ops(ops []*pb.RequestOp) ([]*pb.RequestOp, error) {
	var out []*pb.RequestOp
	for _, op := range ops {
		moved, err := p.op(op)
		if err != nil {
			return nil, err
		}
		out = append(out, moved)
	}
	return out, nil
}

func (p Prefix) op(op *pb.RequestOp) (*pb.RequestOp, error) {
	switch r := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		moved, err := p.Range(r.RequestRange)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: moved}}, err
	case *pb.RequestOp_RequestPut:
		moved, err := p.Put(r.RequestPut)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: moved}}, err
	case *pb.RequestOp_RequestDeleteRange:
		moved, err := p.Delete(r.RequestDeleteRange)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: moved}}, err
	case *pb.RequestOp_RequestTxn:
		moved, err := p.Txn(r.RequestTxn)
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: moved}}, err
	}
	return op, nil // holds no key; the members refuse it
}

// Pair takes the prefix off a key-value; nil stays nil.
func (p Prefix) Pair(kv *mvccpb.KeyValue) {
	if kv != nil {
		kv.Key = p.Strip(kv.Key)
	}
}

// Pairs takes the prefix off key-values.
func (p Prefix) Pairs(kvs []*mvccpb.KeyValue) {
	for _, kv := range kvs {
		p.Pair(kv)
	}
}

// Responses takes the prefix off what the operations of a transaction returned.
func (p Prefix) Responses(ops []*pb.ResponseOp) {
	for _, op := range ops {
		switch r := op.GetResponse().(type) {
		case *pb.ResponseOp_ResponseRange:
			p.Pairs(r.ResponseRange.GetKvs())
		case *pb.ResponseOp_ResponsePut:
			p.Pair(r.ResponsePut.GetPrevKv())
		case *pb.ResponseOp_ResponseDeleteRange:
			p.Pairs(r.ResponseDeleteRange.GetPrevKvs())
		case *pb.ResponseOp_ResponseTxn:
			p.Responses(r.ResponseTxn.GetResponses())
		}
	}
}
