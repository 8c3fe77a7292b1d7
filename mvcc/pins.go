package mvcc

import (
	"sync"

	"github.com/keelson-io/keelson/mvcc/index"
)

// maxPins bounds how many old roots are kept: each holds the nodes that changed since.
const maxPins = 16

// pins are the index roots of limited reads that left something over, by revision, the latest used last.
type pins struct {
	mu   sync.Mutex
	list []pin
}

type pin struct {
	rev  int64
	root index.Root
}

func (p *pins) add(rev int64, root index.Root) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.touch(rev) >= 0 {
		return
	}
	if len(p.list) == maxPins {
		p.list = append(p.list[:0], p.list[1:]...)
	}
	p.list = append(p.list, pin{rev, root})
}

func (p *pins) get(rev int64) (index.Root, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := p.touch(rev); i >= 0 {
		return p.list[i].root, true
	}
	return index.Root{}, false
}

// touch moves the pin of a revision to the end and returns its place, -1 if there is none.
func (p *pins) touch(rev int64) int {
	last := len(p.list) - 1
	for i := last; i >= 0; i-- {
		if p.list[i].rev == rev {
			found := p.list[i]
			copy(p.list[i:], p.list[i+1:])
			p.list[last] = found
			return last
		}
	}
	return -1
}

// drop forgets the pins below a revision.
func (p *pins) drop(below int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := p.list[:0]
	for _, q := range p.list {
		if q.rev >= below {
			kept = append(kept, q)
		}
	}
	clear(p.list[len(kept):])
	p.list = kept
}
