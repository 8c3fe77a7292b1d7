package client

import (
	"context"
	"iter"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Responses are the API's own messages, so that nothing is copied between the wire and the caller.
type (
	KeyValue        = mvccpb.KeyValue
	ResponseHeader  = pb.ResponseHeader
	PutResponse     = pb.PutResponse
	GetResponse     = pb.RangeResponse
	DeleteResponse  = pb.DeleteRangeResponse
	TxnResponse     = pb.TxnResponse
	CompactResponse = pb.CompactionResponse
)

// Put sets key to value. It is never repeated once it was sent: see ErrUncertain.
func (c *Client) Put(ctx context.Context, key, value string, opts ...PutOption) (*PutResponse, error) {
	return c.put(ctx, newPut(bytesOf(key), bytesOf(value), opts))
}

func (c *Client) put(ctx context.Context, req *pb.PutRequest) (*PutResponse, error) {
	resp := new(PutResponse)
	if err := c.unary(ctx, pb.KV_Put_FullMethodName, req, resp, write); err != nil {
		return nil, err
	}
	return resp, nil
}

// Get reads key, or the range that an option such as WithPrefix makes of it, in key order unless sorted otherwise.
// It is linearizable unless WithSerializable is given.
func (c *Client) Get(ctx context.Context, key string, opts ...GetOption) (*GetResponse, error) {
	return c.get(ctx, newGet(bytesOf(key), opts))
}

func (c *Client) get(ctx context.Context, req *pb.RangeRequest) (*GetResponse, error) {
	resp := new(GetResponse)
	if err := c.unary(ctx, pb.KV_Range_FullMethodName, req, resp, read); err != nil {
		return nil, err
	}
	return resp, nil
}

// GetStream reads a range in chunks, all of one revision, so that a large one never has to fit into one message.
// Each chunk holds the next keys; only the last has a header and the count. The loop ends after the first error. A
// stream that breaks is not resumed. Servers older than 3.7 answer codes.Unimplemented.
func (c *Client) GetStream(ctx context.Context, key string, opts ...GetOption) iter.Seq2[*GetResponse, error] {
	return func(yield func(*GetResponse, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		var req proto.Message = newGet(bytesOf(key), opts)
		if c.view != nil {
			req = c.view.Request(req)
		}
		stream, err := openServerStream[pb.RangeStreamResponse](ctx, c.engine, pb.KV_RangeStream_FullMethodName, req)
		if err != nil {
			yield(nil, err)
			return
		}
		for {
			chunk, err := stream.next()
			if chunk == nil && err == nil {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
			resp := chunk.GetRangeResponse()
			if c.view != nil {
				c.view.Response(resp)
			}
			if !yield(resp, nil) {
				return
			}
		}
	}
}

// Delete removes key, or the range that an option makes of it.
func (c *Client) Delete(ctx context.Context, key string, opts ...DeleteOption) (*DeleteResponse, error) {
	return c.delete(ctx, newDelete(bytesOf(key), opts))
}

func (c *Client) delete(ctx context.Context, req *pb.DeleteRangeRequest) (*DeleteResponse, error) {
	resp := new(DeleteResponse)
	if err := c.unary(ctx, pb.KV_DeleteRange_FullMethodName, req, resp, write); err != nil {
		return nil, err
	}
	return resp, nil
}

// Compact discards the history before rev. With physical it returns only when the space is free for reuse.
func (c *Client) Compact(ctx context.Context, rev int64, physical bool) (*CompactResponse, error) {
	resp := new(CompactResponse)
	req := &pb.CompactionRequest{Revision: rev, Physical: physical}
	if err := c.unary(ctx, pb.KV_Compact_FullMethodName, req, resp, write); err != nil {
		return nil, err
	}
	return resp, nil
}

// OpResponse is what Do returns: the field of the operation's kind is set.
type OpResponse struct {
	Put    *PutResponse
	Get    *GetResponse
	Delete *DeleteResponse
	Txn    *TxnResponse
}

// Do runs one prepared operation by itself.
func (c *Client) Do(ctx context.Context, op Op) (r OpResponse, err error) {
	switch q := op.req.GetRequest().(type) {
	case *pb.RequestOp_RequestPut:
		r.Put, err = c.put(ctx, q.RequestPut)
	case *pb.RequestOp_RequestRange:
		r.Get, err = c.get(ctx, q.RequestRange)
	case *pb.RequestOp_RequestDeleteRange:
		r.Delete, err = c.delete(ctx, q.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		r.Txn, err = c.txn(ctx, q.RequestTxn)
	default:
		panic("client: Do of an empty Op")
	}
	return r, err
}

// Txn is a transaction in the making: If all comparisons hold, Then the one list of operations runs, Else the
// other, all at one revision. Build one with Client.Txn; it is not for concurrent use.
type Txn struct {
	c   *Client
	ctx context.Context
	req pb.TxnRequest
}

// Txn begins a transaction.
func (c *Client) Txn(ctx context.Context) *Txn { return &Txn{c: c, ctx: ctx} }

// If adds comparisons, all of which must hold.
func (t *Txn) If(cmps ...Cmp) *Txn {
	t.req.Compare = appendCmps(t.req.Compare, cmps)
	return t
}

// Then adds operations for when the comparisons hold. Without comparisons they do.
func (t *Txn) Then(ops ...Op) *Txn {
	t.req.Success = appendOps(t.req.Success, ops)
	return t
}

// Else adds operations for when a comparison does not hold.
func (t *Txn) Else(ops ...Op) *Txn {
	t.req.Failure = appendOps(t.req.Failure, ops)
	return t
}

// Commit sends the transaction. The response has one entry for each operation of the list that ran. One that only
// reads is repeated on failure like Get; one that writes like Put, that is, not once it was sent.
func (t *Txn) Commit() (*TxnResponse, error) { return t.c.txn(t.ctx, &t.req) }

func (c *Client) txn(ctx context.Context, req *pb.TxnRequest) (*TxnResponse, error) {
	resp := new(TxnResponse)
	cl := read
	if writes(req) {
		cl = write
	}
	if err := c.unary(ctx, pb.KV_Txn_FullMethodName, req, resp, cl); err != nil {
		return nil, err
	}
	return resp, nil
}

// writes says whether a transaction may change anything.
func writes(req *pb.TxnRequest) bool {
	for _, ops := range [2][]*pb.RequestOp{req.Success, req.Failure} {
		for _, op := range ops {
			switch q := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
			case *pb.RequestOp_RequestTxn:
				if writes(q.RequestTxn) {
					return true
				}
			default:
				return true
			}
		}
	}
	return false
}

// serverStream is a call with one request and many responses.
type serverStream[T any] struct {
	ctx   context.Context
	link  *link
	s     grpc.ClientStream
	first *T
}

// openServerStream opens the stream and receives the first message, trying one endpoint after the other until then.
func openServerStream[T any](ctx context.Context, e *engine, method string, req proto.Message) (*serverStream[T], error) {
	var (
		avoid *link
		last  error
	)
	for attempt := 0; ; attempt++ {
		l, err := e.pool.pick(ctx, avoid)
		if err != nil {
			return nil, withLast(err, last)
		}
		ss := &serverStream[T]{ctx: ctx, link: l}
		if ss.first, err = ss.open(e, method, req); err == nil {
			return ss, nil
		}
		retry, err := e.judge(ctx, l, &callState{}, err, read, attempt)
		if !retry {
			return nil, err
		}
		last, avoid = err, l
		if err := e.pause(ctx, attempt); err != nil {
			return nil, withLast(err, last)
		}
	}
}

func (ss *serverStream[T]) open(e *engine, method string, req proto.Message) (*T, error) {
	desc := &grpc.StreamDesc{ServerStreams: true}
	s, err := ss.link.conn.NewStream(e.outgoing(ss.ctx), desc, method)
	if err != nil {
		return nil, err
	}
	ss.s = s
	if err := s.SendMsg(req); err != nil && !isEOF(err) {
		return nil, err
	}
	if err := s.CloseSend(); err != nil {
		return nil, err
	}
	m := new(T)
	if err := s.RecvMsg(m); err != nil {
		if isEOF(err) {
			return nil, nil
		}
		return nil, err
	}
	return m, nil
}

// next returns the next message, or nil without an error at the end.
func (ss *serverStream[T]) next() (*T, error) {
	if m := ss.first; m != nil {
		ss.first = nil
		return m, nil
	}
	m := new(T)
	if err := ss.s.RecvMsg(m); err != nil {
		if isEOF(err) {
			return nil, nil
		}
		return nil, translate(ss.ctx, err)
	}
	return m, nil
}
