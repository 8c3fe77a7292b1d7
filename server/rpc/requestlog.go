package rpc

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
)

// RequestLog logs unary calls that take long, and at debug level all of them. Values of keys are left out.
type RequestLog struct {
	Slow   time.Duration
	Clock  clock.Clock
	Logger *zap.Logger
	// Traffic is told of every call.
	Traffic *Traffic
}

// Unary is the interceptor of unary calls.
func (l *RequestLog) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := l.Clock.Now()
	call := l.Traffic.Calls.Begin(info.FullMethod)
	resp, err := handler(ctx, req)
	end := l.Clock.Now()
	took := end.Sub(start)
	call.End(status.Code(err), took)
	l.Traffic.used(end, req, messageOf(resp), err)
	write := l.Logger.Debug
	if !l.Logger.Core().Enabled(zap.DebugLevel) {
		if took <= l.Slow {
			return resp, err
		}
		write = l.Logger.Warn
	}
	remote := "No remote client info."
	if p, ok := peer.FromContext(ctx); ok {
		remote = p.Addr.String()
	}
	d := describe(req, resp)
	write("request stats", zap.Time("start time", start), zap.Duration("time spent", took), zap.String("remote", remote),
		zap.String("response type", info.FullMethod), zap.Int64("request count", d.asked), zap.Int("request size", d.askedBytes),
		zap.Int64("response count", d.answered), zap.Int("response size", d.answeredBytes), zap.String("request content", d.content))
	return resp, err
}

// description is what is logged about a call. Numbers are -1 where they say nothing.
type description struct {
	asked, answered           int64
	askedBytes, answeredBytes int
	content                   string
}

func describe(req, resp any) description {
	d := description{-1, -1, -1, -1, ""}
	switch r := req.(type) {
	case *pb.RangeRequest:
		d = description{0, 0, proto.Size(r), 0, r.String()}
	case *pb.PutRequest:
		d = description{1, 0, proto.Size(r), 0, pb.NewLoggablePutRequest(r).String()}
	case *pb.DeleteRangeRequest:
		d = description{0, 0, proto.Size(r), 0, r.String()}
	case *pb.TxnRequest:
		d = description{0, 0, 0, 0, pb.NewLoggableTxnRequest(r).String()}
	}
	switch r := messageOf(resp).(type) {
	case *encodedRange:
		if r != nil {
			d.answered, d.answeredBytes = r.count, r.size
		}
	case *pb.PutResponse:
		d.answeredBytes = proto.Size(r)
	case *pb.DeleteRangeResponse:
		d.answered, d.answeredBytes = r.GetDeleted(), proto.Size(r)
	case *pb.TxnResponse:
		d.answeredBytes = proto.Size(r)
		if r == nil {
			break
		}
		ops := req.(*pb.TxnRequest).Failure
		if r.Succeeded {
			ops = req.(*pb.TxnRequest).Success
		}
		d.asked = int64(len(ops))
		for _, op := range ops {
			d.askedBytes += proto.Size(op)
		}
	}
	return d
}
