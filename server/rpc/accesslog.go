package rpc

import (
	"context"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/accesslog"
)

// AccessLog writes calls to the access log.
type AccessLog struct {
	Log    *accesslog.Log
	Access *Access
	Clock  clock.Clock
}

// Unary is the interceptor of unary calls.
func (l *AccessLog) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !l.Log.Sampled() {
		return handler(ctx, req)
	}
	r := l.begin(ctx, info.FullMethod, "call")
	target(&r, req) // before the call: the request is not ours afterwards
	resp, err := handler(ctx, req)
	r.Keys, r.BytesOut = weigh(resp)
	r.Revision = revisionOf(resp)
	l.end(&r, r.Time, err)
	return resp, err
}

// Stream is the interceptor of streams.
func (l *AccessLog) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if !l.Log.Sampled() {
		return handler(srv, ss)
	}
	s := &loggedStream{ServerStream: ss, log: l, record: l.begin(ss.Context(), info.FullMethod, "open")}
	err := handler(srv, s)
	r := s.record
	r.Event = "end"
	r.BytesIn, r.BytesOut, r.Keys, r.Revision = s.in.Load(), s.out.Load(), s.keys.Load(), s.revision.Load()
	l.end(&r, r.Time, err)
	return err
}

func (l *AccessLog) begin(ctx context.Context, method, event string) accesslog.Record {
	r := accesslog.Record{Time: l.Clock.Now(), Event: event, Identity: identityOf(ctx, l.Access.User(ctx)), Method: method}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		r.Remote = p.Addr.String()
	}
	return r
}

func (l *AccessLog) end(r *accesslog.Record, start time.Time, err error) {
	r.Seconds = l.Clock.Now().Sub(start).Seconds()
	r.Code = status.Code(err).String()
	l.Log.Add(*r)
}

// loggedStream counts what passes.
type loggedStream struct {
	grpc.ServerStream
	log                     *AccessLog
	record                  accesslog.Record // of the stream
	opened                  bool             // by the receiver alone
	in, out, keys, revision atomic.Int64
}

// RecvMsg is grpc.ServerStream.
func (s *loggedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	r := s.record
	target(&r, m)
	s.in.Add(r.BytesIn)
	w, _ := m.(*pb.WatchRequest)
	switch {
	case w != nil && w.GetCreateRequest() != nil:
		r.Event = "watch"
	case s.opened:
		return nil
	}
	if !s.opened {
		r.Event, s.opened = "open", true
	}
	r.Time = s.log.Clock.Now()
	s.log.Log.Add(r)
	return nil
}

// SendMsg is grpc.ServerStream.
func (s *loggedStream) SendMsg(m any) error {
	keys, size := weigh(m) // before: gRPC takes it
	s.keys.Add(keys)
	s.out.Add(size)
	if rev := revisionOf(m); rev != 0 {
		s.revision.Store(rev)
	}
	return s.ServerStream.SendMsg(m)
}

// target writes down what a request is about.
func target(r *accesslog.Record, req any) {
	if m, ok := req.(proto.Message); ok {
		r.BytesIn = int64(proto.Size(m))
	}
	switch q := req.(type) {
	case *pb.TxnRequest:
		firstOp(r, q)
	case *pb.WatchRequest:
		if c := q.GetCreateRequest(); c != nil {
			r.Key, r.RangeEnd = c.Key, c.RangeEnd
		}
	case *pb.AuthRoleGrantPermissionRequest:
		r.Name, r.Key, r.RangeEnd = q.Name, q.GetPerm().GetKey(), q.GetPerm().GetRangeEnd()
	default:
		about(r, req)
	}
}

// about takes what requests of many kinds have.
func about(r *accesslog.Record, req any) {
	switch q := req.(type) {
	case interface{ GetName() string }:
		r.Name = q.GetName()
	case interface{ GetName() []byte }:
		r.Name = string(q.GetName())
	case interface{ GetUser() string }:
		r.Name = q.GetUser()
	case interface{ GetRole() string }:
		r.Name = q.GetRole()
	}
	if q, ok := req.(interface{ GetKey() []byte }); ok {
		r.Key = q.GetKey()
	}
	if q, ok := req.(interface{ GetRangeEnd() []byte }); ok {
		r.RangeEnd = q.GetRangeEnd()
	}
	switch q := req.(type) {
	case *pb.LeaseGrantRequest:
		r.Lease = q.ID
	case *pb.LeaseRevokeRequest:
		r.Lease = q.ID
	case *pb.LeaseKeepAliveRequest:
		r.Lease = q.ID
	case *pb.LeaseTimeToLiveRequest:
		r.Lease = q.ID
	case interface{ GetLease() int64 }:
		r.Lease = q.GetLease()
	}
}

// firstOp writes down the first operation of a transaction that is about keys, and how many there are.
func firstOp(r *accesslog.Record, t *pb.TxnRequest) {
	for _, ops := range [][]*pb.RequestOp{t.Success, t.Failure} {
		for _, op := range ops {
			var q any
			switch o := op.GetRequest().(type) {
			case *pb.RequestOp_RequestTxn:
				firstOp(r, o.RequestTxn)
				continue
			case *pb.RequestOp_RequestRange:
				q = o.RequestRange
			case *pb.RequestOp_RequestPut:
				q = o.RequestPut
			case *pb.RequestOp_RequestDeleteRange:
				q = o.RequestDeleteRange
			}
			if r.Ops++; r.Ops == 1 {
				about(r, q)
			}
		}
	}
}

// weigh counts the keys in a response and its bytes.
func weigh(resp any) (keys, size int64) {
	switch m := resp.(type) {
	case *encodedRange:
		if m != nil {
			return int64(m.keys), int64(m.size)
		}
		return 0, 0
	case *encodedWatch:
		return int64(m.events), int64(m.data.Len())
	}
	resp = messageOf(resp)
	switch m := resp.(type) {
	case *pb.DeleteRangeResponse:
		keys = m.GetDeleted()
	case *pb.TxnResponse:
		for _, op := range m.GetResponses() {
			keys += int64(len(op.GetResponseRange().GetKvs())) + op.GetResponseDeleteRange().GetDeleted()
		}
	}
	if m, ok := resp.(proto.Message); ok && m.ProtoReflect().IsValid() {
		size = int64(proto.Size(m))
	}
	return keys, size
}

func revisionOf(resp any) int64 {
	switch m := resp.(type) {
	case *encodedRange:
		if m != nil {
			return m.rev
		}
		return 0
	case *encodedWatch:
		return m.rev
	}
	if m, ok := messageOf(resp).(interface{ GetHeader() *pb.ResponseHeader }); ok {
		return m.GetHeader().GetRevision()
	}
	return 0
}
