package server_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestPrefixQuota fills a prefix on every way, and makes room on every way: deletion, transaction, the end of a lease. A restart
// changes nothing.
func TestPrefixQuota(t *testing.T) {
	c := servertest.Start(t, 1, append(servertest.Quick(), "--prefix-quota=/q/=1MiB,5keys", "--prefix-quota=/bytes/=10KiB")...)
	m := c.Members[0]
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn := c.Dial(m)
	kv, leases := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	put := func(key string, lease int64) error {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte("v"), Lease: lease})
		return err
	}
	full := func() {
		t.Helper()
		err := put("/q/more", 0)
		require.Equal(t, codes.ResourceExhausted, status.Code(err), "%v", err)
		require.ErrorContains(t, err, `quota of prefix "/q/" exceeded`)
		require.NoError(t, put("/q/0", 0), "a key that exists")
		require.NoError(t, put("/elsewhere", 0))
	}
	leased, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 1})
	require.NoError(t, err)
	for i := range 5 {
		lease := int64(0)
		if i == 4 {
			lease = leased.ID
		}
		require.NoError(t, put(fmt.Sprint("/q/", i), lease))
	}
	full()
	c.Stop(m)
	c.Run(m)
	c.WaitReady(m)
	full()

	_, err = kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("/q/1")})
	require.NoError(t, err)
	require.NoError(t, put("/q/again", 0))
	full()
	swap := &pb.TxnRequest{Success: []*pb.RequestOp{
		{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("/q/2")}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("/q/0"), Value: []byte("other")}}},
	}}
	_, err = kv.Txn(ctx, swap)
	require.NoError(t, err)
	require.NoError(t, put("/q/swapped", 0))
	full()
	require.Eventually(t, func() bool { return put("/q/after-the-lease", 0) == nil }, 30*time.Second, 50*time.Millisecond)
	full()

	for i := 0; ; i++ {
		if _, err = kv.Put(ctx, &pb.PutRequest{Key: fmt.Append(nil, "/bytes/", i), Value: make([]byte, 1000)}); err != nil {
			require.Equal(t, 10, i)
			break
		}
	}
	require.ErrorContains(t, err, `quota of prefix "/bytes/" exceeded`)
	require.ErrorContains(t, err, `(quota: 10240) and 10 keys (quota: none)`)
}
