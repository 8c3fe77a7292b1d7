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
type Codec struct{ proto encoding.CodecV2 }

// NewCodec makes a Codec.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// Name is the content subtype.
func (c Codec) Name() string { return "proto" }

// Marshal encodes a message.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if w, ok := v.(WireMarshaler); ok {
		return w.MarshalWire()
	}
	return c.proto.Marshal(v)
}

// Unmarshal decodes a message.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if _, ok := v.(WireMarshaler); ok {
		return fmt.Errorf("rpc: %T cannot be decoded", v)
	}
	return c.proto.Unmarshal(data, v)
}
