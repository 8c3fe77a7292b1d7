package backend

import (
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
