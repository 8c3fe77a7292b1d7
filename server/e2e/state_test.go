package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/mvccpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
