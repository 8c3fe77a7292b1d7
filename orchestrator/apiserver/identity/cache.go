package identity

import (
	"crypto/sha256"
	"sync"
)

type digest = [sha256.Size]byte

// cache remembers what was verified, for as many digests as its size at least, and twice as many at most: when the young half
// is full it becomes the old half, and the old one is forgotten but for what was asked for meanwhile.
type cache[V any] struct {
	mu         sync.RWMutex
	size       int
	young, old map[digest]*V
}

func newCache[V any](size int) *cache[V] { return &cache[V]{size: size, young: map[digest]*V{}} }

func (c *cache[V]) get(k digest) *V {
	c.mu.RLock()
	young, old := c.young[k], c.old[k]
	c.mu.RUnlock()
	if young == nil && old != nil {
		c.put(k, old)
		return old
	}
	return young
}

func (c *cache[V]) put(k digest, v *V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= c.size {
		c.young, c.old = make(map[digest]*V, c.size/4), c.young
	}
	c.young[k] = v
}
