package watch

import (
	"cmp"
	"slices"
)

// span is a range of keys: one key, or [from, to), or everything from a key on.
type span struct {
	from, to string
	single   bool
	open     bool // there is no end
}

// newSpan translates the end of a request: nil is one key, one zero byte no end.
func newSpan(key, end []byte) (span, error) {
	switch {
	case end == nil:
		return span{from: string(key), single: true}, nil
	case len(end) == 1 && end[0] == 0:
		return span{from: string(key), open: true}, nil
	case string(key) >= string(end):
		return span{}, ErrEmptyRange
	}
	return span{from: string(key), to: string(end)}, nil
}

func (s *span) contains(key string) bool {
	if s.single {
		return key == s.from
	}
	return key >= s.from && (s.open || key < s.to)
}

// group is the watchers of one span.
type group struct {
	span
	watchers []*watcher
}

// index finds the groups whose span contains a key. Spans change seldom, keys are looked up for every event; so the spans
// are kept in a sorted list, made anew after a change, that is an implicit balanced tree: the root of list[i:j] is its
// middle, and reach[middle] is the farthest end in list[i:j].
type index struct {
	groups map[span]*group
	list   []*group
	reach  []*group // the group with the farthest end
	stale  bool
}

func newIndex() *index { return &index{groups: map[span]*group{}} }

func (x *index) add(w *watcher) {
	g := x.groups[w.span]
	if g == nil {
		g = &group{span: w.span}
		x.groups[w.span] = g
		x.stale = x.stale || !w.single
	}
	w.place = len(g.watchers)
	g.watchers = append(g.watchers, w)
}

func (x *index) remove(w *watcher) {
	g := x.groups[w.span]
	last := len(g.watchers) - 1
	g.watchers[w.place] = g.watchers[last]
	g.watchers[w.place].place = w.place
	g.watchers[last] = nil
	g.watchers = g.watchers[:last]
	if last == 0 {
		delete(x.groups, w.span)
		x.stale = x.stale || !w.single
	}
}

// visit calls fn for every watcher whose span contains a key. fn must not change the index.
func (x *index) visit(key string, fn func(*watcher)) {
	if g := x.groups[span{from: key, single: true}]; g != nil {
		for _, w := range g.watchers {
			fn(w)
		}
	}
	if x.stale {
		x.build()
	}
	x.stab(0, len(x.list), key, fn)
}

func (x *index) build() {
	x.list = x.list[:0]
	for _, g := range x.groups {
		if !g.single {
			x.list = append(x.list, g)
		}
	}
	slices.SortFunc(x.list, func(a, b *group) int { return cmp.Compare(a.from, b.from) })
	x.reach = slices.Grow(x.reach[:0], len(x.list))[:len(x.list)]
	x.fill(0, len(x.list))
	x.stale = false
}

func (x *index) fill(i, j int) *group {
	if i == j {
		return nil
	}
	mid := (i + j) / 2
	far := x.list[mid]
	for _, g := range [...]*group{x.fill(i, mid), x.fill(mid+1, j)} {
		if g != nil && !far.open && (g.open || g.to > far.to) {
			far = g
		}
	}
	x.reach[mid] = far
	return far
}

func (x *index) stab(i, j int, key string, fn func(*watcher)) {
	for i < j {
		mid := (i + j) / 2
		if far := x.reach[mid]; !far.open && far.to <= key {
			return
		}
		x.stab(i, mid, key, fn)
		g := x.list[mid]
		if g.from > key {
			return
		}
		if g.contains(key) {
			for _, w := range g.watchers {
				fn(w)
			}
		}
		i = mid + 1
	}
}
