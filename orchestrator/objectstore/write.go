package objectstore

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keelson-io/keelson/client"
	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Create stores a new object, which becomes the callee's.
func (c *Collection) Create(ctx context.Context, o kinds.Object) (*Item, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	key, err := c.key(o.GetNamespace(), o.GetName())
	if err != nil {
		return nil, err
	}
	value, err := c.value(o)
	if err != nil {
		return nil, err
	}
	it, _, err := c.cache.put(ctx, "create", key, value, 0)
	switch {
	case err != nil:
		return nil, storeError(ctx, err, true)
	case it == nil:
		return nil, apierrors.NewAlreadyExists(c.kind.GroupResource(), o.GetName())
	}
	return it.as(c.kind)
}

// Update replaces an object by what change makes of it. change is called with the state in the cache first, and again with
// newer ones until nobody else was faster; it must not change the item's object, and gives away the one that it returns.
// Its errors are returned as they are, unless they came from a state that was old. If the stored value would be the same
// nothing is written, and the item is the current one.
func (c *Collection) Update(ctx context.Context, namespace, name string, change func(current *Item) (kinds.Object, error)) (*Item, error) {
	return c.modify(ctx, namespace, name, func(cur current) (done *Item, next *current, err error) {
		view, err := cur.item.as(c.kind)
		if err != nil {
			return nil, nil, err
		}
		o, err := change(view)
		if err != nil {
			next, err = c.settle(ctx, cur, err)
			return nil, next, err
		}
		same, value := o == view.Object, []byte(nil)
		if !same {
			if o.GetName() != name || o.GetNamespace() != view.Object.GetNamespace() {
				return nil, nil, apierrors.NewBadRequest("an update may not change an object's name or namespace")
			}
			if value, err = c.value(o); err != nil {
				return nil, nil, err
			}
			same = !cur.item.stale && c.cache.codec.same(cur.item, value)
		}
		if same {
			if next, err = c.settle(ctx, cur, nil); err != nil || next != nil {
				return nil, next, err
			}
			return cur.item, nil, nil
		}
		it, there, err := c.cache.put(ctx, "update", cur.item.Key, value, cur.item.Revision)
		if err != nil {
			return nil, nil, storeError(ctx, err, true)
		}
		return it, &current{there, true}, nil
	})
}

// Delete removes an object if check, which may be nil, allows it. check is called as Update calls change. The item is the
// object's last state with the revision of its deletion.
func (c *Collection) Delete(ctx context.Context, namespace, name string, check func(current *Item) error) (*Item, error) {
	return c.modify(ctx, namespace, name, func(cur current) (done *Item, next *current, err error) {
		if check != nil {
			view, err := cur.item.as(c.kind)
			if err != nil {
				return nil, nil, err
			}
			if err := check(view); err != nil {
				next, err = c.settle(ctx, cur, err)
				return nil, next, err
			}
		}
		revision, there, err := c.cache.delete(ctx, cur.item.Key, cur.item.Revision)
		switch {
		case err != nil:
			return nil, nil, storeError(ctx, err, true)
		case revision == 0:
			return nil, &current{there, true}, nil
		}
		return cur.item.at(revision), nil, nil
	})
}

// current is a state of an object that a write begins with, nil if there is no object.
type current struct {
	item *Item
	sure bool // it came from the store, not from the cache
}

// modify calls attempt with states of an object until it is done.
func (c *Collection) modify(ctx context.Context, namespace, name string, attempt func(current) (done *Item, next *current, err error)) (*Item, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	key, err := c.key(namespace, name)
	if err != nil {
		return nil, err
	}
	cur := current{item: c.cache.current.Load().get(key)}
	for {
		if !cur.sure && (cur.item == nil || cur.item.broken != nil) {
			if cur.item, err = c.cache.latest(ctx, key); err != nil {
				return nil, storeError(ctx, err, false)
			}
			cur.sure = true
		}
		switch {
		case cur.item == nil:
			return nil, c.notFound(name)
		case cur.item.broken != nil:
			return nil, unreadable(cur.item)
		}
		done, next, err := attempt(cur)
		switch {
		case err != nil:
			return nil, err
		case done != nil:
			return done.as(c.kind)
		}
		cur = *next
	}
}

// settle is called when a state leads to no write: with an error, or as nothing changes. It returns the newer state if
// there is one, and the error if not.
func (c *Collection) settle(ctx context.Context, cur current, because error) (*current, error) {
	if cur.sure {
		return nil, because
	}
	it, err := c.cache.latest(ctx, cur.item.Key)
	if err != nil {
		return nil, storeError(ctx, err, false)
	}
	if it != nil && it.Revision == cur.item.Revision {
		return nil, because
	}
	return &current{it, true}, nil
}

// value encodes an object as its kind is stored.
func (c *Collection) value(o kinds.Object) ([]byte, error) {
	if c.kind.Stored != nil {
		var err error
		if o, err = c.kind.Stored.To(o); err != nil {
			return nil, failed(err)
		}
	}
	b, err := c.cache.codec.encode(o)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return b, nil
}

// put writes a value if the key was last written at a revision, 0: if there is none. Otherwise it returns what is there.
func (c *cache) put(ctx context.Context, operation, key string, clear []byte, at int64) (it, there *Item, err error) {
	value, err := c.values.ToStore(clear, []byte(key))
	if err != nil {
		return nil, nil, apierrors.NewInternalError(fmt.Errorf("encrypt %s: %w", key, err))
	}
	ctx, done := c.request(ctx, operation)
	defer done()
	for attempt := 0; ; attempt++ {
		var lease client.LeaseID
		if c.kind.TTL > 0 {
			if lease, err = c.store.leases.get(ctx, c.kind.TTL); err != nil {
				return nil, nil, err
			}
		}
		r, err := c.store.cfg.Client.Txn(ctx).If(client.ModRevision(key).Equals(at)).
			Then(client.OpPut(key, value, client.WithLease(lease))).Else(client.OpGet(key)).Commit()
		if lease != 0 && attempt == 0 && errors.Is(err, rpctypes.ErrLeaseNotFound) {
			c.store.leases.forget(lease)
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if !r.Succeeded {
			return nil, c.found(r), nil
		}
		return c.wrote(key, clear, r.Header.GetRevision()), nil, nil
	}
}

// wrote returns the item of a value that was written, the cache's own if that has it already.
func (c *cache) wrote(key string, clear []byte, revision int64) *Item {
	have := func() *Item {
		if it := c.current.Load().get(key); it != nil && it.Revision == revision {
			return it
		}
		return nil
	}
	if it := have(); it != nil {
		return it
	}
	return c.written.share(key, revision, func() *Item {
		if it := have(); it != nil { // it was published meanwhile
			return it
		}
		return c.codec.item(key, clear, revision)
	})
}

// found is what a transaction found instead of what was expected, nil if nothing.
func (c *cache) found(r *client.TxnResponse) *Item {
	for _, o := range r.Responses {
		if kvs := o.GetResponseRange().GetKvs(); len(kvs) > 0 {
			return c.known(c.current.Load(), kvs[0])
		}
	}
	return nil
}

// delete removes a key that was last written at a revision, and returns the revision of the deletion; otherwise 0 and what
// is there.
func (c *cache) delete(ctx context.Context, key string, at int64) (revision int64, there *Item, err error) {
	ctx, done := c.request(ctx, "delete")
	defer done()
	r, err := c.store.cfg.Client.Txn(ctx).If(client.ModRevision(key).Equals(at)).
		Then(client.OpDelete(key)).Else(client.OpGet(key)).Commit()
	switch {
	case err != nil:
		return 0, nil, err
	case !r.Succeeded:
		return 0, c.found(r), nil
	}
	return r.Header.GetRevision(), nil, nil
}
