package client_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/internal/fakestore"
)

// next returns the next event, out of as many responses as it takes.
type reader struct {
	w   *client.Watcher
	buf []*client.Event
}

func (r *reader) next(t testing.TB) *client.Event {
	t.Helper()
	for len(r.buf) == 0 {
		resp, err := r.w.Next(within(t, 5*time.Second))
		require.NoError(t, err)
		r.buf = resp.Events
	}
	ev := r.buf[0]
	r.buf = r.buf[1:]
	return ev
}

func TestWatch(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	f.Store.Put("a", "0")
	w := c.Watch(ctx, "a", client.WithPrefix(), client.WithPrevKV(), client.WithCreatedNotify())
	resp, err := w.Next(ctx)
	require.NoError(t, err)
	require.True(t, resp.Created)
	require.False(t, resp.IsProgress())
	f.Store.Put("a", "1")
	f.Store.Put("b", "no")
	f.Store.Delete("a")
	r := reader{w: w}
	ev := r.next(t)
	require.Equal(t, client.EventPut, ev.Type)
	require.Equal(t, "1", string(ev.Kv.Value))
	require.Equal(t, "0", string(ev.PrevKv.Value))
	require.Equal(t, client.EventDelete, r.next(t).Type)

	past := reader{w: c.Watch(ctx, "a", client.WithRev(2), client.WithFilterDelete())}
	require.Equal(t, "0", string(past.next(t).Kv.Value))
	require.Equal(t, "1", string(past.next(t).Kv.Value))
	dels := reader{w: c.Watch(ctx, "a", client.WithRev(2), client.WithFilterPut())}
	require.Equal(t, client.EventDelete, dels.next(t).Type)
	require.Equal(t, 1, f.Calls(pb.Watch_Watch_FullMethodName), "all on one stream")

	w.Close()
	_, err = w.Next(ctx)
	require.ErrorIs(t, err, client.ErrClosed)
	require.ErrorIs(t, w.Err(), client.ErrClosed)
}

func TestWatchFromNowSeesWhatComesAfterWatchReturned(t *testing.T) {
	c, f := open(t, 1)
	for i := range 50 {
		r := reader{w: c.Watch(within(t, 10*time.Second), "k")}
		if i%5 == 0 {
			f.Members[0].BreakStreams(status.Error(codes.Unavailable, "broken"))
		}
		rev := f.Store.Put("k", fmt.Sprint(i))
		require.Equal(t, rev, r.next(t).Kv.ModRevision)
		r.w.Close()
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	c, _ := open(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	w := c.Watch(ctx, "a")
	ch := w.Chan()
	cancel()
	_, open := <-ch
	require.False(t, open)
	require.ErrorIs(t, w.Err(), context.Canceled)

	// A context that ends before any member is there.
	c2, f := open2(t)
	f.Members[0].Stop()
	w = c2.Watch(within(t, 20*time.Millisecond), "a")
	_, err := w.Next(context.Background())
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func open2(t *testing.T) (*client.Client, *fakestore.Cluster) { return open(t, 1) }

func TestWatchLoopAndChan(t *testing.T) {
	c, f := open(t, 1)
	w := c.Watch(within(t, 10*time.Second), "a", client.WithRev(2))
	for i := range 3 {
		f.Store.Put("a", fmt.Sprint(i))
	}
	n := 0
	for resp, err := range w.All(context.Background()) {
		require.NoError(t, err)
		if n += len(resp.Events); n == 3 {
			break
		}
	}
	w2 := c.Watch(within(t, 10*time.Second), "a", client.WithRev(2))
	n = 0
	for resp := range w2.Chan() {
		if n += len(resp.Events); n == 3 {
			w2.Close()
		}
	}
	require.Equal(t, 3, n)
	require.ErrorIs(t, w2.Err(), client.ErrClosed)
}

func TestWatchCompacted(t *testing.T) {
	c, f := open(t, 1)
	for range 10 {
		f.Store.Put("a", "x")
	}
	f.Store.Compact(7)
	w := c.Watch(within(t, 10*time.Second), "a", client.WithRev(3))
	_, err := w.Next(context.Background())
	require.ErrorIs(t, err, rpctypes.ErrCompacted)
	var ce *client.CompactedError
	require.ErrorAs(t, err, &ce)
	require.EqualValues(t, 7, ce.CompactRevision)
	r := reader{w: c.Watch(within(t, 10*time.Second), "a", client.WithRev(ce.CompactRevision))}
	require.EqualValues(t, 7, r.next(t).Kv.ModRevision)
}

// A compaction while the stream is down hits only the watches whose resume point is gone.
func TestWatchCompactedWhileDisconnected(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	behind := c.Watch(ctx, "a", client.WithRev(100))
	now := reader{w: c.Watch(ctx, "b")}
	f.Members[0].Stop()
	for range 20 {
		f.Store.Put("b", "x")
	}
	f.Store.Compact(15)
	f.Members[0].Start()
	_, err := now.w.Next(ctx)
	require.ErrorIs(t, err, rpctypes.ErrCompacted)
	for f.Store.Rev() < 100 {
		f.Store.Put("a", "y")
	}
	require.EqualValues(t, 100, (&reader{w: behind}).next(t).Kv.ModRevision)
}

func TestWatchRefused(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	other := reader{w: c.Watch(ctx, "a")}
	_, err := c.Watch(ctx, "forbidden").Next(ctx)
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	f.Store.Put("a", "1")
	require.Equal(t, "1", string(other.next(t).Kv.Value))
}

func TestWatchNewToken(t *testing.T) {
	c, f := open(t, 1, func(cfg *client.Config) { cfg.Username, cfg.Password = "root", "secret" })
	r := reader{w: c.Watch(within(t, 10*time.Second), "a", client.WithRev(2))}
	f.Store.Put("a", "1")
	require.Equal(t, "1", string(r.next(t).Kv.Value))
	f.Members[0].SetWire(fakestore.WatchWire{Token: "newer"}) // the old one is of no use from here on
	f.Members[0].BreakStreams(status.Error(codes.Unavailable, "broken"))
	f.Store.Put("a", "2")
	require.Equal(t, "2", string(r.next(t).Kv.Value))
}

// A member without a leader is left, by watches that do not say how they want it; with RequireLeader they end.
func TestWatchLeavesLeaderlessMember(t *testing.T) {
	c, f := open(t, 2)
	ctx := within(t, 10*time.Second)
	r := reader{w: c.Watch(ctx, "a", client.WithRev(2))}
	strict := c.Watch(client.RequireLeader(ctx), "a")
	f.Members[0].SetNoLeader(true)
	f.Members[1].SetNoLeader(true)
	_, err := strict.Next(ctx)
	require.ErrorIs(t, err, rpctypes.ErrNoLeader)
	f.Members[1].SetNoLeader(false)
	f.Store.Put("a", "1")
	require.Equal(t, "1", string(r.next(t).Kv.Value))
}

func TestWatchFragments(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	txn := c.Txn(ctx)
	for i := range 10 {
		txn.Then(client.OpPut(fmt.Sprint("k", i), "v"))
	}
	_, err := txn.Commit()
	require.NoError(t, err)
	f.Members[0].SetWire(fakestore.WatchWire{FragmentEvents: 3, FragmentsBeforeCut: 2})
	w := c.Watch(ctx, "k", client.WithPrefix(), client.WithRev(2), client.WithFragment())
	resp, err := w.Next(ctx)
	require.NoError(t, err)
	require.Len(t, resp.Events, 10, "joined, and begun again after the stream broke between fragments")
	require.Equal(t, 2, f.Calls(pb.Watch_Watch_FullMethodName))
}

func TestWatchProgress(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	a, b := c.Watch(ctx, "a"), c.Watch(ctx, "b")
	f.Store.Put("other", "1")
	a.RequestProgress()
	resp, err := a.Next(ctx)
	require.NoError(t, err)
	require.True(t, resp.IsProgress())
	require.Equal(t, f.Store.Rev(), resp.Header.Revision)
	_, err = b.Next(within(t, 20*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded, "b did not ask")
	c.RequestProgress(ctx)
	for _, w := range []*client.Watcher{a, b} {
		resp, err := w.Next(ctx)
		require.NoError(t, err)
		require.True(t, resp.IsProgress())
	}
	// A progress response is a resume point: what is compacted below it does not hurt.
	for range 10 {
		f.Store.Put("other", "1")
	}
	b.RequestProgress()
	_, err = b.Next(ctx)
	require.NoError(t, err)
	f.Members[0].Stop()
	f.Store.Compact(f.Store.Rev())
	f.Members[0].Start()
	f.Store.Put("b", "1")
	require.Equal(t, "1", string((&reader{w: b}).next(t).Kv.Value))
}

// A watch on the future gets no progress response from before its start.
func TestWatchFutureGetsNoEarlyProgress(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	w := c.Watch(ctx, "a", client.WithRev(5))
	w.RequestProgress()
	_, err := w.Next(within(t, 30*time.Millisecond))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	f.Members[0].BreakStreams(status.Error(codes.Unavailable, "broken"))
	for f.Store.Rev() < 6 {
		f.Store.Put("a", "x")
	}
	require.EqualValues(t, 5, (&reader{w: w}).next(t).Kv.ModRevision)
}

// A consumer that does not read costs bounded memory, does not hold others up, and misses nothing.
func TestSlowWatchIsParkedAndResumes(t *testing.T) {
	c, f := open(t, 1, func(cfg *client.Config) { cfg.WatchBuffer = 10 })
	ctx := within(t, 20*time.Second)
	slow := reader{w: c.Watch(ctx, "a")}
	fast := reader{w: c.Watch(ctx, "a")}
	const n = 300
	for i := range n {
		rev := f.Store.Put("a", fmt.Sprint(i))
		require.Equal(t, rev, fast.next(t).Kv.ModRevision)
	}
	f.Members[0].BreakStreams(status.Error(codes.Unavailable, "broken")) // a parked watch stays parked
	for i := range n {
		require.Equal(t, fmt.Sprint(i), string(slow.next(t).Kv.Value))
	}
}

// Whatever breaks, every watch delivers every event once and in order.
func TestWatchLosesAndDoublesNothing(t *testing.T) {
	c, f := open(t, 3, func(cfg *client.Config) { cfg.WatchBuffer = 50; cfg.Connections = 2 })
	ctx := within(t, 30*time.Second)
	const writes = 600
	stop := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
			m := f.Members[i%3]
			switch i % 6 {
			case 0:
				m.Cut()
			case 1:
				m.BreakStreams(status.Error(codes.Unavailable, "broken"))
			case 2:
				m.SetNoLeader(true)
			case 3:
				m.Stop()
			case 4:
				m.SetWire(fakestore.WatchWire{FragmentEvents: 1 + i%2, FragmentsBeforeCut: i % 3})
			case 5:
				for _, m := range f.Members {
					m.Start()
					m.SetNoLeader(false)
				}
			}
			c.RequestProgress(ctx)
		}
	})
	var wg sync.WaitGroup
	for i := range 12 {
		var opts []client.WatchOption
		start := int64(2)
		if i%3 != 0 {
			start = int64(2 + 40*i) // past or future, as it comes
		}
		opts = append(opts, client.WithRev(start), client.WithPrefix(), client.WithFragment())
		w := c.Watch(ctx, "k", opts...)
		wg.Go(func() {
			want := start
			sub := 0
			for want < writes+2 {
				resp, err := w.Next(ctx)
				if err != nil {
					t.Errorf("watch %d: %v", i, err)
					return
				}
				if resp.IsProgress() && resp.Header.Revision >= want {
					t.Errorf("watch %d: progress %d before event %d", i, resp.Header.Revision, want)
				}
				for _, ev := range resp.Events { // two events a revision
					if ev.Kv.ModRevision != want || string(ev.Kv.Key) != fmt.Sprint("k", sub) {
						t.Errorf("watch %d: %s@%d instead of k%d@%d", i, ev.Kv.Key, ev.Kv.ModRevision, sub, want)
						return
					}
					if sub++; sub == 2 {
						sub = 0
						want++
					}
				}
				if i%4 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	writer, err := client.New(client.Config{Endpoints: f.Endpoints()})
	require.NoError(t, err)
	defer writer.Close()
	for f.Store.Rev() < writes+2 {
		_, _ = writer.Txn(ctx).Then(client.OpPut("k0", "x"), client.OpPut("k1", "x")).Commit()
	}
	wg.Wait()
	close(stop)
	chaos.Wait()
}

func TestWatchClosesServerSide(t *testing.T) {
	c, f := open(t, 1)
	ctx := within(t, 10*time.Second)
	keep := c.Watch(ctx, "a")
	for range 20 {
		c.Watch(ctx, "a").Close()
	}
	f.Store.Put("a", "1")
	require.Equal(t, "1", string((&reader{w: keep}).next(t).Kv.Value))
	require.Equal(t, 1, f.Members[0].Streams())
}
