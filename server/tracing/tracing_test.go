package tracing_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/keelson-io/keelson/server/config"
	"github.com/keelson-io/keelson/server/servertest"
	"github.com/keelson-io/keelson/server/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// collector takes spans, as an OpenTelemetry collector does.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	addr string

	mu    sync.Mutex
	about map[string]bool            // resources
	spans map[string][]*tracepb.Span // by trace, in hexadecimal
	scope map[*tracepb.Span]string   // of instrumentation, as name@version
}

func newCollector(t *testing.T) *collector {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &collector{addr: l.Addr().String(), about: map[string]bool{}, spans: map[string][]*tracepb.Span{}, scope: map[*tracepb.Span]string{}}
	g := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(g, c)
	done := make(chan struct{})
	go func() {
		_ = g.Serve(l)
		close(done)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-done
	})
	return c
}

// Export takes spans.
func (c *collector) Export(_ context.Context, r *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		c.about[attributes(rs.Resource.Attributes)] = true
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				id := hex.EncodeToString(s.TraceId)
				c.spans[id] = append(c.spans[id], s)
				c.scope[s] = ss.Scope.Name
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

func attributes(kvs []*commonpb.KeyValue) string {
	var out []string
	for _, kv := range kvs {
		value := kv.Value.String()
		if strings.Contains(kv.Key, "port") {
			value = "?"
		}
		out = append(out, kv.Key+"="+value)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// trace describes what was recorded of a trace: every span with its parent, the attributes, and its events.
func (c *collector) trace(id string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	names := map[string]string{}
	for _, s := range c.spans[id] {
		names[string(s.SpanId)] = s.Name
	}
	var out []string
	for _, s := range c.spans[id] {
		parent, ok := names[string(s.ParentSpanId)]
		if !ok {
			parent = "client " + hex.EncodeToString(s.ParentSpanId)
		}
		events := []string{}
		for _, e := range s.Events {
			events = append(events, e.Name+" "+attributes(e.Attributes))
		}
		out = append(out, fmt.Sprintf("%s: %s < %s, %s, status %s, %s, events %q", c.scope[s], s.Name, parent, s.Kind, s.Status, attributes(s.Attributes), events))
	}
	slices.Sort(out)
	return out
}

// traceID is that of a call.
func traceID(call int) string { return fmt.Sprintf("%031x1", call) }

// traced makes calls of a context part of a trace of the client's.
func traced(ctx context.Context, call int, sampled bool) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", fmt.Sprintf("00-%s-%016x-0%x", traceID(call), 5, map[bool]int{true: 1}[sampled]))
}

// calls are made on both kinds of members. They work on a fresh store.
func calls(conn *grpc.ClientConn) map[string]func(ctx context.Context) error {
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	put := func(key string) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte("secret")}}}
	}
	unary := func(_ any, err error) error { return err }
	return map[string]func(ctx context.Context) error{
		"0 put": func(ctx context.Context) error {
			return unary(kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("secret")}))
		},
		"1 range": func(ctx context.Context) error {
			return unary(kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("c"), Limit: 2, KeysOnly: true}))
		},
		"2 counted": func(ctx context.Context) error {
			return unary(kv.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 2, CountOnly: true, Serializable: true}))
		},
		"3 txn": func(ctx context.Context) error {
			return unary(kv.Txn(ctx, &pb.TxnRequest{
				Compare: []*pb.Compare{{Key: []byte("a"), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}},
				Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{}}}, put("x"), put("y")}, Failure: []*pb.RequestOp{put("z")},
			}))
		},
		"4 read txn": func(ctx context.Context) error {
			return unary(kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("x")}}}}}))
		},
		"5 delete": func(ctx context.Context) error {
			return unary(kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("x"), RangeEnd: []byte{0}}))
		},
		"6 compact": func(ctx context.Context) error {
			return unary(kv.Compact(ctx, &pb.CompactionRequest{Revision: 2, Physical: true}))
		},
		"7 grant": func(ctx context.Context) error {
			return unary(leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: 77, TTL: 100}))
		},
		"8 keep alive": func(ctx context.Context) error { return keepAlive(ctx, leases, 77, 78) },
		"9 revoke":     func(ctx context.Context) error { return unary(leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 77})) },
		"a no lease":   func(ctx context.Context) error { return unary(leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 79})) },
		"b time to live": func(ctx context.Context) error {
			return unary(leases.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 77}))
		},
		"c status": func(ctx context.Context) error {
			return unary(pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{}))
		},
		"d stream": func(ctx context.Context) error {
			s, err := kv.RangeStream(ctx, &pb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}})
			for err == nil {
				_, err = s.Recv()
			}
			return err
		},
		"e watch": func(ctx context.Context) error {
			return watch(ctx, conn, &pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte{0}, PrevKv: true})
		},
		"f all": func(ctx context.Context) error {
			return watch(ctx, conn, &pb.WatchCreateRequest{StartRevision: 3, ProgressNotify: true})
		},
		"g not there": func(ctx context.Context) error {
			return conn.Invoke(ctx, "/etcdserverpb.KV/Nothing", &pb.PutRequest{}, &pb.PutResponse{})
		},
	}
}

func keepAlive(ctx context.Context, leases pb.LeaseClient, ids ...int64) error {
	s, err := leases.LeaseKeepAlive(ctx)
	for _, id := range ids {
		if err == nil {
			err = s.Send(&pb.LeaseKeepAliveRequest{ID: id})
		}
		if err == nil {
			_, err = s.Recv()
		}
	}
	if err != nil {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	_, err = s.Recv()
	return err
}

// watch makes a watch, cancels it, and ends the stream.
func watch(ctx context.Context, conn *grpc.ClientConn, r *pb.WatchCreateRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}); err != nil {
		return err
	}
	created, err := s.Recv()
	if err != nil || !created.Created {
		return errors.Join(errors.New("no watch"), err)
	}
	if err := s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: created.WatchId}}}); err != nil {
		return err
	}
	for err == nil && !created.Canceled {
		created, err = s.Recv()
	}
	return err
}

// TestSpansAreEtcds makes the same calls of a member and of the real etcd, and compares the spans that they send.
func TestSpansAreEtcds(t *testing.T) {
	etcd := servertest.Oracle(t, "etcd")
	run := func(t *testing.T, start func(c *servertest.Cluster, m *servertest.Member)) *collector {
		to := newCollector(t)
		c := servertest.New(t, 1, append(servertest.Quick(), "--enable-distributed-tracing", "--distributed-tracing-address="+to.addr,
			"--distributed-tracing-service-name=store", "--distributed-tracing-instance-id=one")...)
		m := c.Members[0]
		start(c, m)
		c.WaitReady(m)
		conn := c.Dial(m)
		all := calls(conn)
		for i, name := range slices.Sorted(maps.Keys(all)) {
			ctx, cancel := context.WithTimeout(traced(t.Context(), i, true), time.Minute)
			err := all[name](ctx)
			cancel()
			if err != nil && !errors.Is(err, io.EOF) && name != "a no lease" && name != "g not there" {
				require.NoError(t, err, name)
			}
		}
		_, err := pb.NewKVClient(conn).Put(traced(t.Context(), 100, false), &pb.PutRequest{Key: []byte("a")})
		require.NoError(t, err)
		c.Stop(m)
		require.Empty(t, to.trace(traceID(100)), "the client does not record it")
		return to
	}
	var theirs, ours *collector
	t.Run("etcd", func(t *testing.T) {
		theirs = run(t, func(c *servertest.Cluster, m *servertest.Member) { c.RunProgram(m, etcd) })
	})
	t.Run("keelson", func(t *testing.T) { ours = run(t, func(c *servertest.Cluster, m *servertest.Member) { c.Run(m) }) })
	for i, name := range slices.Sorted(maps.Keys(calls(nil))) {
		require.Equal(t, name == "g not there", len(theirs.trace(traceID(i))) == 0, name)
		require.Equal(t, theirs.trace(traceID(i)), ours.trace(traceID(i)), name)
	}
	require.Equal(t, theirs.about, ours.about)
}

// TestSampling records all calls, or none, of clients that record nothing.
func TestSampling(t *testing.T) {
	for rate, want := range map[string]bool{"0": false, "1000000": true} {
		to := newCollector(t)
		c := servertest.New(t, 1, append(servertest.Quick(), "--enable-distributed-tracing", "--distributed-tracing-address="+to.addr, "--distributed-tracing-sampling-rate="+rate)...)
		c.Run(c.Members[0])
		c.WaitReady(c.Members[0])
		// What no text can hold must not keep the rest from being sent.
		_, err := pb.NewKVClient(c.Dial(c.Members[0])).Put(t.Context(), &pb.PutRequest{Key: []byte("\xff\xfe")})
		require.NoError(t, err)
		c.Stop(c.Members[0])
		var names []string
		for id := range to.spans {
			for _, s := range to.spans[id] {
				names = append(names, s.Name)
			}
		}
		if want {
			require.Contains(t, names, "put")
		} else {
			require.Empty(t, names)
		}
	}
}

// TestNoCollector stops in time when nobody takes spans, and says so in the log.
func TestNoCollector(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	tr, err := tracing.New(t.Context(), config.Tracing{Enabled: true, Address: servertest.FreeAddr(t), Service: "s", Rate: 1_000_000}, zap.New(core))
	require.NoError(t, err)
	_, err = tr.Spans().Unary(t.Context(), &pb.PutRequest{}, nil, func(context.Context, any) (any, error) { return nil, nil })
	require.NoError(t, err)
	_, span := tr.Spans().Tracer.Start(t.Context(), "x")
	span.End()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	tr.Close(ctx)
	require.NotZero(t, logs.Len())
	var none *tracing.Tracing
	none.Close(t.Context())
	require.Empty(t, none.ServerOptions())
	require.Nil(t, none.Spans())
}
