package index

// Root is a tree that does not change.
type Root struct{ n *node }

// Live is the number of keys that exist.
func (r Root) Live() int64 {
	if r.n == nil {
		return 0
	}
	return r.n.live
}

// Get returns the entry of a key, nil if it has none.
func (r Root) Get(key string) *Entry {
	n := r.n
	if n == nil {
		return nil
	}
	for !n.leaf() {
		n = n.children[n.childFor(key)]
	}
	if i := n.entryFor(key); i < len(n.entries) && n.entries[i].Key == key {
		return n.entries[i]
	}
	return nil
}

// Below counts the live keys below key.
func (r Root) Below(key string) int64 { return r.below(key).live }

// below sums up what is below key.
func (r Root) below(key string) (s sums) {
	n := r.n
	if n == nil {
		return s
	}
	for !n.leaf() {
		i := n.childFor(key)
		for _, c := range n.children[:i] {
			s.add(c.sums)
		}
		n = n.children[i]
	}
	for _, e := range n.entries[:n.entryFor(key)] {
		s.add(weight(e))
	}
	return s
}

// Count counts the live keys from key on: up to end (exclusive), or all of them if end is nil.
func (r Root) Count(key string, end *string) int64 {
	keys, _ := r.Weigh(key, end)
	return keys
}

// Weigh is Count, and sums up the sizes of these keys.
func (r Root) Weigh(key string, end *string) (keys, bytes int64) {
	var to sums
	switch {
	case r.n == nil:
	case end == nil:
		to = r.n.sums
	default:
		to = r.below(*end)
	}
	d := to.minus(r.below(key))
	return max(0, d.live), max(0, d.bytes)
}

// AtByte returns the live entry at a place in the row of all live ones, each as long as its size; nil behind the last one.
func (r Root) AtByte(offset int64) *Entry {
	n := r.n
	if n == nil || offset < 0 || offset >= n.bytes {
		return nil
	}
	for !n.leaf() {
		i := 0
		for ; offset >= n.children[i].bytes; i++ {
			offset -= n.children[i].bytes
		}
		n = n.children[i]
	}
	for _, e := range n.entries {
		b := weight(e).bytes
		if offset < b {
			return e
		}
		offset -= b
	}
	return nil
}

// visit says which subtrees a walk goes into.
type visit func(n *node) bool

// Ascend calls fn for every entry from key on, up to end (exclusive, nil: to the last), deleted keys too, until fn
// returns false.
func (r Root) Ascend(key string, end *string, fn func(*Entry) bool) {
	r.walk(key, end, func(*node) bool { return true }, fn)
}

// AscendLive is Ascend over the keys that exist.
func (r Root) AscendLive(key string, end *string, fn func(*Entry) bool) {
	r.walk(key, end, func(n *node) bool { return n.live > 0 }, func(e *Entry) bool { return !e.Live() || fn(e) })
}

// AscendStale is Ascend over the entries that a compaction could shorten.
func (r Root) AscendStale(key string, fn func(*Entry) bool) {
	r.walk(key, nil, func(n *node) bool { return n.stale > 0 }, func(e *Entry) bool { return !e.stale() || fn(e) })
}

func (r Root) walk(key string, end *string, into visit, fn func(*Entry) bool) {
	if r.n != nil {
		r.n.walk(key, end, into, fn)
	}
}

func (n *node) walk(key string, end *string, into visit, fn func(*Entry) bool) bool {
	if !into(n) {
		return true
	}
	if n.leaf() {
		for _, e := range n.entries[n.entryFor(key):] {
			if end != nil && e.Key >= *end || !fn(e) {
				return false
			}
		}
		return true
	}
	for i := n.childFor(key); i < len(n.children); i++ {
		if end != nil && i > 0 && n.keys[i-1] >= *end {
			return false
		}
		if !n.children[i].walk(key, end, into, fn) {
			return false
		}
	}
	return true
}
