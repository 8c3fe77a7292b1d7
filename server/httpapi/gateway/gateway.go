// Package gateway is the JSON gateway: etcd's gRPC services as POST requests under /v3/, and those that etcd has not under
// /keelson/v1/.
//
// It is a gRPC client of the member's own server, over a connection that never leaves the process, so that all checks of a gRPC
// call hold for it too. Bytes are base64, 64-bit numbers are strings, fields have their names of the .proto files. A stream is a
// sequence of JSON values in the body of request and response, or in the messages of a WebSocket.
//
// A value is bounded before it is decoded. /v3beta/ means /v3/.
//
// # Concurrency
//
// The handler is called concurrently. Close ends the calls under way.
package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/keelson-io/keelson/api/insightpb"
	"github.com/keelson-io/keelson/api/v3electionpb"
	"github.com/keelson-io/keelson/api/v3lockpb"
	"github.com/keelson-io/keelson/server/listen"
)

// Gateway is described in the package comment. It is an http.Handler.
type Gateway struct {
	mux      *runtime.ServeMux
	listener *listen.Pipe
	conn     *grpc.ClientConn
	maxBytes int64
}

// New makes a gateway that decodes values of at most maxBytes bytes of JSON. Calls go to whoever serves Listener.
func New(maxBytes int64) (*Gateway, error) {
	g := &Gateway{listener: listen.NewPipe(), maxBytes: maxBytes}
	var err error
	if g.conn, err = grpc.NewClient("passthrough:///gateway",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.listener.Dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponseBytes)),
	); err != nil {
		return nil, err
	}
	g.mux = runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, bounded{
		Marshaler: &runtime.HTTPBodyMarshaler{Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}},
		maxBytes: maxBytes,
	}))
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler, gw.RegisterWatchHandler, gw.RegisterLeaseHandler, gw.RegisterClusterHandler,
		gw.RegisterMaintenanceHandler, gw.RegisterAuthHandler,
		v3lockpb.RegisterLockHandler, v3electionpb.RegisterElectionHandler, insightpb.RegisterInsightHandler,
	} {
		if err := register(context.Background(), g.mux, g.conn); err != nil {
			return nil, errors.Join(err, g.conn.Close())
		}
	}
	return g, nil
}

// maxResponseBytes bounds an answer of the member, as etcd's gateway does.
const maxResponseBytes = 1<<31 - 1

// Listener is where the gRPC server gets the gateway's connection.
func (g *Gateway) Listener() net.Listener { return g.listener }

// Close ends the gateway.
func (g *Gateway) Close() error { return errors.Join(g.conn.Close(), g.listener.Close()) }

// Register adds the gateway's paths to a mux.
func (g *Gateway) Register(mux *http.ServeMux) {
	mux.Handle("/v3/", g)
	mux.Handle("/keelson/", g)
	mux.HandleFunc("/v3beta/", func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/v3/" + strings.TrimPrefix(r.URL.Path, "/v3beta/")
		g.ServeHTTP(w, r)
	})
}

// ServeHTTP serves a call or a WebSocket of one.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isWebSocket(r) {
		g.serveWebSocket(w, r)
		return
	}
	g.mux.ServeHTTP(w, r)
}

// bounded decodes no value that is longer than maxBytes.
type bounded struct {
	runtime.Marshaler
	maxBytes int64
}

// NewDecoder is runtime.Marshaler's.
func (m bounded) NewDecoder(r io.Reader) runtime.Decoder {
	b := &budget{from: r}
	d := m.Marshaler.NewDecoder(b)
	return runtime.DecoderFunc(func(v any) error {
		b.left = m.maxBytes
		return d.Decode(v)
	})
}

var errTooLarge = errors.New("request is too large")

// budget reads no more than what is left.
type budget struct {
	from io.Reader
	left int64
}

// Read is io.Reader's.
func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLarge
	}
	n, err := b.from.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
