package e2e

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// TestAutoCompaction lets members of either kind lose their history by themselves.
func TestAutoCompaction(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{etcd, keelson} {
		c := startCluster(t, []kind{k}, "--auto-compaction-retention=500ms")
		s := c.on[c.Members[0]]
		_, err := s.Put(within(t, patience), &pb.PutRequest{Key: []byte("a")})
		require.NoError(t, err)
		eventually(t, func(ctx context.Context) error {
			if _, err := s.Put(ctx, &pb.PutRequest{Key: []byte("a")}); err != nil {
				return err
			}
			switch _, err := s.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 2}); {
			case err == nil:
				return errors.New("its history is still there")
			case err.Error() == rpctypes.ErrGRPCCompacted.Error():
				return nil
			default:
				return err
			}
		}, "%s compacts", k)
		c.Stop(c.Members[0])
	}
}
