package concurrency

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/keelson-io/keelson/client"
)

// place is a session's key in a queue.
type place struct {
	key string
	rev int64 // creation revision
}

func placeKey(prefix string, id client.LeaseID) string { return fmt.Sprintf("%s%x", prefix, int64(id)) }

// enqueue puts the session's key with the value, or finds it there from before, and returns the transaction's
// response: its second entry is the queue's first key, the first entry the old key if succeeded is false.
func enqueue(ctx context.Context, s *Session, prefix, value string) (p place, resp *client.TxnResponse, err error) {
	p.key = placeKey(prefix, s.Lease())
	err = repeat(ctx, func() error {
		owner := client.OpGet(prefix, client.WithFirstCreate())
		resp, err = s.c.Txn(ctx).
			If(client.CreateRevision(p.key).Equals(0)).
			Then(client.OpPut(p.key, value, client.WithLease(s.Lease())), owner).
			Else(client.OpGet(p.key), owner).
			Commit()
		return err
	})
	if err != nil {
		return p, nil, err
	}
	p.rev = resp.Header.Revision
	if !resp.Succeeded {
		p.rev = resp.Responses[0].GetResponseRange().Kvs[0].CreateRevision
	}
	return p, resp, nil
}

// first says whether p is the first of its queue, after resp of enqueue.
func (p place) first(resp *client.TxnResponse) bool {
	kvs := resp.Responses[1].GetResponseRange().Kvs
	return len(kvs) == 0 || kvs[0].CreateRevision == p.rev
}

// wait returns when no key of the queue was created before p.
func (p place) wait(ctx context.Context, c *client.Client, prefix string) error {
	for {
		resp, err := c.Get(ctx, prefix, client.WithLastCreate(), client.WithMaxCreateRev(p.rev-1))
		if err != nil {
			return err
		}
		if len(resp.Kvs) == 0 {
			return nil
		}
		err = waitDelete(ctx, c, string(resp.Kvs[0].Key), resp.Header.Revision+1)
		if err != nil && !errors.Is(err, rpctypes.ErrCompacted) { // compacted: look again
			return err
		}
	}
}

// waitDelete returns when key is deleted at rev or later.
func waitDelete(ctx context.Context, c *client.Client, key string, rev int64) error {
	w := c.Watch(ctx, key, client.WithRev(rev), client.WithFilterPut())
	defer w.Close()
	for resp, err := range w.All(ctx) {
		if err != nil {
			return err
		}
		if len(resp.Events) > 0 {
			return nil
		}
	}
	return nil
}
