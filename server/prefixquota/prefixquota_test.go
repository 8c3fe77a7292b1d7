package prefixquota

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/mvcc"
	"github.com/keelson-io/keelson/mvcc/backend"
)

func open(t *testing.T) *mvcc.Store {
	t.Helper()
	be, err := backend.Open(backend.Config{Path: filepath.Join(t.TempDir(), "db"), NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = be.Close() })
	store, err := mvcc.Open(be, mvcc.Config{}, nil)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	return store
}

func put(key, value string) *pb.InternalRaftRequest {
	return &pb.InternalRaftRequest{Put: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}
}

func op(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put(key, value).Put}}
}

func txn(then, otherwise []*pb.RequestOp) *pb.TxnRequest {
	return &pb.TxnRequest{Success: then, Failure: otherwise}
}

func nested(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

func write(store *mvcc.Store, f func(w *mvcc.WriteTxn)) {
	w := store.Write()
	f(w)
	w.End()
	store.Publish()
}

// TestKeys has a prefix with two keys, of which its quota allows three.
func TestKeys(t *testing.T) {
	a, b := op("/q/a", "new"), op("/q/b", "new")
	c, d, other := op("/q/c", "v"), op("/q/d", "v"), op("/else", "v")
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("/q/a")}}}
	for _, tc := range []struct {
		name string
		r    *pb.InternalRaftRequest
		fits bool
	}{
		{"a key more", put("/q/c", ""), true},
		{"one that exists", put("/q/a", "longer than before"), true},
		{"outside", put("/other", ""), true},
		{"two more", &pb.InternalRaftRequest{Txn: txn([]*pb.RequestOp{c, d}, nil)}, false},
		{"one more and one that exists", &pb.InternalRaftRequest{Txn: txn([]*pb.RequestOp{c, a, b, other}, nil)}, true},
		{"one in each branch", &pb.InternalRaftRequest{Txn: txn([]*pb.RequestOp{c}, []*pb.RequestOp{d})}, true},
		{"two in the other branch", &pb.InternalRaftRequest{Txn: txn(nil, []*pb.RequestOp{c, d})}, false},
		{"nested", &pb.InternalRaftRequest{Txn: txn([]*pb.RequestOp{c, nested(txn(nil, []*pb.RequestOp{d}))}, nil)}, false},
		{"nested branches", &pb.InternalRaftRequest{Txn: txn([]*pb.RequestOp{nested(txn([]*pb.RequestOp{c}, []*pb.RequestOp{d}))}, nil)}, true},
		{"deletions make room later", &pb.InternalRaftRequest{Txn: txn([]*pb.RequestOp{del, c, d}, nil)}, false},
		{"a deletion", &pb.InternalRaftRequest{DeleteRange: &pb.DeleteRangeRequest{Key: []byte("/q/a")}}, true},
		{"a lease", &pb.InternalRaftRequest{LeaseGrant: &pb.LeaseGrantRequest{TTL: 1}}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store := open(t)
			write(store, func(w *mvcc.WriteTxn) {
				w.Put([]byte("/q/a"), []byte("v"), 0)
				w.Put([]byte("/q/b"), []byte("v"), 0)
			})
			book := New([]Quota{{Prefix: "/q/", Keys: 3}, {Prefix: "/r/", Keys: 1}}, store)
			r, err := book.Reserve(tc.r)
			if !tc.fits {
				require.Equal(t, codes.ResourceExhausted, status.Code(err))
				require.ErrorContains(t, err, `quota of prefix "/q/" exceeded: it has`)
				require.ErrorContains(t, err, `(quota: none) and 2 keys (quota: 3)`)
				return
			}
			require.NoError(t, err)
			r.Release()
			for _, a := range book.accounts {
				require.Zero(t, a.reserved)
			}
		})
	}
}

// TestBytes fills a prefix, replaces values in it, and lowers its quota.
func TestBytes(t *testing.T) {
	store := open(t)
	value := strings.Repeat("v", 1000)
	book := New([]Quota{{Prefix: "/q/", Bytes: 10_000}}, store)
	n := 0
	for {
		r, err := book.Reserve(put(fmt.Sprintf("/q/%d", n), value))
		if err != nil {
			break
		}
		write(store, func(w *mvcc.WriteTxn) { w.Put(fmt.Appendf(nil, "/q/%d", n), []byte(value), 0) })
		r.Release()
		n++
	}
	require.Equal(t, 9, n)
	try := func(b *Book, key, value string) bool {
		r, err := b.Reserve(put(key, value))
		r.Release()
		return err == nil
	}
	require.True(t, try(book, "/q/0", value), "as large as before")
	require.True(t, try(book, "/q/0", value+"more"), "still fits")
	require.False(t, try(book, "/q/0", value+value))
	require.False(t, try(book, "/q/x", value))
	require.True(t, try(book, "/q/x", "small"))
	lowered := New([]Quota{{Prefix: "/q/", Bytes: 5_000}}, store)
	require.True(t, try(lowered, "/q/0", value))
	require.True(t, try(lowered, "/q/0", ""))
	require.False(t, try(lowered, "/q/0", value+"m"))
	require.NoError(t, testutil.CollectAndCompare(book.Collector(), strings.NewReader(fmt.Sprintf(`
# HELP keelson_prefix_keys Keys under a prefix with a quota.
# TYPE keelson_prefix_keys gauge
keelson_prefix_keys{prefix="/q/"} 9
# HELP keelson_prefix_quota_bytes The quota of a prefix in bytes; 0 if there is none.
# TYPE keelson_prefix_quota_bytes gauge
keelson_prefix_quota_bytes{prefix="/q/"} 10000
# HELP keelson_prefix_refused_total Writes of this member's clients that did not fit the quota of a prefix.
# TYPE keelson_prefix_refused_total counter
keelson_prefix_refused_total{prefix="/q/"} %d
`, 3)), "keelson_prefix_keys", "keelson_prefix_quota_bytes", "keelson_prefix_refused_total"))
}

// TestNeverPassed has many clients put and replace at once, and delete in between: no quota is ever passed, and nothing stays
// reserved.
func TestNeverPassed(t *testing.T) {
	store := open(t)
	const keys, size = 20, 3000
	book := New([]Quota{{Prefix: "/q/", Keys: keys}, {Prefix: "/q/x", Bytes: size}}, store)
	var applying sync.Mutex  // the log: one command at a time
	var putting sync.RWMutex // held for writing by who deletes
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 3))
			for range 300 {
				key := fmt.Sprintf("/q/%s%d", []string{"x", "y"}[rng.IntN(2)], rng.IntN(30))
				value := strings.Repeat("v", rng.IntN(400))
				if rng.IntN(3) == 0 {
					putting.Lock()
					write(store, func(w *mvcc.WriteTxn) { w.DeleteRange([]byte(key), nil) })
					putting.Unlock()
					continue
				}
				putting.RLock()
				r, err := book.Reserve(put(key, value))
				if err != nil {
					putting.RUnlock()
					continue
				}
				applying.Lock()
				write(store, func(w *mvcc.WriteTxn) { w.Put([]byte(key), []byte(value), 0) })
				rd := store.Read()
				all, _ := rd.Weigh("/q/", mvcc.PrefixEnd("/q/"))
				_, bytes := rd.Weigh("/q/x", mvcc.PrefixEnd("/q/x"))
				rd.Close()
				applying.Unlock()
				r.Release()
				putting.RUnlock()
				if all > keys || bytes > size {
					t.Errorf("%d keys, %d bytes", all, bytes)
				}
			}
		})
	}
	wg.Wait()
	for _, a := range book.accounts {
		require.Zero(t, a.reserved)
		require.NotZero(t, a.refused, "the test is too tame")
	}
}

func TestEnds(t *testing.T) {
	require.Equal(t, "b", *mvcc.PrefixEnd("a"))
	require.Equal(t, "b", *mvcc.PrefixEnd("a\xff"))
	require.Nil(t, mvcc.PrefixEnd("\xff\xff"))
	require.Nil(t, New(nil, nil))
	r, err := (*Book)(nil).Reserve(put("a", "b"))
	require.NoError(t, err)
	r.Release()
}
