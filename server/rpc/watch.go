package rpc

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc/watch"
)

// WatchConfig is what the Watch service needs.
type WatchConfig struct {
	Header           *Header
	Hub              *watch.Hub
	Access           *Access
	Errors           *Translator
	MaxResponseBytes int           // above which the responses of watches that allow it are split
	ProgressInterval time.Duration // between progress responses of watches that want them
	Clock            clock.Clock
	Metrics          *Metrics
	Budget           *Budget
	Spans            *Spans // nil: none
}

// WatchService is etcdserverpb.Watch.
type WatchService struct {
	pb.UnsafeWatchServer
	cfg WatchConfig
}

// NewWatch makes the Watch service.
func NewWatch(cfg WatchConfig) *WatchService { return &WatchService{cfg: cfg} }

// Watch serves one stream of watches.
func (s *WatchService) Watch(stream pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	ws := s.cfg.Hub.NewStream()
	defer ws.Close()
	spans := s.cfg.Spans.watches(stream.Context())
	defer spans.end()
	// The receiver may block in Recv until this method has returned, so it is not waited for.
	received := make(chan error, 1)
	go func() {
		if err := s.receive(ctx, stream, ws, spans); err != nil { // io.EOF: no more requests, responses go on
			s.cfg.Metrics.failed(stream.Context(), "receive", "watch", err)
			received <- err
			cancel()
		}
	}()
	go s.tick(ctx, ws)
	err := s.send(ctx, stream, ws, spans)
	select {
	case err = <-received:
	default:
		if stream.Context().Err() != nil {
			err = stream.Context().Err()
		}
	}
	if errors.Is(err, context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

// tick makes quiet watches report their progress. Streams do not all do so at once.
func (s *WatchService) tick(ctx context.Context, ws *watch.Stream) {
	interval := s.cfg.ProgressInterval + time.Duration(rand.Int64N(int64(s.cfg.ProgressInterval)/10+1))
	t := s.cfg.Clock.NewTicker(interval)
	defer t.Stop()
	for {
		select {
		case <-t.C():
			ws.Tick()
		case <-ctx.Done():
			return
		}
	}
}

func (s *WatchService) receive(ctx context.Context, stream pb.Watch_WatchServer, ws *watch.Stream, spans *watchSpans) error {
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch r := req.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if r.CreateRequest != nil {
				spans.create(r.CreateRequest)
				err = s.create(ctx, stream.Context(), ws, r.CreateRequest)
			}
		case *pb.WatchRequest_CancelRequest:
			if r.CancelRequest != nil {
				err = ws.Cancel(ctx, r.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			if r.ProgressRequest != nil {
				ws.RequestProgress()
			}
		}
		if err != nil && !errors.Is(err, watch.ErrNotFound) {
			return err
		}
	}
}

// permitted says why the caller may not watch a range, or "".
func (s *WatchService) permitted(call context.Context, r *pb.WatchCreateRequest) (reason string) {
	reading, err := s.cfg.Access.read(call)
	if err == nil {
		err = reading.Range(r.Key, r.RangeEnd)
	}
	if err != nil {
		return s.cfg.Errors.GRPC(err).Error() // clients find out what to do from this text
	}
	return ""
}

// create adds a watch of the caller.
func (s *WatchService) create(ctx, call context.Context, ws *watch.Stream, r *pb.WatchCreateRequest) error {
	if len(r.Key) == 0 {
		r.Key = []byte{0}
	}
	if r.StartRevision < 0 {
		return ws.Reject(ctx, rpctypes.ErrCompacted.Error())
	}
	if reason := s.permitted(call, r); reason != "" {
		return ws.Reject(ctx, reason)
	}
	req := watch.Request{
		ID: r.WatchId, Key: r.Key, End: r.RangeEnd, StartRev: r.StartRevision,
		PrevKV: r.PrevKv, Fragment: r.Fragment, Progress: r.ProgressNotify,
	}
	if len(req.End) == 0 {
		req.End = nil
	}
	for _, f := range r.Filters {
		switch f {
		case pb.WatchCreateRequest_NOPUT:
			req.NoPut = true
		case pb.WatchCreateRequest_NODELETE:
			req.NoDelete = true
		}
	}
	return ws.Watch(ctx, req)
}

func (s *WatchService) send(ctx context.Context, stream pb.Watch_WatchServer, ws *watch.Stream, spans *watchSpans) error {
	for {
		r, err := ws.Next(ctx)
		if err != nil {
			return err
		}
		spans.answer(&r)
		start := s.cfg.Clock.Now()
		if err := s.respond(stream, &r); err != nil {
			return err
		}
		s.cfg.Metrics.watched(&r, s.cfg.Clock.Now().Sub(start))
	}
}

// wait waits for room for a response, for as long as that takes: the watch is only a cursor meanwhile.
func (s *WatchService) wait(ctx context.Context, r *room) error {
	for {
		if err := r.wait(ctx, s.cfg.Access.User(ctx)); err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func (s *WatchService) respond(stream pb.Watch_WatchServer, r *watch.Response) error {
	h := &pb.ResponseHeader{Revision: r.Rev}
	s.cfg.Header.FillIDs(h)
	enc, err := newWatchEncoder(h, r, s.cfg.Hub.Prev)
	if err != nil {
		return err
	}
	enc.room.budget = s.cfg.Budget
	defer enc.room.drop()
	limit := 0
	if r.Fragment {
		limit = s.cfg.MaxResponseBytes
	}
	for more := true; more; {
		var msg *encodedWatch
		if msg, more, err = enc.next(limit); err == errNoRoom {
			if err = s.wait(stream.Context(), &enc.room); err == nil {
				continue
			}
		}
		if err != nil {
			return err
		}
		if err := stream.SendMsg(msg); err != nil {
			s.cfg.Metrics.failed(stream.Context(), "send", "watch", err)
			return err
		}
	}
	return nil
}
