package watch

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/grpcproxy/relay"
)

// Bounds of what waits to be sent to one client. Events are shared: the bytes are those of all that refer to them.
const (
	maxQueued      = 4096
	maxQueuedBytes = 32 << 20
)

// stream is one stream of watches of a client.
type stream struct {
	link *link

	// The link's.
	watchers      map[int64]*watcher
	nextID        int64
	wantsProgress bool
	progressed    int64 // what was told of progress last
	left          bool  // the client is gone; what it asked for last may still be under way

	mu     sync.Mutex
	queue  []item
	bytes  int
	behind bool // watchers have left their feeds because the queue was full
	err    error
	wake   chan struct{} // something is in the queue, or err is set
	room   chan struct{} // the queue has become short
}

// item is what is sent: a response, or events for one watcher.
type item struct {
	frame *relay.Frame

	batch    *batch
	id       int64
	take     selection
	fragment bool
}

func newStream(l *link) *stream {
	return &stream{link: l, watchers: map[int64]*watcher{}, wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// push adds to the queue. It refuses events when the queue is full.
func (s *stream) push(it item) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it.batch != nil {
		if len(s.queue) >= s.link.hub.cfg.Queue || s.bytes >= maxQueuedBytes {
			s.behind = true
			return false
		}
		s.bytes += it.batch.size
	}
	s.queue = append(s.queue, it)
	notify(s.wake)
	return true
}

// end makes next return err.
func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	notify(s.wake)
	notify(s.room)
}

// next waits for what is to be sent.
func (s *stream) next(ctx context.Context) (item, error) {
	for {
		s.mu.Lock()
		if s.err != nil {
			defer s.mu.Unlock()
			return item{}, s.err
		}
		if len(s.queue) > 0 {
			it := s.queue[0]
			s.queue[0] = item{}
			s.queue = s.queue[1:]
			if it.batch != nil {
				s.bytes -= it.batch.size
			}
			short := len(s.queue) <= s.link.hub.cfg.Queue/2 && s.bytes <= maxQueuedBytes/2
			back := short && s.behind
			if back {
				s.behind = false
			}
			s.mu.Unlock()
			if short {
				notify(s.room)
			}
			if back {
				s.link.comeBack(s)
			}
			return it, nil
		}
		s.mu.Unlock()
		select {
		case <-s.wake:
		case <-ctx.Done():
			return item{}, ctx.Err()
		}
	}
}

// waitRoom waits while a client does not read what it has asked for.
func (s *stream) waitRoom(ctx context.Context) error {
	for {
		s.mu.Lock()
		full, err := len(s.queue) >= s.link.hub.cfg.Queue, s.err
		s.mu.Unlock()
		if err != nil || !full {
			return err
		}
		select {
		case <-s.room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// comeBack gives the watchers of a client that reads again what they have not got.
func (l *link) comeBack(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range s.watchers {
		if w.feed == nil {
			l.attach(w)
		}
	}
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// encodeControl encodes a response without events.
func encodeControl(r *pb.WatchResponse) *relay.Frame {
	b, err := proto.Marshal(r)
	if err != nil {
		b, _ = proto.Marshal(&pb.WatchResponse{Header: r.Header, WatchId: r.WatchId, Created: r.Created, Canceled: r.Canceled}) // the reason is no UTF-8
	}
	return &relay.Frame{BufferSlice: mem.BufferSlice{mem.SliceBuffer(b)}}
}

// parseHeader decodes a header that was parsed before.
func parseHeader(b []byte) *pb.ResponseHeader {
	h := &pb.ResponseHeader{}
	_ = proto.Unmarshal(b, h)
	return h
}
