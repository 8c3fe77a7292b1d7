package concurrency_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/concurrency"
	"github.com/keelson-io/keelson/client/internal/fakestore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, n int) (context.Context, *client.Client, *fakestore.Cluster) {
	t.Helper()
	f := fakestore.Start(t, n)
	c, err := client.New(client.Config{Endpoints: f.Endpoints()})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx, c, f
}

func session(t *testing.T, ctx context.Context, c *client.Client, opts ...concurrency.SessionOption) *concurrency.Session {
	t.Helper()
	s, err := concurrency.NewSession(ctx, c, opts...)
	require.NoError(t, err)
	return s
}

func TestSession(t *testing.T) {
	ctx, c, f := open(t, 1)
	short, cancel := context.WithCancel(ctx)
	s := session(t, short, c, concurrency.WithTTL(7))
	cancel() // bounds the making only
	require.NoError(t, s.Context().Err())
	ttl, err := c.TimeToLive(ctx, s.Lease(), false)
	require.NoError(t, err)
	require.EqualValues(t, 7, ttl.GrantedTTL)
	same := session(t, ctx, c, concurrency.WithLease(s.Lease()))
	require.Equal(t, s.Lease(), same.Lease())
	same.Orphan()
	<-same.Done()
	require.NoError(t, s.Context().Err())
	require.NoError(t, s.Close())
	<-s.Context().Done()
	require.ErrorIs(t, context.Cause(s.Context()), concurrency.ErrSessionExpired)
	require.EqualValues(t, -1, f.Store.Renewals(int64(s.Lease())))

	lost := session(t, ctx, c, concurrency.WithTTL(1))
	f.Store.Revoke(int64(lost.Lease()))
	<-lost.Done()
	require.NoError(t, lost.Close())

	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = concurrency.NewSession(ended, c)
	require.ErrorIs(t, err, context.Canceled)
}

func TestMutexExcludes(t *testing.T) {
	ctx, c, f := open(t, 3)
	var holders, total atomic.Int32
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			s, err := concurrency.NewSession(ctx, c)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			m := concurrency.NewMutex(s, "lock")
			for range 4 {
				if err := m.Lock(ctx); err != nil {
					t.Error(err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d holders", n)
				}
				resp, err := c.Txn(ctx).If(m.IsOwner()).Then(client.OpPut("guarded", "x")).Commit()
				if err != nil && !errors.Is(err, client.ErrUncertain) || err == nil && !resp.Succeeded {
					t.Errorf("guarded write: %v", err)
				}
				total.Add(1)
				holders.Add(-1)
				if err := m.Unlock(ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 10 {
		time.Sleep(5 * time.Millisecond)
		f.Members[i%3].Cut()
	}
	wg.Wait()
	require.EqualValues(t, 20, total.Load())
}

func TestMutexKeyLayout(t *testing.T) {
	ctx, c, _ := open(t, 1)
	s := session(t, ctx, c)
	defer s.Close()
	m := concurrency.NewMutex(s, "my-lock")
	require.NoError(t, m.Lock(ctx))
	require.Equal(t, fmt.Sprintf("my-lock/%x", int64(s.Lease())), m.Key())
	got, err := c.Get(ctx, m.Key())
	require.NoError(t, err)
	require.EqualValues(t, s.Lease(), got.Kvs[0].Lease)
	require.Empty(t, got.Kvs[0].Value)
	require.NotZero(t, m.Header().Revision)
	require.NoError(t, m.Lock(ctx), "the same session has it already")

	s2 := session(t, ctx, c)
	defer s2.Close()
	m2 := concurrency.NewMutex(s2, "my-lock")
	require.ErrorIs(t, m2.TryLock(ctx), concurrency.ErrLocked)
	require.ErrorIs(t, m2.Unlock(ctx), concurrency.ErrLockReleased)
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, m2.Lock(short), context.DeadlineExceeded)
	got, err = c.Get(ctx, "my-lock/", client.WithPrefix(), client.WithCountOnly())
	require.NoError(t, err)
	require.EqualValues(t, 1, got.Count, "the waiter left")
	require.NoError(t, m.Unlock(ctx))
	require.NoError(t, m2.TryLock(ctx))
	l := m2.Locker()
	l.Unlock()
	l.Lock()
	require.ErrorIs(t, m.TryLock(ctx), concurrency.ErrLocked)
	l.Unlock()
}

func TestMutexOwnerDies(t *testing.T) {
	ctx, c, f := open(t, 1)
	s1, s2, s3 := session(t, ctx, c), session(t, ctx, c, concurrency.WithTTL(1)), session(t, ctx, c)
	m1 := concurrency.NewMutex(s1, "l")
	require.NoError(t, m1.Lock(ctx))
	got2, got3 := make(chan error, 1), make(chan error, 1)
	go func() { got2 <- concurrency.NewMutex(s2, "l").Lock(ctx) }()
	waitFor(t, ctx, c, "l/", 2)
	go func() { got3 <- concurrency.NewMutex(s3, "l").Lock(ctx) }()
	waitFor(t, ctx, c, "l/", 3)
	f.Store.Revoke(int64(s2.Lease())) // the one in the middle of the queue
	err := <-got2
	require.ErrorIs(t, err, concurrency.ErrSessionExpired)
	select {
	case <-got3:
		t.Fatal("the lock is held")
	case <-time.After(30 * time.Millisecond):
	}
	f.Store.Compact(f.Store.Rev()) // a waiter does not need the history
	f.Store.Revoke(int64(s1.Lease()))
	require.NoError(t, <-got3)
}

func waitFor(t *testing.T, ctx context.Context, c *client.Client, prefix string, n int64) {
	t.Helper()
	require.Eventually(t, func() bool {
		resp, err := c.Get(ctx, prefix, client.WithPrefix(), client.WithCountOnly())
		return err == nil && resp.Count == n
	}, 5*time.Second, time.Millisecond)
}

// The lock's transaction is repeated when its answer is lost.
func TestMutexUncertainWrite(t *testing.T) {
	ctx, c, f := open(t, 1)
	s := session(t, ctx, c)
	defer s.Close()
	f.Members[0].SetFault(pb.KV_Txn_FullMethodName, &fakestore.Fault{After: rpctypes.ErrGRPCTimeout, Times: 2})
	f.Members[0].SetFault(pb.KV_DeleteRange_FullMethodName, &fakestore.Fault{After: rpctypes.ErrGRPCTimeout, Times: 2})
	m := concurrency.NewMutex(s, "l")
	require.NoError(t, m.Lock(ctx))
	require.Equal(t, 3, f.Calls(pb.KV_Txn_FullMethodName))
	require.NoError(t, m.Unlock(ctx))
}

func TestElection(t *testing.T) {
	ctx, c, f := open(t, 1)
	s1, s2 := session(t, ctx, c), session(t, ctx, c)
	e1, e2 := concurrency.NewElection(s1, "e"), concurrency.NewElection(s2, "e")
	_, err := e1.Leader(ctx)
	require.ErrorIs(t, err, concurrency.ErrElectionNoLeader)
	require.ErrorIs(t, e1.Proclaim(ctx, "x"), concurrency.ErrElectionNotLeader)
	require.NoError(t, e1.Resign(ctx))

	seen := make(chan string, 10)
	octx, stop := context.WithCancel(ctx)
	observed := make(chan error, 1)
	go func() {
		for kv, err := range e2.Observe(octx) {
			if err != nil {
				observed <- err
				return
			}
			seen <- string(kv.Value)
		}
	}()
	require.NoError(t, e1.Campaign(ctx, "one"))
	require.Equal(t, "one", <-seen)
	require.NoError(t, e1.Campaign(ctx, "uno"), "campaigning again is proclaiming")
	require.Equal(t, "uno", <-seen)
	require.Equal(t, fmt.Sprintf("e/%x", int64(s1.Lease())), e1.Key())

	won := make(chan error, 1)
	go func() { won <- e2.Campaign(ctx, "two") }()
	waitFor(t, ctx, c, "e/", 2)
	require.NoError(t, e1.Proclaim(ctx, "eins"))
	require.Equal(t, "eins", <-seen)
	lead, err := e2.Leader(ctx)
	require.NoError(t, err)
	require.Equal(t, "eins", string(lead.Kvs[0].Value))
	require.NoError(t, e1.Resign(ctx))
	require.NoError(t, <-won)
	require.Equal(t, "two", <-seen)
	require.ErrorIs(t, e1.Proclaim(ctx, "x"), concurrency.ErrElectionNotLeader)

	resumed := concurrency.ResumeElection(s2, "e", e2.Key(), e2.Rev())
	require.NoError(t, resumed.Proclaim(ctx, "zwei"))
	require.Equal(t, "zwei", <-seen)
	f.Store.Delete(e2.Key())
	require.ErrorIs(t, e2.Proclaim(ctx, "x"), concurrency.ErrElectionNotLeader)
	stop()
	require.ErrorIs(t, <-observed, context.Canceled)

	require.NoError(t, e1.Campaign(ctx, "again"))
	short, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, e2.Campaign(short, "two"), context.DeadlineExceeded)
	waitFor(t, ctx, c, "e/", 1)
}

func TestSTM(t *testing.T) {
	for _, iso := range []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads} {
		t.Run(fmt.Sprint(iso), func(t *testing.T) {
			ctx, c, _ := open(t, 2)
			const accounts, each = 5, 100
			for i := range accounts {
				_, err := c.Put(ctx, fmt.Sprint("acc", i), strconv.Itoa(each))
				require.NoError(t, err)
			}
			move := func(from, to string) func(*concurrency.Tx) error {
				return func(tx *concurrency.Tx) error {
					a, err := tx.Get(from)
					if err != nil {
						return err
					}
					b, err := tx.Get(to)
					if err != nil {
						return err
					}
					x, _ := strconv.Atoi(a)
					y, _ := strconv.Atoi(b)
					tx.Put(from, strconv.Itoa(x-1))
					tx.Put(to, strconv.Itoa(y+1))
					return nil
				}
			}
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					for i := range 20 {
						from, to := fmt.Sprint("acc", (g+i)%accounts), fmt.Sprint("acc", (g+2*i+1)%accounts)
						if from == to {
							continue
						}
						_, err := concurrency.STM(ctx, c, move(from, to), concurrency.WithIsolation(iso), concurrency.WithPrefetch(from))
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			sum := 0
			resp, err := c.Get(ctx, "acc", client.WithPrefix())
			require.NoError(t, err)
			for _, kv := range resp.Kvs {
				n, _ := strconv.Atoi(string(kv.Value))
				sum += n
			}
			require.Equal(t, accounts*each, sum)
		})
	}
}

func TestSTMSeesOneRevision(t *testing.T) {
	ctx, c, f := open(t, 1)
	f.Store.Put("a", "1")
	f.Store.Put("b", "1")
	rounds := 0
	_, err := concurrency.STM(ctx, c, func(tx *concurrency.Tx) error {
		rounds++
		a, err := tx.Get("a")
		if err != nil {
			return err
		}
		if rounds == 1 {
			f.Store.Put("a", "2")
			f.Store.Put("b", "2")
		}
		b, err := tx.Get("b")
		if err != nil {
			return err
		}
		if a != b {
			return fmt.Errorf("a is %s and b is %s", a, b)
		}
		tx.Put("c", b)
		tx.Delete("gone")
		if v, _ := tx.Get("c"); v != b {
			return errors.New("own write not seen")
		}
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, 2, rounds)
}

// A write to a key that was not read conflicts under snapshot isolation only.
func TestSTMWriteConflict(t *testing.T) {
	ctx, c, f := open(t, 1)
	for iso, want := range map[concurrency.Isolation]int{concurrency.SerializableSnapshot: 2, concurrency.Serializable: 1, concurrency.ReadCommitted: 1} {
		f.Store.Put("r", "1")
		rounds := 0
		_, err := concurrency.STM(ctx, c, func(tx *concurrency.Tx) error {
			rounds++
			if _, err := tx.Rev("r"); err != nil {
				return err
			}
			if rounds == 1 {
				f.Store.Put("w", "theirs")
			}
			tx.Put("w", "ours")
			return nil
		}, concurrency.WithIsolation(iso))
		require.NoError(t, err)
		require.Equal(t, want, rounds)
	}
}

func TestSTMErrors(t *testing.T) {
	ctx, c, f := open(t, 1)
	boom := errors.New("boom")
	_, err := concurrency.STM(ctx, c, func(tx *concurrency.Tx) error { tx.Put("x", "1"); return boom })
	require.ErrorIs(t, err, boom)
	got, err := c.Get(ctx, "x")
	require.NoError(t, err)
	require.Empty(t, got.Kvs)

	// A read that fails ends the transaction even when apply overlooks it.
	f.Members[0].SetFault(pb.KV_Range_FullMethodName, &fakestore.Fault{Before: rpctypes.ErrGRPCPermissionDenied})
	_, err = concurrency.STM(ctx, c, func(tx *concurrency.Tx) error {
		v, _ := tx.Get("a")
		tx.Put("x", v)
		return nil
	})
	require.ErrorIs(t, err, rpctypes.ErrPermissionDenied)
	f.Members[0].SetFault(pb.KV_Range_FullMethodName, nil)

	f.Members[0].SetFault(pb.KV_Txn_FullMethodName, &fakestore.Fault{After: rpctypes.ErrGRPCTimeout})
	_, err = concurrency.STM(ctx, c, func(tx *concurrency.Tx) error { tx.Put("x", "1"); return nil })
	require.ErrorIs(t, err, client.ErrUncertain)
}
