package utl

import (
	"encoding/binary"
	"fmt"
	"io"
)

// A bbolt file is an array of pages; all numbers are of the machine's byte order.
//
//	page           id 8 | flags 2 | count 2 | overflow 4 (further pages that belong to it) | elements | keys and values
//	branch element pos 4 (from the element) | key size 4 | page id 8
//	leaf element   flags 4 (1: a bucket) | pos 4 | key size 4 | value size 4
//	bucket value   root page 8 (0: a leaf page follows here) | sequence 8 | page
const (
	pageHeader    = 16
	elementSize   = 16
	bucketHeader  = 16
	branchFlag    = 1
	leafFlag      = 2
	bucketElement = 1
	maxDepth      = 64 // of nested pages; a tree of 2^63 pages is not as deep
)

// pages is a bbolt file whose contents are not trusted.
type pages struct {
	r     io.ReaderAt
	size  int64  // of a page
	limit uint64 // number of pages
	seen  []uint64
}

// walk finds out whether everything reachable from a page lies within the file, and within its page, and is reached once.
// Whether keys are in order and pages are accounted for is bbolt's own check, which is safe after this.
func walk(r io.ReaderAt, pageSize int64, limit, root uint64) error {
	p := &pages{r: r, size: pageSize, limit: limit, seen: make([]uint64, limit/64+1)}
	return p.visit(root, 0)
}

func (p *pages) visit(id uint64, depth int) error {
	b, err := p.read(id)
	if err != nil {
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("page %d: nested too deeply", id)
	}
	if err := p.elements(b, depth); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

// read returns a page with what overflows it.
func (p *pages) read(id uint64) ([]byte, error) {
	if id < 2 || id >= p.limit {
		return nil, fmt.Errorf("page %d: out of bounds: %d", id, p.limit)
	}
	head := make([]byte, pageHeader)
	if _, err := p.r.ReadAt(head, int64(id)*p.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	if got := binary.NativeEndian.Uint64(head); got != id {
		return nil, fmt.Errorf("page %d: it says that it is page %d", id, got)
	}
	n := 1 + uint64(binary.NativeEndian.Uint32(head[12:]))
	if id+n > p.limit {
		return nil, fmt.Errorf("page %d: its %d pages reach out of bounds: %d", id, n, p.limit)
	}
	for i := id; i < id+n; i++ {
		if p.seen[i/64]&(1<<(i%64)) != 0 {
			return nil, fmt.Errorf("page %d: multiple references", i)
		}
		p.seen[i/64] |= 1 << (i % 64)
	}
	b := make([]byte, int64(n)*p.size)
	if _, err := p.r.ReadAt(b, int64(id)*p.size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return b, nil
}

// elements checks a page, and what its elements lead to.
func (p *pages) elements(b []byte, depth int) error {
	flags, count := binary.NativeEndian.Uint16(b[8:]), int(binary.NativeEndian.Uint16(b[10:]))
	if flags != branchFlag && flags != leafFlag {
		return fmt.Errorf("unexpected page type (flags: %x)", flags)
	}
	if pageHeader+count*elementSize > len(b) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	for i := range count {
		e := b[pageHeader+i*elementSize:]
		if flags == branchFlag {
			if _, err := span(e, e[0:], e[4:8]); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
			if err := p.visit(binary.NativeEndian.Uint64(e[8:]), depth+1); err != nil {
				return err
			}
			continue
		}
		kv, err := span(e, e[4:], e[8:12], e[12:16])
		if err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
		if binary.NativeEndian.Uint32(e)&bucketElement == 0 {
			continue
		}
		if err := p.bucket(kv[binary.NativeEndian.Uint32(e[8:]):], depth); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	if flags == branchFlag && count == 0 {
		return fmt.Errorf("a branch without elements")
	}
	return nil
}

func (p *pages) bucket(value []byte, depth int) error {
	if len(value) < bucketHeader {
		return fmt.Errorf("the bucket has %d bytes only", len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return p.visit(root, depth+1)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != leafFlag {
		return fmt.Errorf("the bucket's contents are no page")
	}
	return p.elements(inline, depth+1)
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
