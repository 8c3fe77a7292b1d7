package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keelson-io/keelson/client"
)

// Env is what a workload works with.
type Env struct {
	Client  *client.Client
	Options Options
	Space   *Space
	Value   string // what is put

	end string // where the key space ends
}

// Open connects to a cluster and prepares a workload on it.
func Open(ctx context.Context, w Workload, o Options) (_ *Env, err error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.Keys == 0 {
		o.Keys = w.Keys
	}
	if o.Rate == 0 {
		o.Rate = w.Rate
	}
	makeSpace := w.Space
	if makeSpace == nil {
		makeSpace = plainSpace
	}
	e := &Env{Options: o, Space: makeSpace(max(o.Keys, 1)), Value: value(o.ValueBytes)}
	e.end = client.PrefixEnd(e.Space.Prefix)
	cfg := o.client(o.Endpoints)
	cfg.Connections = o.Connections
	if e.Client, err = client.New(cfg); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if err := e.reach(ctx); err != nil {
		return nil, fmt.Errorf("%v: %w", o.Endpoints, err)
	}
	if w.Load {
		if err := e.load(ctx); err != nil {
			return nil, fmt.Errorf("filling the key space: %w", err)
		}
	}
	return e, nil
}

// sideClients is how many Streams there are at least.
const sideClients = 4

// Streams makes further clients, spread over the endpoints, for what would not be spread otherwise: a client has all its
// watches on one stream, and all its keep-alives on another. Each endpoint has as many: where the leader happens to be must
// not matter.
func (e *Env) Streams() (s Streams, err error) {
	eps := e.Options.Endpoints
	for i := range (sideClients + len(eps) - 1) / len(eps) * len(eps) {
		c, err := client.New(e.Options.client(eps[i%len(eps) : i%len(eps)+1]))
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s = append(s, c)
	}
	return s, nil
}

// Streams are clients.
type Streams []*client.Client

// Of is the client that the i-th user has.
func (s Streams) Of(i int) *client.Client { return s[i%len(s)] }

// Close closes them.
func (s Streams) Close() (err error) {
	for _, c := range s {
		err = errors.Join(err, c.Close())
	}
	return err
}

// Close ends the connections.
func (e *Env) Close() error { return e.Client.Close() }

// reachTimeout is how long a cluster may take to answer at all.
const reachTimeout = 10 * time.Second

// reach reads until every connection will have been used.
func (e *Env) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	for range max(1, e.Options.Connections) * len(e.Options.Endpoints) {
		if _, err := e.Client.Get(ctx, "bench/"); err != nil {
			return err
		}
	}
	return nil
}

// value is printable noise: neither log nor disk can make much less of it.
func value(n int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(' ' + rng.IntN('~'-' '))
	}
	return string(b)
}

// A load is made of so many transactions at a time, each of so many keys: fewer than etcd's limit for a transaction.
const (
	loaders   = 8
	loadBatch = 100
)

// load fills the key space, unless it is full.
func (e *Env) load(ctx context.Context) error {
	s := e.Space
	have, err := e.Client.Get(ctx, s.Key(0), client.WithRange(s.Key(s.Len-1)+"\x00"), client.WithCountOnly())
	if err != nil || have.Count >= int64(s.Len) {
		return err
	}
	say := ticker(e.Options.Progress)
	defer say.end()
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range loaders {
		g.Go(func() error {
			ops := make([]client.Op, 0, loadBatch)
			for {
				from := int(next.Add(loadBatch)) - loadBatch
				if from >= s.Len {
					return nil
				}
				ops = ops[:0]
				for n := from; n < min(from+loadBatch, s.Len); n++ {
					ops = append(ops, client.OpPut(s.Key(n), e.Value))
				}
				if _, err := e.Client.Txn(ctx).Then(ops...).Commit(); err != nil {
					return err
				}
				say.maybe(func(w io.Writer) { fmt.Fprintf(w, "filling the key space: %d of %d keys", from, s.Len) })
			}
		})
	}
	return g.Wait()
}
