package rpc

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
	"github.com/keelson-io/keelson/server/apply"
	"github.com/keelson-io/keelson/server/auth"
	"github.com/keelson-io/keelson/server/fairness"
)

// openGate lets reads pass.
type openGate struct{}

func (openGate) Wait(context.Context) error { return nil }

// noAuth is authentication that is disabled.
type noAuth struct{}

func (noAuth) Load() *auth.Snapshot { return &auth.Snapshot{} }

// fromHost is the context of a call from a host.
func fromHost(t *testing.T, host string) context.Context {
	return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(host), Port: 1}})
}

// newTestKV is a service that reads keys k0000, k0001, ... with values of a size.
func newTestKV(t *testing.T, keys, size int, shares Shares) *KV {
	t.Helper()
	be, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db"), NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = be.Close() })
	store, err := mvcc.Open(be, mvcc.Config{}, nil)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	w := store.Write()
	for i := range keys {
		w.Put(fmt.Appendf(nil, "k%04d", i), make([]byte, size), 0)
	}
	w.End()
	store.Publish()
	return NewKV(KVConfig{
		Header: &Header{Term: func() uint64 { return 1 }, Rev: store.Rev}, Errors: NewTranslator(), Gate: openGate{}, Store: store,
		Access: &Access{State: noAuth{}}, Metrics: apply.NewMetrics(apply.MetricsConfig{Clock: clock.Real, Slow: time.Hour}),
		Shares: shares, MaxRequestBytes: 3 << 19,
	})
}

// TestNobodyIsStarved has one host make five hundred large ranges at a time, and another one eight small ones: while the small
// ones come, hardly more of the large ones are answered than of them.
func TestNobodyIsStarved(t *testing.T) {
	reads := fairness.New(fairness.Config{Name: "reads", Capacity: 4, MaxQueue: 1000, MaxWait: time.Minute})
	kv := newTestKV(t, 200, 100, Shares{Reads: reads})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var large, small atomic.Int64
	var wg sync.WaitGroup
	call := func(n int, host string, done *atomic.Int64, r *pb.RangeRequest) {
		from := fromHost(t, host)
		for range n {
			wg.Go(func() {
				for ctx.Err() == nil {
					if _, err := kv.rangeEncoded(from, &pb.RangeRequest{Key: r.Key, RangeEnd: r.RangeEnd}); err == nil {
						done.Add(1)
					}
				}
			})
		}
	}
	call(500, "10.0.0.1", &large, &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	require.Eventually(t, func() bool { return reads.Waiting() > 400 }, time.Minute, time.Millisecond)
	before := large.Load()
	call(8, "10.0.0.2", &small, &pb.RangeRequest{Key: []byte("k0001")})
	require.Eventually(t, func() bool { return small.Load() >= 2000 }, time.Minute, time.Millisecond)
	served, others := small.Load(), large.Load()-before
	cancel()
	wg.Wait()
	t.Logf("%d small and %d large ranges", served, others)
	require.LessOrEqual(t, others, served+served/2)
	require.Zero(t, reads.Used())
}

func TestTooManyReads(t *testing.T) {
	reads := fairness.New(fairness.Config{Name: "reads", Capacity: 1, MaxQueue: 1, MaxWait: time.Millisecond})
	kv := newTestKV(t, 1, 1, Shares{Reads: reads})
	place, ok := reads.Try(1)
	require.True(t, ok)
	r := &pb.RangeRequest{Key: []byte("k0000")}
	_, err := kv.Range(fromHost(t, "10.0.0.1"), r)
	require.Equal(t, rpctypes.ErrGRPCRequestTooManyRequests, err)
	_, err = kv.readOnlyTxn(fromHost(t, "10.0.0.1"), &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: r}}}})
	require.Equal(t, rpctypes.ErrGRPCRequestTooManyRequests, err)
	place.Leave(0)
	_, err = kv.Range(fromHost(t, "10.0.0.1"), r)
	require.NoError(t, err)
	require.Zero(t, reads.Used())
}

func TestIdentities(t *testing.T) {
	ctx := fromHost(t, "10.0.0.1")
	require.Equal(t, "10.0.0.1", identityOf(ctx, ""))
	require.Equal(t, "alice", identityOf(ctx, "alice"))
	require.Equal(t, "::1", identityOf(fromHost(t, "::1"), ""))
	require.Equal(t, "/run/k.sock", identityOf(peer.NewContext(ctx, &peer.Peer{Addr: &net.UnixAddr{Name: "/run/k.sock", Net: "unix"}}), ""))
	require.Empty(t, identityOf(t.Context(), ""))

	forged := metadata.NewIncomingContext(ctx, metadata.Pairs("x-forwarded-for", "10.9.9.9"))
	require.Equal(t, "10.0.0.1", identityOf(forged, ""))
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	gateway := peer.NewContext(metadata.NewIncomingContext(t.Context(), metadata.Pairs("x-forwarded-for", "10.9.9.9, 10.0.0.3")), &peer.Peer{Addr: ours.LocalAddr()})
	require.Equal(t, "10.0.0.3", identityOf(gateway, ""))
}
