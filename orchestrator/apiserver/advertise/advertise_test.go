package advertise

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/internal/clock"
	"github.com/keelson-io/keelson/orchestrator/kinds"
	"github.com/keelson-io/keelson/orchestrator/objectstore"
	"github.com/keelson-io/keelson/server/servertest"
)

// written is what was written last, by kind, and how often.
type written struct {
	mu     sync.Mutex
	last   map[string]kinds.Object
	writes int
}

func (w *written) write(_ context.Context, o kinds.Object, set func(kinds.Object) bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	kind := o.GetObjectKind().GroupVersionKind().Kind
	if have := w.last[kind]; have == nil {
		w.last[kind] = o
	} else if c := have.DeepCopyObject().(kinds.Object); set(c) {
		w.last[kind] = c
	} else {
		return nil
	}
	w.writes++
	return nil
}

// addresses are those of both objects, which must be the same.
func (w *written) addresses(t *testing.T) (out []string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.last["Endpoints"].(*corev1.Endpoints).Subsets[0].Addresses {
		out = append(out, a.IP)
	}
	var sliced []string
	for _, e := range w.last["EndpointSlice"].(*discoveryv1.EndpointSlice).Endpoints {
		sliced = append(sliced, e.Addresses...)
	}
	require.Equal(t, out, sliced)
	return out
}

func newServer(t *testing.T, c *client.Client, w *written, address string) *Server {
	t.Helper()
	store := objectstore.New(objectstore.Config{Client: c})
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	return New(Config{Store: store, Address: netip.MustParseAddr(address), Port: 6443, Write: w.write, Clock: clock.Real, Logger: zap.NewNop()})
}

// TestServers has two servers come and go.
func TestServers(t *testing.T) {
	cluster := servertest.Start(t, 1, servertest.Quick()...)
	c, err := client.New(client.Config{Endpoints: cluster.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	w := &written{last: map[string]kinds.Object{}}
	first, second := newServer(t, c, w, "192.0.2.2"), newServer(t, c, w, "192.0.2.1")
	ctx := t.Context()

	require.NoError(t, first.step(ctx))
	require.Equal(t, []string{"192.0.2.2"}, w.addresses(t))
	require.NoError(t, second.step(ctx))
	require.Equal(t, []string{"192.0.2.1", "192.0.2.2"}, w.addresses(t))
	before := w.writes
	require.NoError(t, first.step(ctx))
	require.Equal(t, before, w.writes, "there is nothing new")

	r, err := c.Get(ctx, "/registry/masterleases/192.0.2.2")
	require.NoError(t, err)
	require.Len(t, r.Kvs, 1)
	ttl, err := c.TimeToLive(ctx, client.LeaseID(r.Kvs[0].Lease), false)
	require.NoError(t, err)
	require.GreaterOrEqual(t, ttl.GrantedTTL, int64(life/time.Second))

	// One is killed: its object goes with its lease.
	_, err = c.Revoke(ctx, client.LeaseID(r.Kvs[0].Lease))
	require.NoError(t, err)
	require.NoError(t, second.step(ctx))
	require.Equal(t, []string{"192.0.2.1"}, w.addresses(t))

	// It comes again, and ends in order; the last one stays.
	require.NoError(t, first.step(ctx))
	require.Len(t, w.addresses(t), 2)
	require.NoError(t, first.leave(ctx))
	require.Equal(t, []string{"192.0.2.1"}, w.addresses(t))
	require.NoError(t, second.leave(ctx))
	require.Equal(t, []string{"192.0.2.1"}, w.addresses(t))
}

func TestRun(t *testing.T) {
	cluster := servertest.Start(t, 1, servertest.Quick()...)
	c, err := client.New(client.Config{Endpoints: cluster.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	w := &written{last: map[string]kinds.Object{}}
	s := newServer(t, c, w, "2001:db8::1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	require.Eventually(t, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.writes == 2
	}, time.Minute, time.Millisecond)
	require.Equal(t, []string{"2001:db8::1"}, w.addresses(t))
	require.Equal(t, discoveryv1.AddressTypeIPv6, w.last["EndpointSlice"].(*discoveryv1.EndpointSlice).AddressType)
	cancel()
	<-done
	r, err := c.Get(t.Context(), "/registry/masterleases/", client.WithPrefix())
	require.NoError(t, err)
	require.Empty(t, r.Kvs)
}
