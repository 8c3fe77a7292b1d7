package index

import "sort"

const (
	maxItems = 64
	minItems = maxItems / 4 // fewer are merged with a neighbour if both fit
)

// node is a leaf (entries) or an inner node (keys and children: keys[i] is not above any key of children[i+1], and above
// all of children[i]).
type node struct {
	epoch uint64 // of the writer that may change it
	sums
	entries  []*Entry
	keys     []string
	children []*node
}

func (n *node) leaf() bool { return n.children == nil }

func (n *node) size() int {
	if n.leaf() {
		return len(n.entries)
	}
	return len(n.children)
}

// childFor is the place of the child that holds key.
func (n *node) childFor(key string) int {
	return sort.Search(len(n.keys), func(i int) bool { return n.keys[i] > key })
}

// entryFor is the place of the first entry not below key.
func (n *node) entryFor(key string) int {
	return sort.Search(len(n.entries), func(i int) bool { return n.entries[i].Key >= key })
}

func (n *node) count() {
	n.sums = sums{}
	for _, e := range n.entries {
		n.add(weight(e))
	}
	for _, c := range n.children {
		n.add(c.sums)
	}
}

// sums are over the entries of a subtree.
type sums struct {
	live  int64 // entries of keys that exist
	stale int64 // entries that a compaction could shorten
	bytes int64 // of the live ones
}

func (s *sums) add(d sums) {
	s.live, s.stale, s.bytes = s.live+d.live, s.stale+d.stale, s.bytes+d.bytes
}

func (s sums) minus(d sums) sums {
	return sums{s.live - d.live, s.stale - d.stale, s.bytes - d.bytes}
}

// weight is what an entry adds to the sums.
func weight(e *Entry) (w sums) {
	if e.Live() {
		w.live, w.bytes = 1, int64(e.Size)
	}
	if e.stale() {
		w.stale = 1
	}
	return w
}

// Tree is the index as its writer sees it.
type Tree struct {
	root  *node
	epoch uint64
}

// NewTree makes an empty tree.
func NewTree() *Tree { return &Tree{root: &node{epoch: 1}, epoch: 1} }

// Freeze returns the present tree for readers.
func (t *Tree) Freeze() Root {
	t.epoch++
	return Root{t.root}
}

// Root is the tree as it is, without Freeze: it is valid until the next change.
func (t *Tree) Root() Root { return Root{t.root} }

// own returns a node that the writer may change.
func (t *Tree) own(n *node) *node {
	if n.epoch == t.epoch {
		return n
	}
	c := &node{epoch: t.epoch, sums: n.sums}
	if n.leaf() {
		c.entries = append(make([]*Entry, 0, maxItems), n.entries...)
	} else {
		c.keys = append(make([]string, 0, maxItems), n.keys...)
		c.children = append(make([]*node, 0, maxItems), n.children...)
	}
	return c
}

// Set puts an entry in the place of the one with its key, or adds it.
func (t *Tree) Set(e *Entry) {
	t.root = t.own(t.root)
	t.set(t.root, e)
	if t.root.size() < maxItems {
		return
	}
	left := t.root
	key, right := t.split(left, e.Key)
	t.root = &node{epoch: t.epoch, keys: []string{key}, children: []*node{left, right}}
	t.root.count()
}

// set works on a node that the writer owns and that has room for one more item. It returns what changed in the sums.
func (t *Tree) set(n *node, e *Entry) (change sums) {
	if n.leaf() {
		change = n.setEntry(e)
	} else {
		i := n.childFor(e.Key)
		child := t.own(n.children[i])
		n.children[i] = child
		change = t.set(child, e)
		if child.size() == maxItems {
			key, right := t.split(child, e.Key)
			n.keys = insert(n.keys, i, key)
			n.children = insert(n.children, i+1, right)
		}
	}
	n.add(change)
	return change
}

func (n *node) setEntry(e *Entry) (change sums) {
	change = weight(e)
	i := n.entryFor(e.Key)
	if i < len(n.entries) && n.entries[i].Key == e.Key {
		change = change.minus(weight(n.entries[i]))
		n.entries[i] = e
		return change
	}
	if n.entries == nil {
		n.entries = make([]*Entry, 0, maxItems)
	}
	n.entries = insert(n.entries, i, e)
	return change
}

func insert[T any](s []T, i int, v T) []T {
	var zero T
	s = append(s, zero)
	copy(s[i+1:], s[i:])
	s[i] = v
	return s
}

// split moves the upper part of a full node into a new one and returns the key that parts them. A node that was filled at
// its end, as by keys in rising order, stays nearly full.
func (t *Tree) split(n *node, added string) (string, *node) {
	right := &node{epoch: t.epoch}
	var key string
	if n.leaf() {
		at := maxItems / 2
		if n.entries[maxItems-1].Key == added {
			at = maxItems - 2
		}
		right.entries = append(make([]*Entry, 0, maxItems), n.entries[at:]...)
		clear(n.entries[at:])
		n.entries = n.entries[:at]
		key = right.entries[0].Key
	} else {
		at := maxItems / 2
		if n.keys[maxItems-2] <= added {
			at = maxItems - 2
		}
		key = n.keys[at-1]
		right.keys = append(make([]string, 0, maxItems), n.keys[at:]...)
		right.children = append(make([]*node, 0, maxItems), n.children[at:]...)
		clear(n.keys[at-1:])
		clear(n.children[at:])
		n.keys, n.children = n.keys[:at-1], n.children[:at]
	}
	n.count()
	right.count()
	return key, right
}

// Remove removes the entry of a key, if there is one.
func (t *Tree) Remove(key string) {
	if t.Root().Get(key) == nil {
		return
	}
	t.root = t.own(t.root)
	t.remove(t.root, key)
	for !t.root.leaf() && len(t.root.children) == 1 {
		t.root = t.root.children[0]
	}
}

// remove works on a node that the writer owns and that holds the key.
func (t *Tree) remove(n *node, key string) (gone sums) {
	if n.leaf() {
		i := n.entryFor(key)
		gone = weight(n.entries[i])
		n.entries = cut(n.entries, i)
	} else {
		i := n.childFor(key)
		child := t.own(n.children[i])
		n.children[i] = child
		gone = t.remove(child, key)
		if child.size() < minItems {
			t.shrink(n, i)
		}
	}
	n.sums = n.minus(gone)
	return gone
}

func cut[T any](s []T, i int) []T {
	var zero T
	copy(s[i:], s[i+1:])
	s[len(s)-1] = zero
	return s[:len(s)-1]
}

// shrink merges the child at i with a neighbour if that leaves room, or drops it if it is empty.
func (t *Tree) shrink(n *node, i int) {
	if len(n.children) == 1 {
		return
	}
	if i == len(n.children)-1 {
		i--
	}
	left, right := n.children[i], n.children[i+1]
	if left.size()+right.size() > maxItems*3/4 {
		return
	}
	left = t.own(left)
	if left.leaf() {
		left.entries = append(left.entries, right.entries...)
	} else {
		left.keys = append(append(left.keys, n.keys[i]), right.keys...)
		left.children = append(left.children, right.children...)
	}
	left.count()
	n.children[i] = left
	n.keys = cut(n.keys, i)
	n.children = cut(n.children, i+1)
}
