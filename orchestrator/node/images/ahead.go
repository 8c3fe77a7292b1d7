package images

import (
	"bufio"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// decompress reads gzip, zstd or plain data, by what it begins with.
func decompress(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 128<<10)
	head, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return gzip.NewReader(b)
	case len(head) == 4 && (string(head) == "\x28\xb5\x2f\xfd" || head[0]&0xf0 == 0x50 && string(head[1:]) == "\x2a\x4d\x18"):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(b), nil
}

// ahead decompresses and hashes in another goroutine than the one that unpacks.
type ahead struct {
	full, empty chan []byte
	quit        chan struct{}
	once        sync.Once
	done        sync.WaitGroup
	cur, rest   []byte
	err         error // of the source; set before full is closed
}

const (
	aheadChunk  = 256 << 10
	aheadChunks = 8
)

func readAhead(r io.Reader, sum hash.Hash) *ahead {
	a := &ahead{full: make(chan []byte, aheadChunks), empty: make(chan []byte, aheadChunks), quit: make(chan struct{})}
	for range aheadChunks {
		a.empty <- make([]byte, aheadChunk)
	}
	a.done.Go(func() {
		defer close(a.full)
		for {
			var b []byte
			select {
			case b = <-a.empty:
			case <-a.quit:
				return
			}
			n, err := fill(r, b[:aheadChunk])
			_, _ = sum.Write(b[:n])
			a.full <- b[:n] // has room for all there are
			if err != nil {
				if err != io.EOF {
					a.err = fmt.Errorf("%w: %w", ErrCorrupt, err)
				}
				return
			}
		}
	})
	return a
}

// fill reads until a buffer is full or the source ends, with the source's own error.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = r.Read(b[n:])
		n += m
	}
	return n, err
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur != nil {
			a.empty <- a.cur[:0]
			a.cur = nil
		}
		b, ok := <-a.full
		if !ok {
			if a.err != nil {
				return 0, a.err
			}
			return 0, io.EOF
		}
		a.cur, a.rest = b, b
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// stop ends the other goroutine; the hash is complete when Read has returned io.EOF.
func (a *ahead) stop() {
	a.once.Do(func() { close(a.quit) })
	a.done.Wait()
}
