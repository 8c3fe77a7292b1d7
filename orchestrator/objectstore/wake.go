package objectstore

import (
	"sync"

	"k8s.io/apimachinery/pkg/fields"
)

// interest is what a watch's selectors are about at least: the value of a field. The zero interest is everything.
type interest struct{ field, value string }

// Fields of interests that are no fields of objects.
const (
	byKey   = "\x00key"
	byScope = "\x00scope" // keys that begin with a namespace's prefix
)

// wakers are the open watches of a cache by what interests them.
type wakers struct {
	mu sync.Mutex
	by map[interest]map[*Stream]struct{}
	// fields counts the interests in fields of objects.
	fields map[string]int
}

func (w *wakers) add(s *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	set := w.by[s.interest]
	if set == nil {
		set = map[*Stream]struct{}{}
		w.by[s.interest] = set
	}
	set[s] = struct{}{}
	if s.interest.ofObject() {
		if w.fields == nil {
			w.fields = map[string]int{}
		}
		w.fields[s.interest.field]++
	}
}

func (w *wakers) remove(s *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	set := w.by[s.interest]
	if _, ok := set[s]; !ok {
		return
	}
	if delete(set, s); len(set) == 0 {
		delete(w.by, s.interest)
	}
	if f := s.interest.field; s.interest.ofObject() {
		if w.fields[f]--; w.fields[f] == 0 {
			delete(w.fields, f)
		}
	}
}

func (i interest) ofObject() bool { return i.field != "" && i.field[0] != 0 }

// fail ends all watches.
func (w *wakers) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, set := range w.by {
		for s := range set {
			s.fail(err)
		}
	}
}

// deliver tells watches where there are changes that may concern them, publishes, and wakes them.
func (w *wakers) deliver(changes []position, publish func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := marking{w: w}
	if len(w.by) > 0 {
		for _, p := range changes {
			m.mark(&p.chunk.changes[p.index], p)
		}
	}
	publish()
	for _, s := range m.woken {
		s.rouse()
	}
}

// marking is one delivery. It holds the lock of the wakers.
type marking struct {
	w     *wakers
	woken []*Stream
}

// mark tells all watches that a change may concern where it is.
func (m *marking) mark(c *change, p position) {
	at := &p
	it := c.item
	if it == nil {
		it = c.prev
	}
	m.set(interest{}, at)
	m.set(interest{byKey, it.Key}, at)
	if n := scopeOf(it.Key); n > 0 {
		m.set(interest{byScope, it.Key[:n]}, at)
	}
	for f := range m.w.fields {
		now, before := fieldOf(c.item, f), fieldOf(c.prev, f)
		if now != "" {
			m.set(interest{f, now}, at)
		}
		if before != "" && before != now {
			m.set(interest{f, before}, at)
		}
	}
}

func fieldOf(it *Item, field string) string {
	if it == nil || it.broken != nil {
		return ""
	}
	return it.Get(field)
}

// scopeOf is the length of a key without the name.
func scopeOf(key string) int {
	for i := len(key) - 1; i >= 0; i-- {
		if key[i] == '/' {
			return i + 1
		}
	}
	return 0
}

func (m *marking) set(i interest, p *position) {
	for s := range m.w.by[i] {
		if s.mark(p) {
			m.woken = append(m.woken, s)
		}
	}
}

// interestOf finds the narrowest interest that covers a query. Converted kinds have fields of their own, by which stored
// ones cannot be found.
func (c *Collection) interestOf(scope scope, sel fields.Selector) interest {
	if scope.key != "" {
		return interest{byKey, scope.key}
	}
	if c.kind.Stored == nil && sel != nil {
		for _, f := range c.kind.FieldNames {
			if v, ok := sel.RequiresExactMatch(f); ok && v != "" {
				return interest{f, v}
			}
		}
	}
	if scope.prefix != c.cache.prefix {
		return interest{byScope, scope.prefix}
	}
	return interest{}
}
