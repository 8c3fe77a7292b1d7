package concurrency

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
)

// Isolation says what an STM transaction is protected from.
type Isolation int

const (
	// SerializableSnapshot: all reads are of one revision, and nothing read or written has changed since.
	SerializableSnapshot Isolation = iota
	// Serializable: all reads are of one revision, and nothing read has changed since.
	Serializable
	// RepeatableReads: a key reads the same every time, and nothing read has changed since.
	RepeatableReads
	// ReadCommitted: reads are of any committed state, nothing is checked.
	ReadCommitted
)

type stmOptions struct {
	iso      Isolation
	prefetch []string
}

// STMOption changes how STM runs.
type STMOption func(*stmOptions)

// WithIsolation sets the isolation. The default is SerializableSnapshot.
func WithIsolation(i Isolation) STMOption { return func(o *stmOptions) { o.iso = i } }

// WithPrefetch reads keys that the transaction will certainly read in one round trip before it begins.
func WithPrefetch(keys ...string) STMOption {
	return func(o *stmOptions) { o.prefetch = append(o.prefetch, keys...) }
}

// STM runs apply and commits what it did as one transaction. If something that matters has changed meanwhile, it runs
// apply again, which must therefore not have other effects. An error of apply ends it without a commit.
func STM(ctx context.Context, c *client.Client, apply func(*Tx) error, opts ...STMOption) (*client.TxnResponse, error) {
	var o stmOptions
	for _, opt := range opts {
		opt(&o)
	}
	tx := &Tx{ctx: ctx, c: c, iso: o.iso}
	for round := 0; ; round++ {
		resp, err := tx.attempt(apply, o.prefetch)
		if resp != nil || err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			return resp, err
		}
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		if err != nil {
			tx.fetched = nil // it was of a revision that is compacted now
		}
		if round >= 2 { // contention: let others finish
			time.Sleep(rand.N(time.Millisecond << min(round, 6)))
		}
	}
}

// Tx is the transaction that apply of STM works on.
type Tx struct {
	ctx context.Context
	c   *client.Client
	iso Isolation

	rev     int64                          // of the reads, once there was one, if they must be of one revision
	reads   map[string]*client.GetResponse // what was read
	fetched map[string]*client.GetResponse // what came back with a failed commit or the prefetch, all of one revision
	writes  map[string]write
	order   []string // keys of writes
	err     error    // the first failed read: sticky, so that apply cannot commit past it
}

type write struct {
	value  string
	exists bool
	op     client.Op
}

func (t *Tx) attempt(apply func(*Tx) error, prefetch []string) (*client.TxnResponse, error) {
	t.reads = map[string]*client.GetResponse{}
	t.writes = map[string]write{}
	t.order, t.rev, t.err = nil, 0, nil
	if t.fetched == nil {
		if err := t.fetch(prefetch); err != nil {
			return nil, err
		}
	}
	err := apply(t)
	if t.err != nil {
		return nil, t.err
	}
	if err != nil {
		return nil, err
	}
	return t.commit()
}

// oneRevision says whether all reads must be of the same revision.
func (t *Tx) oneRevision() bool { return t.iso == SerializableSnapshot || t.iso == Serializable }

// fetch reads keys in one transaction, that is, at one revision.
func (t *Tx) fetch(keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	ops := make([]client.Op, len(keys))
	for i, k := range keys {
		ops[i] = client.OpGet(k)
	}
	resp, err := t.c.Txn(t.ctx).Then(ops...).Commit()
	if err != nil {
		return err
	}
	t.keep(keys, resp)
	return nil
}

func (t *Tx) keep(keys []string, resp *client.TxnResponse) {
	t.fetched = make(map[string]*client.GetResponse, len(keys))
	for i, k := range keys {
		r := resp.Responses[i].GetResponseRange()
		r.Header = resp.Header
		t.fetched[k] = r
	}
}

// read returns key as the transaction sees the store.
func (t *Tx) read(key string) (*client.GetResponse, error) {
	if t.err != nil {
		return nil, t.err
	}
	if r := t.reads[key]; r != nil && t.iso != ReadCommitted {
		return r, nil
	}
	if r := t.fetched[key]; r != nil && (t.rev == 0 || t.rev == r.Header.Revision) {
		return t.took(key, r), nil
	}
	var opts []client.GetOption
	switch {
	case !t.oneRevision():
		opts = append(opts, client.WithSerializable())
	case t.rev != 0:
		opts = append(opts, client.WithRev(t.rev))
	}
	r, err := t.c.Get(t.ctx, key, opts...)
	if err != nil {
		t.err = err
		return nil, err
	}
	return t.took(key, r), nil
}

func (t *Tx) took(key string, r *client.GetResponse) *client.GetResponse {
	delete(t.fetched, key)
	t.reads[key] = r
	if t.rev == 0 && t.oneRevision() {
		t.rev = r.Header.Revision
	}
	return r
}

// Get returns key's value, or "" if it does not exist. Writes of the transaction itself are seen.
func (t *Tx) Get(key string) (string, error) {
	if w, ok := t.writes[key]; ok {
		return w.value, nil
	}
	r, err := t.read(key)
	if err != nil || len(r.Kvs) == 0 {
		return "", err
	}
	return string(r.Kvs[0].Value), nil
}

// Rev returns the revision at which key was last modified, 0 if it does not exist. Writes of the transaction itself
// have none yet.
func (t *Tx) Rev(key string) (int64, error) {
	r, err := t.read(key)
	if err != nil || len(r.Kvs) == 0 {
		return 0, err
	}
	return r.Kvs[0].ModRevision, nil
}

// Put sets key to value when the transaction commits.
func (t *Tx) Put(key, value string, opts ...client.PutOption) {
	t.write(key, write{value: value, exists: true, op: client.OpPut(key, value, opts...)})
}

// Delete deletes key when the transaction commits.
func (t *Tx) Delete(key string) { t.write(key, write{op: client.OpDelete(key)}) }

func (t *Tx) write(key string, w write) {
	if _, ok := t.writes[key]; !ok {
		t.order = append(t.order, key)
	}
	t.writes[key] = w
}

// conflicts are the comparisons that the isolation asks for.
func (t *Tx) conflicts() []client.Cmp {
	if t.iso == ReadCommitted {
		return nil
	}
	var cmps []client.Cmp
	for k, r := range t.reads {
		var rev int64
		if len(r.Kvs) > 0 {
			rev = r.Kvs[0].ModRevision
		}
		cmps = append(cmps, client.ModRevision(k).Equals(rev))
	}
	if t.iso == SerializableSnapshot && t.rev != 0 {
		for k := range t.writes {
			if t.reads[k] == nil {
				cmps = append(cmps, client.ModRevision(k).LessThan(t.rev+1))
			}
		}
	}
	return cmps
}

// commit returns nil without an error if there was a conflict. What was read is read again by the same round trip.
func (t *Tx) commit() (*client.TxnResponse, error) {
	ops := make([]client.Op, len(t.order))
	for i, k := range t.order {
		ops[i] = t.writes[k].op
	}
	keys := make([]string, 0, len(t.reads))
	for k := range t.reads {
		keys = append(keys, k)
	}
	gets := make([]client.Op, len(keys))
	for i, k := range keys {
		gets[i] = client.OpGet(k)
	}
	resp, err := t.c.Txn(t.ctx).If(t.conflicts()...).Then(ops...).Else(gets...).Commit()
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		t.keep(keys, resp)
		return nil, nil
	}
	return resp, nil
}
