package rpc

import (
	"context"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/mvcc/watch"
	"github.com/keelson-io/keelson/server/apply"
)

// Spans makes spans of requests, below the span of their call and only if that is recorded. Names and attributes are etcd's.
type Spans struct{ Tracer trace.Tracer }

func recorded(ctx context.Context) bool { return trace.SpanFromContext(ctx).IsRecording() }

// Unary is the interceptor of unary calls.
func (s *Spans) Unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if !recorded(ctx) {
		return handler(ctx, req)
	}
	name, attrs := describeSpan(req)
	if name == "" {
		return handler(ctx, req)
	}
	ctx, span := s.Tracer.Start(ctx, name, trace.WithAttributes(attrs...))
	defer span.End()
	resp, err := handler(ctx, req)
	if r, ok := req.(*pb.LeaseGrantRequest); ok {
		span.SetAttributes(attribute.Int64("id", r.ID)) // the one that was chosen
	}
	return resp, err
}

// Stream is the interceptor of streams. Watches are the business of the Watch service.
func (s *Spans) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	traced := info.FullMethod == pb.KV_RangeStream_FullMethodName || info.FullMethod == pb.Lease_LeaseKeepAlive_FullMethodName
	if !traced || !recorded(ss.Context()) {
		return handler(srv, ss)
	}
	st := &spanStream{ServerStream: ss, tracer: s.Tracer, renewals: map[int64][]trace.Span{}}
	defer st.end()
	return handler(srv, st)
}

// spanStream makes a span of the range that a stream is about, or of each renewal on it, from request to answer.
type spanStream struct {
	grpc.ServerStream
	tracer trace.Tracer

	mu       sync.Mutex
	ranged   trace.Span
	renewals map[int64][]trace.Span // under way, by lease
	ended    bool
}

// RecvMsg receives a request.
func (s *spanStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil
	}
	switch r := m.(type) {
	case *pb.RangeRequest:
		_, attrs := describeSpan(r)
		_, s.ranged = s.tracer.Start(s.Context(), "range_streaming", trace.WithAttributes(attrs[:len(attrs)-1]...)) // without keys_only
	case *pb.LeaseKeepAliveRequest:
		_, span := s.tracer.Start(s.Context(), "lease_renew", trace.WithAttributes(attribute.Int64("id", r.ID)))
		s.renewals[r.ID] = append(s.renewals[r.ID], span)
	}
	return nil
}

// SendMsg sends an answer.
func (s *spanStream) SendMsg(m any) error {
	if r, ok := m.(*pb.LeaseKeepAliveResponse); ok {
		s.mu.Lock()
		if spans := s.renewals[r.ID]; len(spans) > 0 {
			spans[0].End()
			if s.renewals[r.ID] = spans[1:]; len(spans) == 1 {
				delete(s.renewals, r.ID)
			}
		}
		s.mu.Unlock()
	}
	return s.ServerStream.SendMsg(m)
}

func (s *spanStream) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	if s.ranged != nil {
		s.ranged.End()
	}
	for _, spans := range s.renewals {
		for _, span := range spans {
			span.End()
		}
	}
}

// watches returns what makes spans of the watches on a stream, nil if that is not recorded.
func (s *Spans) watches(call context.Context) *watchSpans {
	if s == nil || !recorded(call) {
		return nil
	}
	return &watchSpans{tracer: s.Tracer, call: call, open: map[int64]trace.Span{}}
}

// watchSpans makes a span of each watch on a stream, from its creation to its end. Its methods do nothing on nil.
type watchSpans struct {
	tracer trace.Tracer
	call   context.Context

	mu    sync.Mutex
	asked []trace.Span // not answered yet, in order
	open  map[int64]trace.Span
	ended bool
}

// create begins the span of a watch that is being asked for.
func (w *watchSpans) create(r *pb.WatchCreateRequest) {
	if w == nil {
		return
	}
	key, end := r.Key, r.RangeEnd
	if len(key) == 0 {
		key = []byte{0} // the first key there can be
	}
	if len(end) == 1 && end[0] == 0 {
		end = nil // etcd's form of "all keys from"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	_, span := w.tracer.Start(w.call, "watch", trace.WithAttributes(
		spanText("key", key), spanText("range_end", end), attribute.Int64("start_rev", r.StartRevision),
		attribute.Bool("progress_notify", r.ProgressNotify), attribute.Bool("prev_kv", r.PrevKv), attribute.Bool("fragment", r.Fragment)))
	w.asked = append(w.asked, span)
}

// answer ends the spans of watches that are not to be, or no more.
func (w *watchSpans) answer(r *watch.Response) {
	if w == nil || !r.Created && !r.Canceled {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	span := w.open[r.ID]
	if r.Created {
		if len(w.asked) == 0 {
			return
		}
		span, w.asked = w.asked[0], w.asked[1:]
	}
	switch {
	case span == nil:
	case r.Canceled:
		span.End()
		if !r.Created {
			delete(w.open, r.ID)
		}
	default:
		w.open[r.ID] = span
	}
}

func (w *watchSpans) end() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for _, span := range w.asked {
		span.End()
	}
	for _, span := range w.open {
		span.End()
	}
}

// describeSpan returns the name and the attributes of the span of a request, "" if it has none.
func describeSpan(req any) (string, []attribute.KeyValue) {
	switch r := req.(type) {
	case *pb.RangeRequest:
		return "range", []attribute.KeyValue{
			spanText("range_begin", r.Key), spanText("range_end", r.RangeEnd), attribute.Int64("rev", r.Revision),
			attribute.Int64("limit", r.Limit), attribute.Bool("count_only", r.CountOnly), attribute.Bool("keys_only", r.KeysOnly),
		}
	case *pb.PutRequest:
		return "put", []attribute.KeyValue{spanText("key", r.Key)}
	case *pb.DeleteRangeRequest:
		return "delete_range", []attribute.KeyValue{spanText("range_begin", r.Key), spanText("range_end", r.RangeEnd)}
	case *pb.TxnRequest:
		return "txn", describeTxn(r)
	case *pb.CompactionRequest:
		return "compact", []attribute.KeyValue{attribute.Bool("is_physical", r.Physical), attribute.Int64("rev", r.Revision)}
	case *pb.LeaseGrantRequest:
		return "lease_grant", []attribute.KeyValue{attribute.Int64("id", r.ID), attribute.Int64("ttl", r.TTL)}
	case *pb.LeaseRevokeRequest:
		return "lease_revoke", []attribute.KeyValue{attribute.Int64("id", r.ID)}
	}
	return "", nil
}

// describeTxn tells of the first key that is compared and the first that is asked for or written.
func describeTxn(r *pb.TxnRequest) []attribute.KeyValue {
	var compared, key []byte
	for i := 0; i < len(r.Compare) && len(compared) == 0; i++ {
		compared = r.Compare[i].GetKey()
	}
	kind, lease := "", int64(-1)
	for _, op := range r.Success {
		var k []byte
		name := ""
		switch o := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			name, k = "put", o.RequestPut.GetKey()
			if lease == -1 {
				lease = o.RequestPut.GetLease()
			}
		case *pb.RequestOp_RequestRange:
			name, k = "range", o.RequestRange.GetKey()
		case *pb.RequestOp_RequestDeleteRange:
			name, k = "delete_range", o.RequestDeleteRange.GetKey()
		case *pb.RequestOp_RequestTxn:
			name = "txn"
		}
		if kind == "" {
			kind = name
		}
		if len(key) == 0 {
			key = k
		}
	}
	return []attribute.KeyValue{
		spanText("compare_first_key", compared), spanText("success_first_key", key), attribute.String("success_first_type", kind),
		attribute.Int64("success_first_lease", lease), attribute.Int("compare_len", len(r.Compare)), attribute.Int("success_len", len(r.Success)),
		attribute.Int("failure_len", len(r.Failure)), attribute.Bool("read_only", apply.TxnReadOnly(r)),
	}
}

// maxSpanText is how many bytes of a key go into a span.
const maxSpanText = 4 << 10

// spanText is an attribute made of a key. A collector takes nothing but valid UTF-8.
func spanText(name string, key []byte) attribute.KeyValue {
	if len(key) > maxSpanText {
		key = key[:maxSpanText]
	}
	return attribute.String(name, strings.ToValidUTF8(string(key), "\uFFFD"))
}

// Proposer returns a Proposer that notes in the span of a call when its command was proposed and when it was applied; p itself
// if there are no spans.
func (s *Spans) Proposer(p Proposer) Proposer {
	if s == nil {
		return p
	}
	return notingProposer{p}
}

type notingProposer struct{ Proposer }

// Do is Proposer.
func (p notingProposer) Do(ctx context.Context, r *pb.InternalRaftRequest) (apply.Result, error) {
	span := trace.SpanFromContext(ctx)
	span.AddEvent("Send raft proposal")
	res, err := p.Proposer.Do(ctx, r)
	if err != nil {
		span.RecordError(err)
	} else {
		span.AddEvent("Receive raft result")
	}
	return res, err
}
