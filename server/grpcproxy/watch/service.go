package watch

import (
	"context"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// What members say of watches that they refuse.
const (
	emptyRange  = "mvcc: watcher range is empty"
	duplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// Service is etcdserverpb.Watch.
type Service struct {
	pb.UnsafeWatchServer
	hub   *Hub
	count func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)
}

// NewService makes the service of a Hub. count asks the members to count a range, which is without the hub's prefix, in the name
// of the client whose call the context belongs to.
func NewService(h *Hub, count func(context.Context, *pb.RangeRequest) (*pb.RangeResponse, error)) *Service {
	return &Service{hub: h, count: count}
}

// Watch serves one stream of a client's watches.
func (v *Service) Watch(in pb.Watch_WatchServer) error {
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	s, err := v.hub.join(upstream.CallerOf(ctx))
	if err != nil {
		return err
	}
	defer v.hub.leave(s)
	go func() { // Recv may block until this method has returned
		if err := v.receive(ctx, in, s); err != nil {
			s.end(err)
		}
	}()
	err = send(ctx, in, s)
	if errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return err
}

func send(ctx context.Context, out grpc.ServerStream, s *stream) error {
	for {
		it, err := s.next(ctx)
		if err != nil {
			return err
		}
		if it.frame != nil {
			if err := out.SendMsg(it.frame); err != nil {
				return err
			}
			continue
		}
		for _, f := range it.batch.frames(it.id, it.take, it.fragment) {
			if err := out.SendMsg(f); err != nil {
				return err
			}
		}
	}
}

// receive takes a client's requests. Responses go on after the last one.
func (v *Service) receive(ctx context.Context, in pb.Watch_WatchServer, s *stream) error {
	for {
		req, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.waitRoom(ctx); err != nil {
			return err
		}
		switch r := req.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			if r.CreateRequest != nil {
				if err := v.create(ctx, s, r.CreateRequest); err != nil {
					return err
				}
			}
		case *pb.WatchRequest_CancelRequest:
			if r.CancelRequest != nil {
				s.cancel(r.CancelRequest.WatchId)
			}
		case *pb.WatchRequest_ProgressRequest:
			s.askProgress()
		}
	}
}

// create makes a watcher. Errors end the client's stream.
func (v *Service) create(ctx context.Context, s *stream, r *pb.WatchCreateRequest) error {
	if len(r.Key) == 0 {
		r.Key = []byte{0}
	}
	count, err := v.count(ctx, &pb.RangeRequest{Key: r.Key, RangeEnd: r.RangeEnd, CountOnly: true, Limit: 1, Serializable: true})
	if status.Code(err) == codes.Unavailable || ctx.Err() != nil {
		return err
	}
	header := count.GetHeader()
	if header != nil {
		v.hub.Note(proto.CloneOf(header))
	}
	refuse := ""
	switch {
	case r.StartRevision < 0:
		refuse = rpctypes.ErrCompacted.Error()
	case err != nil:
		refuse = err.Error()
	case !valid(string(r.Key), string(r.RangeEnd)):
		refuse = emptyRange
	default:
		s.create(header, r)
		return nil
	}
	s.refuse(refuse)
	return nil
}

// valid says whether a range may hold a key.
func valid(key, end string) bool { return end == "" || end == "\x00" || end > key }

// refuse tells a client that there will be no watch.
func (s *stream) refuse(reason string) {
	s.push(item{frame: encodeControl(&pb.WatchResponse{
		Header: s.link.hub.newest(), WatchId: -1, Created: true, Canceled: true, CancelReason: reason,
	})})
}

// create makes a watcher; h is the members' header of just now.
func (s *stream) create(h *pb.ResponseHeader, r *pb.WatchCreateRequest) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.left {
		return
	}
	id := r.WatchId
	switch {
	case id == 0:
		for s.watchers[s.nextID] != nil {
			s.nextID++
		}
		id = s.nextID
		s.nextID++
	case s.watchers[id] != nil:
		s.refuse(duplicateID)
		return
	}
	w := &watcher{
		stream: s, id: id, span: span{string(r.Key), string(r.RangeEnd)}, next: r.StartRevision,
		take: selection{prev: r.PrevKv}, progress: r.ProgressNotify, fragment: r.Fragment,
	}
	for _, f := range r.Filters {
		w.take.noPut = w.take.noPut || f == pb.WatchCreateRequest_NOPUT
		w.take.noDelete = w.take.noDelete || f == pb.WatchCreateRequest_NODELETE
	}
	if w.next == 0 {
		// From now on. If a member that is ahead of the one that was asked has told of more already, from there on.
		for _, f := range l.groups[w.span] {
			if f.head && (f.prev || !w.take.prev) && f.next > h.Revision+1 && len(f.watchers) > 0 {
				h.Revision = max(h.Revision, min(f.next-1, l.hub.newest().Revision))
			}
		}
		w.next = h.Revision + 1
	}
	s.watchers[id] = w
	s.push(item{frame: encodeControl(&pb.WatchResponse{Header: h, WatchId: id, Created: true})})
	l.attach(w)
}

// cancel ends a watcher, if there is one with this id.
func (s *stream) cancel(id int64) {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	w := s.watchers[id]
	if w == nil {
		return
	}
	delete(s.watchers, id)
	l.detach(w)
	s.push(item{frame: encodeControl(&pb.WatchResponse{Header: l.hub.newest(), WatchId: id, Canceled: true})})
}

// askProgress lets a client know how far its watches are.
func (s *stream) askProgress() {
	l := s.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.left {
		return
	}
	s.wantsProgress = true
	l.start()
	l.wantProgress()
}
