package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// keysOf reads all keys with a prefix from one member, as it has them now.
func keysOf(t testing.TB, s services, prefix string) map[string]*mvccpb.KeyValue {
	t.Helper()
	out := map[string]*mvccpb.KeyValue{}
	end := []byte(prefix)
	end[len(end)-1]++
	from := []byte(prefix)
	for more := true; more; {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		resp, err := s.Range(ctx, &pb.RangeRequest{Key: from, RangeEnd: end, Serializable: true, Limit: 5000})
		cancel()
		require.NoError(t, err)
		for _, kv := range resp.Kvs {
			out[string(kv.Key)] = kv
			from = append(kv.Key[:len(kv.Key):len(kv.Key)], 0)
		}
		more = resp.More
	}
	return out
}

// state is what a member must be able to tell after a restart, whoever wrote its data directory.
type state struct {
	Cluster, Member   uint64
	Revision, Compact int64
	Hash              uint32
	Keys              map[string]mvccKey
	Leases            map[int64]leaseState
	Members           []string
	Alarms            int
}

type mvccKey struct {
	Create, Mod, Version, Lease int64
	Value                       string
}

type leaseState struct {
	TTL  int64
	Keys []string
}

// stateOf asks a member for its state.
func stateOf(t testing.TB, s services) state {
	t.Helper()
	ctx := within(t, patience)
	h, err := s.HashKV(ctx, &pb.HashKVRequest{})
	require.NoError(t, err)
	st := state{
		Cluster: h.Header.ClusterId, Member: h.Header.MemberId, Revision: h.Header.Revision, Compact: h.CompactRevision, Hash: h.Hash,
		Keys: map[string]mvccKey{}, Leases: map[int64]leaseState{},
	}
	for _, prefix := range []string{"a/", "big/", "leased/"} {
		for k, kv := range keysOf(t, s, prefix) {
			st.Keys[k] = mvccKey{kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease, string(kv.Value)}
		}
	}
	leases, err := s.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	require.NoError(t, err)
	for _, l := range leases.Leases {
		ttl, err := s.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: l.ID, Keys: true})
		require.NoError(t, err)
		keys := leaseState{TTL: ttl.GrantedTTL}
		for _, k := range ttl.Keys {
			keys.Keys = append(keys.Keys, string(k))
		}
		slices.Sort(keys.Keys)
		st.Leases[l.ID] = keys
	}
	members, err := s.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
	require.NoError(t, err)
	for _, m := range members.Members {
		st.Members = append(st.Members, m.String())
	}
	alarms, err := s.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET})
	require.NoError(t, err)
	st.Alarms = len(alarms.Alarms)
	return st
}

// populate writes everything that a data directory may hold, with so many plain puts. round makes the names differ.
func populate(t testing.TB, s services, round, puts int) {
	t.Helper()
	ctx := within(t, 2*patience)
	put := func(key, value string, lease int64) int64 {
		r, err := s.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value), Lease: lease})
		require.NoError(t, err)
		return r.Header.Revision
	}
	var compact int64
	for i := range puts {
		r := put(fmt.Sprintf("a/%d", i%50), fmt.Sprintf("%d of %d", i, round), 0)
		if i == puts/2 {
			compact = r
		}
	}
	_, err := s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("a/1"), RangeEnd: []byte("a/2")})
	require.NoError(t, err)
	for i := range 5 {
		grant, err := s.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: int64(3000 + i), ID: int64(1000*round + i + 1)})
		require.NoError(t, err)
		for k := range i {
			put(fmt.Sprintf("leased/%d/%d/%d", round, i, k), "x", grant.ID)
		}
	}
	_, err = s.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: int64(1000*round + 3)})
	require.NoError(t, err)
	_, err = s.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a/x"), Value: fmt.Append(nil, round)}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a/y")}}},
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("a/3"), RangeEnd: []byte("a/4")}}},
	}})
	require.NoError(t, err)
	_, err = s.Compact(ctx, &pb.CompactionRequest{Revision: compact, Physical: round%2 == 0})
	require.NoError(t, err)
}

// fill writes so much that the log needs several segments, and removes most of it.
func fill(t testing.TB, s services) {
	t.Helper()
	ctx := within(t, 4*patience)
	value := make([]byte, 1_400_000)
	for i := range 50 {
		_, err := s.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "big/%d", i%3), Value: value})
		require.NoError(t, err)
	}
	_, err := s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("big/1"), RangeEnd: []byte("big/3")})
	require.NoError(t, err)
}
