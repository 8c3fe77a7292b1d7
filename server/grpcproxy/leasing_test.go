package grpcproxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestLeasing writes through three proxies, one of them etcd's, and reads through all of them: what was written before a read
// began is seen, and no proxy's revision of a key falls.
func TestLeasing(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	const prefix = "--experimental-leasing-prefix=leases/"
	one, two := start(t, c.Addrs(), prefix), start(t, c.Addrs(), prefix)
	addrs := []string{one.Addr().String(), two.Addr().String(), startEtcd(t, c.Addrs(), prefix)}
	member := pb.NewKVClient(c.Dial(c.Members[0]))
	var kvs []pb.KVClient
	for _, a := range addrs {
		kvs = append(kvs, pb.NewKVClient(connect(t, a)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	// A proxy owns what is read twice through it, and somebody else's write takes that away.
	read := &pb.RangeRequest{Key: []byte("k0")}
	require.Eventually(t, func() bool {
		_, err := kvs[0].Range(ctx, read)
		require.NoError(t, err)
		return owned(one, "k0")
	}, time.Minute, 5*time.Millisecond)
	for i, kv := range []pb.KVClient{kvs[2], kvs[0], kvs[1]} {
		resp, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k0"), Value: fmt.Append(nil, i), PrevKv: true})
		require.NoError(t, err)
		require.True(t, i == 0 || resp.PrevKv != nil) // the first one is etcd's, which puts twice
		for j := range kvs {
			got, err := kvs[j].Range(ctx, read)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint(i), string(got.Kvs[0].Value), "read through %d", j)
			require.Equal(t, resp.Header.Revision, got.Kvs[0].ModRevision)
		}
	}

	var mu sync.Mutex
	newest := map[string]int64{} // revisions of the last writes that returned
	wrote := func(rev int64, keys ...string) {
		mu.Lock()
		defer mu.Unlock()
		for _, k := range keys {
			newest[k] = max(newest[k], rev)
		}
	}
	var workers sync.WaitGroup
	for w := range 6 {
		kv := kvs[w%3]
		rnd := rand.New(rand.NewPCG(7, uint64(w)))
		workers.Go(func() {
			for i := range 40 {
				k := fmt.Sprint("k", rnd.IntN(3))
				switch rnd.IntN(12) {
				case 0:
					resp, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(k), Value: fmt.Append(nil, w, i)})
					if noError(t, err) {
						wrote(resp.Header.Revision, k)
					}
				case 1:
					op := func(k string) *pb.RequestOp {
						return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k), Value: fmt.Append(nil, w, i)}}}
					}
					resp, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{op("k0"), op("k2")}})
					if noError(t, err) {
						wrote(resp.Header.Revision, "k0", "k2")
					}
				default:
					mu.Lock()
					least := newest[k]
					mu.Unlock()
					resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(k)})
					if noError(t, err) && least > 0 {
						if len(resp.Kvs) != 1 || resp.Kvs[0].ModRevision < least {
							t.Errorf("%s through proxy %d is %v, after revision %d was written", k, w%3, resp.Kvs, least)
						}
					}
				}
			}
		})
	}
	workers.Wait()

	// Ranges, and keys with a lease, are owned by nobody.
	_, err := kvs[0].Range(ctx, read)
	require.NoError(t, err)
	del, err := kvs[1].DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	require.NoError(t, err)
	require.Positive(t, del.Deleted)
	lease, err := pb.NewLeaseClient(connect(t, addrs[0])).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 1000})
	require.NoError(t, err)
	_, err = kvs[0].Put(ctx, &pb.PutRequest{Key: []byte("k0"), Lease: lease.ID})
	require.NoError(t, err)
	for range 3 {
		got, err := kvs[0].Range(ctx, read)
		require.NoError(t, err)
		require.Len(t, got.Kvs, 1)
	}
	require.False(t, owned(one, "k0"))
	got, err := member.Range(ctx, &pb.RangeRequest{Key: []byte("leases/k0")})
	require.NoError(t, err)
	require.Empty(t, got.Kvs)
}

// TestLeasingAlone answers for owned keys while the member is away.
func TestLeasingAlone(t *testing.T) {
	t.Parallel()
	c := servertest.Start(t, 1)
	p := start(t, c.Addrs(), "--experimental-leasing-prefix=leases/")
	kv := pb.NewKVClient(connect(t, p.Addr().String()))
	_, err := kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
		require.NoError(t, err)
		return owned(p, "a")
	}, time.Minute, 5*time.Millisecond)
	before, err := pb.NewKVClient(c.Dial(c.Members[0])).Range(t.Context(), &pb.RangeRequest{Key: []byte("leases/a")})
	require.NoError(t, err)
	require.Len(t, before.Kvs, 1)
	_, err = kv.Put(t.Context(), &pb.PutRequest{Key: []byte("a"), Value: []byte("2")})
	require.NoError(t, err)
	for range 2 {
		resp, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
		require.NoError(t, err)
		require.Equal(t, "2", string(resp.Kvs[0].Value))
	}
	require.True(t, owned(p, "a"), "its own writes take nothing away")
	for what, r := range map[string]*pb.RangeRequest{
		"":  {Key: []byte("a"), KeysOnly: true},
		"2": {Key: []byte("a"), MinModRevision: 3},
		"-": {Key: []byte("a"), MaxModRevision: 1},
	} {
		resp, err := kv.Range(t.Context(), r)
		require.NoError(t, err)
		require.Equal(t, int64(1), resp.Count)
		if what == "-" {
			require.Empty(t, resp.Kvs)
		} else {
			require.Equal(t, what, string(resp.Kvs[0].Value))
		}
	}
	c.Kill(c.Members[0])
	resp, err := kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
	require.NoError(t, err)
	require.Equal(t, "2", string(resp.Kvs[0].Value))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = kv.Put(ctx, &pb.PutRequest{Key: []byte("a")})
	require.Error(t, err)
	require.False(t, owned(p, "a"), "it may still be written")
}

// owned says whether a proxy answers for a key.
func owned(p *Proxy, key string) bool { return p.leasing.Owns(key) }

func noError(t *testing.T, err error) bool {
	if err != nil {
		t.Error(err)
	}
	return err == nil
}
