package watch

import (
	"errors"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/grpcproxy/namespace"
	"github.com/keelson-io/keelson/server/grpcproxy/relay"
)

// Field numbers of etcdserverpb.WatchResponse, mvccpb.Event and mvccpb.KeyValue.
const (
	respHeader   = 1
	respID       = 2
	respCreated  = 3
	respCanceled = 4
	respCompact  = 5
	respReason   = 6
	respFragment = 7
	respEvents   = 11

	eventType = 1
	eventKV   = 2
	eventPrev = 3

	kvModRevision = 3
)

// response is a WatchResponse whose events are left encoded.
type response struct {
	header            []byte // a ResponseHeader
	rev               int64  // in it
	id                int64
	created, canceled bool
	compact           int64
	reason            string
	fragment          bool
	events            []event
}

// event is an encoded mvccpb.Event.
type event struct {
	raw  []byte
	rev  int64
	del  bool
	prev bool // it has a previous value
}

var errMalformed = errors.New("a malformed message")

// fields calls f with the number and the value of each field of a message: v is that of a number, b that of bytes, nil otherwise.
func fields(msg []byte, f func(n protowire.Number, v uint64, b []byte) error) error {
	for len(msg) > 0 {
		n, typ, size := protowire.ConsumeTag(msg)
		if size < 0 {
			return errMalformed
		}
		msg = msg[size:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, size = protowire.ConsumeVarint(msg)
		case protowire.BytesType:
			b, size = protowire.ConsumeBytes(msg)
		default:
			size = protowire.ConsumeFieldValue(n, typ, msg)
		}
		if size < 0 {
			return errMalformed
		}
		if typ == protowire.VarintType || typ == protowire.BytesType {
			if err := f(n, v, b); err != nil {
				return err
			}
		}
		msg = msg[size:]
	}
	return nil
}

// parse reads a WatchResponse. The result refers to msg. Keys lose the prefix.
func parse(msg []byte, p namespace.Prefix) (response, error) {
	var r response
	err := fields(msg, func(n protowire.Number, v uint64, b []byte) error {
		if isBytes := n == respHeader || n == respReason || n == respEvents; isBytes != (b != nil) {
			return nil // unknown
		}
		switch n {
		case respHeader:
			var h pb.ResponseHeader
			if err := proto.Unmarshal(b, &h); err != nil {
				return err
			}
			r.header, r.rev = b, h.Revision
		case respID:
			r.id = int64(v)
		case respCreated:
			r.created = v != 0
		case respCanceled:
			r.canceled = v != 0
		case respCompact:
			r.compact = int64(v)
		case respReason:
			r.reason = string(b)
		case respFragment:
			r.fragment = v != 0
		case respEvents:
			e, err := parseEvent(b)
			if err == nil && p != "" {
				e, err = strip(e, p)
			}
			r.events = append(r.events, e)
			return err
		}
		return nil
	})
	return r, err
}

func parseEvent(msg []byte) (event, error) {
	e := event{raw: msg}
	err := fields(msg, func(n protowire.Number, v uint64, b []byte) error {
		if (n == eventType) != (b == nil) {
			return nil // unknown
		}
		switch n {
		case eventType:
			e.del = v == uint64(mvccpb.Event_DELETE)
		case eventKV:
			return fields(b, func(n protowire.Number, v uint64, b []byte) error {
				if n == kvModRevision && b == nil {
					e.rev = int64(v)
				}
				return nil
			})
		case eventPrev:
			e.prev = true
		}
		return nil
	})
	return e, err
}

// strip takes a prefix off the keys of an event.
func strip(e event, p namespace.Prefix) (event, error) {
	var ev mvccpb.Event
	if err := proto.Unmarshal(e.raw, &ev); err != nil {
		return e, err
	}
	p.Pair(ev.Kv)
	p.Pair(ev.PrevKv)
	var err error
	e.raw, err = proto.Marshal(&ev)
	return e, err
}

// withoutPrev drops the previous value of an event.
func withoutPrev(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for rest := raw; len(rest) > 0; {
		n, _, size := protowire.ConsumeField(rest)
		if size < 0 {
			return raw // it was parsed before
		}
		if n != eventPrev {
			out = append(out, rest[:size]...)
		}
		rest = rest[size:]
	}
	return out
}

// selection is what a watcher takes of events.
type selection struct {
	from            int64 // the lowest revision
	prev            bool
	noPut, noDelete bool
}

func (s selection) takes(e event) bool {
	return e.rev >= s.from && !(e.del && s.noDelete) && !(!e.del && s.noPut)
}

// batch is what a feed delivered at once: events of whole revisions, encoded once for all watchers that take the same of them.
type batch struct {
	header []byte
	events []event
	size   int // bytes of the events

	mu      sync.Mutex
	encoded map[selection]encoded
}

// encoded is a run of events, each as the field of a response.
type encoded struct {
	buf  []byte
	ends []int // of the events, in buf
}

func newBatch(header []byte, events []event) *batch {
	b := &batch{header: header, events: events, encoded: map[selection]encoded{}}
	for _, e := range events {
		b.size += len(e.raw)
	}
	return b
}

// last is the revision of the last event.
func (b *batch) last() int64 { return b.events[len(b.events)-1].rev }

// any says whether a selection takes any event.
func (b *batch) any(s selection) bool {
	for _, e := range b.events {
		if s.takes(e) {
			return true
		}
	}
	return false
}

// encode returns what a selection takes.
func (b *batch) encode(s selection) encoded {
	if s.from <= b.events[0].rev {
		s.from = 0 // so that all share it
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	out, ok := b.encoded[s]
	if ok {
		return out
	}
	out.buf = make([]byte, 0, b.size+8*len(b.events))
	for _, e := range b.events {
		if !s.takes(e) {
			continue
		}
		raw := e.raw
		if e.prev && !s.prev {
			raw = withoutPrev(raw)
		}
		out.buf = protowire.AppendBytes(protowire.AppendTag(out.buf, respEvents, protowire.BytesType), raw)
		out.ends = append(out.ends, len(out.buf))
	}
	b.encoded[s] = out
	return out
}

// fragmentBytes is how large a response may become for a watcher that takes fragments.
const fragmentBytes = 2 << 20

// frames are the responses of a batch to one watcher.
func (b *batch) frames(id int64, s selection, fragment bool) []*relay.Frame {
	var out []*relay.Frame
	e := b.encode(s)
	for start, i := 0, 0; i < len(e.ends); i++ {
		last := i == len(e.ends)-1
		if !last && (!fragment || e.ends[i+1]-start < fragmentBytes) {
			continue
		}
		head := protowire.AppendBytes(protowire.AppendTag(nil, respHeader, protowire.BytesType), b.header)
		if id != 0 {
			head = protowire.AppendVarint(protowire.AppendTag(head, respID, protowire.VarintType), uint64(id))
		}
		if !last {
			head = protowire.AppendVarint(protowire.AppendTag(head, respFragment, protowire.VarintType), 1)
		}
		out = append(out, &relay.Frame{BufferSlice: mem.BufferSlice{mem.SliceBuffer(head), mem.SliceBuffer(e.buf[start:e.ends[i]])}})
		start = e.ends[i]
	}
	return out
}
