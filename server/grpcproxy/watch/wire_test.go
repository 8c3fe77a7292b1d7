package watch

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/keelson-io/keelson/server/grpcproxy/relay"
)

// decode puts the frames of a batch together.
func decode(t testing.TB, frames []*relay.Frame) *pb.WatchResponse {
	out := &pb.WatchResponse{}
	for i, f := range frames {
		var r pb.WatchResponse
		require.NoError(t, proto.Unmarshal(f.Materialize(), &r))
		require.Equal(t, i < len(frames)-1, r.Fragment)
		r.Fragment = false
		events := append(out.Events, r.Events...)
		out = &r
		out.Events = events
	}
	return out
}

func events(n, size int) (out []*mvccpb.Event) {
	for i := range n {
		ev := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("ns/a"), ModRevision: int64(i + 1), CreateRevision: 1, Value: make([]byte, size), Lease: -1}}
		if i%3 == 1 {
			ev.PrevKv = &mvccpb.KeyValue{Key: []byte("ns/a"), ModRevision: int64(i)}
		}
		if i%4 == 1 {
			ev.Type = mvccpb.Event_DELETE
		}
		out = append(out, ev)
	}
	return out
}

// TestSelections compares what is spliced with what the messages say.
func TestSelections(t *testing.T) {
	in := &pb.WatchResponse{Header: &pb.ResponseHeader{ClusterId: 1 << 63, MemberId: 2, Revision: 99, RaftTerm: 3}, WatchId: 17, Events: events(20, 10)}
	msg, err := proto.Marshal(in)
	require.NoError(t, err)
	for _, prefix := range []string{"", "ns/"} {
		r, err := parse(msg, "")
		if prefix != "" {
			r, err = parse(msg, "ns/")
		}
		require.NoError(t, err)
		require.Equal(t, int64(99), r.rev)
		b := newBatch(r.header, r.events)
		for _, s := range []selection{{}, {prev: true}, {from: 7}, {from: 7, prev: true, noPut: true}, {noDelete: true}, {noPut: true}, {noPut: true, noDelete: true}, {from: 21}} {
			want := &pb.WatchResponse{Header: in.Header, WatchId: 5}
			for _, ev := range in.Events {
				put := ev.Type == mvccpb.Event_PUT
				if ev.Kv.ModRevision < s.from || put && s.noPut || !put && s.noDelete {
					continue
				}
				ev = proto.CloneOf(ev)
				if !s.prev {
					ev.PrevKv = nil
				}
				for _, kv := range []*mvccpb.KeyValue{ev.Kv, ev.PrevKv} {
					if kv != nil {
						kv.Key = kv.Key[len(prefix):]
					}
				}
				want.Events = append(want.Events, ev)
			}
			require.Equal(t, len(want.Events) > 0, b.any(s))
			if len(want.Events) > 0 {
				require.True(t, proto.Equal(want, decode(t, b.frames(5, s, false))), "%+v", s)
			} else {
				require.Empty(t, b.frames(5, s, false))
			}
		}
	}
}

// TestFragments splits what is large, for those who want that.
func TestFragments(t *testing.T) {
	in := &pb.WatchResponse{Header: &pb.ResponseHeader{Revision: 9}, Events: events(20, fragmentBytes/4)}
	msg, err := proto.Marshal(in)
	require.NoError(t, err)
	r, err := parse(msg, "")
	require.NoError(t, err)
	b := newBatch(r.header, r.events)
	require.Len(t, b.frames(0, selection{prev: true}, false), 1)
	frames := b.frames(0, selection{prev: true}, true)
	require.Len(t, frames, 7)
	for _, f := range frames {
		require.Less(t, f.Len(), fragmentBytes+1000)
	}
	require.True(t, proto.Equal(in, decode(t, frames)))
}

// FuzzParse compares with the generated code, and never panics.
func FuzzParse(f *testing.F) {
	for _, r := range []*pb.WatchResponse{
		{Header: &pb.ResponseHeader{Revision: 3}, WatchId: -1},
		{WatchId: 3, Created: true, Canceled: true, CancelReason: "because", CompactRevision: 7},
		{Header: &pb.ResponseHeader{ClusterId: 1}, Fragment: true, Events: events(3, 2)},
	} {
		b, err := proto.Marshal(r)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		r, err := parse(msg, "")
		_, _ = parse(msg, "ns/")
		var want pb.WatchResponse
		if proto.Unmarshal(msg, &want) != nil || err != nil {
			return
		}
		require.Equal(t, want.WatchId, r.id)
		require.Equal(t, want.Created, r.created)
		require.Equal(t, want.Canceled, r.canceled)
		require.Equal(t, want.Fragment, r.fragment)
		require.Equal(t, want.CompactRevision, r.compact)
		require.Len(t, r.events, len(want.Events))
		for i, ev := range want.Events {
			require.Equal(t, ev.PrevKv != nil, r.events[i].prev)
			if ev.PrevKv != nil {
				withoutPrev(r.events[i].raw)
			}
		}
		if len(r.events) > 0 {
			newBatch(r.header, r.events).frames(1, selection{}, true)
		}
	})
}
