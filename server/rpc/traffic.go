package rpc

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/insight"
)

// Traffic counts what clients ask for.
type Traffic struct {
	Calls *insight.Calls
	Heat  *insight.Heat
	Clock clock.Clock
}

// Methods names the methods of a server for its Traffic.
func Methods(g *grpc.Server) map[string]bool {
	streams := map[string]bool{}
	for service, info := range g.GetServiceInfo() {
		for _, m := range info.Methods {
			streams["/"+service+"/"+m.Name] = m.IsClientStream || m.IsServerStream
		}
	}
	return streams
}

// Stream is the interceptor of streams.
func (t *Traffic) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	call := t.Calls.Begin(info.FullMethod)
	if info.FullMethod == pb.KV_RangeStream_FullMethodName {
		ss = &rangeStream{ss, t}
	}
	err := handler(srv, ss)
	call.End(status.Code(err), 0)
	return err
}

// rangeStream counts the range that is asked for.
type rangeStream struct {
	grpc.ServerStream
	t *Traffic
}

// RecvMsg is grpc.ServerStream's.
func (s *rangeStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	s.t.used(s.t.Clock.Now(), m, nil, err)
	return err
}

// used counts the keys that a call has read and written.
func (t *Traffic) used(now time.Time, req, resp any, err error) {
	switch req.(type) {
	case *pb.RangeRequest, *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest:
	default:
		return
	}
	weight, ok := t.Heat.Sampled()
	if !ok || err != nil {
		return
	}
	switch r := req.(type) {
	case *pb.RangeRequest:
		t.Heat.Count(now, insight.Read, r.Key, r.RangeEnd, weight)
	case *pb.PutRequest:
		t.Heat.Count(now, insight.Write, r.Key, nil, weight)
	case *pb.DeleteRangeRequest:
		t.Heat.Count(now, insight.Write, r.Key, r.RangeEnd, weight)
	case *pb.TxnRequest:
		if done, ok := resp.(*pb.TxnResponse); ok {
			t.usedByTxn(now, r, done, weight)
		}
	}
}

// usedByTxn counts the operations that a transaction has carried out.
func (t *Traffic) usedByTxn(now time.Time, r *pb.TxnRequest, done *pb.TxnResponse, weight float64) {
	ops := r.Failure
	if done.GetSucceeded() {
		ops = r.Success
	}
	for i, op := range ops {
		switch o := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			t.Heat.Count(now, insight.Read, o.RequestRange.Key, o.RequestRange.RangeEnd, weight)
		case *pb.RequestOp_RequestPut:
			t.Heat.Count(now, insight.Write, o.RequestPut.Key, nil, weight)
		case *pb.RequestOp_RequestDeleteRange:
			t.Heat.Count(now, insight.Write, o.RequestDeleteRange.Key, o.RequestDeleteRange.RangeEnd, weight)
		case *pb.RequestOp_RequestTxn:
			if answers := done.GetResponses(); i < len(answers) {
				t.usedByTxn(now, o.RequestTxn, answers[i].GetResponseTxn(), weight)
			}
		}
	}
}
