package quota

import (
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestQuota(t *testing.T) {
	used := int64(0)
	q := New(1000, func() int64 { return used })
	require.True(t, q.Available(999))
	require.False(t, q.Available(1000))
	used = 950
	require.True(t, q.Available(0), "what costs nothing always fits")
	require.False(t, q.Relieved())
	used = 899
	require.True(t, q.Relieved())
	require.Equal(t, DefaultBytes, New(0, nil).Limit())
	require.True(t, New(-1, nil).Available(1<<40))
}

func TestCostTxn(t *testing.T) {
	put := func(n int) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k"), Value: make([]byte, n)}}}
	}
	nested := &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: []*pb.RequestOp{put(1)}, Failure: []*pb.RequestOp{put(2), put(3)}}}}
	del := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte("k")}}}
	require.Equal(t, 0, CostTxn(&pb.TxnRequest{Success: []*pb.RequestOp{del}}))
	require.Equal(t, 2*257+5, CostTxn(&pb.TxnRequest{Success: []*pb.RequestOp{nested}, Failure: []*pb.RequestOp{put(4)}}))
}
