package client_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
)

func TestKV(t *testing.T) {
	c, _ := open(t, 1)
	ctx := within(t, 10*time.Second)

	put, err := c.Put(ctx, "a", "1")
	require.NoError(t, err)
	require.EqualValues(t, 2, put.Header.Revision)
	put, err = c.Put(ctx, "a", "2", client.WithPrevKV())
	require.NoError(t, err)
	require.Equal(t, "1", string(put.PrevKv.Value))
	_, err = c.Do(ctx, client.OpPut("b", []byte("3")))
	require.NoError(t, err)

	got, err := c.Get(ctx, "", client.WithPrefix(), client.WithSort(client.SortByKey, client.SortDescend))
	require.NoError(t, err)
	require.Len(t, got.Kvs, 2)
	require.Equal(t, "b", string(got.Kvs[0].Key))
	got, err = c.Get(ctx, "a", client.WithRev(2))
	require.NoError(t, err)
	require.Equal(t, "1", string(got.Kvs[0].Value))
	got, err = c.Get(ctx, "a", client.WithFromKey(), client.WithLimit(1), client.WithKeysOnly())
	require.NoError(t, err)
	require.True(t, got.More)
	require.Empty(t, got.Kvs[0].Value)
	got, err = c.Get(ctx, "a", client.WithRange("c"), client.WithCountOnly())
	require.NoError(t, err)
	require.EqualValues(t, 2, got.Count)
	require.Empty(t, got.Kvs)
	got, err = c.Get(ctx, "", client.WithLastRev())
	require.NoError(t, err)
	require.Equal(t, "b", string(got.Kvs[0].Key))

	del, err := c.Delete(ctx, "", client.WithPrefix(), client.WithPrevKV())
	require.NoError(t, err)
	require.EqualValues(t, 2, del.Deleted)
	require.Len(t, del.PrevKvs, 2)

	_, err = c.Compact(ctx, del.Header.Revision, true)
	require.NoError(t, err)
	_, err = c.Get(ctx, "a", client.WithRev(2))
	require.ErrorIs(t, err, rpctypes.ErrCompacted)
	_, err = c.Get(ctx, "")
	require.ErrorIs(t, err, rpctypes.ErrEmptyKey)
}

func TestTxn(t *testing.T) {
	c, _ := open(t, 1)
	ctx := within(t, 10*time.Second)
	_, err := c.Put(ctx, "n", "5")
	require.NoError(t, err)

	for _, tc := range []struct {
		cmp  client.Cmp
		want bool
	}{
		{client.Value("n").Equals("5"), true},
		{client.Value("n").NotEquals("5"), false},
		{client.Value("n").GreaterThan("4"), true},
		{client.Value("n").LessThan("4"), false},
		{client.Value("gone").NotEquals("5"), false},
		{client.Version("n").Equals(1), true},
		{client.CreateRevision("n").LessThan(3), true},
		{client.ModRevision("n").GreaterThan(2), false},
		{client.LeaseOf("n").Equals(0), true},
		{client.CreateRevision("gone").Equals(0), true},
	} {
		resp, err := c.Txn(ctx).If(tc.cmp).Then(client.OpGet("n")).Else(client.OpGet("gone")).Commit()
		require.NoError(t, err)
		require.Equal(t, tc.want, resp.Succeeded)
	}

	resp, err := c.Txn(ctx).Then(
		client.OpPut("x", "1"),
		client.OpTxn([]client.Cmp{client.Value("x").Equals("1")}, []client.Op{client.OpDelete("n"), client.OpGet("x")}, nil),
	).Commit()
	require.NoError(t, err)
	nested := resp.Responses[1].GetResponseTxn()
	require.True(t, nested.Succeeded)
	require.EqualValues(t, 1, nested.Responses[0].GetResponseDeleteRange().Deleted)
	require.Equal(t, "1", string(nested.Responses[1].GetResponseRange().Kvs[0].Value))
}

func TestGetStream(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	for _, k := range []string{"a", "b", "c", "d", "e"} {
		f.Store.Put(k, k)
	}
	var keys string
	var count int64
	for chunk, err := range c.GetStream(ctx, "", client.WithPrefix()) {
		require.NoError(t, err)
		for _, kv := range chunk.Kvs {
			keys += string(kv.Key)
		}
		count = chunk.Count
	}
	require.Equal(t, "abcde", keys)
	require.EqualValues(t, 5, count)
	for _, err := range c.GetStream(ctx, "a", client.WithRev(100)) {
		require.ErrorIs(t, err, rpctypes.ErrFutureRev)
	}
}

func TestContextEndsCall(t *testing.T) {
	c, f := open(t, 1)
	f.Members[0].Stop()
	require.Eventually(t, func() bool {
		_, err := c.Get(within(t, 50*time.Millisecond), "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		return strings.Contains(err.Error(), "no such file") // the reason why there is no connection
	}, 5*time.Second, time.Millisecond)
	_, err := c.Put(within(t, 20*time.Millisecond), "a", "b")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotErrorIs(t, err, client.ErrUncertain)
}

func TestClosedClient(t *testing.T) {
	c, _ := open(t, 1)
	_, err := c.Put(within(t, time.Second), "a", "b")
	require.NoError(t, err)
	c.Close()
	_, err = c.Put(within(t, time.Second), "a", "b")
	require.ErrorIs(t, err, client.ErrClosed)
	_, err = c.KeepAlive(within(t, time.Second), 1)
	require.ErrorIs(t, err, client.ErrClosed)
	_, err = c.Watch(within(t, time.Second), "a").Next(context.Background())
	require.ErrorIs(t, err, client.ErrClosed)
}

func TestConfigErrors(t *testing.T) {
	_, err := client.New(client.Config{})
	require.ErrorIs(t, err, client.ErrNoEndpoints)
	for _, ep := range []string{"", "ftp://x", "http://", "unix:"} {
		_, err := client.New(client.Config{Endpoints: []string{ep}})
		require.Error(t, err, ep)
	}
	_, err = client.New(client.Config{Endpoints: []string{"x:1"}, Token: "t", Username: "u"})
	require.Error(t, err)
	_, err = client.New(client.Config{Endpoints: []string{"x:1"}, MaxSendBytes: 10, MaxRecvBytes: 5})
	require.Error(t, err)
}
