package rolling

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// stall is how long a writer may be without an acknowledgement: some elections on a busy machine.
const stall = 15 * time.Second

// event is what a watcher is told of a key of which each write is distinct.
type event struct {
	revision int64
	key      string
	value    string
}

// load writes and watches as a user of the cluster would, with etcd's own client.
type load struct {
	t       *testing.T
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	written atomic.Int64

	mu      sync.Mutex
	acks    []event
	failed  map[string]int // by message
	slowest time.Duration  // longest time a writer had no acknowledgement
	wrong   []string
}

func (l *load) violation(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) < 10 {
		l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	}
}

func startLoad(t *testing.T, writers ...*clientv3.Client) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, cancel: cancel, failed: map[string]int{}}
	for i, c := range writers {
		l.wg.Go(func() { l.write(ctx, c, fmt.Sprintf("load/%d", i)) })
	}
	t.Cleanup(func() { cancel(); l.wg.Wait() })
	return l
}

// write puts one value after another to its key. What failed may have happened or not; the value says which try it was.
func (l *load) write(ctx context.Context, c *clientv3.Client, key string) {
	last := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		value := fmt.Sprint(n)
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		r, err := c.Put(call, key, value)
		cancel()
		l.mu.Lock()
		if err == nil {
			l.acks = append(l.acks, event{r.Header.Revision, key, value})
			l.slowest = max(l.slowest, time.Since(last))
			last = time.Now()
			l.written.Add(1)
		} else {
			l.failed[err.Error()]++
		}
		l.mu.Unlock()
		if err != nil && !ofElection(err) {
			l.violation("a put failed with %v", err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// ofElection says whether a call failed since its member was gone, or had no leader.
func ofElection(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	switch e := rpctypes.Error(err); e {
	case rpctypes.ErrNoLeader, rpctypes.ErrLeaderChanged, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost,
		rpctypes.ErrStopped, rpctypes.ErrNotCapable:
		return true
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

// progress waits until so many further writes are acknowledged.
func (l *load) progress(n int64) {
	l.t.Helper()
	from := l.written.Load()
	for end := time.Now().Add(time.Minute); l.written.Load() < from+n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("%d writes in a minute", l.written.Load()-from)
		}
	}
}

// takeStall returns the longest time that a writer had to wait since it was last called.
func (l *load) takeStall() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.slowest
	l.slowest = 0
	return d
}

// watcher is a watch that is open all the time.
type watcher struct {
	name   string
	events []event
	done   chan struct{}
}

// watch collects what a watch of all keys of the load says, until it has seen the end.
func (l *load) watch(ctx context.Context, name string, c *clientv3.Client, rev int64) *watcher {
	w := &watcher{name: name, done: make(chan struct{})}
	stream := c.Watch(clientv3.WithRequireLeader(ctx), "load/", clientv3.WithPrefix(), clientv3.WithRev(rev), clientv3.WithProgressNotify())
	go func() {
		defer close(w.done)
		next := rev
		for {
			for r := range stream {
				if err := r.Err(); err != nil {
					if !ofElection(err) {
						l.violation("watcher %s ended with %v", name, err)
						return
					}
					break // without a leader: it goes on where it was
				}
				for _, e := range r.Events {
					got := event{e.Kv.ModRevision, string(e.Kv.Key), string(e.Kv.Value)}
					if got.revision < next {
						l.violation("watcher %s saw revision %d, when %d was next", name, got.revision, next)
					}
					next = got.revision + 1 // one key is written by each revision
					w.events = append(w.events, got)
					if got.key == "load/end" {
						return
					}
				}
			}
			if ctx.Err() != nil {
				return
			}
			stream = c.Watch(clientv3.WithRequireLeader(ctx), "load/", clientv3.WithPrefix(), clientv3.WithRev(next), clientv3.WithProgressNotify())
		}
	}()
	return w
}

// stop ends the load; each watcher must have seen each acknowledged write, at its revision, and the same as the others.
func (l *load) stop(c *clientv3.Client, watchers ...*watcher) {
	l.t.Helper()
	l.cancel()
	l.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := c.Put(ctx, "load/end", "")
	must(l.t, err)
	for _, w := range watchers {
		select {
		case <-w.done:
		case <-ctx.Done():
			l.t.Fatalf("watcher %s does not see the end", w.name)
		}
		seen := map[event]bool{}
		for _, e := range w.events {
			seen[e] = true
		}
		for _, a := range l.acks {
			if !seen[a] {
				l.violation("watcher %s lost %v", w.name, a)
			}
		}
		if len(w.events) != len(watchers[0].events) {
			l.violation("watcher %s saw %d events, %s %d", w.name, len(w.events), watchers[0].name, len(watchers[0].events))
		}
	}
	l.t.Logf("%d writes acknowledged, %d events; failures: %v", len(l.acks), len(watchers[0].events), l.failed)
	for _, w := range l.wrong {
		l.t.Error(w)
	}
}
