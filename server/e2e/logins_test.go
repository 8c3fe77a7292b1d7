package e2e

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keelson-io/keelson/server/servertest"
)

// TestStressLogins measures puts while a hundred clients make a thousand calls a second: ordinary puts, and logins; beside the
// real etcd. What it finds is in docs/benchmarks.md; nothing is asserted of times.
func TestStressLogins(t *testing.T) {
	servertest.Stress(t)
	for _, k := range []kind{keelson, etcd} {
		c := startCluster(t, []kind{k})
		m := c.Members[0]
		enableAuth(t, c.on[m])
		r, err := dialAddr(t, m.Client).Authenticate(within(t, patience), &pb.AuthenticateRequest{Name: "alice", Password: password("alice")})
		require.NoError(t, err)
		idle := putLatency(t, m, r.Token)
		ordinary := func(ctx context.Context, s services) error {
			_, err := s.Put(withToken(ctx, r.Token), &pb.PutRequest{Key: []byte("u/b")})
			return err
		}
		login := func(ctx context.Context, s services) error {
			_, err := s.Authenticate(ctx, &pb.AuthenticateRequest{Name: "alice", Password: password("alice")})
			return err
		}
		for _, l := range []struct {
			name string
			call func(context.Context, services) error
		}{{"puts", ordinary}, {"logins", login}} {
			stop, done := storm(m, l.call)
			busy := putLatency(t, m, r.Token)
			stop()
			t.Logf("%s: p99 of puts %v idle, %v with %d %s a second, ratio %.2f", k, idle, busy, done.Load()/int64(measured/time.Second), l.name,
				float64(busy)/float64(idle))
		}
		c.Kill(m)
	}
}

const measured = 10 * time.Second

// putLatency is the 99th percentile of the time that a put takes, one after the other.
func putLatency(t *testing.T, m *member, token string) time.Duration {
	t.Helper()
	s := dialAddr(t, m.Client)
	ctx := withToken(within(t, 10*measured), token)
	var took []time.Duration
	for end := time.Now().Add(measured); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		begin := time.Now()
		_, err := s.Put(ctx, &pb.PutRequest{Key: []byte("u/a"), Value: []byte("x")})
		require.NoError(t, err)
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return took[len(took)*99/100]
}

// storm makes a call a thousand times a second, as far as the member can, until it is stopped. done counts those that
// succeeded.
func storm(m *member, call func(context.Context, services) error) (stop func(), done *atomic.Int64) {
	const clients = 100
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	done = &atomic.Int64{}
	for i := range clients {
		conn, err := grpc.NewClient(m.Client, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			continue
		}
		s := services{KVClient: pb.NewKVClient(conn), AuthClient: pb.NewAuthClient(conn)}
		wg.Go(func() {
			defer conn.Close()
			time.Sleep(time.Duration(i) * time.Millisecond) // not all at once
			tick := time.NewTicker(clients * time.Second / 1000)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				if call(ctx, s) == nil {
					done.Add(1)
				}
			}
		})
	}
	return func() { cancel(); wg.Wait() }, done
}
