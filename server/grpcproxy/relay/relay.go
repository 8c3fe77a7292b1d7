// Package relay passes gRPC calls on as they are: messages are not decoded on their way.
//
// # Concurrency
//
// Everything may be used from any number of goroutines; a Frame belongs to one message.
package relay

import (
	"context"
	"errors"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // registers the codec that Codec falls back to
	"google.golang.org/grpc/mem"

	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// Frame is an encoded message. Sending it gives its bytes away.
type Frame struct{ mem.BufferSlice }

// Codec passes Frames through, and encodes other messages as gRPC's own codec does. Both ends of a proxy need it.
type Codec struct{ proto encoding.CodecV2 }

// NewCodec makes a Codec.
func NewCodec() Codec { return Codec{encoding.GetCodecV2("proto")} }

// Name is the content subtype.
func (Codec) Name() string { return "proto" }

// Marshal encodes a message.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*Frame); ok {
		return f.BufferSlice, nil
	}
	return c.proto.Marshal(v)
}

// Unmarshal decodes a message.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*Frame); ok {
		data.Ref() // who calls frees it when this returns
		f.BufferSlice = data
		return nil
	}
	return c.proto.Unmarshal(data, v)
}

// Relay passes calls on over a connection.
type Relay struct {
	Conn grpc.ClientConnInterface
	// Done is told of every unary call that was passed on and succeeded; may be nil.
	Done func(fullMethod string)
}

// Service is a service whose methods are passed on, but for those named in own, which stay as they are described. Passed on are
// unary calls and streams of a server's messages; others must be the caller's own.
func (r *Relay) Service(desc grpc.ServiceDesc, own ...string) *grpc.ServiceDesc {
	desc.Methods, desc.Streams = slices.Clone(desc.Methods), slices.Clone(desc.Streams)
	for i, m := range desc.Methods {
		if !slices.Contains(own, m.MethodName) {
			desc.Methods[i].Handler = r.unary("/" + desc.ServiceName + "/" + m.MethodName)
		}
	}
	for i, s := range desc.Streams {
		if !slices.Contains(own, s.StreamName) {
			desc.Streams[i].Handler = r.stream("/" + desc.ServiceName + "/" + s.StreamName)
		}
	}
	return &desc
}

func (r *Relay) unary(method string) grpc.MethodHandler {
	call := func(ctx context.Context, req any) (any, error) {
		out := new(Frame)
		if err := r.Conn.Invoke(upstream.Forward(ctx), method, req, out); err != nil {
			return nil, err
		}
		if r.Done != nil {
			r.Done(method)
		}
		return out, nil
	}
	return func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		in := new(Frame)
		if err := decode(in); err != nil {
			return nil, err
		}
		if interceptor == nil {
			return call(ctx, in)
		}
		return interceptor(ctx, in, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, call)
	}
}

func (r *Relay) stream(method string) grpc.StreamHandler {
	return func(_ any, to grpc.ServerStream) error {
		req := new(Frame)
		if err := to.RecvMsg(req); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(upstream.Forward(to.Context()))
		defer cancel()
		from, err := r.Conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
		if err != nil {
			return err
		}
		if err := from.SendMsg(req); err != nil && !errors.Is(err, io.EOF) { // io.EOF: RecvMsg says why
			return err
		}
		if err := from.CloseSend(); err != nil {
			return err
		}
		for {
			msg := new(Frame)
			if err := from.RecvMsg(msg); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := to.SendMsg(msg); err != nil {
				return err
			}
		}
	}
}
