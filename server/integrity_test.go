package server_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/api/integritypb"
	"github.com/keelson-io/keelson/server/servertest"
)

// TestMemoryThatLies changes the state of the leader while it runs. It finds out, hands over, ends the watches that it has, and
// serves no data; the others go on without an election beyond that; one call heals it, and then it may lead again.
func TestMemoryThatLies(t *testing.T) {
	c := servertest.Start(t, 3, append(servertest.Quick(), "--integrity-interval=30ms")...)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	victim := leader(t, c)
	s, conn := dial(c, victim), c.Dial(victim)
	for i := range 20 {
		_, err := s.Put(ctx, &pb.PutRequest{Key: fmt.Append(nil, "k", i), Value: []byte("v")})
		require.NoError(t, err)
	}
	var watches []pb.Watch_WatchClient
	for _, wctx := range []func() pb.Watch_WatchClient{
		func() pb.Watch_WatchClient { w, _ := pb.NewWatchClient(conn).Watch(ctx); return w },
		func() pb.Watch_WatchClient {
			w, _ := pb.NewWatchClient(conn).Watch(metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader))
			return w
		},
	} {
		w := wctx()
		require.NoError(t, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("k")}}}))
		_, err := w.Recv()
		require.NoError(t, err)
		watches = append(watches, w)
	}
	victim.Server().Diverge("k1", "nobody wrote this")
	_, err := s.Put(ctx, &pb.PutRequest{Key: []byte("k3"), Value: []byte("the others get to that revision")})
	require.NoError(t, err)
	for _, w := range watches {
		for {
			_, err := w.Recv()
			if err != nil {
				require.Equal(t, rpctypes.ErrGRPCCorrupt.Error(), err.Error())
				break
			}
		}
	}
	_, err = s.Range(ctx, &pb.RangeRequest{Key: []byte("k1"), Serializable: true})
	require.Equal(t, codes.DataLoss, status.Code(err))
	require.Eventually(t, func() bool { return leader(t, c) != victim }, time.Minute, 10*time.Millisecond, "it still leads")
	for _, m := range c.Members {
		if m != victim {
			_, err := dial(c, m).Put(ctx, &pb.PutRequest{Key: []byte("k2"), Value: []byte(m.Name)})
			require.NoError(t, err)
		}
	}
	_, err = dial(c, leader(t, c)).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: victim.Server().ID()})
	require.Error(t, err, "nobody makes it the leader")

	res, err := integritypb.NewIntegrityClient(conn).Refetch(ctx, &integritypb.RefetchRequest{})
	require.NoError(t, err)
	require.False(t, res.Quarantined)
	got, err := s.Range(ctx, &pb.RangeRequest{Key: []byte("k1")})
	require.NoError(t, err)
	require.Equal(t, "v", string(got.Kvs[0].Value))
	_, err = dial(c, leader(t, c)).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: victim.Server().ID()})
	require.NoError(t, err)
	hashes := map[uint32]int{}
	for _, m := range c.Members {
		h, err := dial(c, m).HashKV(ctx, &pb.HashKVRequest{Revision: got.Header.Revision})
		require.NoError(t, err)
		hashes[h.Hash]++
	}
	require.Len(t, hashes, 1)
}

// TestRefetchNeedsRoot: with authentication, only root may.
func TestRefetchNeedsRoot(t *testing.T) {
	c := servertest.Start(t, 1, "--bcrypt-cost=4")
	ctx, conn := deadline(t), c.Dial(c.Members[0])
	auth := pb.NewAuthClient(conn)
	for _, name := range []string{"root", "somebody"} {
		_, err := auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: "p"})
		require.NoError(t, err)
	}
	_, err := auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	require.NoError(t, err)
	_, err = auth.AuthEnable(ctx, &pb.AuthEnableRequest{})
	require.NoError(t, err)
	for name, want := range map[string]string{
		"":         rpctypes.ErrGRPCUserEmpty.Error(),
		"somebody": rpctypes.ErrGRPCPermissionDenied.Error(),
		"root":     "leads the cluster",
	} {
		as := ctx
		if name != "" {
			token, err := auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: "p"})
			require.NoError(t, err)
			as = metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token.Token)
		}
		_, err := integritypb.NewIntegrityClient(conn).Refetch(as, &integritypb.RefetchRequest{})
		require.ErrorContains(t, err, want, name)
	}
}
