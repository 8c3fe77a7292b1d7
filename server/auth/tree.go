package auth

import "bytes"

// span is the keys from begin up to end, which is not in it. An empty bound lies beyond all keys.
type span struct{ begin, end []byte }

func compareBounds(a, b []byte) int {
	switch {
	case len(a) == 0 && len(b) == 0:
		return 0
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return bytes.Compare(a, b)
}

// compare is negative if s ends before o begins, positive if it begins after o ended, 0 if they meet.
func (s span) compare(o span) int {
	switch {
	case compareBounds(s.begin, o.begin) < 0 && compareBounds(s.end, o.begin) <= 0:
		return -1
	case compareBounds(s.begin, o.end) >= 0:
		return 1
	}
	return 0
}

// tree is a set of spans: a red-black tree in the order of the beginnings, in which every node knows the largest end below
// it (Cormen et al., Introduction to Algorithms, chapters 13.3 and 14.3).
//
// A request may name a range that ends before it begins. What such a range meets depends on the shape of the tree, and the
// answer decides about commands in the log. So the shape is the one that etcd's tree takes: the same insertions in the same
// order. Nothing is ever removed; a changed role makes new trees.
type tree struct{ root *node }

type node struct {
	span
	max                 []byte // the largest end in the subtree
	parent, left, right *node
	red                 bool
}

func (n *node) isRed() bool { return n != nil && n.red }

func (t *tree) insert(s span) {
	z := &node{span: s, max: s.end, red: true}
	at := &t.root
	for *at != nil {
		z.parent = *at
		order := compareBounds(s.begin, z.parent.begin)
		if order == 0 {
			order = compareBounds(s.end, z.parent.end)
		}
		if order < 0 {
			at = &z.parent.left
		} else {
			at = &z.parent.right
		}
	}
	*at = z
	for p := z.parent; p != nil; p = p.parent {
		p.measure()
	}
	t.balance(z)
}

// measure sets max from the node and its children.
func (n *node) measure() {
	n.max = n.end
	for _, child := range []*node{n.left, n.right} {
		if child != nil && compareBounds(child.max, n.max) > 0 {
			n.max = child.max
		}
	}
}

// balance restores the colours' rules after z was inserted.
func (t *tree) balance(z *node) {
	for z.parent.isRed() {
		p, g := z.parent, z.parent.parent
		left := p == g.left
		uncle := g.right
		if !left {
			uncle = g.left
		}
		if uncle.isRed() {
			p.red, uncle.red, g.red = false, false, true
			z = g
			continue
		}
		if inner := z == p.right; inner == left {
			t.rotate(p, left)
			z, p = p, z
		}
		p.red, g.red = false, true
		t.rotate(g, !left)
	}
	t.root.red = false
}

// rotate moves x below its right child (leftwards), or below its left one.
func (t *tree) rotate(x *node, leftwards bool) {
	var y *node
	if leftwards {
		y = x.right
		x.right = y.left
		y.left = x
		if x.right != nil {
			x.right.parent = x
		}
	} else {
		y = x.left
		x.left = y.right
		y.right = x
		if x.left != nil {
			x.left.parent = x
		}
	}
	switch p := x.parent; {
	case p == nil:
		t.root = y
	case p.left == x:
		p.left = y
	default:
		p.right = y
	}
	y.parent, x.parent = x.parent, y
	x.measure()
	y.measure()
}

// coversKey says whether some span has the key.
func (t *tree) coversKey(key []byte) bool {
	var buf [128]byte
	q := span{key, append(append(buf[:0], key...), 0)}
	n := t.root
	for n != nil && q.compare(n.span) != 0 {
		if n.left != nil && compareBounds(n.left.max, q.begin) > 0 {
			n = n.left
		} else {
			n = n.right
		}
	}
	return n != nil
}

// covers says whether the spans together have all keys of q.
func (t *tree) covers(q span) bool {
	var c cover
	t.root.visit(q, &c)
	return !c.gap && c.any && compareBounds(c.end, q.end) >= 0 && compareBounds(c.begin, q.begin) <= 0
}

// cover is the union of spans that were visited in the order of their beginnings.
type cover struct {
	span
	any, gap bool
}

// add says whether to go on.
func (c *cover) add(s span) bool {
	switch {
	case !c.any:
		c.span, c.any = s, true
	case compareBounds(c.end, s.begin) < 0:
		c.gap = true
	case compareBounds(s.end, c.end) > 0:
		c.end = s.end
	}
	return !c.gap
}

// visit adds every span that meets q, and says whether to go on.
func (n *node) visit(q span, c *cover) bool {
	if n == nil {
		return true
	}
	switch order := q.compare(n.span); {
	case order < 0:
		return n.left.visit(q, c)
	case order > 0:
		if (span{n.begin, n.max}).compare(q) != 0 {
			return true
		}
		return n.left.visit(q, c) && n.right.visit(q, c)
	}
	return n.left.visit(q, c) && c.add(n.span) && n.right.visit(q, c)
}
