package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/internal/fakestore"
)

func TestCluster(t *testing.T) {
	c, f := open(t, 2)
	ctx := within(t, 10*time.Second)
	list, err := c.MemberListSerializable(ctx)
	require.NoError(t, err)
	require.Len(t, list.Members, 2)
	add, err := c.MemberAddAsLearner(ctx, []string{"http://x"})
	require.NoError(t, err)
	require.True(t, add.Member.IsLearner)
	add, err = c.MemberAdd(ctx, []string{"http://x"})
	require.NoError(t, err)
	require.False(t, add.Member.IsLearner)
	_, err = c.MemberUpdate(ctx, 1, []string{"http://y"})
	require.NoError(t, err)
	_, err = c.MemberPromote(ctx, 1)
	require.ErrorIs(t, err, rpctypes.ErrMemberNotLearner)
	_, err = c.MemberRemove(ctx, 77)
	require.ErrorIs(t, err, rpctypes.ErrMemberNotFound)
	require.Equal(t, 1, f.Calls(pb.Cluster_MemberRemove_FullMethodName))
}

func TestMaintenance(t *testing.T) {
	c, f := open(t, 2)
	ctx := within(t, 10*time.Second)
	for i, ep := range f.Endpoints() {
		st, err := c.Status(ctx, ep)
		require.NoError(t, err)
		require.EqualValues(t, i+1, st.Header.MemberId)
	}
	_, err := c.Defragment(ctx, f.Endpoints()[1])
	require.NoError(t, err)
	require.Equal(t, 1, f.Members[1].Calls(pb.Maintenance_Defragment_FullMethodName))
	h, err := c.HashKV(ctx, f.Endpoints()[0], 5)
	require.NoError(t, err)
	require.EqualValues(t, 5, h.HashRevision)
	_, err = c.Hash(ctx, f.Endpoints()[0])
	require.NoError(t, err)
	_, err = c.MoveLeader(ctx, 2)
	require.NoError(t, err)
	al, err := c.AlarmDisarm(ctx, &client.AlarmMember{})
	require.NoError(t, err)
	require.Len(t, al.Alarms, 1)

	// An endpoint that the client was not made with.
	other := fakestore.Start(t, 1)
	_, err = c.Status(ctx, other.Endpoints()[0])
	require.NoError(t, err)
	other.Members[0].Stop()
	_, err = c.Status(within(t, 50*time.Millisecond), other.Endpoints()[0])
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestSnapshot(t *testing.T) {
	c, f := open(t, 2)
	ctx := within(t, 10*time.Second)
	f.Members[0].SetFault(pb.Maintenance_Snapshot_FullMethodName, &fakestore.Fault{Before: rpctypes.ErrGRPCStopped})
	for range 2 { // whichever member is first
		s, err := c.Snapshot(ctx)
		require.NoError(t, err)
		require.Equal(t, "3.7.3", s.Version)
		require.NotNil(t, s.Header)
		all, err := io.ReadAll(s)
		require.NoError(t, err)
		require.NoError(t, s.Close())
		body := all[:len(all)-sha256.Size]
		require.Equal(t, fakestore.SnapshotBytes, string(body))
		sum := sha256.Sum256(body)
		require.Equal(t, sum[:], all[len(body):])
	}
	s, err := c.Snapshot(ctx)
	require.NoError(t, err)
	var buf bytes.Buffer
	n, err := io.Copy(&buf, s)
	require.NoError(t, err)
	require.EqualValues(t, buf.Len(), n)

	f.Members[1].SetFault(pb.Maintenance_Snapshot_FullMethodName, &fakestore.Fault{After: errors.New("x"), Before: rpctypes.ErrGRPCPermissionDenied})
	f.Members[0].SetFault(pb.Maintenance_Snapshot_FullMethodName, &fakestore.Fault{Before: rpctypes.ErrGRPCPermissionDenied})
	_, err = c.Snapshot(ctx)
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
}
