package rpc

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/server/apply"
)

// Field numbers of etcdserverpb.RangeResponse.
const (
	rangeHeader = 1
	rangeKVs    = 2
	rangeMore   = 3
	rangeCount  = 4
)

// encodedRange is an etcdserverpb.RangeResponse, encoded from stored key-values without decoding them.
type encodedRange struct {
	data  mem.BufferSlice
	count int64
	keys  int
	rev   int64 // of the header, 0 if there is none
	size  int   // bytes
}

// MarshalWire is WireMarshaler.
func (e *encodedRange) MarshalWire() (mem.BufferSlice, error) { return e.data, nil }

// rangeInStream is the field of etcdserverpb.RangeStreamResponse that holds the part.
const rangeInStream = 1

// encodeRange copies the reply, whose bytes are the reader's, into a buffer that lives on. Without a header it is a part of a
// stream that others follow; streamed: it goes on a stream. errNoRoom.
func encodeRange(h *pb.ResponseHeader, r *apply.RangeReply, streamed bool, room *room) (*encodedRange, error) {
	var header []byte
	var err error
	if h != nil {
		if header, err = proto.Marshal(h); err != nil {
			return nil, err
		}
	}
	kvs := r.KVs
	if r.KeysOnly {
		kvs = withoutValues(kvs)
	}
	inner := sizeOfRange(header, kvs, r)
	size := inner
	if streamed {
		size = protowire.SizeTag(rangeInStream) + protowire.SizeBytes(inner)
	}
	if err := room.take(size); err != nil {
		return nil, err
	}
	buf := room.buffer(size)
	b := (*buf)[:0]
	if streamed {
		b = protowire.AppendVarint(protowire.AppendTag(b, rangeInStream, protowire.BytesType), uint64(inner))
	}
	if header != nil {
		b = protowire.AppendBytes(protowire.AppendTag(b, rangeHeader, protowire.BytesType), header)
	}
	for _, kv := range kvs {
		b = protowire.AppendBytes(protowire.AppendTag(b, rangeKVs, protowire.BytesType), kv)
	}
	if r.More {
		b = protowire.AppendVarint(protowire.AppendTag(b, rangeMore, protowire.VarintType), 1)
	}
	if r.Count != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, rangeCount, protowire.VarintType), uint64(r.Count))
	}
	*buf = b
	return &encodedRange{room.wrap(buf), r.Count, len(kvs), h.GetRevision(), len(b)}, nil
}

// sizeOfRange is the size of a RangeResponse in bytes.
func sizeOfRange(header []byte, kvs []mvcc.KV, r *apply.RangeReply) int {
	size := 0
	if header != nil {
		size = protowire.SizeTag(rangeHeader) + protowire.SizeBytes(len(header))
	}
	for _, kv := range kvs {
		size += protowire.SizeTag(rangeKVs) + protowire.SizeBytes(len(kv))
	}
	if r.More {
		size += protowire.SizeTag(rangeMore) + 1
	}
	if r.Count != 0 {
		size += protowire.SizeTag(rangeCount) + protowire.SizeVarint(uint64(r.Count))
	}
	return size
}

func withoutValues(kvs []mvcc.KV) []mvcc.KV {
	out := make([]mvcc.KV, len(kvs))
	for i, kv := range kvs {
		f := kv.Parse()
		f.Value = nil
		out[i] = f.Marshal()
	}
	return out
}
