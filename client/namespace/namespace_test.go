package namespace_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/internal/fakestore"
	"github.com/keelson-io/keelson/client/namespace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNamespace(t *testing.T) {
	f := fakestore.Start(t, 1)
	root, err := client.New(client.Config{Endpoints: f.Endpoints()})
	require.NoError(t, err)
	defer root.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, k := range []string{"app", "app/a", "app/b", "apq"} {
		f.Store.Put(k, "outside "+k)
	}
	ns := namespace.New(root, "app/")
	keys := func(resp *client.GetResponse, err error) (out []string) {
		require.NoError(t, err)
		for _, kv := range resp.Kvs {
			out = append(out, string(kv.Key))
		}
		return out
	}
	require.Equal(t, []string{"a", "b"}, keys(ns.Get(ctx, "", client.WithPrefix())))
	require.Equal(t, []string{"b"}, keys(ns.Get(ctx, "b", client.WithFromKey())))
	require.Equal(t, []string{"a"}, keys(ns.Get(ctx, "a", client.WithRange("b"))))
	require.Equal(t, []string{"app/a"}, keys(root.Get(ctx, "app/a")))
	_, err = ns.Get(ctx, "")
	require.ErrorIs(t, err, rpctypes.ErrEmptyKey)
	_, err = ns.Put(ctx, "", "x")
	require.ErrorIs(t, err, rpctypes.ErrEmptyKey)

	inner := namespace.New(ns, "deep/")
	w := ns.Watch(ctx, "", client.WithPrefix(), client.WithPrevKV())
	rootWatch := root.Watch(ctx, "app/deep/x")
	_, err = inner.Put(ctx, "x", "1")
	require.NoError(t, err)
	put, err := inner.Put(ctx, "x", "2", client.WithPrevKV())
	require.NoError(t, err)
	require.Equal(t, "x", string(put.PrevKv.Key))
	for _, want := range []string{"1", "2"} {
		resp, err := w.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, "deep/x", string(resp.Events[0].Kv.Key))
		require.Equal(t, want, string(resp.Events[0].Kv.Value))
		resp, err = rootWatch.Next(ctx)
		require.NoError(t, err)
		require.Equal(t, "app/deep/x", string(resp.Events[0].Kv.Key))
	}

	op := client.OpTxn(
		[]client.Cmp{client.Value("deep/x").Equals("2")},
		[]client.Op{client.OpPut("y", "3"), client.OpGet("deep/", client.WithPrefix()), client.OpTxn(nil, []client.Op{client.OpDelete("deep/x", client.WithPrevKV())}, nil)},
		nil,
	)
	r, err := ns.Do(ctx, op)
	require.NoError(t, err)
	require.True(t, r.Txn.Succeeded)
	require.Equal(t, "deep/x", string(r.Txn.Responses[1].GetResponseRange().Kvs[0].Key))
	require.Equal(t, "deep/x", string(r.Txn.Responses[2].GetResponseTxn().Responses[0].GetResponseDeleteRange().PrevKvs[0].Key))
	require.Equal(t, []string{"app/y"}, keys(root.Get(ctx, "app/y")))
	r, err = ns.Do(ctx, op) // the same Op again: it was not changed
	require.NoError(t, err)
	require.False(t, r.Txn.Succeeded)

	lease, err := ns.Grant(ctx, 60)
	require.NoError(t, err)
	id := client.LeaseID(lease.ID)
	_, err = ns.Put(ctx, "l", "1", client.WithLease(id))
	require.NoError(t, err)
	_, err = root.Put(ctx, "other", "1", client.WithLease(id))
	require.NoError(t, err)
	ttl, err := ns.TimeToLive(ctx, id, true)
	require.NoError(t, err)
	require.Equal(t, [][]byte{[]byte("l")}, ttl.Keys)

	del, err := ns.Delete(ctx, "", client.WithPrefix(), client.WithPrevKV())
	require.NoError(t, err)
	require.Equal(t, "a", string(del.PrevKvs[0].Key))
	require.Equal(t, []string{"app", "apq", "other"}, keys(root.Get(ctx, "", client.WithPrefix())))

	require.NoError(t, ns.Close())
	_, err = ns.Put(ctx, "still", "open")
	require.NoError(t, err)
	require.Same(t, root, namespace.New(root, ""))
}

func TestPrefixAtTheEndOfTheKeySpace(t *testing.T) {
	f := fakestore.Start(t, 1)
	root, err := client.New(client.Config{Endpoints: f.Endpoints()})
	require.NoError(t, err)
	defer root.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	f.Store.Put("\xff\xffx", "1")
	f.Store.Put("\xff\xfe", "2")
	resp, err := namespace.New(root, "\xff\xff").Get(ctx, "", client.WithFromKey())
	require.NoError(t, err)
	require.Len(t, resp.Kvs, 1)
	require.Equal(t, "x", string(resp.Kvs[0].Key))
}
