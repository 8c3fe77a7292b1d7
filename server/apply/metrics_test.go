package apply_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/keelson-io/keelson/server/apply"
)

// TestSlow logs and counts what takes longer than allowed, without values of keys.
func TestSlow(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	reg := prometheus.NewRegistry()
	m := apply.NewMetrics(apply.MetricsConfig{Slow: time.Hour, Registerer: reg, Logger: zap.New(core)})
	put := &pb.PutRequest{Key: []byte("name"), Value: []byte("secret")}
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}}
	m.TxnDone(m.Now(), txn, nil, nil)
	require.Zero(t, logs.Len())

	m.TxnDone(m.Now().Add(-2*time.Hour), txn, &pb.TxnResponse{}, nil)
	m.RangeDone(m.Now().Add(-2*time.Hour), &pb.RangeRequest{Key: []byte("name")}, nil, nil)
	require.Equal(t, 2, logs.FilterMessage("apply request took too long").Len())
	require.Contains(t, logs.All()[0].ContextMap()["request"], "name")
	require.NotContains(t, logs.All()[0].ContextMap()["request"], "secret")
	n, err := testutil.GatherAndCount(reg, "etcd_server_slow_apply_total", "etcd_server_request_duration_seconds")
	require.NoError(t, err)
	require.Equal(t, 3, n, "slow ones, and requests of two kinds")
}

// TestKindNames has a kind for every command.
func TestKindNames(t *testing.T) {
	r := &pb.InternalRaftRequest{}
	require.Equal(t, "Unknown", apply.KindOf(r).Name())
	fields := r.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Message() == nil || fd.Name() == "header" {
			continue
		}
		one := &pb.InternalRaftRequest{}
		one.ProtoReflect().Mutable(fd)
		require.NotZero(t, apply.KindOf(one), fd.Name())
	}
	require.Equal(t, apply.KindRange, apply.KindOf(&pb.InternalRaftRequest{Range: &pb.RangeRequest{}}))
	require.Equal(t, "ReadonlyTxn", apply.KindReadOnlyTxn.Name())
}
