package objectstore

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"

	"github.com/keelson-io/keelson/client"
)

// key is where an object is stored.
func (c *Collection) key(namespace, name string) (string, error) {
	if c.kind.Namespaced {
		if errs := content.IsPathSegmentName(namespace); namespace == "" || len(errs) > 0 {
			return "", apierrors.NewBadRequest("invalid namespace \"" + namespace + "\": " + strings.Join(append(errs, "an object of this kind is in one"), ", "))
		}
		namespace += "/"
	} else {
		namespace = ""
	}
	if errs := content.IsPathSegmentName(name); name == "" || len(errs) > 0 {
		return "", apierrors.NewBadRequest("invalid name \"" + name + "\": " + strings.Join(append(errs, "an object has one"), ", "))
	}
	return c.cache.prefix + namespace + name, nil
}

// Get returns an object: with resourceVersion "" as it is now, with "0" as the cache has it, otherwise in a state that is
// not older than that.
func (c *Collection) Get(ctx context.Context, namespace, name, resourceVersion string) (*Item, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	key, err := c.key(namespace, name)
	if err != nil {
		return nil, err
	}
	min, err := parseRevision(resourceVersion)
	if err != nil {
		return nil, err
	}
	var it *Item
	if resourceVersion == "" {
		it, err = c.cache.latest(ctx, key)
	} else {
		var v *version
		if v, err = c.notOlder(ctx, min); err == nil {
			c.count("cache")
			it = v.get(key)
		}
	}
	switch {
	case err != nil:
		return nil, storeError(ctx, err, false)
	case it == nil:
		return nil, c.notFound(name)
	}
	return it.as(c.kind)
}

// latest reads one object linearizably, nil if there is none. What the cache has is not read again if it has not changed.
func (c *cache) latest(ctx context.Context, key string) (*Item, error) {
	ctx, done := c.request(ctx, "get")
	defer done()
	have := c.current.Load().get(key)
	var opts []client.GetOption
	if have != nil {
		opts = append(opts, client.WithMinModRev(have.Revision+1))
	}
	r, err := c.store.cfg.Client.Get(ctx, key, opts...)
	switch {
	case err != nil:
		return nil, err
	case len(r.Kvs) > 0:
		return c.item(r.Kvs[0]), nil
	case r.Count > 0:
		return have, nil
	}
	return nil, nil
}

// notOlder returns a version of the cache that has a revision, 0 for any.
func (c *Collection) notOlder(ctx context.Context, revision int64) (*version, error) {
	limit := c.store.cfg.FreshTimeout
	if revision == 0 {
		limit = c.store.cfg.StoreTimeout
	}
	v, err := c.cache.wait(ctx, revision, limit)
	if errors.Is(err, errStale) {
		if v.revision == 0 {
			return nil, c.unfilled()
		}
		return nil, tooLarge(revision, v.revision)
	}
	if errors.Is(err, errClosed) {
		return nil, busy("the watch cache of " + c.cache.resource + " is closed")
	}
	return v, err
}

func (c *Collection) unfilled() error {
	text := "the watch cache of " + c.cache.resource + " is not filled yet"
	if err := c.cache.trouble.Load(); err != nil {
		text += ": " + (*err).Error()
	}
	return busy(text)
}

// count says where a read was answered from.
func (c *Collection) count(source string) {
	c.store.metrics.reads.WithLabelValues(source, c.cache.resource).Inc()
}

// pageRead is a part of a range in the store.
type pageRead struct {
	kvs   []*client.KeyValue
	rev   int64 // of the store when it was read
	count int64 // keys in the range, whatever the limit
	more  bool
}

// page reads a range at a revision, 0 for now.
func (c *cache) page(ctx context.Context, from, end string, revision, limit int64) (*pageRead, error) {
	ctx, done := c.request(ctx, "list")
	defer done()
	opts := []client.GetOption{client.WithRange(end)}
	if limit > 0 {
		opts = append(opts, client.WithLimit(limit))
	}
	if revision > 0 {
		opts = append(opts, client.WithRev(revision))
	}
	r, err := c.store.cfg.Client.Get(ctx, from, opts...)
	if err != nil {
		return nil, err
	}
	return &pageRead{kvs: r.Kvs, rev: r.Header.GetRevision(), count: r.Count, more: r.More && len(r.Kvs) > 0}, nil
}
