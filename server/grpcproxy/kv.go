package grpcproxy

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/grpcproxy/cache"
	"github.com/keelson-io/keelson/server/grpcproxy/namespace"
	"github.com/keelson-io/keelson/server/grpcproxy/upstream"
)

// KV reads and writes. Contexts are those of the calls of clients.
type KV interface {
	Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error)
	Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error)
	DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error)
	Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error)
	Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error)
}

// remoteKV is the members'.
type remoteKV struct {
	client pb.KVClient
	note   func(*pb.ResponseHeader) // is told of the headers of responses; may be nil
}

// Bounds of the attempts to read elsewhere what a member did not answer. The pause grows threefold.
const (
	readAttempts = 4
	readPause    = 25 * time.Millisecond
)

// Range reads keys, elsewhere if one member does not answer.
func (k remoteKV) Range(ctx context.Context, r *pb.RangeRequest) (resp *pb.RangeResponse, err error) {
	pause := readPause
	for i := range readAttempts {
		if i > 0 {
			select {
			case <-time.After(pause):
				pause *= 3
			case <-ctx.Done():
				return nil, err
			}
		}
		if resp, err = noted(k, ctx, r, k.client.Range); status.Code(err) != codes.Unavailable {
			break
		}
	}
	return resp, err
}

// Put writes a key.
func (k remoteKV) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	return noted(k, ctx, r, k.client.Put)
}

// DeleteRange deletes keys.
func (k remoteKV) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	return noted(k, ctx, r, k.client.DeleteRange)
}

// Txn runs a transaction.
func (k remoteKV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return noted(k, ctx, r, k.client.Txn)
}

// Compact compacts.
func (k remoteKV) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	return noted(k, ctx, r, k.client.Compact)
}

func noted[Q any, R interface{ GetHeader() *pb.ResponseHeader }](
	k remoteKV, ctx context.Context, r Q, call func(context.Context, Q, ...grpc.CallOption) (R, error),
) (R, error) {
	resp, err := call(upstream.Forward(ctx), r)
	if err == nil && k.note != nil {
		k.note(resp.GetHeader())
	}
	return resp, err
}

// errBehind is what etcd says of members that all lag behind.
var errBehind = errors.New("etcdclient: no cluster members have a revision higher than the previously received revision")

// orderedKV never shows a state that is older than one that it has shown: what a member that lags behind answers is asked again
// elsewhere.
type orderedKV struct {
	KV
	seen     *atomic.Int64
	attempts func() int
}

// Range reads keys.
func (k orderedKV) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	return ordered(k, func() (*pb.RangeResponse, error) { return k.KV.Range(ctx, r) })
}

// Txn runs a transaction.
func (k orderedKV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	return ordered(k, func() (*pb.TxnResponse, error) { return k.KV.Txn(ctx, r) })
}

func ordered[R interface{ GetHeader() *pb.ResponseHeader }](k orderedKV, call func() (R, error)) (resp R, err error) {
	seen := k.seen.Load()
	for range k.attempts() {
		if resp, err = call(); err != nil {
			return resp, err
		}
		if rev := resp.GetHeader().GetRevision(); rev >= seen {
			for old := k.seen.Load(); rev > old && !k.seen.CompareAndSwap(old, rev); old = k.seen.Load() {
			}
			return resp, nil
		}
	}
	return *new(R), errBehind
}

// spacedKV moves keys below a prefix.
type spacedKV struct {
	KV
	prefix namespace.Prefix
}

// Range reads keys.
func (k spacedKV) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	moved, err := k.prefix.Range(r)
	if err != nil {
		return nil, err
	}
	resp, err := k.KV.Range(ctx, moved)
	k.prefix.Pairs(resp.GetKvs())
	return resp, err
}

// Put writes a key.
func (k spacedKV) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	moved, err := k.prefix.Put(r)
	if err != nil {
		return nil, err
	}
	resp, err := k.KV.Put(ctx, moved)
	k.prefix.Pair(resp.GetPrevKv())
	return resp, err
}

// DeleteRange deletes keys.
func (k spacedKV) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	moved, err := k.prefix.Delete(r)
	if err != nil {
		return nil, err
	}
	resp, err := k.KV.DeleteRange(ctx, moved)
	k.prefix.Pairs(resp.GetPrevKvs())
	return resp, err
}

// Txn runs a transaction.
func (k spacedKV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	moved, err := k.prefix.Txn(r)
	if err != nil {
		return nil, err
	}
	resp, err := k.KV.Txn(ctx, moved)
	k.prefix.Responses(resp.GetResponses())
	return resp, err
}

// cachedKV is the KV service: it remembers answers.
type cachedKV struct {
	pb.UnimplementedKVServer
	next         KV
	cache        *cache.Cache
	hits, misses prometheus.Gauge // gauges, as in etcd
	stream       pb.KVClient
	prefix       namespace.Prefix
}

func newCachedKV(next KV, c *cache.Cache, reg prometheus.Registerer, stream pb.KVClient, p namespace.Prefix) *cachedKV {
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "etcd", Subsystem: "grpc_proxy", Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "etcd", Subsystem: "grpc_proxy", Name: "cache_keys_total", Help: "Total number of keys/ranges cached",
	}, func() float64 { return float64(c.Len()) }))
	return &cachedKV{
		next: next, cache: c, stream: stream, prefix: p,
		hits:   gauge("cache_hits_total", "Total number of cache hits"),
		misses: gauge("cache_misses_total", "Total number of cache misses"),
	}
}

// Range reads keys, out of the cache if that is good enough for the client.
func (k *cachedKV) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	who := upstream.CallerOf(ctx)
	who.NeedsLeader = false
	key := cache.KeyOf(who, r)
	if r.Serializable {
		resp, compacted := k.cache.Get(key, r)
		switch {
		case compacted:
			k.hits.Inc()
			return nil, rpctypes.ErrGRPCCompacted
		case resp != nil:
			k.hits.Inc()
			return resp, nil
		}
		k.misses.Inc()
	}
	begun := k.cache.Begin()
	resp, err := k.next.Range(ctx, r)
	if err == nil {
		k.cache.Add(key, r, resp, begun)
	}
	return resp, err
}

// RangeStream reads keys in pieces, below the prefix.
func (k *cachedKV) RangeStream(r *pb.RangeRequest, to pb.KV_RangeStreamServer) error {
	moved, err := k.prefix.Range(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(upstream.Forward(to.Context()))
	defer cancel()
	from, err := k.stream.RangeStream(ctx, moved)
	if err != nil {
		return err
	}
	for {
		resp, err := from.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		k.prefix.Pairs(resp.GetRangeResponse().GetKvs())
		if err := to.Send(resp); err != nil {
			return err
		}
	}
}

// Put writes a key.
func (k *cachedKV) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	resp, err := k.next.Put(ctx, r)
	k.wrote(err, func(rev int64) { k.cache.Wrote(r.Key, nil, rev) }, resp.GetHeader())
	return resp, err
}

// DeleteRange deletes keys.
func (k *cachedKV) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	resp, err := k.next.DeleteRange(ctx, r)
	k.wrote(err, func(rev int64) { k.cache.Wrote(r.Key, r.RangeEnd, rev) }, resp.GetHeader())
	return resp, err
}

// wrote calls f for a write that was made or, as far as is known, may have been.
func (k *cachedKV) wrote(err error, f func(rev int64), h *pb.ResponseHeader) {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.NotFound:
		return
	}
	f(h.GetRevision())
}

// Txn runs a transaction.
func (k *cachedKV) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	resp, err := k.next.Txn(ctx, r)
	k.wrote(err, func(rev int64) {
		if err != nil {
			k.wroteOps(r.Success, nil, rev)
			k.wroteOps(r.Failure, nil, rev)
			return
		}
		// A client that compares with what it has read here, and fails, is to read anew.
		for _, c := range r.Compare {
			k.cache.Wrote(c.GetKey(), c.GetRangeEnd(), rev)
		}
		k.wroteOps(branch(r, resp), resp.Responses, rev)
	}, resp.GetHeader())
	return resp, err
}

func branch(r *pb.TxnRequest, resp *pb.TxnResponse) []*pb.RequestOp {
	if resp.GetSucceeded() {
		return r.GetSuccess()
	}
	return r.GetFailure()
}

// wroteOps takes out what operations change. Without their outcome, that is all that they could change.
func (k *cachedKV) wroteOps(ops []*pb.RequestOp, outcome []*pb.ResponseOp, rev int64) {
	for i, op := range ops {
		switch r := op.GetRequest().(type) {
		case *pb.RequestOp_RequestPut:
			k.cache.Wrote(r.RequestPut.GetKey(), nil, rev)
		case *pb.RequestOp_RequestDeleteRange:
			k.cache.Wrote(r.RequestDeleteRange.GetKey(), r.RequestDeleteRange.GetRangeEnd(), rev)
		case *pb.RequestOp_RequestTxn:
			if i < len(outcome) {
				resp := outcome[i].GetResponseTxn()
				k.wroteOps(branch(r.RequestTxn, resp), resp.GetResponses(), rev)
				continue
			}
			k.wroteOps(r.RequestTxn.GetSuccess(), nil, rev)
			k.wroteOps(r.RequestTxn.GetFailure(), nil, rev)
		}
	}
}

// Compact compacts.
func (k *cachedKV) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	resp, err := k.next.Compact(ctx, r)
	if err == nil {
		k.cache.Compact(r.Revision)
	}
	return resp, err
}
