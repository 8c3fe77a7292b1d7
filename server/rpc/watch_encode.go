package rpc

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/mvcc/eventlog"
	"github.com/keelson-io/keelson/mvcc/watch"
)

// Field numbers of etcdserverpb.WatchResponse and mvccpb.Event.
const (
	watchFragment = 7
	watchEvents   = 11

	eventType = 1
	eventKV   = 2
	eventPrev = 3
)

// encodedWatch is an etcdserverpb.WatchResponse, put together from stored key-values.
type encodedWatch struct {
	data   mem.BufferSlice
	events int
	rev    int64
}

// MarshalWire is WireMarshaler.
func (e *encodedWatch) MarshalWire() (mem.BufferSlice, error) { return e.data, nil }

// watchEncoder encodes a response, in parts if need be.
type watchEncoder struct {
	head   []byte // everything but events
	rev    int64
	events []*eventlog.Event
	prev   [][]byte // of the events, if they are wanted
	room   room     // for the next part
}

// newWatchEncoder encodes what is not events. prev looks a key up as of a revision.
func newWatchEncoder(h *pb.ResponseHeader, r *watch.Response, prev func(key []byte, rev int64) []byte) (*watchEncoder, error) {
	head, err := proto.Marshal(&pb.WatchResponse{
		Header: h, WatchId: r.ID, Created: r.Created, Canceled: r.Canceled, CompactRevision: r.CompactRev, CancelReason: r.Reason,
	})
	if err != nil {
		return nil, err
	}
	e := &watchEncoder{head: head, rev: h.Revision, events: r.Events}
	if r.PrevKV {
		e.prev = make([][]byte, len(r.Events))
		for i, ev := range r.Events {
			if !ev.Create {
				e.prev[i] = prev(ev.Key, ev.Main-1)
			}
		}
	}
	return e, nil
}

// size is that of the event's message.
func (e *watchEncoder) size(i int) int {
	n := 1 + protowire.SizeBytes(len(e.events[i].KV))
	if e.events[i].Delete {
		n += 2
	}
	if e.prev != nil && e.prev[i] != nil {
		n += 1 + protowire.SizeBytes(len(e.prev[i]))
	}
	return n
}

// next encodes as many events as stay below limit (0: all), at least one, and says whether more follow.
// errNoRoom: it is to be called again when room has waited.
func (e *watchEncoder) next(limit int) (msg *encodedWatch, more bool, err error) {
	size, n := len(e.head), 0
	for n < len(e.events) {
		grown := size + 1 + protowire.SizeBytes(e.size(n))
		if limit > 0 && n > 0 && grown+2 >= limit {
			break
		}
		size, n = grown, n+1
	}
	more = n < len(e.events)
	if err := e.room.take(size + 2); err != nil {
		return nil, true, err
	}
	buf := e.room.buffer(size + 2)
	b := append((*buf)[:0], e.head...)
	if more {
		b = protowire.AppendVarint(protowire.AppendTag(b, watchFragment, protowire.VarintType), 1)
	}
	for i := range n {
		b = e.append(b, i)
	}
	*buf = b
	e.events = e.events[n:]
	if e.prev != nil {
		e.prev = e.prev[n:]
	}
	return &encodedWatch{e.room.wrap(buf), n, e.rev}, more, nil
}

func (e *watchEncoder) append(b []byte, i int) []byte {
	b = protowire.AppendTag(b, watchEvents, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(e.size(i)))
	if e.events[i].Delete {
		b = protowire.AppendVarint(protowire.AppendTag(b, eventType, protowire.VarintType), 1)
	}
	b = protowire.AppendBytes(protowire.AppendTag(b, eventKV, protowire.BytesType), e.events[i].KV)
	if e.prev != nil && e.prev[i] != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, eventPrev, protowire.BytesType), e.prev[i])
	}
	return b
}
