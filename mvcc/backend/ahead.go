package backend

import (
	"encoding/binary"
	"io"
	"os"
	"sync/atomic"
	"time"
	"unsafe"
)

const (
	aheadChunk  = 4 << 20   // bytes of one read
	aheadWindow = 1 << 30   // how far to read ahead of what is being used
	aheadMin    = 128 << 20 // a smaller file is not worth it
	aheadPause  = 10 * time.Millisecond
)

// readAhead reads a file from start to end into the system's cache, not too far ahead of a walk through its memory map:
// the map itself is read page by page, at the disk's latency, since it is made for reads here and there.
type readAhead struct {
	base uintptr // of the memory map
	at   atomic.Int64
	stop chan struct{}
	done chan struct{}
}

// startReadAhead begins to read; nil if the file is too small to care.
func startReadAhead(path string, base uintptr, size int64) *readAhead {
	if size < aheadMin {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil // it is only for speed
	}
	a := &readAhead{base: base, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(a.done)
		defer f.Close()
		a.run(f, size)
	}()
	return a
}

// startReadAll is startReadAhead for what is done while a file is opened: bbolt looks for the free pages of a file that does
// not list them, by visiting all others, and nobody learns how far it has come. Nil if the free pages are listed, too.
func startReadAll(path string) *readAhead {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() < aheadMin || listsFreePages(f) {
		return nil
	}
	a := startReadAhead(path, 0, info.Size())
	if a != nil {
		a.at.Store(info.Size())
	}
	return a
}

// Where the meta pages of a bbolt file, its first two, have the page of the free list and the number of the transaction.
const (
	metaFreeList = 16 + 32
	metaTxID     = 16 + 48
	metaBytes    = metaTxID + 8
	noFreeList   = ^uint64(0)
)

// listsFreePages says whether the newer meta page of a bbolt file points to a list of the free pages.
func listsFreePages(f io.ReaderAt) bool {
	var newest, list uint64
	for i := range 2 {
		var page [metaBytes]byte
		if _, err := f.ReadAt(page[:], int64(i*os.Getpagesize())); err != nil {
			return false
		}
		if tx := binary.NativeEndian.Uint64(page[metaTxID:]); i == 0 || tx > newest {
			newest, list = tx, binary.NativeEndian.Uint64(page[metaFreeList:])
		}
	}
	return list != noFreeList
}

func (a *readAhead) run(f *os.File, size int64) {
	buf := make([]byte, aheadChunk)
	for pos := int64(0); pos < size; {
		if pos > a.at.Load()+aheadWindow {
			select {
			case <-a.stop:
				return
			case <-time.After(aheadPause):
			}
			continue
		}
		select {
		case <-a.stop:
			return
		default:
		}
		n, err := f.ReadAt(buf, pos)
		if err != nil {
			return
		}
		pos += int64(n)
	}
}

// used notes that the walk has come to some bytes of the map.
func (a *readAhead) used(b []byte) {
	if a == nil || len(b) == 0 {
		return
	}
	if at := int64(uintptr(unsafe.Pointer(unsafe.SliceData(b))) - a.base); at > a.at.Load() {
		a.at.Store(at)
	}
}

func (a *readAhead) end() {
	if a != nil {
		close(a.stop)
		<-a.done
	}
}
