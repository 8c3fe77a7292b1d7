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
	size  int // bytes
}

// MarshalWire is WireMarshaler.
func (e *encodedRange) MarshalWire() (mem.BufferSlice, error) { return e.data, nil }

// encodeRange copies the reply, whose bytes are the reader's, into a buffer that lives on.
func encodeRange(h *pb.ResponseHeader, r *apply.RangeReply) (*encodedRange, error) {
	header, err := proto.Marshal(h)
	if err != nil {
		return nil, err
	}
	kvs := r.KVs
	if r.KeysOnly {
		kvs = withoutValues(kvs)
	}
	size := protowire.SizeTag(rangeHeader) + protowire.SizeBytes(len(header)) + 2 + 11
	for _, kv := range kvs {
		size += 1 + protowire.SizeBytes(len(kv))
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	b := protowire.AppendBytes(protowire.AppendTag((*buf)[:0], rangeHeader, protowire.BytesType), header)
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
	return &encodedRange{mem.BufferSlice{mem.NewBuffer(buf, pool)}, r.Count, len(b)}, nil
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
