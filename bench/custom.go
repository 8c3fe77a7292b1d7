package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keelson-io/keelson/client"
)

const (
	watchers  = 100
	writers   = 4
	shortTTL  = 2 // seconds
	kindCount = 10
)

// until lets the error pass that ends every run: its time is up. The server may notice a moment before the client.
func until(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Canceled:
		return nil
	}
	return err
}

// watchFanOut has writers put the time and watchers read it.
func watchFanOut(ctx context.Context, e *Env, rec func() *Recorder) error {
	var g errgroup.Group
	var ready sync.WaitGroup
	for range watchers {
		r := rec()
		ready.Add(1)
		g.Go(func() error {
			w := e.Client.Watch(ctx, "watch/", client.WithPrefix(), client.WithCreatedNotify())
			defer w.Close()
			if _, err := w.Next(ctx); err != nil {
				ready.Done()
				return until(ctx, err)
			}
			ready.Done()
			for {
				resp, err := w.Next(ctx)
				if err != nil {
					return until(ctx, err)
				}
				now := time.Now()
				for _, ev := range resp.Events {
					var at int64
					if _, err := fmt.Sscan(string(ev.Kv.Value), &at); err == nil {
						r.Record(now.Sub(time.Unix(0, at)))
					}
				}
			}
		})
	}
	ready.Wait()
	for i := range writers {
		g.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				if _, err := e.Client.Put(ctx, fmt.Sprintf("watch/%d-%d", i, n%100), fmt.Sprint(time.Now().UnixNano())); err != nil {
					return until(ctx, err)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// leaseKeepAlive renews leases one at a time for each worker.
func leaseKeepAlive(ctx context.Context, e *Env, rec func() *Recorder) error {
	var g errgroup.Group
	for range e.Options.Clients {
		r := rec()
		g.Go(func() error {
			l, err := e.Client.Grant(ctx, 600)
			if err != nil {
				return until(ctx, err)
			}
			for ctx.Err() == nil {
				start := time.Now()
				if _, err := e.Client.KeepAliveOnce(ctx, client.LeaseID(l.ID)); err != nil {
					return until(ctx, err)
				}
				r.Record(time.Since(start))
			}
			return nil
		})
	}
	return g.Wait()
}

// leaseExpiry grants leases with a key each and sees when the keys go.
func leaseExpiry(ctx context.Context, e *Env, rec func() *Recorder) error {
	var mu sync.Mutex
	due := map[string]time.Time{}
	prefix := fmt.Sprintf("expiry/%d/", time.Now().UnixNano())
	w := e.Client.Watch(ctx, prefix, client.WithPrefix(), client.WithCreatedNotify())
	defer w.Close()
	if _, err := w.Next(ctx); err != nil {
		return until(ctx, err)
	}
	r := rec()
	var g errgroup.Group
	g.Go(func() error {
		for {
			resp, err := w.Next(ctx)
			if err != nil {
				return until(ctx, err)
			}
			now := time.Now()
			mu.Lock()
			for _, ev := range resp.Events {
				if at, ok := due[string(ev.Kv.Key)]; ok && ev.Type == client.EventDelete {
					r.Record(max(0, now.Sub(at)))
				}
			}
			mu.Unlock()
		}
	})
	for i := range e.Options.Clients {
		g.Go(func() error {
			for n := 0; ctx.Err() == nil; n++ {
				l, err := e.Client.Grant(ctx, shortTTL)
				if err != nil {
					return until(ctx, err)
				}
				key := fmt.Sprintf("%s%d/%d", prefix, i, n)
				mu.Lock()
				due[key] = time.Now().Add(time.Duration(l.TTL) * time.Second)
				mu.Unlock()
				if _, err := e.Client.Put(ctx, key, "", client.WithLease(client.LeaseID(l.ID))); err != nil {
					return until(ctx, err)
				}
				time.Sleep(20 * time.Millisecond)
			}
			return nil
		})
	}
	return g.Wait()
}

// kubernetes is the load of an API server: a watch for every kind, updates guarded by the mod revision, new events that
// end with a lease, and lists in pages.
func kubernetes(ctx context.Context, e *Env, rec func() *Recorder) error {
	var g errgroup.Group
	for kind := range kindCount {
		g.Go(func() error {
			size := e.Options.Keys/kindCount + 1
			from, to := fmt.Sprintf(keyFormat, kind*size), fmt.Sprintf(keyFormat, (kind+1)*size)
			w := e.Client.Watch(ctx, from, client.WithRange(to), client.WithPrevKV())
			defer w.Close()
			for {
				if _, err := w.Next(ctx); err != nil {
					return until(ctx, err)
				}
			}
		})
	}
	lease, err := e.Client.Grant(ctx, 3600)
	if err != nil {
		return until(ctx, err)
	}
	for i := range e.Options.Clients {
		r, w := rec(), newWorker(i)
		g.Go(func() error {
			for r.Do(ctx, time.Now(), func() error { return apiServer(ctx, e, w, client.LeaseID(lease.ID)) }) {
				w.N++
			}
			return nil
		})
	}
	return g.Wait()
}

// apiServer is one request of an API server.
func apiServer(ctx context.Context, e *Env, w *Worker, lease client.LeaseID) error {
	switch n := w.Rng.IntN(20); {
	case n == 0:
		return page(500)(ctx, e, w)
	case n < 4:
		key := fmt.Sprintf("events/%d/%d", time.Now().UnixNano(), w.ID)
		_, err := e.Client.Txn(ctx).If(client.ModRevision(key).Equals(0)).Then(client.OpPut(key, e.value, client.WithLease(lease))).Commit()
		return err
	case n < 10:
		_, err := e.Client.Get(ctx, e.random(w.Rng))
		return err
	}
	return update(ctx, e, w)
}
