package objectstore

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
)

func TestCompaction(t *testing.T) {
	f := start(t)
	one := &compactor{client: f.client, timeout: time.Minute}
	two := &compactor{client: f.client, timeout: time.Minute}
	step := func(c *compactor) int64 {
		t.Helper()
		to, err := c.step(ctx)
		require.NoError(t, err)
		return to
	}
	write := func() int64 {
		t.Helper()
		r, err := f.client.Put(ctx, "/registry/a", "b")
		require.NoError(t, err)
		return r.Header.Revision
	}
	compacted := func(revision int64) bool {
		t.Helper()
		_, err := f.client.Get(ctx, "/registry/a", client.WithRev(revision))
		if err != nil {
			require.ErrorIs(t, err, rpctypes.ErrCompacted)
		}
		return err != nil
	}
	first := write()
	require.Zero(t, step(one), "what was an interval before is not known")
	require.Zero(t, step(two), "it lost")
	second := write()
	to := step(one)
	require.GreaterOrEqual(t, to, first)
	require.Less(t, to, second)
	require.False(t, compacted(second))
	require.Zero(t, step(two), "it lost again, and learns that")
	last := write()
	require.GreaterOrEqual(t, step(two), second, "it takes over when the other does nothing")
	require.True(t, compacted(first))
	require.False(t, compacted(last))
}

func TestStoreCompacts(t *testing.T) {
	f := start(t)
	f.store(t, func(c *Config) { c.CompactEvery = 20 * time.Millisecond })
	r, err := f.client.Put(ctx, "/registry/a", "b")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := f.client.Put(ctx, "/registry/a", "c")
		require.NoError(t, err)
		_, err = f.client.Get(ctx, "/registry/a", client.WithRev(r.Header.Revision))
		return err != nil
	}, time.Minute, 10*time.Millisecond)
}
