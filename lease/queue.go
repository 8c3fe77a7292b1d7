package lease

// entry says that something may be due for a lease at a time (nanoseconds on the table's clock).
type entry struct {
	when int64
	l    *lease
}

// queue is a heap of entries, soonest first. It is 4-ary: half the levels of a binary one, and the four children share one
// cache line.
type queue []entry

const arity = 4

func (q *queue) push(e entry) {
	*q = append(*q, e)
	h := *q
	i := len(h) - 1
	for i > 0 {
		parent := (i - 1) / arity
		if h[parent].when <= e.when {
			break
		}
		h[i] = h[parent]
		i = parent
	}
	h[i] = e
}

// pop removes the soonest entry. The queue must not be empty.
func (q *queue) pop() entry {
	h := *q
	top, last := h[0], h[len(h)-1]
	h[len(h)-1] = entry{}
	h = h[:len(h)-1]
	*q = h
	if len(h) == 0 {
		return top
	}
	i := 0
	for {
		least, first := -1, arity*i+1
		for c := first; c < min(first+arity, len(h)); c++ {
			if least < 0 || h[c].when < h[least].when {
				least = c
			}
		}
		if least < 0 || h[least].when >= last.when {
			break
		}
		h[i] = h[least]
		i = least
	}
	h[i] = last
	return top
}
