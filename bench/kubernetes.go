package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/keelson-io/keelson/client"
)

// The objects of a cluster: so many kinds, so many namespaces of each, the rest of the key space evenly.
const (
	kinds      = 10
	namespaces = 20
	kubeKeys   = 20_000
)

func kubernetesWorkloads() []Workload {
	return []Workload{{
		Name: "kubernetes", Doc: "updates on the mod revision, reads, lists of a namespace and pages of a kind, events with a lease, a watch for each kind",
		Keys: kubeKeys, Space: kubeSpace, Load: true, Start: startKubernetes,
	}}
}

const kubePrefix = "bench/registry/"

func kindPrefix(kind int) string { return fmt.Sprintf("%skind-%02d/", kubePrefix, kind) }

func namespacePrefix(kind, ns int) string { return fmt.Sprintf("%sns-%03d/", kindPrefix(kind), ns) }

// kubeSpace is ordered: kinds, in them namespaces, in them objects.
func kubeSpace(n int) *Space {
	each := (n + kinds*namespaces - 1) / (kinds * namespaces)
	return newSpace(kubePrefix, n, func(i int) string {
		ns := i / each
		return namespacePrefix(ns/namespaces, ns%namespaces)[len(kubePrefix):] + fmt.Sprintf("object-%07d", i)
	})
}

// apiServer is a server of the Kubernetes API, as far as the store sees it.
type apiServer struct {
	events string
	seq    atomic.Int64
	lease  client.LeaseID // of the events: they share one, as in Kubernetes those of a minute do
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

func startKubernetes(ctx context.Context, e *Env, record func() *Recorder) (*Session, error) {
	lease, err := e.Client.Grant(ctx, 3600)
	if err != nil {
		return nil, err
	}
	watchCtx, cancel := context.WithCancel(ctx)
	a := &apiServer{events: fmt.Sprintf("bench/events/%d/", lease.ID), lease: client.LeaseID(lease.ID), stop: cancel}
	for kind := range kinds {
		w := e.Client.Watch(watchCtx, kindPrefix(kind), client.WithPrefix(), client.WithPrevKV())
		r := record() // for a failure: events are not what is counted
		a.wg.Go(func() {
			for {
				if _, err := w.Next(watchCtx); err != nil {
					if watchCtx.Err() == nil {
						r.Fail(err)
					}
					return
				}
			}
		})
	}
	return &Session{Op: a.request, Close: func(ctx context.Context) error {
		a.stop()
		a.wg.Wait()
		_, err := e.Client.Revoke(ctx, a.lease)
		return err
	}}, nil
}

// request is one of an API server: 50 % updates, 30 % reads, 15 % new events, 5 % lists.
func (a *apiServer) request(ctx context.Context, e *Env, w *Worker) error {
	switch n := w.Rng.IntN(40); {
	case n == 0:
		kind := kindPrefix(w.Rng.IntN(kinds))
		_, err := e.Client.Get(ctx, kind, client.WithPrefix(), client.WithLimit(500))
		return err
	case n == 1:
		ns := namespacePrefix(w.Rng.IntN(kinds), w.Rng.IntN(namespaces))
		_, err := e.Client.Get(ctx, ns, client.WithPrefix())
		return err
	case n < 8:
		key := a.events + strconv.FormatInt(a.seq.Add(1), 10)
		_, err := e.Client.Txn(ctx).If(client.ModRevision(key).Equals(0)).Then(client.OpPut(key, e.Value, client.WithLease(a.lease))).Commit()
		return err
	case n < 20:
		_, err := e.Client.Get(ctx, e.Space.Random(w.Rng))
		return err
	}
	return update(ctx, e, e.Space.Random(w.Rng))
}
