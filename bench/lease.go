package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/client"
)

const (
	longTTL  = 600 // seconds: longer than a run
	shortTTL = 2   // the shortest that etcd grants with its usual election timeout
	// expiryRate is well below the thousand leases a second that etcd revokes at most.
	expiryRate = 300
	// expiryPatience is how late a lease may end.
	expiryPatience = 20 * time.Second
)

func leaseWorkloads() []Workload {
	return []Workload{
		{Name: "lease-grant", Doc: "grants of leases", Start: startGrants},
		{Name: "lease-keepalive", Doc: "renewals of leases, a lease for each client", Start: startKeepAlives},
		{Name: "lease-expiry", Doc: fmt.Sprintf("leases of %d s with a key that end by themselves, open loop; latency from when they should end to the event", shortTTL), Rate: expiryRate, Start: startExpiry},
	}
}

// granted are leases by worker, to be revoked when the run is over.
type granted [][]client.LeaseID

func (g granted) add(w *Worker, id int64) { g[w.ID] = append(g[w.ID], client.LeaseID(id)) }

func (g granted) revoke(ctx context.Context, c *client.Client) error {
	var eg errgroup.Group
	eg.SetLimit(64)
	for _, ids := range g {
		eg.Go(func() error {
			for _, id := range ids {
				if _, err := c.Revoke(ctx, id); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
					return err
				}
			}
			return nil
		})
	}
	return eg.Wait()
}

func startGrants(_ context.Context, e *Env, _ func() *Recorder) (*Session, error) {
	g := make(granted, e.Options.Clients)
	return &Session{
		Op: func(ctx context.Context, e *Env, w *Worker) error {
			l, err := e.Client.Grant(ctx, longTTL)
			if err != nil {
				return err
			}
			g.add(w, l.ID)
			return nil
		},
		Close: func(ctx context.Context) error { return g.revoke(ctx, e.Client) },
	}, nil
}

func startKeepAlives(ctx context.Context, e *Env, _ func() *Recorder) (*Session, error) {
	streams, err := e.Streams()
	if err != nil {
		return nil, err
	}
	g := make(granted, e.Options.Clients)
	for i := range g {
		l, err := e.Client.Grant(ctx, longTTL)
		if err != nil {
			return nil, errors.Join(err, g.revoke(ctx, e.Client), streams.Close())
		}
		g[i] = []client.LeaseID{client.LeaseID(l.ID)}
	}
	return &Session{
		Op: func(ctx context.Context, e *Env, w *Worker) error {
			_, err := streams.Of(w.ID).KeepAliveOnce(ctx, g[w.ID][0])
			return err
		},
		Close: func(ctx context.Context) error { return errors.Join(g.revoke(ctx, e.Client), streams.Close()) },
	}, nil
}

// expiry is leases that are about to end.
type expiry struct {
	prefix string
	seq    atomic.Int64
	stop   context.CancelFunc
	wg     sync.WaitGroup

	mu  sync.Mutex
	due map[string]time.Time // when the key of a lease should go
}

func startExpiry(ctx context.Context, e *Env, record func() *Recorder) (*Session, error) {
	ctx, cancel := context.WithCancel(ctx)
	x := &expiry{prefix: fmt.Sprintf("bench/expiry/%d/", time.Now().UnixNano()), due: map[string]time.Time{}, stop: cancel}
	w := e.Client.Watch(ctx, x.prefix, client.WithPrefix(), client.WithFilterPut())
	if err := w.Err(); err != nil {
		cancel()
		return nil, err
	}
	r := record()
	x.wg.Go(func() { x.see(ctx, w, r) })
	return &Session{
		Own: true, Op: x.grant, Drain: x.drain,
		Close: func(context.Context) error { x.stop(); x.wg.Wait(); return nil },
	}, nil
}

func (x *expiry) grant(ctx context.Context, e *Env, _ *Worker) error {
	l, err := e.Client.Grant(ctx, shortTTL)
	if err != nil {
		return err
	}
	key := x.prefix + strconv.FormatInt(x.seq.Add(1), 10)
	x.mu.Lock()
	x.due[key] = time.Now().Add(time.Duration(l.TTL) * time.Second)
	x.mu.Unlock()
	if _, err := e.Client.Put(ctx, key, "", client.WithLease(client.LeaseID(l.ID))); err != nil {
		x.mu.Lock()
		delete(x.due, key)
		x.mu.Unlock()
		return err
	}
	return nil
}

func (x *expiry) see(ctx context.Context, w *client.Watcher, r *Recorder) {
	for {
		resp, err := w.Next(ctx)
		if err != nil {
			if ctx.Err() == nil {
				r.Fail(err)
			}
			return
		}
		now := time.Now()
		x.mu.Lock()
		for _, ev := range resp.Events {
			if at, ok := x.due[string(ev.Kv.Key)]; ok {
				delete(x.due, string(ev.Kv.Key))
				r.Record(max(0, now.Sub(at)))
			}
		}
		x.mu.Unlock()
	}
}

// drain waits until all leases have ended.
func (x *expiry) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, shortTTL*time.Second+expiryPatience)
	defer cancel()
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		x.mu.Lock()
		left := len(x.due)
		x.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
