package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/keelson-io/keelson/client"
)

// Env is what a workload works with.
type Env struct {
	Client  *client.Client
	Options Options
	value   string
}

// Key is the n-th key of the key space, modulo its size.
func (e *Env) Key(n int64) string { return fmt.Sprintf(keyFormat, n%int64(e.Options.Keys)) }

const keyFormat = "bench/%010d"

// random is a key anywhere in the key space.
func (e *Env) random(rng *rand.Rand) string { return e.Key(rng.Int64N(int64(e.Options.Keys))) }

// Op is one operation of worker w.
type Op func(ctx context.Context, e *Env, w *Worker) error

// Worker is one client of a loop.
type Worker struct {
	ID  int
	N   int64 // operations so far
	Rng *rand.Rand
}

// Workload is one kind of load.
type Workload struct {
	Name string
	Doc  string
	// Keys is the size of the key space if Options do not say.
	Keys int
	// Load says whether the key space is to be filled first.
	Load bool
	// Op is what workers repeat. Run is a run of its own instead.
	Op  Op
	Run func(ctx context.Context, e *Env, rec func() *Recorder) error
}

// Workloads are all of them, in the order of reports.
func Workloads() []Workload {
	return []Workload{
		{Name: "put", Doc: "puts of random keys", Keys: 100_000, Op: put},
		{Name: "range", Doc: "linearizable reads of one key", Keys: 100_000, Load: true, Op: get()},
		{Name: "range-serializable", Doc: "serializable reads of one key", Keys: 100_000, Load: true, Op: get(client.WithSerializable())},
		{Name: "range-limited", Doc: "linearizable reads of the next 50 keys in a large key space", Keys: 500_000, Load: true, Op: page(50)},
		{Name: "txn", Doc: "transactions of a comparison, a put and a read", Keys: 100_000, Op: txn},
		{Name: "txn-mix", Doc: "half updates guarded by the mod revision, half pages of 100 keys of a large key space", Keys: 500_000, Load: true, Op: txnMix},
		{Name: "mixed", Doc: "four reads to one put", Keys: 100_000, Load: true, Op: mixed},
		{Name: "watch", Doc: "puts seen by 100 watchers each; latency from the put to the event", Keys: 1000, Run: watchFanOut},
		{Name: "lease-grant", Doc: "grants of leases", Op: leaseGrant, Keys: 1000},
		{Name: "lease-keepalive", Doc: "renewals of leases", Keys: 1000, Run: leaseKeepAlive},
		{Name: "lease-expiry", Doc: "leases that end by themselves; latency from when they should", Keys: 1000, Run: leaseExpiry},
		{Name: "kubernetes", Doc: "updates on the mod revision, creations with leases, lists by prefix, a watch for each prefix", Keys: 20_000, Load: true, Run: kubernetes},
	}
}

// Find returns workloads by name; "all" is all of them.
func Find(names []string) ([]Workload, error) {
	var out []Workload
	for _, name := range names {
		found := false
		for _, w := range Workloads() {
			if w.Name == name || name == "all" {
				out, found = append(out, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no workload %q; there are: %s", name, strings.Join(Names(), " "))
		}
	}
	return out, nil
}

// Names lists the workloads.
func Names() (out []string) {
	for _, w := range Workloads() {
		out = append(out, w.Name)
	}
	return out
}

func put(ctx context.Context, e *Env, w *Worker) error {
	_, err := e.Client.Put(ctx, e.random(w.Rng), e.value)
	return err
}

func get(opts ...client.GetOption) Op {
	return func(ctx context.Context, e *Env, w *Worker) error {
		_, err := e.Client.Get(ctx, e.random(w.Rng), opts...)
		return err
	}
}

// page reads the next keys of the key space after a random one.
func page(limit int64) Op {
	return func(ctx context.Context, e *Env, w *Worker) error {
		_, err := e.Client.Get(ctx, e.random(w.Rng), client.WithRange("bench0"), client.WithLimit(limit))
		return err
	}
}

func txn(ctx context.Context, e *Env, w *Worker) error {
	key := e.random(w.Rng)
	_, err := e.Client.Txn(ctx).If(client.Version(key).LessThan(1<<60)).
		Then(client.OpPut(key, e.value), client.OpGet(e.random(w.Rng))).Commit()
	return err
}

// update reads a key and writes it if nobody else did meanwhile.
func update(ctx context.Context, e *Env, w *Worker) error {
	key := e.random(w.Rng)
	got, err := e.Client.Get(ctx, key)
	if err != nil {
		return err
	}
	rev := int64(0)
	if len(got.Kvs) > 0 {
		rev = got.Kvs[0].ModRevision
	}
	_, err = e.Client.Txn(ctx).If(client.ModRevision(key).Equals(rev)).Then(client.OpPut(key, e.value)).Else(client.OpGet(key)).Commit()
	return err
}

func txnMix(ctx context.Context, e *Env, w *Worker) error {
	if w.Rng.IntN(2) == 0 {
		return update(ctx, e, w)
	}
	return page(100)(ctx, e, w)
}

func mixed(ctx context.Context, e *Env, w *Worker) error {
	if w.Rng.IntN(5) == 0 {
		return put(ctx, e, w)
	}
	return get()(ctx, e, w)
}

func leaseGrant(ctx context.Context, e *Env, _ *Worker) error {
	_, err := e.Client.Grant(ctx, 600)
	return err
}
