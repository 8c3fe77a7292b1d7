package watch

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/grpcproxy/relay"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
	"github.com/keelson-io/keelson/server/listen"
	"github.com/keelson-io/keelson/server/servertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// breaking is a connection whose streams can be broken.
type breaking struct {
	*grpc.ClientConn
	mu      sync.Mutex
	cancels []context.CancelFunc
	opened  int
}

// NewStream opens a stream.
func (b *breaking) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	b.mu.Lock()
	b.cancels = append(b.cancels, cancel)
	b.opened++
	b.mu.Unlock()
	return b.ClientConn.NewStream(ctx, desc, method, append(opts, grpc.ForceCodecV2(relay.NewCodec()))...)
}

func (b *breaking) breakAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, cancel := range b.cancels {
		cancel()
	}
	b.cancels = nil
}

// bench is a hub between a member and clients.
type bench struct {
	hub     *Hub
	member  *grpc.ClientConn
	up      *breaking
	clients *grpc.ClientConn
}

func newBench(t *testing.T, queue int) *bench {
	c := servertest.Start(t, 1)
	b := &bench{member: c.Dial(c.Members[0])}
	b.up = &breaking{ClientConn: b.member}
	b.hub = New(Config{Conn: b.up, Queue: queue, Metrics: NewMetrics(prometheus.NewRegistry()), Clock: clock.Real, Logger: zap.NewNop()})
	kv := pb.NewKVClient(b.member)
	g := grpc.NewServer(grpc.ForceServerCodecV2(relay.NewCodec()))
	pb.RegisterWatchServer(g, NewService(b.hub, func(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
		return kv.Range(upstream.Forward(ctx), r)
	}))
	pipe := listen.NewPipe()
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(pipe) }()
	var err error
	b.clients, err = grpc.NewClient("passthrough:///hub", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64<<10), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.Dial(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() {
		b.hub.Close()
		g.Stop()
		<-served
		_ = b.clients.Close()
		b.up.breakAll()
	})
	return b
}

// open opens a client's stream that ends with the test.
func (b *bench) open(t *testing.T, md ...string) *client {
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), md...))
	t.Cleanup(cancel)
	s, err := pb.NewWatchClient(b.clients).Watch(ctx)
	require.NoError(t, err)
	return &client{t: t, s: s, cancel: cancel}
}

type client struct {
	t      *testing.T
	s      pb.Watch_WatchClient
	cancel context.CancelFunc
}

func (c *client) create(r *pb.WatchCreateRequest) *pb.WatchResponse {
	c.t.Helper()
	c.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	resp := c.recv()
	require.True(c.t, resp.Created)
	return resp
}

func (c *client) send(r *pb.WatchRequest) {
	c.t.Helper()
	require.NoError(c.t, c.s.Send(r))
}

func (c *client) askProgress() {
	c.t.Helper()
	c.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}

// recv waits for a response; the test fails if there is none for a long time.
func (c *client) recv() *pb.WatchResponse {
	c.t.Helper()
	timer := time.AfterFunc(30*time.Second, c.cancel)
	defer timer.Stop()
	resp, err := c.s.Recv()
	require.NoError(c.t, err)
	return resp
}

func (b *bench) put(t *testing.T, key, value string) int64 {
	t.Helper()
	resp, err := pb.NewKVClient(b.member).Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	require.NoError(t, err)
	return resp.Header.Revision
}

// spans are the ranges of the model.
var spans = []span{{"k0", ""}, {"k2", "k5"}, {"k", "l"}, {"\x00", "\x00"}, {"k5", "\x00"}}

func (s span) has(key string) bool {
	switch s.end {
	case "":
		return key == s.key
	case "\x00":
		return key >= s.key
	}
	return key >= s.key && key < s.end
}

// modelWatch is a watch of a client, and what has come for it.
type modelWatch struct {
	span   span
	start  int64
	r      *pb.WatchCreateRequest
	events []*mvccpb.Event
	held   []*mvccpb.Event // of fragments
}

// wants is what a watch is to get of all events.
func (w *modelWatch) wants(all []*mvccpb.Event) (out []*mvccpb.Event) {
	for _, ev := range all {
		put := ev.Type == mvccpb.Event_PUT
		if ev.Kv.ModRevision < w.start || !w.span.has(string(ev.Kv.Key)) || put && slices.Contains(w.r.Filters, pb.WatchCreateRequest_NOPUT) ||
			!put && slices.Contains(w.r.Filters, pb.WatchCreateRequest_NODELETE) {
			continue
		}
		ev = proto.CloneOf(ev)
		if !w.r.PrevKv {
			ev.PrevKv = nil
		}
		out = append(out, ev)
	}
	return out
}

// modelStream is a stream of a client with its watches.
type modelStream struct {
	*client
	watches map[int64]*modelWatch
	last    map[int64]int64 // the highest revision that was told for a watch
}

// take takes a response.
func (m *modelStream) take(resp *pb.WatchResponse) {
	require.False(m.t, resp.Canceled, resp.CancelReason)
	w := m.watches[resp.WatchId]
	if resp.WatchId == -1 {
		return
	}
	require.NotNil(m.t, w, "watch %d", resp.WatchId)
	if len(resp.Events) == 0 {
		require.True(m.t, w.r.ProgressNotify)
		m.last[resp.WatchId] = max(m.last[resp.WatchId], resp.Header.Revision)
		return
	}
	require.Greater(m.t, resp.Events[0].Kv.ModRevision, m.last[resp.WatchId], "an event after the word that there is none, or not whole")
	if w.held = append(w.held, resp.Events...); resp.Fragment {
		require.True(m.t, w.r.Fragment)
		return
	}
	w.events = append(w.events, w.held...)
	m.last[resp.WatchId] = w.held[len(w.held)-1].Kv.ModRevision
	w.held = nil
}

// TestModel lets clients watch while keys are written, streams to the member break, and some clients do not read for a while.
// Each watch gets what the member has told in all, once, in order.
func TestModel(t *testing.T) {
	const seed, writes, streams = 1, 1000, 8
	rnd := rand.New(rand.NewPCG(seed, seed))
	b := newBench(t, 64)
	kv := pb.NewKVClient(b.member)
	value := make([]byte, 1024)
	write := func() int64 {
		key := func() []byte { return []byte(fmt.Sprint("k", rnd.IntN(10))) }
		op := func() *pb.RequestOp {
			if rnd.IntN(3) == 0 {
				return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key()}}}
			}
			return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key(), Value: value}}}
		}
		first, ops := op(), []*pb.RequestOp{}
		seen := map[string]bool{}
		for range 1 + rnd.IntN(3) {
			k := string(first.GetRequestPut().GetKey()) + string(first.GetRequestDeleteRange().GetKey())
			if !seen[k] {
				ops, seen[k] = append(ops, first), true
			}
			first = op()
		}
		resp, err := kv.Txn(t.Context(), &pb.TxnRequest{Success: ops})
		require.NoError(t, err)
		return resp.Header.Revision
	}
	rev := b.put(t, "k0", "first")
	for range 50 {
		rev = write()
	}
	paused := make(chan struct{})
	var readers sync.WaitGroup
	var all []*modelStream
	finish := make(chan struct{})
	for i := range streams {
		m := &modelStream{client: b.open(t), watches: map[int64]*modelWatch{}, last: map[int64]int64{}}
		all = append(all, m)
		for range 1 + rnd.IntN(8) {
			s := spans[rnd.IntN(len(spans))]
			r := &pb.WatchCreateRequest{
				Key: []byte(s.key), RangeEnd: []byte(s.end), PrevKv: rnd.IntN(2) == 0, Fragment: rnd.IntN(2) == 0, ProgressNotify: rnd.IntN(2) == 0,
			}
			switch rnd.IntN(4) {
			case 0:
				r.StartRevision = 1 + rnd.Int64N(rev)
			case 1:
				r.StartRevision = rev + rnd.Int64N(writes/2)
			}
			switch rnd.IntN(4) {
			case 0:
				r.Filters = append(r.Filters, pb.WatchCreateRequest_NOPUT)
			case 1:
				r.Filters = append(r.Filters, pb.WatchCreateRequest_NODELETE)
			}
			m.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
			for {
				resp := m.recv()
				if !resp.Created {
					m.take(resp)
					continue
				}
				w := &modelWatch{span: s, start: r.StartRevision, r: r}
				if w.start == 0 {
					w.start = resp.Header.Revision + 1
				}
				m.watches[resp.WatchId] = w
				break
			}
			rev = write()
		}
		readers.Go(func() {
			if i%3 == 0 {
				<-paused
			}
			for {
				resp, err := m.s.Recv()
				if err != nil {
					return
				}
				if m.take(resp); resp.WatchId == -1 {
					select {
					case <-finish:
						return
					default:
					}
				}
			}
		})
	}
	for i := range writes {
		rev = write()
		switch i {
		case writes / 4, writes / 2, writes/2 + 3:
			b.up.breakAll()
		case writes * 3 / 4:
			close(paused)
		}
	}
	truth := b.history(t, rev)
	close(finish)
	for _, m := range all {
		m.askProgress()
	}
	readers.Wait()
	n := 0
	for i, m := range all {
		for id, w := range m.watches {
			want := w.wants(truth)
			n += len(want)
			require.Equal(t, len(want), len(w.events), "stream %d watch %d of %v from %d", i, id, w.span, w.start)
			for j := range want {
				require.True(t, proto.Equal(want[j], w.events[j]), "stream %d watch %d: %v is not %v", i, id, w.events[j], want[j])
			}
		}
	}
	require.Greater(t, n, 3000)
	require.Positive(t, testutil.ToFloat64(b.hub.cfg.Metrics.lagging), "nobody was slow")
	require.Positive(t, testutil.ToFloat64(b.hub.cfg.Metrics.resumed), "nothing was resumed")
	require.LessOrEqual(t, testutil.ToFloat64(b.hub.cfg.Metrics.feeds), float64(2*len(spans)+streams*8/4), "feeds did not become one")
	t.Log(n, "events;", testutil.ToFloat64(b.hub.cfg.Metrics.lagging), "times slow;", testutil.ToFloat64(b.hub.cfg.Metrics.resumed), "resumed;",
		testutil.ToFloat64(b.hub.cfg.Metrics.events), "shared")
	for _, m := range all {
		m.cancel()
	}
	require.Eventually(t, func() bool {
		return testutil.ToFloat64(b.hub.cfg.Metrics.feeds) == 0 && testutil.ToFloat64(b.hub.cfg.Metrics.watchers) == 0
	}, 30*time.Second, 5*time.Millisecond)
}

// history is what the member tells of all keys up to a revision.
func (b *bench) history(t *testing.T, rev int64) (out []*mvccpb.Event) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := pb.NewWatchClient(b.member).Watch(ctx)
	require.NoError(t, err)
	c := &client{t: t, s: s, cancel: cancel}
	c.create(&pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 1, PrevKv: true})
	for len(out) == 0 || out[len(out)-1].Kv.ModRevision < rev {
		out = append(out, c.recv().Events...)
	}
	return out
}

// TestCoalescing counts the watches at the member.
func TestCoalescing(t *testing.T) {
	b := newBench(t, 0)
	first := b.put(t, "a", "1")
	feeds := func() float64 { return testutil.ToFloat64(b.hub.cfg.Metrics.feeds) }
	var clients []*client
	for range 10 {
		c := b.open(t)
		for j := range 3 {
			r := &pb.WatchCreateRequest{Key: []byte("a")}
			if j == 2 {
				r.StartRevision = first // these catch up, and join the others
			}
			require.Equal(t, int64(j), c.create(r).WatchId)
			if j == 2 {
				require.Len(t, c.recv().Events, 1)
			}
		}
		clients = append(clients, c)
	}
	require.Eventually(t, func() bool { return feeds() == 1 }, 30*time.Second, 5*time.Millisecond)
	require.Equal(t, 29.0, testutil.ToFloat64(b.hub.cfg.Metrics.watchers))
	before := testutil.ToFloat64(b.hub.cfg.Metrics.events)
	rev := b.put(t, "a", "2")
	for _, c := range clients {
		for range 3 {
			resp := c.recv()
			require.Equal(t, rev, resp.Header.Revision)
			require.Len(t, resp.Events, 1)
			require.NotZero(t, resp.Header.ClusterId)
		}
	}
	require.Equal(t, before+29, testutil.ToFloat64(b.hub.cfg.Metrics.events))
	b.up.mu.Lock()
	require.Equal(t, 1, b.up.opened)
	b.up.mu.Unlock()
	require.Equal(t, int64(5), b.open(t).create(&pb.WatchCreateRequest{Key: []byte("a"), PrevKv: true, WatchId: 5}).WatchId)
	require.Equal(t, 2.0, feeds(), "one with previous values")
	require.Zero(t, b.open(t).create(&pb.WatchCreateRequest{Key: []byte("a")}).WatchId)
	require.Equal(t, 2.0, feeds())
}

// TestIdentities shares nothing between clients that show different tokens. The member has no users here; it ignores them.
func TestIdentities(t *testing.T) {
	b := newBench(t, 0)
	for i, md := range [][]string{nil, {rpctypes.TokenFieldNameGRPC, "alice"}, {rpctypes.TokenFieldNameGRPC, "bob"}, {"authorization", "alice"}, {rpctypes.TokenFieldNameGRPC, ""}} {
		for range 2 {
			b.open(t, md...).create(&pb.WatchCreateRequest{Key: []byte("a")})
		}
		require.Equal(t, float64(i+1), testutil.ToFloat64(b.hub.cfg.Metrics.feeds))
		b.hub.mu.Lock()
		require.Len(t, b.hub.links, i+1)
		b.hub.mu.Unlock()
	}
}

// TestCompacted ends watches whose revision is compacted, as members do: at the creation, or when they come back.
func TestCompacted(t *testing.T) {
	b := newBench(t, 0)
	for range 5 {
		b.put(t, "a", "x")
	}
	slow := b.open(t)
	slow.create(&pb.WatchCreateRequest{Key: []byte("a")})
	_, err := pb.NewKVClient(b.member).Compact(t.Context(), &pb.CompactionRequest{Revision: 4})
	require.NoError(t, err)
	c := b.open(t)
	c.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
	resp := c.recv()
	require.True(t, resp.Canceled)
	require.Equal(t, int64(4), resp.CompactRevision)
	require.Equal(t, int64(0), resp.WatchId)
	require.Equal(t, int64(1), c.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 4}).WatchId)
	require.Len(t, c.recv().Events, 3)

	// A feed that goes on from a revision which is compacted meanwhile.
	rev := b.put(t, "a", "y")
	require.Equal(t, rev, slow.recv().Events[0].Kv.ModRevision)
	_, err = pb.NewKVClient(b.member).Compact(t.Context(), &pb.CompactionRequest{Revision: rev})
	require.NoError(t, err)
	b.hub.mu.Lock()
	l := b.hub.links[upstream.Caller{}]
	b.hub.mu.Unlock()
	l.mu.Lock()
	for _, fs := range l.groups {
		for _, f := range fs {
			f.next = 2
		}
	}
	l.mu.Unlock()
	b.up.breakAll()
	resp = slow.recv()
	require.True(t, resp.Canceled)
	require.Equal(t, rev, resp.CompactRevision)
}

// TestRefused tells clients why there is no watch; a wrong range or id ends nothing.
func TestRefused(t *testing.T) {
	b := newBench(t, 0)
	c := b.open(t)
	for reason, r := range map[string]*pb.WatchCreateRequest{
		emptyRange:                    {Key: []byte("b"), RangeEnd: []byte("a")},
		rpctypes.ErrCompacted.Error(): {Key: []byte("b"), StartRevision: -1},
	} {
		resp := c.create(r)
		require.True(t, resp.Canceled)
		require.Equal(t, reason, resp.CancelReason)
		require.Equal(t, int64(-1), resp.WatchId)
	}
	c.send(&pb.WatchRequest{})
	c.send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: 9}}})
	require.Equal(t, int64(9), c.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 9}).WatchId)
	require.Equal(t, duplicateID, c.create(&pb.WatchCreateRequest{Key: []byte("a"), WatchId: 9}).CancelReason)
}

// TestGone makes nothing for a client that went while it was asked for.
func TestGone(t *testing.T) {
	b := newBench(t, 0)
	s, err := b.hub.join(upstream.Caller{})
	require.NoError(t, err)
	b.hub.leave(s)
	s.create(&pb.ResponseHeader{Revision: 1}, &pb.WatchCreateRequest{Key: []byte("a")})
	s.askProgress()
	require.Zero(t, testutil.ToFloat64(b.hub.cfg.Metrics.feeds))
	require.Empty(t, s.link.groups)
	require.False(t, s.link.running)
	require.Empty(t, b.hub.links)
}

// TestClosing tells clients to go elsewhere.
func TestClosing(t *testing.T) {
	b := newBench(t, 0)
	c := b.open(t)
	c.create(&pb.WatchCreateRequest{Key: []byte("a")})
	b.hub.Close()
	_, err := c.s.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err))
	c = b.open(t)
	_, err = c.s.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err))
}
