package vfs

import (
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
)

const (
	pageBytes   = 4096
	sectorBytes = 512 // what a disk writes as a whole
)

type page [pageBytes]byte

// content is what a file holds: pages, of which missing ones are zero. A page that is durable is not written to again but
// replaced, so that copies of the maps are copies of the file.
type content struct {
	size        int64
	pages       map[int64]*page
	durableSize int64
	durable     map[int64]*page
	dirty       map[int64]bool // pages that may differ from the durable ones
}

// writable returns a page that may be changed.
func (c *content) writable(i int64) *page {
	if c.pages == nil {
		c.pages, c.dirty = map[int64]*page{}, map[int64]bool{}
	}
	p := c.pages[i]
	if p == nil || p == c.durable[i] {
		fresh := &page{}
		if p != nil {
			*fresh = *p
		}
		p = fresh
		c.pages[i] = p
	}
	c.dirty[i] = true
	return p
}

func (c *content) readAt(b []byte, off int64) (n int, err error) {
	for n < len(b) && off < c.size {
		in := off % pageBytes
		part := b[n:min(int64(len(b)), int64(n)+min(pageBytes-in, c.size-off))]
		if p := c.pages[off/pageBytes]; p != nil {
			copy(part, p[in:])
		} else {
			clear(part)
		}
		n, off = n+len(part), off+int64(len(part))
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (c *content) writeAt(b []byte, off int64) {
	c.size = max(c.size, off+int64(len(b)))
	for len(b) > 0 {
		n := copy(c.writable(off / pageBytes)[off%pageBytes:], b)
		b, off = b[n:], off+int64(n)
	}
}

// resize cuts the file off or extends it by zeroes.
func (c *content) resize(size int64) {
	if size < c.size {
		for i := range c.pages {
			if i*pageBytes >= size {
				delete(c.pages, i)
				c.dirty[i] = true
			}
		}
		if i := size / pageBytes; c.pages[i] != nil {
			clear(c.writable(i)[size%pageBytes:])
		}
	}
	c.size = size
}

// sync makes the present content durable.
func (c *content) sync() {
	if c.durable == nil {
		c.durable = map[int64]*page{}
	}
	for i := range c.dirty {
		if p := c.pages[i]; p != nil {
			c.durable[i] = p
		} else {
			delete(c.durable, i)
		}
	}
	clear(c.dirty)
	c.durableSize = c.size
}

// crashed returns what a crash leaves: of each dirty sector the durable or, with the probability keep, the present content,
// and a size between the durable and the present one.
func (c *content) crashed(rng *rand.Rand, keep float64) content {
	out := content{size: c.durableSize, pages: map[int64]*page{}, dirty: map[int64]bool{}}
	maps.Copy(out.pages, c.durable)
	out.durable = maps.Clone(out.pages)
	if rng != nil {
		for _, i := range slices.Sorted(maps.Keys(c.dirty)) { // sorted: the same choices for the same rng
			now := c.pages[i]
			if now == nil {
				now = &page{}
			}
			p := out.writable(i)
			for s := 0; s < pageBytes; s += sectorBytes {
				if rng.Float64() < keep {
					copy(p[s:s+sectorBytes], now[s:])
				}
			}
		}
		switch grown := c.size - c.durableSize; rng.IntN(3) {
		case 0:
			out.size = c.size
		case 1:
			if grown > sectorBytes {
				out.size += rng.Int64N(grown/sectorBytes) * sectorBytes
			}
		}
	}
	// Sectors behind the end, written or not, do not show when the file grows again.
	end := out.size
	out.size = 1 << 62
	out.resize(end)
	out.sync()
	return out
}

// memFile is an open file of a Mem.
type memFile struct {
	mem    *Mem
	node   *inode
	name   string
	flag   int
	at     int64
	closed bool
}

// enter locks the file system for an operation; the caller unlocks it if there is no error.
func (f *memFile) enter(op string, writes bool) error {
	f.mem.mu.Lock()
	err := fs.ErrClosed
	if !f.closed {
		err = nil
		if access := f.flag & (os.O_WRONLY | os.O_RDWR); op == "read" && access == os.O_WRONLY || writes && access == os.O_RDONLY {
			err = syscall.EBADF
		}
	}
	if err != nil {
		f.mem.mu.Unlock()
		return pathError(op, f.name, err)
	}
	return nil
}

func (f *memFile) Name() string { return f.name }

func (f *memFile) Read(b []byte) (int, error) {
	if err := f.enter("read", false); err != nil {
		return 0, err
	}
	defer f.mem.mu.Unlock()
	n, err := f.node.readAt(b, f.at)
	f.at += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	if err := f.enter("read", false); err != nil {
		return 0, err
	}
	defer f.mem.mu.Unlock()
	if off < 0 {
		return 0, pathError("read", f.name, fs.ErrInvalid)
	}
	return f.node.readAt(b, off)
}

func (f *memFile) Write(b []byte) (int, error) {
	if err := f.enter("write", true); err != nil {
		return 0, err
	}
	defer f.mem.mu.Unlock()
	if f.flag&os.O_APPEND != 0 {
		f.at = f.node.size
	}
	f.node.writeAt(b, f.at)
	f.at += int64(len(b))
	return len(b), nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	if err := f.enter("write", true); err != nil {
		return 0, err
	}
	defer f.mem.mu.Unlock()
	if off < 0 || f.flag&os.O_APPEND != 0 {
		return 0, pathError("write", f.name, fs.ErrInvalid)
	}
	f.node.writeAt(b, off)
	return len(b), nil
}

func (f *memFile) Seek(offset int64, whence int) (int64, error) {
	if err := f.enter("seek", false); err != nil {
		return 0, err
	}
	defer f.mem.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += f.node.size
	}
	if offset < 0 {
		return 0, pathError("seek", f.name, fs.ErrInvalid)
	}
	f.at = offset
	return offset, nil
}

func (f *memFile) Stat() (fs.FileInfo, error) {
	if err := f.enter("stat", false); err != nil {
		return nil, err
	}
	defer f.mem.mu.Unlock()
	return f.node.info(f.name), nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.enter("truncate", true); err != nil {
		return err
	}
	defer f.mem.mu.Unlock()
	if size < 0 {
		return pathError("truncate", f.name, fs.ErrInvalid)
	}
	f.node.resize(size)
	return nil
}

func (f *memFile) Preallocate(size int64) error {
	if err := f.enter("preallocate", true); err != nil {
		return err
	}
	defer f.mem.mu.Unlock()
	f.node.resize(max(f.node.size, size))
	return nil
}

func (f *memFile) Sync() error {
	if err := f.enter("sync", false); err != nil {
		return err
	}
	defer f.mem.mu.Unlock()
	f.node.sync()
	return nil
}

func (f *memFile) SyncData() error { return f.Sync() }

func (f *memFile) Close() error {
	if err := f.enter("close", false); err != nil {
		return err
	}
	defer f.mem.mu.Unlock()
	f.closed = true
	return nil
}
