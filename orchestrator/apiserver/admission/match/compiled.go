package match

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/keelson-io/keelson/orchestrator/kinds"
)

// Compiled keeps what was made of configuration objects until they change.
type Compiled[T, S any] struct {
	// Compile makes something of one object, once for each of its versions.
	Compile func(o kinds.Object) T
	// Join makes one thing of all that Compile made, in the order of the objects' names.
	Join func(all []T) S

	mu      sync.Mutex // of those who replace current
	current atomic.Pointer[compilation[T, S]]
}

type compilation[T, S any] struct {
	parts  []part[T] // in the order in which the objects came
	joined S
}

type part[T any] struct {
	uid, resourceVersion, name string
	made                       T
}

func (p *part[T]) isOf(o kinds.Object) bool {
	return p.uid == string(o.GetUID()) && p.resourceVersion == o.GetResourceVersion() && p.name == o.GetName()
}

// Of returns what Join made of these objects.
func (c *Compiled[T, S]) Of(objects []kinds.Object) S {
	same := func(p part[T], o kinds.Object) bool { return p.isOf(o) }
	if now := c.current.Load(); now != nil && slices.EqualFunc(now.parts, objects, same) {
		return now.joined
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.current.Load()
	if was == nil {
		was = &compilation[T, S]{}
	}
	next := &compilation[T, S]{}
	for _, o := range objects {
		i := slices.IndexFunc(was.parts, func(p part[T]) bool { return p.isOf(o) })
		if i >= 0 {
			next.parts = append(next.parts, was.parts[i])
		} else {
			next.parts = append(next.parts, part[T]{string(o.GetUID()), o.GetResourceVersion(), o.GetName(), c.Compile(o)})
		}
	}
	sorted := slices.SortedStableFunc(slices.Values(next.parts), func(a, b part[T]) int { return strings.Compare(a.name, b.name) })
	all := make([]T, len(sorted))
	for i := range sorted {
		all[i] = sorted[i].made
	}
	next.joined = c.Join(all)
	c.current.Store(next)
	return next.joined
}
