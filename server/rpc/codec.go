package rpc

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec falls back to
	"google.golang.org/grpc/mem"
)

// WireMarshaler is a response that writes itself, because it is put together from bytes that are already encoded.
type WireMarshaler interface {
	MarshalWire() (mem.BufferSlice, error)
}

// Codec encodes protobuf messages as gRPC's own codec does, and WireMarshalers as they say. It is for
// grpc.ForceServerCodecV2.
type Codec struct {
	proto   encoding.CodecV2
	metrics *Metrics
}

// NewCodec makes a Codec that counts the bytes of messages.
func NewCodec(m *Metrics) Codec { return Codec{encoding.GetCodecV2("proto"), m} }

// Name is the content subtype.
func (c Codec) Name() string { return "proto" }

// Marshal encodes a message.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	var b mem.BufferSlice
	var err error
	if w, ok := v.(WireMarshaler); ok {
		b, err = w.MarshalWire()
	} else {
		b, err = c.proto.Marshal(v)
	}
	c.metrics.sent.Add(float64(b.Len()))
	return b, err
}

// Unmarshal decodes a message.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if _, ok := v.(WireMarshaler); ok {
		return fmt.Errorf("rpc: %T cannot be decoded", v)
	}
	c.metrics.received.Add(float64(data.Len()))
	return c.proto.Unmarshal(data, v)
}
