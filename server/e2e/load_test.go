package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// attempt is how long one call of a load may take.
const attempt = 2 * time.Second

// ack is a write that was acknowledged.
type ack struct {
	key      string
	revision int64
}

// load writes to a cluster while something happens to it.
type load struct {
	t      testing.TB
	cancel context.CancelFunc
	wg     sync.WaitGroup

	newest  atomic.Int64 // highest revision that was acknowledged
	written atomic.Int64
	failed  atomic.Int64

	mu      sync.Mutex
	targets []services
	acks    []ack
	read    time.Time     // last linearizable read that succeeded
	gap     time.Duration // longest time without one
	wrong   []string      // violations
}

// startLoad starts writers and one reader. Every call goes to one of the members at random.
func startLoad(t testing.TB, c *cluster, writers int) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, cancel: cancel, read: time.Now()}
	l.aim(c, c.Members...)
	for w := range writers {
		l.wg.Go(func() { l.write(ctx, w) })
	}
	l.wg.Go(func() { l.watchReads(ctx) })
	t.Cleanup(func() { cancel(); l.wg.Wait() })
	l.progress(10)
	return l
}

// aim sets the members that calls go to.
func (l *load) aim(c *cluster, members ...*member) {
	var targets []services
	for _, m := range members {
		targets = append(targets, c.on[m])
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.targets = targets
}

func (l *load) target() services {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.targets[rand.IntN(len(l.targets))]
}

func (l *load) violation(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// see checks a revision that was answered by a call which began when the newest one was floor.
func (l *load) see(what string, revision, floor int64) {
	if revision < floor {
		l.violation("%s answered revision %d after %d", what, revision, floor)
	}
	for {
		n := l.newest.Load()
		if revision <= n || l.newest.CompareAndSwap(n, revision) {
			return
		}
	}
}

// write puts keys of its own, each once, and disturbs a few shared ones.
func (l *load) write(ctx context.Context, writer int) {
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("own/%d/%d", writer, n)
		s, floor := l.target(), l.newest.Load()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attempt)
		resp, err := s.Put(cctx, &pb.PutRequest{Key: []byte(key), Value: []byte(key)})
		if err == nil {
			l.written.Add(1)
			l.see("put", resp.Header.Revision, floor+1)
			l.mu.Lock()
			l.acks = append(l.acks, ack{key, resp.Header.Revision})
			l.mu.Unlock()
			l.disturb(cctx, s, n)
		} else {
			l.failed.Add(1)
			pause(ctx, 10*time.Millisecond)
		}
		cancel()
		pause(ctx, time.Millisecond) // leaves some of the machine to others
	}
}

// disturb overwrites, deletes and compacts; nobody minds if it fails.
func (l *load) disturb(ctx context.Context, s services, n int) {
	shared := fmt.Appendf(nil, "shared/%d", n%7)
	switch n % 5 {
	case 1:
		_, _ = s.Put(ctx, &pb.PutRequest{Key: shared, Value: fmt.Append(nil, n)})
	case 2:
		_, _ = s.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: shared})
	case 3:
		_, _ = s.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: shared, Result: pb.Compare_EQUAL, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: shared}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: shared}}}},
		})
	}
	if n%400 == 399 {
		_, _ = s.Compact(ctx, &pb.CompactionRequest{Revision: l.newest.Load() - 200})
	}
}

// watchReads reads linearizably all the time; a retry goes to another member at once.
func (l *load) watchReads(ctx context.Context) {
	for ctx.Err() == nil {
		s, floor := l.target(), l.newest.Load()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), attempt/2)
		resp, err := s.Range(cctx, &pb.RangeRequest{Key: []byte("own/0/0")})
		cancel()
		l.mu.Lock()
		now := time.Now()
		l.gap = max(l.gap, now.Sub(l.read))
		if err == nil {
			l.read = now
		}
		l.mu.Unlock()
		if err == nil {
			l.see("a linearizable read", resp.Header.Revision, floor)
		}
		pause(ctx, 5*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// progress waits until so many further writes are acknowledged.
func (l *load) progress(n int64) {
	l.t.Helper()
	from := l.written.Load()
	for end := time.Now().Add(patience); l.written.Load() < from+n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			require.FailNow(l.t, "no progress", "%d writes in %s", l.written.Load()-from, patience)
		}
	}
}

// takeGap returns the longest time without a successful linearizable read since it was last called.
func (l *load) takeGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.gap
	l.gap = 0
	return g
}

// stop ends the load and checks that all members have every acknowledged write, at its revision, and agree.
func (l *load) stop(c *cluster, members ...*member) *pb.HashKVResponse {
	l.t.Helper()
	l.cancel()
	l.wg.Wait()
	require.Empty(l.t, l.wrong)
	if len(members) == 0 {
		members = c.Members
	}
	h := c.agree(members...)
	for _, m := range members {
		have := keysOf(l.t, c.on[m], "own/")
		for _, a := range l.acks {
			kv := have[a.key]
			require.NotNil(l.t, kv, "%s lost %s of revision %d", m.Name, a.key, a.revision)
			require.Equal(l.t, a.revision, kv.ModRevision, "%s on %s", a.key, m.Name)
			require.Equal(l.t, a.key, string(kv.Value), "on %s", m.Name)
		}
	}
	require.GreaterOrEqual(l.t, h.Header.Revision, l.newest.Load())
	l.t.Logf("%d writes acknowledged, %d failed, revision %d", l.written.Load(), l.failed.Load(), h.Header.Revision)
	return h
}
