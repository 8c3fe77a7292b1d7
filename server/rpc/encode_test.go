package rpc

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/eventlog"
	"github.com/keelson-io/keelson/mvcc/watch"
	"github.com/keelson-io/keelson/server/apply"
)

func keyValue(rng *rand.Rand) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key: make([]byte, 1+rng.IntN(300)), Value: make([]byte, rng.IntN(300)), CreateRevision: 1 + rng.Int64N(1<<40),
		ModRevision: 1 + rng.Int64N(1<<40), Version: 1 + rng.Int64N(1000), Lease: rng.Int64N(2) * rng.Int64(),
	}
}

func stored(m *mvccpb.KeyValue) mvcc.KV {
	f := mvcc.Fields{Key: m.Key, Value: m.Value, CreateRev: m.CreateRevision, ModRev: m.ModRevision, Version: m.Version, Lease: m.Lease}
	return f.Marshal()
}

// TestEncodedRange compares what is spliced from stored bytes with what protobuf makes of the same message.
func TestEncodedRange(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	h := &pb.ResponseHeader{ClusterId: 1 << 63, MemberId: 2, Revision: 3, RaftTerm: 4}
	for range 200 {
		reply := &apply.RangeReply{Count: rng.Int64N(3) * 1000, Rev: 3, More: rng.IntN(2) == 0, KeysOnly: rng.IntN(3) == 0}
		want := &pb.RangeResponse{Header: h, More: reply.More, Count: reply.Count}
		for range rng.IntN(5) {
			kv := keyValue(rng)
			bytes, err := proto.Marshal(kv)
			require.NoError(t, err)
			require.Equal(t, bytes, []byte(stored(kv)), "stored as protobuf writes it")
			reply.KVs = append(reply.KVs, stored(kv))
			if reply.KeysOnly {
				kv.Value = nil
			}
			want.Kvs = append(want.Kvs, kv)
		}
		enc, err := encodeRange(h, reply, false, &room{})
		require.NoError(t, err)
		requireWire(t, want, enc)
	}
}

func requireWire(t *testing.T, want proto.Message, enc WireMarshaler) {
	t.Helper()
	data, err := NewCodec(NewMetrics(nil)).Marshal(enc)
	require.NoError(t, err)
	defer data.Free()
	expected, err := proto.Marshal(want)
	require.NoError(t, err)
	require.Equal(t, expected, data.Materialize())
	got := want.ProtoReflect().New().Interface()
	require.NoError(t, NewCodec(NewMetrics(nil)).Unmarshal(mem.BufferSlice{mem.SliceBuffer(data.Materialize())}, got))
	require.True(t, proto.Equal(want, got))
}

func TestEncodedWatch(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 1))
	h := &pb.ResponseHeader{ClusterId: 1, MemberId: 2, Revision: 3, RaftTerm: 4}
	for range 300 {
		r := &watch.Response{ID: rng.Int64N(3) - 1, PrevKV: rng.IntN(2) == 0, CompactRev: rng.Int64N(2), Canceled: rng.IntN(2) == 0}
		want := &pb.WatchResponse{Header: h, WatchId: r.ID, CompactRevision: r.CompactRev, Canceled: r.Canceled}
		prevs := map[string]*mvccpb.KeyValue{}
		for range rng.IntN(6) {
			kv := keyValue(rng)
			ev := &eventlog.Event{Key: kv.Key, Main: kv.ModRevision, Delete: rng.IntN(2) == 0, Create: rng.IntN(2) == 0}
			msg := &mvccpb.Event{Kv: kv}
			if ev.Delete {
				kv = &mvccpb.KeyValue{Key: kv.Key, ModRevision: kv.ModRevision}
				msg.Type, msg.Kv, ev.Create = mvccpb.Event_DELETE, kv, false
			}
			ev.KV = stored(kv)
			if r.PrevKV && !ev.Create {
				msg.PrevKv = keyValue(rng)
				prevs[string(ev.Key)] = msg.PrevKv
			}
			if _, twice := prevs[string(ev.Key)]; twice && msg.PrevKv == nil {
				continue
			}
			r.Events, want.Events = append(r.Events, ev), append(want.Events, msg)
		}
		for i, ev := range want.Events {
			if r.PrevKV && !r.Events[i].Create {
				ev.PrevKv = prevs[string(ev.Kv.Key)]
			}
		}
		enc, err := newWatchEncoder(h, r, func(key []byte, _ int64) []byte { return stored(prevs[string(key)]) })
		require.NoError(t, err)
		msg, more, err := enc.next(0)
		require.NoError(t, err)
		require.False(t, more)
		requireWire(t, want, msg)
	}
}

// TestFragments splits a response: no part is larger than asked unless it is one event, and together they are the whole.
func TestFragments(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	h := &pb.ResponseHeader{Revision: 3}
	r := &watch.Response{ID: 1}
	for range 50 {
		kv := keyValue(rng)
		r.Events = append(r.Events, &eventlog.Event{Key: kv.Key, KV: stored(kv)})
	}
	for _, limit := range []int{1, 300, 1000, 5000, 1 << 20} {
		enc, err := newWatchEncoder(h, r, nil)
		require.NoError(t, err)
		events := 0
		for more := true; more; {
			var msg *encodedWatch
			msg, more, err = enc.next(limit)
			require.NoError(t, err)
			got := &pb.WatchResponse{}
			require.NoError(t, proto.Unmarshal(msg.data.Materialize(), got))
			require.Equal(t, more, got.Fragment)
			require.NotEmpty(t, got.Events)
			if len(got.Events) > 1 {
				require.Less(t, proto.Size(got), limit)
			}
			for _, ev := range got.Events {
				require.Equal(t, r.Events[events].Key, ev.Kv.Key)
				events++
			}
		}
		require.Equal(t, 50, events)
	}
}
