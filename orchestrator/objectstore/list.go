package objectstore

import (
	"context"
	"errors"
	"sort"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ListQuery says which objects, as of when, and how many. The zero query is all objects as they are now.
type ListQuery struct {
	Namespace       string          // "": all
	Labels          labels.Selector // nil: all
	Fields          fields.Selector // nil: all
	Limit           int64           // 0: none
	Continue        string          // from the page before
	ResourceVersion string          // "": now, "0": any
	Match           metav1.ResourceVersionMatch
}

// Page is some objects in the order of their keys, all of one revision.
type Page struct {
	Items    []*Item
	Revision int64
	Continue string // asks for the next page, "" if there is none
	// Remaining is how many objects follow the page, nil if it is the last one or there are selectors.
	Remaining *int64
}

// validate refuses what Kubernetes refuses.
func (q *ListQuery) validate() error {
	var errs field.ErrorList
	at := field.NewPath("resourceVersionMatch")
	switch q.Match {
	case "":
		return nil
	case metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan:
	default:
		errs = append(errs, field.NotSupported(at, q.Match, []metav1.ResourceVersionMatch{metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan, ""}))
	}
	if q.ResourceVersion == "" {
		errs = append(errs, field.Forbidden(at, "resourceVersionMatch is forbidden unless resourceVersion is provided"))
	}
	if q.Continue != "" {
		errs = append(errs, field.Forbidden(at, "resourceVersionMatch is forbidden when continue is provided"))
	}
	if q.Match == metav1.ResourceVersionMatchExact && q.ResourceVersion == "0" {
		errs = append(errs, field.Forbidden(at, `resourceVersionMatch "exact" is forbidden for resourceVersion "0"`))
	}
	if len(errs) > 0 {
		return invalidOptions(errs)
	}
	return nil
}

// listing is a list that is being made.
type listing struct {
	c        *Collection
	scope    scope
	match    func(*Item) bool // nil: all
	limit    int64
	from     string // key to begin with
	revision int64  // exactly this one if exact, otherwise at least this one; 0 with !exact: any
	exact    bool
	now      bool // as it is now
	page     bool // it began with a continue token
}

// List returns a page of objects.
func (c *Collection) List(ctx context.Context, q ListQuery) (*Page, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	l, err := c.listing(&q)
	if err != nil {
		return nil, err
	}
	if l.scope.none {
		l.match = func(*Item) bool { return false }
	}
	var p *Page
	switch {
	case l.exact:
		p, err = l.exactly(ctx)
	case l.now:
		p, err = l.latest(ctx)
	default:
		var v *version
		if v, err = c.notOlder(ctx, l.revision); err == nil {
			c.count("cache")
			p, err = l.cached(v, v.revision)
		}
	}
	if err != nil {
		return nil, storeError(ctx, err, false)
	}
	return p, nil
}

// listing resolves what the combinations of parameters mean.
func (c *Collection) listing(q *ListQuery) (*listing, error) {
	if err := q.validate(); err != nil {
		return nil, err
	}
	revision, err := parseRevision(q.ResourceVersion)
	if err != nil {
		return nil, err
	}
	l := &listing{c: c, scope: c.scope(q.Namespace, q.Fields), match: matcher(q.Labels, q.Fields), limit: max(0, q.Limit), revision: revision}
	l.from = l.scope.prefix
	switch {
	case q.Continue != "":
		base := c.listPrefix(q.Namespace)
		key, at, err := decodeContinue(q.Continue, base)
		if err != nil {
			return nil, apierrors.NewBadRequest("invalid continue token: " + err.Error())
		}
		if revision > 0 {
			return nil, apierrors.NewBadRequest("specifying resource version is not allowed when using continue")
		}
		l.from, l.page, l.revision = max(key, l.from), true, max(0, at)
		l.exact, l.now = at > 0, at < 0
	case q.Match == metav1.ResourceVersionMatchExact:
		l.exact = true
	case q.Match == "" && q.ResourceVersion == "":
		l.now = true
	case q.Match == "" && revision > 0 && l.limit > 0:
		l.exact = true // as ever
	case q.ResourceVersion == "0":
		l.limit = 0 // as kube-apiserver's cache does, so that informers get all at once
	}
	return l, nil
}

// latest lists what is there now.
func (l *listing) latest(ctx context.Context) (*Page, error) {
	c := l.c
	revision, err := c.store.now.get(ctx)
	if err != nil {
		return nil, err
	}
	switch v, err := c.cache.wait(ctx, revision, c.store.cfg.FreshTimeout); {
	case err == nil:
		c.count("cache")
		return l.cached(v, v.revision)
	case errors.Is(err, errStale):
		c.count("store")
		return l.stored(ctx, 0)
	default:
		return nil, err
	}
}

// exactly lists what was there at a revision.
func (l *listing) exactly(ctx context.Context) (*Page, error) {
	c := l.c
	if v := c.cache.current.Load(); v.at(l.revision) {
		c.count("cache")
		return l.cached(v, l.revision)
	}
	if v := c.cache.snapshots.find(l.revision, c.store.cfg.Clock.Now()); v != nil {
		c.count("snapshot")
		return l.cached(v, l.revision)
	}
	c.count("store")
	p, err := l.stored(ctx, l.revision)
	if errors.Is(err, rpctypes.ErrFutureRev) {
		if _, err := c.notOlder(ctx, l.revision); err != nil {
			return nil, err
		}
		return l.stored(ctx, l.revision)
	}
	return p, err
}

// cached lists from a version of the cache that is the state at a revision.
func (l *listing) cached(v *version, revision int64) (*Page, error) {
	p, end := &Page{Revision: revision}, l.scope.end
	if err := prepare(l.c.kind, l.candidates(v)); err != nil {
		return nil, err
	}
	if l.limit == 0 && l.match == nil && l.scope.prefix == l.c.cache.prefix && !l.page {
		p.Items = make([]*Item, 0, v.tree.Len())
	}
	var failure error
	last, more := "", false
	v.tree.Ascend(&Item{Key: l.from}, func(it *Item) bool {
		if it.Key >= end {
			return false
		}
		if l.limit > 0 && int64(len(p.Items)) >= l.limit {
			more = true
			return false
		}
		last = it.Key
		if it, failure = it.as(l.c.kind); failure != nil {
			return false
		}
		if l.match == nil || l.match(it) {
			p.Items = append(p.Items, it)
		}
		return true
	})
	if failure != nil {
		return nil, failure
	}
	if more {
		l.c.cache.snapshots.keep(v, l.c.store.cfg.Clock.Now())
		left := 0
		if l.match == nil {
			left = rank(v.tree, end) - rank(v.tree, last+"\x00")
		}
		l.follow(p, last, int64(left))
	}
	return p, nil
}

// candidates are the items that may come into a page, if they have to be converted.
func (l *listing) candidates(v *version) []*Item {
	if l.c.kind.Stored == nil {
		return nil
	}
	var items []*Item
	v.tree.Ascend(&Item{Key: l.from}, func(it *Item) bool {
		if it.Key >= l.scope.end || l.match == nil && l.limit > 0 && int64(len(items)) >= l.limit {
			return false
		}
		items = append(items, it)
		return true
	})
	return items
}

// rank is how many keys are before one.
func rank(t *tree, key string) int {
	return sort.Search(t.Len(), func(i int) bool {
		it, _ := t.GetAt(i)
		return it.Key >= key
	})
}

// follow says how a page is continued after a key.
func (l *listing) follow(p *Page, last string, left int64) {
	p.Continue = encodeContinue(last+"\x00", l.scope.base, p.Revision)
	if l.match == nil {
		p.Remaining = &left
	}
}

// stored lists from the store, at a revision or, 0, now.
func (l *listing) stored(ctx context.Context, revision int64) (*Page, error) {
	c := l.c
	p, from := &Page{Revision: revision}, l.from
	limit, most := l.limit, int64(c.store.cfg.PageSize)
	if limit == 0 || limit > most {
		limit = most
	}
	have := c.cache.current.Load()
	for {
		r, err := c.cache.page(ctx, from, l.scope.end, p.Revision, limit)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted):
			return nil, l.compacted()
		case err != nil:
			return nil, err
		}
		if p.Revision == 0 {
			p.Revision = r.rev
		}
		items := make([]*Item, len(r.kvs))
		for i, kv := range r.kvs {
			items[i] = c.cache.known(have, kv)
		}
		if err := prepare(c.kind, items); err != nil {
			return nil, err
		}
		for i, it := range items {
			if it, err = it.as(c.kind); err != nil {
				return nil, err
			}
			if l.match != nil && !l.match(it) {
				continue
			}
			p.Items = append(p.Items, it)
			if l.limit > 0 && int64(len(p.Items)) == l.limit {
				if left := r.count - int64(i) - 1; left > 0 {
					l.follow(p, it.Key, left)
				}
				return p, nil
			}
		}
		if !r.more {
			return p, nil
		}
		from = string(r.kvs[len(r.kvs)-1].Key) + "\x00"
		limit = min(2*limit, most) // selectors dropped some
	}
}

// compacted is the error of a list whose revision is gone. Who pages may go on with what is there now.
func (l *listing) compacted() error {
	if !l.page {
		return apierrors.NewResourceExpired(expiredList)
	}
	err := apierrors.NewResourceExpired(expiredContinue)
	err.ErrStatus.Continue = encodeContinue(l.from, l.scope.base, -1)
	return err
}
