package rpc

import (
	"bytes"
	"context"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/lease"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/apply"
)

// KVConfig is what the KV service needs.
type KVConfig struct {
	Header          *Header
	Errors          *Translator
	Proposer        Proposer // Authorized
	Access          *Access
	Gate            ReadGate
	Store           Store
	Leases          interface{ Exists(id lease.ID) bool }
	Space           *SpaceGuard
	Metrics         *apply.Metrics
	Shares          Shares
	Budget          *Budget
	MaxTxnOps       int
	MaxRequestBytes int
	// Commit makes everything published durable in the backend; a physical compaction ends with it.
	Commit func() error
}

// KV is etcdserverpb.KV.
type KV struct {
	pb.UnsafeKVServer
	cfg KVConfig
}

// NewKV makes the KV service.
func NewKV(cfg KVConfig) *KV { return &KV{cfg: cfg} }

// Register registers the service with handlers of our own for those methods whose responses may be large: they are encoded
// when there is room for them, ranges from stored bytes.
func (s *KV) Register(g *grpc.Server) {
	desc := pb.KV_ServiceDesc
	desc.Methods = append([]grpc.MethodDesc(nil), desc.Methods...)
	for i := range desc.Methods {
		switch m := &desc.Methods[i]; m.MethodName {
		case "Range":
			m.Handler = handle(pb.KV_Range_FullMethodName, (*KV).rangeEncoded)
		case "Put":
			m.Handler = handle(pb.KV_Put_FullMethodName, (*KV).putEncoded)
		case "DeleteRange":
			m.Handler = handle(pb.KV_DeleteRange_FullMethodName, (*KV).deleteRangeEncoded)
		case "Txn":
			m.Handler = handle(pb.KV_Txn_FullMethodName, (*KV).txnEncoded)
		}
	}
	g.RegisterService(&desc, s)
}

// handle makes a handler of a method whose response need not be a message.
func handle[Q any](method string, call func(s *KV, ctx context.Context, r *Q) (any, error)) grpc.MethodHandler {
	return func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := new(Q)
		if err := dec(in); err != nil {
			return nil, err
		}
		s := srv.(*KV)
		if interceptor == nil {
			return call(s, ctx, in)
		}
		info := &grpc.UnaryServerInfo{Server: srv, FullMethod: method}
		return interceptor(ctx, in, info, func(ctx context.Context, req any) (any, error) { return call(s, ctx, req.(*Q)) })
	}
}

// Range answers with a message, for callers in this process; gRPC clients are served by rangeEncoded.
func (s *KV) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	var resp *pb.RangeResponse
	err := s.read(ctx, r, func(reply *apply.RangeReply) error {
		resp = reply.Message()
		s.cfg.Header.Fill(resp.Header)
		return nil
	})
	return resp, err
}

func (s *KV) rangeEncoded(ctx context.Context, r *pb.RangeRequest) (any, error) {
	var resp *encodedRange
	room := room{budget: s.cfg.Budget}
	defer room.drop()
	err := s.readWithin(ctx, r, &room, func(reply *apply.RangeReply) (err error) {
		h := &pb.ResponseHeader{Revision: reply.Rev}
		s.cfg.Header.FillIDs(h)
		resp, err = encodeRange(h, reply, false, &room)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (s *KV) putEncoded(ctx context.Context, r *pb.PutRequest) (any, error) {
	resp, err := s.Put(ctx, r)
	if err != nil || resp.PrevKv == nil {
		return resp, err
	}
	return s.cfg.Budget.encode(ctx, s.cfg.Access.User, resp)
}

func (s *KV) deleteRangeEncoded(ctx context.Context, r *pb.DeleteRangeRequest) (any, error) {
	resp, err := s.DeleteRange(ctx, r)
	if err != nil || len(resp.PrevKvs) == 0 {
		return resp, err
	}
	return s.cfg.Budget.encode(ctx, s.cfg.Access.User, resp)
}

func (s *KV) txnEncoded(ctx context.Context, r *pb.TxnRequest) (any, error) {
	resp, err := s.Txn(ctx, r)
	if err != nil {
		return resp, err
	}
	return s.cfg.Budget.encode(ctx, s.cfg.Access.User, resp)
}

// read reads a range; use gets what was found.
func (s *KV) read(ctx context.Context, r *pb.RangeRequest, use func(*apply.RangeReply) error) error {
	return s.readWithin(ctx, r, &room{}, use)
}

// readWithin is read, where use may find that there is no room for its response: then what was read is dropped, and read again
// when there is room, so that who waits holds nothing.
func (s *KV) readWithin(ctx context.Context, r *pb.RangeRequest, room *room, use func(*apply.RangeReply) error) error {
	if err := checkRange(r); err != nil {
		return err
	}
	start := s.cfg.Metrics.Now()
	reading, err := s.begin(ctx, r)
	if err != nil {
		s.cfg.Metrics.RangeDone(start, r, nil, err)
		return s.cfg.Errors.GRPC(err)
	}
	reply, err := s.readShare(ctx, &reading, r, use)
	for err == errNoRoom {
		if err = room.wait(ctx, reading.id.User); err == nil {
			reply, err = s.readShare(ctx, &reading, r, use)
		}
	}
	s.cfg.Metrics.RangeDone(start, r, reply, err)
	return s.cfg.Errors.GRPC(err)
}

// readShare reads when it is the caller's turn.
func (s *KV) readShare(ctx context.Context, by *reading, r *pb.RangeRequest, use func(*apply.RangeReply) error) (*apply.RangeReply, error) {
	place, err := enter(ctx, s.cfg.Shares.Reads, by.id.User)
	if err != nil {
		return nil, err
	}
	txn := s.cfg.Store.Read()
	defer txn.Close()
	reply, err := s.cfg.Metrics.Range(txn, r)
	if changed := by.Done(); changed != nil {
		err = changed
	}
	if err != nil {
		place.Leave(0)
		return reply, err
	}
	defer leave(place, reply.KVs)
	return reply, use(reply)
}

// begin waits until a range may be read, and for the right to read it.
func (s *KV) begin(ctx context.Context, r *pb.RangeRequest) (reading, error) {
	if !r.Serializable {
		if err := s.cfg.Gate.Wait(ctx); err != nil {
			return reading{}, err
		}
	}
	reading, err := s.cfg.Access.read(ctx)
	if err == nil {
		err = reading.Range(r.Key, r.RangeEnd)
	}
	return reading, err
}

// streamFirstChunk is the number of keys in the first message of a range stream.
const streamFirstChunk = 10

// RangeStream sends a range in chunks, all at one revision. The last chunk carries the header, the total count and
// whether there is more than the limit asked for.
func (s *KV) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	if err := checkRangeStream(r); err != nil {
		return err
	}
	reading, err := s.begin(stream.Context(), r)
	if err != nil {
		return s.cfg.Errors.GRPC(err)
	}
	if r.CountOnly {
		err = s.streamCount(r, stream, reading.id.User)
	} else {
		err = s.streamKeys(r, stream, reading.id.User)
	}
	if changed := reading.Done(); changed != nil {
		err = changed
	}
	return s.cfg.Errors.GRPC(err)
}

func (s *KV) streamKeys(r *pb.RangeRequest, stream pb.KV_RangeStreamServer, user string) error {
	limit := r.Limit
	if limit <= 0 {
		limit = math.MaxInt64
	}
	c := &chunker{kv: s, r: r, left: limit, size: min(streamFirstChunk, limit), stream: stream, user: user}
	for {
		if done, err := c.next(); done || err != nil {
			return err
		}
	}
}

func (s *KV) streamCount(r *pb.RangeRequest, stream pb.KV_RangeStreamServer, user string) error {
	place, err := enter(stream.Context(), s.cfg.Shares.Reads, user)
	if err != nil {
		return err
	}
	defer place.Leave(0)
	txn := s.cfg.Store.Read()
	defer txn.Close()
	reply, err := s.cfg.Metrics.Range(txn, r)
	if err != nil {
		return err
	}
	h := &pb.ResponseHeader{Revision: reply.Rev}
	s.cfg.Header.FillIDs(h)
	return stream.Send(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Header: h, Count: reply.Count}})
}

// chunker walks through a range, a read transaction for each chunk, so that a slow stream holds nothing back.
type chunker struct {
	kv     *KV
	r      *pb.RangeRequest
	stream pb.KV_RangeStreamServer
	user   string
	left   int64 // keys that may still be sent
	size   int64 // keys in the next chunk
	sent   int64
	rev    int64 // header revision: the current one when the stream began
}

// next sends a chunk. Neither the read nor a place is held while the client takes it, or while there is no room for it.
func (c *chunker) next() (done bool, err error) {
	room := room{budget: c.kv.cfg.Budget}
	defer room.drop()
	out, done, err := c.read(&room)
	for err == errNoRoom {
		if err = room.wait(c.stream.Context(), c.user); err == nil {
			out, done, err = c.read(&room)
		}
	}
	if err != nil {
		return false, err
	}
	return done, c.stream.SendMsg(out)
}

// read makes a chunk, and moves on behind it. errNoRoom.
func (c *chunker) read(room *room) (out *encodedRange, done bool, err error) {
	place, err := enter(c.stream.Context(), c.kv.cfg.Shares.Reads, c.user)
	if err != nil {
		return nil, false, err
	}
	var kvs []mvcc.KV
	defer func() { leave(place, kvs) }()
	txn := c.kv.cfg.Store.Read()
	defer txn.Close()
	c.r.Limit = c.size
	reply, err := c.kv.cfg.Metrics.Range(txn, c.r)
	if err != nil {
		return nil, false, err
	}
	kvs = reply.KVs
	if c.rev == 0 {
		c.rev = reply.Rev
		if c.r.Revision == 0 {
			c.r.Revision = c.rev
		}
	}
	n := int64(len(kvs))
	var next []byte
	if reply.More {
		next = append(bytes.Clone(kvs[n-1].Parse().Key), 0)
	}
	part := &apply.RangeReply{KVs: kvs, KeysOnly: reply.KeysOnly}
	var header *pb.ResponseHeader
	if done = !reply.More || n >= c.left; done {
		header = &pb.ResponseHeader{Revision: c.rev}
		c.kv.cfg.Header.FillIDs(header)
		part.More, part.Count = reply.More, c.sent+n
		if reply.More {
			rest, err := txn.Range(next, c.r.RangeEnd, mvcc.RangeOptions{Rev: c.r.Revision, CountOnly: true})
			if err != nil {
				return nil, false, err
			}
			part.Count += rest.Count
		}
	}
	if out, err = encodeRange(header, part, true, room); err != nil {
		return nil, false, err
	}
	c.advance(kvs, next)
	return out, done, nil
}

// advance moves on behind what was read.
func (c *chunker) advance(kvs []mvcc.KV, next []byte) {
	bytesSent := 0
	for _, kv := range kvs {
		bytesSent += len(kv)
	}
	c.sent += int64(len(kvs))
	c.left -= int64(len(kvs))
	c.r.Key = next
	c.size = min(nextChunk(c.size, bytesSent, c.kv.cfg.MaxRequestBytes), c.left)
}

// nextChunk doubles or halves the number of keys in a chunk until chunks are near the target size in bytes.
func nextChunk(keys int64, bytes, target int) int64 {
	switch {
	case bytes < target/2:
		return keys * 2
	case bytes > target*2:
		return max(keys/2, 1)
	}
	return keys
}

// Put writes a key.
func (s *KV) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := s.cfg.Space.CheckPut(ctx, r); err != nil {
		return nil, err
	}
	if err := checkPut(r); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.PutResponse](ctx, s.cfg.Proposer, s.cfg.Errors, &pb.InternalRaftRequest{Put: r})
	if err != nil {
		return nil, err
	}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}

// DeleteRange deletes keys.
func (s *KV) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	resp, err := propose[*pb.DeleteRangeResponse](ctx, s.cfg.Proposer, s.cfg.Errors, &pb.InternalRaftRequest{DeleteRange: r})
	if err != nil {
		return nil, err
	}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}

// Txn runs a transaction. One that only reads does not go through the log.
func (s *KV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := s.cfg.Space.CheckTxn(ctx, r); err != nil {
		return nil, err
	}
	if err := checkTxn(r, s.cfg.MaxTxnOps); err != nil {
		return nil, err
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		if _, err := checkOverlap(ops); err != nil {
			return nil, err
		}
	}
	if apply.TxnReadOnly(r) {
		return s.readOnlyTxn(ctx, r)
	}
	resp, err := propose[*pb.TxnResponse](ctx, s.cfg.Proposer, s.cfg.Errors, &pb.InternalRaftRequest{Txn: r})
	if err != nil {
		return nil, err
	}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}

func (s *KV) readOnlyTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if !apply.TxnSerializable(r) {
		if err := s.cfg.Gate.Wait(ctx); err != nil {
			return nil, s.cfg.Errors.GRPC(err)
		}
	}
	start := s.cfg.Metrics.Now() // as in etcd, which does not count the wait before
	resp, err := s.readTxn(ctx, r)
	s.cfg.Metrics.TxnDone(start, r, resp, err)
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}

func (s *KV) readTxn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	reading, err := s.cfg.Access.read(ctx)
	if err == nil {
		err = reading.Txn(r)
	}
	if err != nil {
		return nil, err
	}
	place, err := enter(ctx, s.cfg.Shares.Reads, reading.id.User)
	if err != nil {
		return nil, err
	}
	defer place.Leave(0)
	txn := s.cfg.Store.Read()
	defer txn.Close()
	resp, err := apply.ReadOnlyTxn(txn, s.cfg.Leases, r)
	if changed := reading.Done(); changed != nil {
		err = changed
	}
	return resp, err
}

// Compact forgets the history before a revision. A physical one returns when the old revisions are gone from the backend
// and that is durable.
func (s *KV) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	res, err := s.cfg.Proposer.Do(ctx, &pb.InternalRaftRequest{Compaction: r})
	if err == nil && r.Physical && res.Physical != nil {
		select {
		case <-res.Physical:
			err = s.cfg.Commit()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err == nil {
		err = res.Err
	}
	if err != nil {
		return nil, s.cfg.Errors.GRPC(err)
	}
	resp := &pb.CompactionResponse{Header: &pb.ResponseHeader{}}
	s.cfg.Header.Fill(resp.Header)
	return resp, nil
}
