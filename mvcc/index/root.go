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
func (r Root) Below(key string) int64 {
	n := r.n
	if n == nil {
		return 0
	}
	var below int64
	for !n.leaf() {
		i := n.childFor(key)
		for _, c := range n.children[:i] {
			below += c.live
		}
		n = n.children[i]
	}
	for _, e := range n.entries[:n.entryFor(key)] {
		l, _ := weight(e)
		below += l
	}
	return below
}

// Count counts the live keys from key on: up to end (exclusive), or all of them if end is nil.
func (r Root) Count(key string, end *string) int64 {
	to := r.Live()
	if end != nil {
		to = r.Below(*end)
	}
	return max(0, to-r.Below(key))
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
