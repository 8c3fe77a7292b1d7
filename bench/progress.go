package bench

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// progress is a line on a terminal that is written over.
type progress struct {
	mu   sync.Mutex
	w    io.Writer
	last time.Time
	buf  bytes.Buffer
}

// progressEvery is how often the line changes.
const progressEvery = time.Second

func ticker(w io.Writer) *progress { return &progress{w: w, last: time.Now()} }

// maybe writes the line if the last is old. It may be called from many goroutines.
func (p *progress) maybe(line func(w io.Writer)) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.last) >= progressEvery {
		p.last = now
		p.write(line)
	}
}

func (p *progress) write(line func(w io.Writer)) {
	p.buf.Reset()
	p.buf.WriteByte('\r')
	line(&p.buf)
	p.buf.WriteString("\x1b[K") // clears the rest of an older, longer line
	_, _ = p.w.Write(p.buf.Bytes())
}

// end clears the line.
func (p *progress) end() {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(func(io.Writer) {})
}
