package rpc

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"

	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/server/insight"
)

// TestRequestLog logs slow calls, and at debug level all, without values of keys.
func TestRequestLog(t *testing.T) {
	put := &pb.PutRequest{Key: []byte("name"), Value: []byte("secret")}
	get := &pb.RangeRequest{Key: []byte("name")}
	for _, c := range []struct {
		name      string
		level     zap.AtomicLevel
		slow      time.Duration
		req, resp any
		logged    int
		answered  int64
	}{
		{"fast", zap.NewAtomicLevelAt(zap.InfoLevel), time.Hour, put, &pb.PutResponse{}, 0, 0},
		{"slow", zap.NewAtomicLevelAt(zap.InfoLevel), -1, put, &pb.PutResponse{}, 1, 0},
		{"debug", zap.NewAtomicLevelAt(zap.DebugLevel), time.Hour, get, &encodedRange{count: 7}, 1, 7},
		{"failed", zap.NewAtomicLevelAt(zap.InfoLevel), -1, put, (*pb.PutResponse)(nil), 1, 0},
		{"failed transaction", zap.NewAtomicLevelAt(zap.InfoLevel), -1, &pb.TxnRequest{}, (*pb.TxnResponse)(nil), 1, 0},
		{"nothing to say", zap.NewAtomicLevelAt(zap.InfoLevel), -1, &pb.StatusRequest{}, nil, 1, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			core, logs := observer.New(c.level)
			l := RequestLog{Slow: c.slow, Clock: clock.Real, Logger: zap.New(core),
				Traffic: &Traffic{Calls: &insight.Calls{}, Heat: insight.NewHeat(time.Now())}}
			_, err := l.Unary(t.Context(), c.req, &grpc.UnaryServerInfo{FullMethod: "/x"}, func(context.Context, any) (any, error) { return c.resp, nil })
			require.NoError(t, err)
			require.Equal(t, c.logged, logs.FilterMessage("request stats").Len())
			for _, e := range logs.All() {
				require.NotContains(t, e.ContextMap()["request content"], "secret")
				require.Equal(t, c.answered, e.ContextMap()["response count"])
			}
		})
	}
}
