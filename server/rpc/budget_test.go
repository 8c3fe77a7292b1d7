package rpc

import (
	"context"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/fairness"
)

func newTestBudget(capacity int64) *Budget {
	return NewBudget(fairness.New(fairness.Config{Name: "all", Capacity: capacity, Open: capacity / 2, Share: capacity / 4, MaxQueue: 10_000, MaxWait: time.Minute}))
}

// allKeys is a range of 200 keys of 1 kB: 220 kB.
func allKeys() *pb.RangeRequest { return &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")} }

// TestBudgetHolds has many callers make large responses and give them back: those that are out are never more than the budget.
func TestBudgetHolds(t *testing.T) {
	const capacity = 1 << 20
	kv := newTestKV(t, 200, 1000, Shares{})
	kv.cfg.Budget = newTestBudget(capacity)
	var out, most atomic.Int64
	var wg sync.WaitGroup
	for i := range 64 {
		ctx := fromHost(t, []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}[i%3])
		wg.Go(func() {
			for j := range 30 {
				r := allKeys()
				r.Limit = int64(1 + (i*j)%200)
				resp, err := kv.rangeEncoded(ctx, r)
				if err != nil {
					t.Error(err)
					return
				}
				e := resp.(*encodedRange)
				if e.size >= uncounted {
					for now := out.Add(int64(e.size)); ; {
						if old := most.Load(); now <= old || most.CompareAndSwap(old, now) {
							break
						}
					}
					runtime.Gosched()
					out.Add(-int64(e.size)) // before it is given back
				}
				e.data.Free()
			}
		})
	}
	wg.Wait()
	require.LessOrEqual(t, most.Load(), int64(capacity))
	require.Greater(t, most.Load(), int64(capacity/4), "the test is too tame")
	require.Zero(t, kv.cfg.Budget.lane.Used())
}

func TestLargerThanTheBudget(t *testing.T) {
	kv := newTestKV(t, 200, 1000, Shares{})
	kv.cfg.Budget = newTestBudget(50_000)
	resp, err := kv.rangeEncoded(t.Context(), allKeys())
	require.NoError(t, err)
	require.EqualValues(t, 50_000, kv.cfg.Budget.lane.Used(), "all of it")
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan error)
	go func() { _, err := kv.rangeEncoded(ctx, allKeys()); second <- err }()
	require.Eventually(t, func() bool { return kv.cfg.Budget.lane.Waiting() == 1 }, time.Minute, time.Millisecond)
	small, err := kv.rangeEncoded(t.Context(), &pb.RangeRequest{Key: []byte("k0001")})
	require.NoError(t, err, "small ones do not count")
	small.(*encodedRange).data.Free()
	cancel()
	require.ErrorIs(t, <-second, context.Canceled)
	resp.(*encodedRange).data.Free()
	require.Zero(t, kv.cfg.Budget.lane.Used())
}

// TestBudgetOfMessages takes room for transactions, whose responses are messages.
func TestBudgetOfMessages(t *testing.T) {
	kv := newTestKV(t, 200, 1000, Shares{})
	b := newTestBudget(1 << 20)
	resp, err := kv.readOnlyTxn(t.Context(), &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: allKeys()}}}})
	require.NoError(t, err)
	user := func(context.Context) string { return "" }
	got, err := b.encode(t.Context(), user, resp)
	require.NoError(t, err)
	require.EqualValues(t, proto.Size(resp), b.lane.Used())
	requireWire(t, resp, got.(*encodedMessage))
	require.Zero(t, b.lane.Used(), "requireWire has freed it")
	small := &pb.TxnResponse{Succeeded: true}
	got, err = b.encode(t.Context(), user, small)
	require.NoError(t, err)
	require.Same(t, small, got)
}

// TestBudgetComesBack has clients take ranges and streams of ranges, go away in the middle, and not read: whatever happens to a
// connection, nothing of the budget is lost.
func TestBudgetComesBack(t *testing.T) {
	kv := newTestKV(t, 200, 10_000, Shares{Reads: fairness.New(fairness.Config{Name: "reads", Capacity: 8, MaxQueue: 1000, MaxWait: time.Minute})})
	kv.cfg.Budget = newTestBudget(8 << 20)
	g := grpc.NewServer(grpc.ForceServerCodecV2(NewCodec(NewMetrics(nil))))
	kv.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { _ = g.Serve(l) }()
	defer g.Stop()

	dial := func() (pb.KVClient, func()) {
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
		require.NoError(t, err)
		return pb.NewKVClient(conn), func() { _ = conn.Close() }
	}
	c, closeConn := dial()
	resp, err := c.Range(t.Context(), allKeys())
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 200)
	stream, err := c.RangeStream(t.Context(), allKeys())
	require.NoError(t, err)
	whole := &pb.RangeResponse{}
	for {
		part, err := stream.Recv()
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		proto.Merge(whole, part.RangeResponse)
	}
	require.Empty(t, whole.Header.ClusterId)
	whole.Header = resp.Header
	require.True(t, proto.Equal(resp, whole), "a stream says the same")
	closeConn()

	for range 4 {
		c, closeConn := dial()
		// The client takes no more of these than the window of a stream.
		idle, err := c.RangeStream(t.Context(), allKeys())
		require.NoError(t, err)
		_ = idle
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() { _, _ = c.Range(ctx, allKeys()) })
		}
		require.Eventually(t, func() bool { return kv.cfg.Budget.lane.Used() > 0 }, time.Minute, 100*time.Microsecond)
		cancel()
		closeConn()
		wg.Wait()
	}
	require.Eventually(t, func() bool { runtime.GC(); return kv.cfg.Budget.lane.Used() == 0 }, time.Minute, 10*time.Millisecond)
	require.Zero(t, kv.cfg.Budget.lane.Waiting())
}
