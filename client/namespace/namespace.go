// Package namespace confines a client to the keys under a prefix: it sees them without the prefix, and no others.
//
// # Model
//
// New returns a view of a client. Keys and range ends of requests get the prefix, keys in responses lose it: in reads,
// writes, transactions (comparisons and nested ones too), watches, and the key lists of leases. Everything that needs
// a *client.Client works in a namespace, such as package client/concurrency. Leases themselves, revisions, members and
// compactions are the cluster's, and shared. A namespace within a namespace has both prefixes.
//
// # Concurrency
//
// A view is as safe for concurrent use as its client.
package namespace

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/client"
)

// New returns a view of c that is confined to the keys with the prefix. It shares c's connections; closing it does
// nothing.
func New(c *client.Client, prefix string) *client.Client {
	if prefix == "" {
		return c
	}
	return c.View(&rewriter{prefix: []byte(prefix), end: []byte(client.PrefixEnd(prefix))})
}

type rewriter struct {
	prefix []byte
	end    []byte // the first key behind all with the prefix
}

// key prefixes a key. An empty key stays empty, so that the server refuses it as it would outside.
func (r *rewriter) key(k []byte) []byte {
	if len(k) == 0 {
		return nil
	}
	return append(append(make([]byte, 0, len(r.prefix)+len(k)), r.prefix...), k...)
}

// rangeEnd prefixes a range end; "no end" becomes the end of the namespace.
func (r *rewriter) rangeEnd(end []byte) []byte {
	if len(end) == 1 && end[0] == 0 {
		return r.end
	}
	return r.key(end)
}

// Request returns m with prefixed keys.
func (r *rewriter) Request(m proto.Message) proto.Message {
	switch q := m.(type) {
	case *pb.RangeRequest:
		q = proto.CloneOf(q)
		q.Key, q.RangeEnd = r.key(q.Key), r.rangeEnd(q.RangeEnd)
		return q
	case *pb.PutRequest:
		return &pb.PutRequest{
			Key: r.key(q.Key), Value: q.Value, Lease: q.Lease,
			PrevKv: q.PrevKv, IgnoreValue: q.IgnoreValue, IgnoreLease: q.IgnoreLease,
		}
	case *pb.DeleteRangeRequest:
		return &pb.DeleteRangeRequest{Key: r.key(q.Key), RangeEnd: r.rangeEnd(q.RangeEnd), PrevKv: q.PrevKv}
	case *pb.TxnRequest:
		return r.txn(q)
	case *pb.WatchCreateRequest:
		q = proto.CloneOf(q)
		q.Key, q.RangeEnd = r.key(q.Key), r.rangeEnd(q.RangeEnd)
		return q
	default:
		return m
	}
}

func (r *rewriter) txn(q *pb.TxnRequest) *pb.TxnRequest {
	out := &pb.TxnRequest{
		Compare: make([]*pb.Compare, len(q.Compare)),
		Success: r.ops(q.Success),
		Failure: r.ops(q.Failure),
	}
	for i, c := range q.Compare {
		c = proto.CloneOf(c)
		c.Key, c.RangeEnd = r.key(c.Key), r.rangeEnd(c.RangeEnd)
		out.Compare[i] = c
	}
	return out
}

func (r *rewriter) ops(ops []*pb.RequestOp) []*pb.RequestOp {
	out := make([]*pb.RequestOp, len(ops))
	for i, op := range ops {
		switch q := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			out[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r.Request(q.RequestRange).(*pb.RangeRequest)}}
		case *pb.RequestOp_RequestPut:
			out[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r.Request(q.RequestPut).(*pb.PutRequest)}}
		case *pb.RequestOp_RequestDeleteRange:
			out[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{
				RequestDeleteRange: r.Request(q.RequestDeleteRange).(*pb.DeleteRangeRequest),
			}}
		case *pb.RequestOp_RequestTxn:
			out[i] = &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r.txn(q.RequestTxn)}}
		default:
			out[i] = op
		}
	}
	return out
}

// Response takes the prefix off the keys in m.
func (r *rewriter) Response(m proto.Message) {
	switch q := m.(type) {
	case *pb.RangeResponse:
		r.strip(q.Kvs...)
	case *pb.PutResponse:
		r.strip(q.PrevKv)
	case *pb.DeleteRangeResponse:
		r.strip(q.PrevKvs...)
	case *pb.TxnResponse:
		r.stripTxn(q)
	case *pb.WatchResponse:
		for _, ev := range q.Events {
			r.strip(ev.Kv, ev.PrevKv)
		}
	case *pb.LeaseTimeToLiveResponse:
		var keys [][]byte
		for _, k := range q.Keys {
			if len(k) >= len(r.prefix) && string(k[:len(r.prefix)]) == string(r.prefix) {
				keys = append(keys, k[len(r.prefix):])
			}
		}
		q.Keys = keys
	}
}

func (r *rewriter) stripTxn(q *pb.TxnResponse) {
	for _, op := range q.Responses {
		switch p := op.Response.(type) {
		case *pb.ResponseOp_ResponseRange:
			r.Response(p.ResponseRange)
		case *pb.ResponseOp_ResponsePut:
			r.Response(p.ResponsePut)
		case *pb.ResponseOp_ResponseDeleteRange:
			r.Response(p.ResponseDeleteRange)
		case *pb.ResponseOp_ResponseTxn:
			r.stripTxn(p.ResponseTxn)
		}
	}
}

func (r *rewriter) strip(kvs ...*mvccpb.KeyValue) {
	for _, kv := range kvs {
		if kv != nil && len(kv.Key) >= len(r.prefix) {
			kv.Key = kv.Key[len(r.prefix):]
		}
	}
}
