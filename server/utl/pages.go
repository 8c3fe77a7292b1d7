package utl

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
)

// A bbolt file is an array of pages; all numbers are of the machine's byte order.
//
//	page           id 8 | flags 2 | count 2 | overflow 4 (further pages that belong to it) | elements | keys and values
//	branch element pos 4 (from the element) | key size 4 | page id 8
//	leaf element   flags 4 (1: a bucket) | pos 4 | key size 4 | value size 4
//	bucket value   root page 8 (0: a leaf page follows here) | sequence 8 | page
//	freelist       count 8, if the header's is 0xffff | page ids, 8 each
//	meta           pages 0 and 1 in turns, by the number of the transaction, with a checksum that bbolt has found right
const (
	pageHeader    = 16
	elementSize   = 16
	bucketHeader  = 16
	branchFlag    = 1
	leafFlag      = 2
	freelistFlag  = 16
	bucketElement = 1
	freelistField = 48 // of a meta page: the id of the freelist
	noFreelist    = 1<<64 - 1
	maxDepth      = 64 // of nested pages; a tree of 2^63 pages is not as deep
)

// pages is a bbolt file whose contents are not trusted.
type pages struct {
	r     io.ReaderAt
	size  int64  // of a page
	limit uint64 // number of pages
	seen  []uint64
	free  int64 // pages, as the freelist says
}

// keyRange is what the keys below a branch's element are in.
type keyRange struct {
	from []byte // nil: no bound
	to   []byte // exclusive; nil: no bound
}

// check finds out whether everything reachable from the root page lies within the file, and within its page, is reached
// once, is not free, and has its keys in order. It finds all that bbolt's own check of the tree does: bbolt stops that at
// the first fault, in a way that leaves a goroutine reading the file after it was closed.
func (p *pages) check(root uint64, txid int64) error {
	p.seen = make([]uint64, p.limit/64+1)
	var field [8]byte
	if _, err := p.r.ReadAt(field[:], txid%2*p.size+freelistField); err != nil {
		return err
	}
	if id := binary.NativeEndian.Uint64(field[:]); id != noFreelist {
		if err := p.freelist(id); err != nil {
			return fmt.Errorf("freelist: %w", err)
		}
	}
	return p.visit(root, keyRange{}, 0)
}

// used is the number of pages that are in use, once they were checked: those that were reached, and the two of the file itself.
func (p *pages) used() int64 {
	n := 2 - p.free
	for _, word := range p.seen {
		n += int64(bits.OnesCount64(word))
	}
	return n
}

// freelist takes the free pages for seen.
func (p *pages) freelist(id uint64) error {
	b, err := p.read(id)
	if err != nil {
		return err
	}
	flags, count := binary.NativeEndian.Uint16(b[8:]), uint64(binary.NativeEndian.Uint16(b[10:]))
	b = b[pageHeader:]
	if count == 0xffff {
		count = binary.NativeEndian.Uint64(b)
		b = b[8:]
	}
	if flags != freelistFlag || count > uint64(len(b)/8) {
		return fmt.Errorf("page %d: %d entries, flags %x", id, count, flags)
	}
	p.free = int64(count)
	for i := range count {
		if err := p.claim(binary.NativeEndian.Uint64(b[8*i:]), 1); err != nil {
			return err
		}
	}
	return nil
}

func (p *pages) visit(id uint64, in keyRange, depth int) error {
	b, err := p.read(id)
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("page %d: nested too deeply", id)
	}
	if err := p.page(b, in, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// read returns a page with what overflows it.
func (p *pages) read(id uint64) ([]byte, error) {
	if err := p.claim(id, 1); err != nil {
		return nil, err
	}
	head := make([]byte, pageHeader)
	if _, err := p.r.ReadAt(head, int64(id)*p.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if got := binary.NativeEndian.Uint64(head); got != id {
		return nil, fmt.Errorf("page %d: it says that it is page %d", id, got)
	}
	overflow := uint64(binary.NativeEndian.Uint32(head[12:]))
	if err := p.claim(id+1, overflow); err != nil {
		return nil, fmt.Errorf("page %d overflows: %w", id, err)
	}
	b := make([]byte, int64(1+overflow)*p.size)
	if _, err := p.r.ReadAt(b, int64(id)*p.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return b, nil
}

// claim marks n pages as seen. Nothing else may have claimed them.
func (p *pages) claim(id, n uint64) error {
	if n > 0 && (id < 2 || id >= p.limit || n > p.limit-id) {
		return fmt.Errorf("page %d: out of bounds: %d", id, p.limit)
	}
	for i := id; i < id+n; i++ {
		if p.seen[i/64]&(1<<(i%64)) != 0 {
			return fmt.Errorf("page %d: multiple references", i)
		}
		p.seen[i/64] |= 1 << (i % 64)
	}
	return nil
}

// element is one of a page's elements.
type element struct {
	key   []byte
	value []byte // of a leaf page
	child uint64 // of a branch page
	inner bool   // the value is a bucket
}

// page checks a page, and what its elements lead to.
func (p *pages) page(b []byte, in keyRange, depth int) error {
	flags, count := binary.NativeEndian.Uint16(b[8:]), int(binary.NativeEndian.Uint16(b[10:]))
	if flags != branchFlag && flags != leafFlag {
		return fmt.Errorf("unexpected page type (flags: %x)", flags)
	}
	if pageHeader+count*elementSize > len(b) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	if flags == branchFlag && count == 0 {
		return errors.New("a branch without elements")
	}
	elements := make([]element, count)
	for i := range elements {
		e, err := parseElement(b[pageHeader+i*elementSize:], flags)
		if err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if i > 0 && bytes.Compare(elements[i-1].key, e.key) >= 0 {
			return fmt.Errorf("element %d: its key %x is not above the one before, %x", i, e.key, elements[i-1].key)
		}
		elements[i] = e
	}
	if count > 0 && !in.holds(elements[0].key) || count > 0 && !in.holds(elements[count-1].key) {
		return fmt.Errorf("its keys %x to %x are not in the range of its parent", elements[0].key, elements[count-1].key)
	}
	for i, e := range elements {
		below := keyRange{e.key, in.to}
		if i+1 < count {
			below.to = elements[i+1].key
		}
		if err := p.descend(&e, below, flags, depth+1); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	return nil
}

func (r keyRange) holds(key []byte) bool {
	return bytes.Compare(r.from, key) <= 0 && (r.to == nil || bytes.Compare(key, r.to) < 0)
}

func parseElement(e []byte, flags uint16) (element, error) {
	if flags == branchFlag {
		key, err := span(e, e[0:], e[4:])
		return element{key: key, child: binary.NativeEndian.Uint64(e[8:])}, err
	}
	both, err := span(e, e[4:], e[8:], e[12:])
	if err != nil {
		return element{}, err
	}
	n := binary.NativeEndian.Uint32(e[8:])
	return element{key: both[:n], value: both[n:], inner: binary.NativeEndian.Uint32(e)&bucketElement != 0}, nil
}

// descend checks what an element leads to.
func (p *pages) descend(e *element, below keyRange, flags uint16, depth int) error {
	switch {
	case flags == branchFlag:
		return p.visit(e.child, below, depth)
	case !e.inner:
		return nil
	case len(e.value) < bucketHeader:
		return fmt.Errorf("the bucket has %d bytes only", len(e.value))
	}
	if root := binary.NativeEndian.Uint64(e.value); root != 0 {
		return p.visit(root, keyRange{}, depth)
	}
	inline := e.value[bucketHeader:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafFlag || depth > maxDepth {
		return errors.New("the bucket's contents are no page")
	}
	return p.page(inline, keyRange{}, depth)
}

// span returns the bytes that an element's position and sizes name.
func span(e, pos []byte, sizes ...[]byte) ([]byte, error) {
	from := uint64(binary.NativeEndian.Uint32(pos))
	to := from
	for _, s := range sizes {
		to += uint64(binary.NativeEndian.Uint32(s))
	}
	if to > uint64(len(e)) {
		return nil, fmt.Errorf("bytes %d to %d reach out of the page", from, to)
	}
	return e[from:to], nil
}
