package bench

import (
	"context"

	"github.com/keelson-io/keelson/client"
)

// Sizes of the two key spaces. Limited ranges are slow in etcd in proportion to the keys that they do not return.
const (
	someKeys = 100_000
	manyKeys = 500_000
)

func kvWorkloads() []Workload {
	return []Workload{
		{Name: "put", Doc: "puts of random keys", Keys: someKeys, Op: put},
		{Name: "range", Doc: "linearizable reads of one key", Keys: someKeys, Load: true, Op: get()},
		{Name: "range-serializable", Doc: "serializable reads of one key", Keys: someKeys, Load: true, Op: get(client.WithSerializable())},
		{Name: "txn", Doc: "transactions of a comparison, a put and a read", Keys: someKeys, Load: true, Op: txn},
		{Name: "mixed", Doc: "four reads to one put", Keys: someKeys, Load: true, Op: mixed},
		{Name: "range-limited", Doc: "linearizable pages of 50 keys of a large key space", Keys: manyKeys, Load: true, Op: page(50)},
		{Name: "txn-mix", Doc: "half updates guarded by the mod revision, half pages of 100 keys, in a large key space", Keys: manyKeys, Load: true, Op: txnMix},
	}
}

func put(ctx context.Context, e *Env, w *Worker) error {
	_, err := e.Client.Put(ctx, e.Space.Random(w.Rng), e.Value)
	return err
}

func get(opts ...client.GetOption) Op {
	return func(ctx context.Context, e *Env, w *Worker) error {
		_, err := e.Client.Get(ctx, e.Space.Random(w.Rng), opts...)
		return err
	}
}

// page reads the next keys of the key space from a random one on, as a client does that lists all in pages.
func page(limit int64) Op {
	return func(ctx context.Context, e *Env, w *Worker) error {
		_, err := e.Client.Get(ctx, e.Space.Random(w.Rng), client.WithRange(e.end), client.WithLimit(limit))
		return err
	}
}

func txn(ctx context.Context, e *Env, w *Worker) error {
	key := e.Space.Random(w.Rng)
	_, err := e.Client.Txn(ctx).If(client.Version(key).LessThan(1<<60)).
		Then(client.OpPut(key, e.Value), client.OpGet(e.Space.Random(w.Rng))).Commit()
	return err
}

// update reads a key and writes it if nobody else did meanwhile; if somebody did, it goes on from what they wrote.
func update(ctx context.Context, e *Env, key string) error {
	got, err := e.Client.Get(ctx, key)
	if err != nil {
		return err
	}
	kvs := got.Kvs
	for {
		rev := int64(0)
		if len(kvs) > 0 {
			rev = kvs[0].ModRevision
		}
		resp, err := e.Client.Txn(ctx).If(client.ModRevision(key).Equals(rev)).Then(client.OpPut(key, e.Value)).Else(client.OpGet(key)).Commit()
		if err != nil || resp.Succeeded {
			return err
		}
		kvs = resp.Responses[0].GetResponseRange().GetKvs()
	}
}

func txnMix(ctx context.Context, e *Env, w *Worker) error {
	if w.Rng.IntN(2) == 0 {
		return update(ctx, e, e.Space.Random(w.Rng))
	}
	return page(100)(ctx, e, w)
}

func mixed(ctx context.Context, e *Env, w *Worker) error {
	if w.Rng.IntN(5) == 0 {
		return put(ctx, e, w)
	}
	return get()(ctx, e, w)
}
