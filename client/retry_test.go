package client_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/client/internal/fakestore"
)

func TestReadsMoveToAnotherMember(t *testing.T) {
	c, f := open(t, 3)
	ctx := within(t, 10*time.Second)
	f.Store.Put("a", "1")
	for i, fault := range []*fakestore.Fault{
		{Before: rpctypes.ErrGRPCTimeout},
		{Before: rpctypes.ErrGRPCLeaderChanged},
		{After: rpctypes.ErrGRPCStopped},
		{Cut: true},
		{Before: rpctypes.ErrGRPCNotSupportedForLearner},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			f.Members[0].SetFault(pb.KV_Range_FullMethodName, fault)
			defer f.Members[0].SetFault(pb.KV_Range_FullMethodName, nil)
			for range 6 {
				got, err := c.Get(ctx, "a")
				require.NoError(t, err)
				require.Len(t, got.Kvs, 1)
			}
		})
	}
}

func TestReadIsNotRepeatedForAnErrorOfItsOwn(t *testing.T) {
	c, f := open(t, 3)
	_, err := c.Get(within(t, 10*time.Second), "a", client.WithRev(99))
	require.ErrorIs(t, err, rpctypes.ErrFutureRev)
	require.Equal(t, 1, f.Calls(pb.KV_Range_FullMethodName))
}

// A write whose answer is lost is never sent again, and the caller is told that its outcome is unknown.
func TestWriteIsNotRepeatedOnceSent(t *testing.T) {
	for name, tc := range map[string]struct {
		fault   fakestore.Fault
		applied int
	}{
		"answer lost":              {fakestore.Fault{After: rpctypes.ErrGRPCTimeout}, 1},
		"leader changed":           {fakestore.Fault{After: rpctypes.ErrGRPCLeaderChanged}, 1},
		"connection cut":           {fakestore.Fault{Cut: true}, 1},
		"server stopped":           {fakestore.Fault{Before: rpctypes.ErrGRPCStopped}, 0},
		"no leader":                {fakestore.Fault{Before: rpctypes.ErrGRPCNoLeader}, 0},
		"unavailable, unexplained": {fakestore.Fault{Before: status.Error(codes.Unavailable, "?")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, f := open(t, 3)
			ctx := within(t, 10*time.Second)
			for _, m := range f.Members {
				m.SetFault(pb.KV_Put_FullMethodName, &tc.fault)
				m.SetFault(pb.KV_Txn_FullMethodName, &tc.fault)
			}
			_, err := c.Put(ctx, "a", "v")
			require.ErrorIs(t, err, client.ErrUncertain)
			require.Equal(t, 1, f.Calls(pb.KV_Put_FullMethodName))
			require.Equal(t, tc.applied, f.Store.Puts("v"))

			_, err = c.Txn(ctx).Then(client.OpPut("a", "w")).Commit()
			require.ErrorIs(t, err, client.ErrUncertain)
			require.Equal(t, tc.applied, f.Store.Puts("w"))
		})
	}
}

// settle returns when the client has seen which members are gone: until then a write may go into a dying connection.
func settle(t *testing.T, c *client.Client) {
	t.Helper()
	for good := 0; good < 20; good++ {
		if _, err := c.Put(within(t, 5*time.Second), "settle", "x"); err != nil {
			require.ErrorIs(t, err, client.ErrUncertain)
			good = 0
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRefusedWriteIsCertain(t *testing.T) {
	c, f := open(t, 2)
	for _, m := range f.Members {
		m.SetFault(pb.KV_Put_FullMethodName, &fakestore.Fault{Before: rpctypes.ErrGRPCNoSpace})
	}
	_, err := c.Put(within(t, 10*time.Second), "a", "v")
	require.ErrorIs(t, err, rpctypes.ErrNoSpace)
	require.NotErrorIs(t, err, client.ErrUncertain)
}

func TestReadOnlyTxnIsRepeated(t *testing.T) {
	c, f := open(t, 2)
	for _, m := range f.Members {
		m.SetFault(pb.KV_Txn_FullMethodName, &fakestore.Fault{After: rpctypes.ErrGRPCTimeout, Times: 1})
	}
	_, err := c.Txn(within(t, 10*time.Second)).Then(client.OpTxn(nil, []client.Op{client.OpGet("a")}, nil)).Commit()
	require.NoError(t, err)
}

// A write that certainly was not sent goes to another member: a learner refuses it, a member is down.
func TestUnsentWriteMovesOn(t *testing.T) {
	c, f := open(t, 3)
	ctx := within(t, 20*time.Second)
	f.Members[0].SetFault(pb.KV_Put_FullMethodName, &fakestore.Fault{Before: rpctypes.ErrGRPCNotSupportedForLearner})
	for i := range 9 {
		_, err := c.Put(ctx, "a", fmt.Sprint("learner", i))
		require.NoError(t, err)
	}
	f.Members[1].Stop()
	settle(t, c)
	for i := range 9 {
		_, err := c.Put(ctx, "a", fmt.Sprint("down", i))
		require.NoError(t, err)
	}
	for i := range 9 {
		require.Equal(t, 1, f.Store.Puts(fmt.Sprint("learner", i)))
		require.Equal(t, 1, f.Store.Puts(fmt.Sprint("down", i)))
	}
}

// Under connections that break all the time, every write that succeeded happened once, and every one that failed
// happened at most once; one that failed without being uncertain did not happen.
func TestWritesHappenAtMostOnce(t *testing.T) {
	c, f := open(t, 3, func(cfg *client.Config) { cfg.Connections = 2 })
	stop := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
			}
			m := f.Members[i%3]
			switch i % 5 {
			case 0, 1, 2:
				m.Cut()
			case 3:
				m.Stop()
			case 4:
				for _, m := range f.Members {
					m.Start()
				}
			}
		}
	})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				v := fmt.Sprint(g, "-", i)
				_, err := c.Put(ctx, "k", v)
				cancel()
				n := f.Store.Puts(v)
				switch {
				case err == nil && n != 1:
					t.Errorf("%s succeeded and was put %d times", v, n)
				case err != nil && n > 1:
					t.Errorf("%s failed and was put %d times", v, n)
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	chaos.Wait()
}

func TestCallsAreDealtOut(t *testing.T) {
	c, f := open(t, 3)
	ctx := within(t, 10*time.Second)
	require.Eventually(t, func() bool {
		_, err := c.Get(ctx, "a")
		require.NoError(t, err)
		for _, m := range f.Members {
			if m.Calls(pb.KV_Range_FullMethodName) == 0 {
				return false
			}
		}
		return true
	}, 5*time.Second, time.Millisecond)
	before := f.Members[0].Calls(pb.KV_Range_FullMethodName)
	for range 30 {
		_, err := c.Get(ctx, "a")
		require.NoError(t, err)
	}
	require.Equal(t, 10, f.Members[0].Calls(pb.KV_Range_FullMethodName)-before)
}

func TestPreferLeader(t *testing.T) {
	c, f := open(t, 3, func(cfg *client.Config) { cfg.PreferLeader = true })
	ctx := within(t, 10*time.Second)
	require.Eventually(t, func() bool {
		before := f.Members[0].Calls(pb.KV_Range_FullMethodName) // the fake's leader
		for range 9 {
			_, err := c.Get(ctx, "a")
			require.NoError(t, err)
		}
		return f.Members[0].Calls(pb.KV_Range_FullMethodName)-before == 9
	}, 5*time.Second, 10*time.Millisecond)
	f.Members[0].Stop()
	_, err := c.Get(ctx, "a")
	require.NoError(t, err)
}

func TestSetEndpointsAndSync(t *testing.T) {
	f := fakestore.Start(t, 3)
	c, err := client.New(client.Config{Endpoints: f.Endpoints()[:1]})
	require.NoError(t, err)
	defer c.Close()
	ctx := within(t, 10*time.Second)
	require.NoError(t, c.Sync(ctx))
	require.Equal(t, f.Endpoints(), c.Endpoints())
	f.Members[0].Stop()
	_, err = c.Get(ctx, "a")
	require.NoError(t, err)
	require.NoError(t, c.SetEndpoints(f.Endpoints()[2]))
	f.Members[1].Stop()
	_, err = c.Put(ctx, "a", "b")
	require.NoError(t, err)
	require.ErrorIs(t, c.SetEndpoints(), client.ErrNoEndpoints)
	require.Error(t, c.SetEndpoints("ftp://no"))
	_, err = c.Put(ctx, "a", "c")
	require.NoError(t, err, "a refused change changes nothing")
}

func TestStaleToken(t *testing.T) {
	c, f := open(t, 1, func(cfg *client.Config) { cfg.Username, cfg.Password = "root", "secret" })
	ctx := within(t, 10*time.Second)
	f.Members[0].SetFault(pb.KV_Put_FullMethodName, &fakestore.Fault{Before: rpctypes.ErrGRPCInvalidAuthToken, Times: 1})
	_, err := c.Put(ctx, "a", "v")
	require.NoError(t, err)
	require.Equal(t, 2, f.Calls(pb.Auth_Authenticate_FullMethodName))
	require.Equal(t, 1, f.Store.Puts("v"))

	_, err = client.New(client.Config{Endpoints: f.Endpoints(), Username: "root", Password: "wrong"})
	require.ErrorIs(t, err, rpctypes.ErrAuthFailed)
}
