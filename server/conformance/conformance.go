// Package conformance holds the scripts that say how the API behaves, and runs them against any target: a member in this
// process, a cluster of three, or the real etcd as the oracle that wrote the expectations.
//
// A script (testdata/*.txt, datadriven) is a sequence of calls. A command names a method, its input is the request as
// protobuf text, its output the response or the error. What differs between targets by nature (ids, terms) is left out.
//
//	kv.Range
//	key: "a" range_end: "c"
//	----
//	header:{revision:3} kvs:{...} count:2
//
// `login NAME password=...` authenticates; a command with as=NAME is then made with that user's token.
//
// Streams have a name: `watch.open w`, `watch.send w` with a request as input, `watch.recv w n=2`, `watch.close w`;
// the same for `keepalive` and `observe`. A call that is not waited for is begun by `begin c kv.Range` and ended by `end c`.
// `http POST /v3/kv/range` and `ws.open`, `ws.send`, `ws.recv`, `ws.close` go to the JSON gateway (http.go). Expectations are written by the real etcd: run the tests with -rewrite -target=etcd.
//
// # Concurrency
//
// A Runner runs one script at a time.
package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/gorilla/websocket"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/keelson-io/keelson/api/v3electionpb" // registers the service
	_ "github.com/keelson-io/keelson/api/v3lockpb"     // registers the service
)

// Timeout bounds every call of a script.
const Timeout = 10 * time.Second

// Runner runs scripts over one connection.
type Runner struct {
	conn    *grpc.ClientConn
	addr    string // of HTTP
	streams map[string]*stream
	calls   map[string]chan outcome
	sockets map[string]*websocket.Conn
	tokens  map[string]string // of users
}

// outcome is what a call gave.
type outcome struct {
	out string
	err error
}

// NewRunner makes a Runner. addr is where HTTP is served.
func NewRunner(conn *grpc.ClientConn, addr string) *Runner {
	return &Runner{
		conn: conn, addr: addr, streams: map[string]*stream{}, calls: map[string]chan outcome{}, sockets: map[string]*websocket.Conn{},
		tokens: map[string]string{},
	}
}

// stream is an open stream of a script.
type stream struct {
	grpc.ClientStream
	cancel context.CancelFunc
	method protoreflect.MethodDescriptor
}

// services maps the short names in scripts to services.
var services = map[string]protoreflect.FullName{
	"kv": "etcdserverpb.KV", "lease": "etcdserverpb.Lease", "cluster": "etcdserverpb.Cluster",
	"maintenance": "etcdserverpb.Maintenance", "watch": "etcdserverpb.Watch",
	"lock": "v3lockpb.Lock", "election": "v3electionpb.Election",
	"auth": "etcdserverpb.Auth",
}

// streamMethods maps the names of stream commands to methods.
var streamMethods = map[string]string{"watch": "watch.Watch", "keepalive": "lease.LeaseKeepAlive", "observe": "election.Observe"}

// RunFile runs a script.
func (r *Runner) RunFile(t *testing.T, path string) {
	t.Helper()
	datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
		out, err := r.run(t, d)
		if err != nil {
			return describe(err) + "\n"
		}
		return out + "\n"
	})
	for name, s := range r.streams {
		s.cancel()
		delete(r.streams, name)
	}
}

func (r *Runner) run(t *testing.T, d *datadriven.TestData) (string, error) {
	kind, verb, _ := strings.Cut(d.Cmd, ".")
	switch {
	case d.Cmd == "sleep":
		var ms int
		d.ScanArgs(t, "ms", &ms)
		time.Sleep(time.Duration(ms) * time.Millisecond)
		return "ok", nil
	case d.Cmd == "login":
		return r.login(t, d)
	case streamMethods[kind] != "" && verb != "Watch":
		return r.stream(t, d, kind, verb)
	case d.Cmd == "http":
		return r.http(t, d)
	case kind == "ws":
		return r.webSocket(t, d, verb)
	case d.Cmd == "begin":
		done := make(chan outcome, 1)
		r.calls[d.CmdArgs[0].Key] = done
		begun, name := *d, d.CmdArgs[1].Key // d is that of the next command soon
		go func() {
			out, err := r.call(t, &begun, name)
			done <- outcome{out, err}
		}()
		return "ok", nil
	case d.Cmd == "end":
		o := <-r.calls[d.CmdArgs[0].Key]
		return o.out, o.err
	}
	return r.call(t, d, d.Cmd)
}

// call makes one call and waits for its outcome.
func (r *Runner) call(t *testing.T, d *datadriven.TestData, name string) (string, error) {
	m, err := method(name)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(r.caller(t, d), Timeout)
	defer cancel()
	if m.IsStreamingServer() {
		return r.serverStream(ctx, m, d.Input)
	}
	req, resp := message(m.Input()), message(m.Output())
	if err := prototext.Unmarshal([]byte(d.Input), req); err != nil {
		t.Fatalf("%s: %v", d.Pos, err)
	}
	if err := r.conn.Invoke(ctx, path(m), req, resp); err != nil {
		return "", err
	}
	return format(resp), nil
}

// login authenticates a user and keeps the token.
func (r *Runner) login(t *testing.T, d *datadriven.TestData) (string, error) {
	req := &pb.AuthenticateRequest{Name: d.CmdArgs[0].Key}
	d.MaybeScanArgs(t, "password", &req.Password)
	ctx, cancel := context.WithTimeout(context.Background(), Timeout)
	defer cancel()
	resp, err := pb.NewAuthClient(r.conn).Authenticate(ctx, req)
	if err == nil {
		r.tokens[req.Name] = resp.Token
	}
	return "ok", err
}

// caller is the context of calls of the user whom a command names.
func (r *Runner) caller(t *testing.T, d *datadriven.TestData) context.Context {
	name := ""
	if d.MaybeScanArgs(t, "as", &name); name == "" {
		return context.Background()
	}
	return WithToken(context.Background(), r.tokens[name])
}

// WithToken makes the calls of ctx those of the user who has a token.
func WithToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// serverStream prints all messages of a stream, one a line.
func (r *Runner) serverStream(ctx context.Context, m protoreflect.MethodDescriptor, input string) (string, error) {
	req := message(m.Input())
	if err := prototext.Unmarshal([]byte(input), req); err != nil {
		return "", err
	}
	cs, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, path(m))
	if err != nil {
		return "", err
	}
	if err := errors.Join(cs.SendMsg(req), cs.CloseSend()); err != nil {
		return "", err
	}
	var lines []string
	for {
		resp := message(m.Output())
		if err := cs.RecvMsg(resp); errors.Is(err, io.EOF) {
			return strings.Join(lines, "\n"), nil
		} else if err != nil {
			return "", err
		}
		lines = append(lines, format(resp))
	}
}

func (r *Runner) stream(t *testing.T, d *datadriven.TestData, kind, verb string) (string, error) {
	if len(d.CmdArgs) == 0 {
		t.Fatalf("%s: a stream command needs a name", d.Pos)
	}
	name := kind + " " + d.CmdArgs[0].Key
	if verb == "open" {
		m, err := method(streamMethods[kind])
		if err != nil {
			return "", err
		}
		ctx, cancel := context.WithCancel(r.caller(t, d))
		cs, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path(m))
		if err != nil {
			cancel()
			return "", err
		}
		r.streams[name] = &stream{cs, cancel, m}
		return "ok", nil
	}
	s := r.streams[name]
	if s == nil {
		t.Fatalf("%s: no stream %q", d.Pos, name)
	}
	switch verb {
	case "send":
		req := message(s.method.Input())
		if err := prototext.Unmarshal([]byte(d.Input), req); err != nil {
			t.Fatalf("%s: %v", d.Pos, err)
		}
		err := s.SendMsg(req)
		if err == nil && !s.method.IsStreamingClient() {
			err = s.CloseSend()
		}
		return "ok", err
	case "recv":
		n := 1
		d.MaybeScanArgs(t, "n", &n)
		return s.recv(n)
	case "close":
		s.cancel()
		delete(r.streams, name)
		return "ok", nil
	}
	t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
	return "", nil
}

// recv prints n messages, or "nothing" if there is none within half a second and n is 0.
func (s *stream) recv(n int) (string, error) {
	timer := time.AfterFunc(Timeout, s.cancel)
	defer timer.Stop()
	var lines []string
	for range n {
		resp := message(s.method.Output())
		if err := s.RecvMsg(resp); err != nil {
			return "", err
		}
		lines = append(lines, format(resp))
	}
	return strings.Join(lines, "\n"), nil
}

func method(cmd string) (protoreflect.MethodDescriptor, error) {
	service, name, _ := strings.Cut(cmd, ".")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(services[service])
	if err != nil {
		return nil, fmt.Errorf("unknown service in %q", cmd)
	}
	m := d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(name))
	if m == nil {
		return nil, fmt.Errorf("unknown method in %q", cmd)
	}
	return m, nil
}

func path(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

func message(d protoreflect.MessageDescriptor) proto.Message {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err) // the descriptors come from the same registry
	}
	return mt.New().Interface()
}

var spaces = regexp.MustCompile(`\s+`)

// format prints a message on one line, without what differs between targets.
func format(m proto.Message) string {
	scrub(m.ProtoReflect())
	s := strings.TrimSpace(spaces.ReplaceAllString(prototext.MarshalOptions{}.Format(m), " "))
	if s == "" {
		return "{}"
	}
	return s
}

// scrub clears ids and terms of headers, and sizes and indexes of the status.
func scrub(m protoreflect.Message) {
	switch v := m.Interface().(type) {
	case *pb.ResponseHeader:
		v.ClusterId, v.MemberId, v.RaftTerm = 0, 0, 0
	case *pb.StatusResponse:
		v.Leader, v.DbSize, v.DbSizeInUse, v.RaftIndex, v.RaftAppliedIndex, v.RaftTerm = 0, 0, 0, 0, 0, 0
	case *pb.LeaseTimeToLiveResponse:
		v.TTL = min(v.TTL, 1) // it runs down
		slices.SortFunc(v.Keys, bytes.Compare)
	case *pb.Member:
		v.ID, v.Name, v.PeerURLs, v.ClientURLs = 0, "", nil, nil
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			for i := range v.List().Len() {
				scrub(v.List().Get(i).Message())
			}
		default:
			scrub(v.Message())
		}
		return true
	})
}

func describe(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return "error: " + err.Error()
	}
	return fmt.Sprintf("error %s: %s", s.Code(), s.Message())
}
