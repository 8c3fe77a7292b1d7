// Package crilog writes the log of a container in the format of the CRI: time, stream, a tag that tells full lines from parts
// of lines, and the text.
//
//	2026-03-01T12:00:00.000000000Z stdout F a line
//	2026-03-01T12:00:00.000000001Z stderr P the first 16 KiB of a long line, or the last of a stream that ended without a newline
//
// # Concurrency
//
// All methods may be called from several goroutines. What one call to Write adds stays together.
package crilog

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// MaxLine is the longest text of an entry, in bytes. Longer lines are split.
const MaxLine = 16 << 10

// Stream is where a line came from.
type Stream int

// Streams.
const (
	Stdout Stream = iota
	Stderr
)

var names = [...]string{Stdout: "stdout", Stderr: "stderr"}

// layout is RFC 3339 with all nine digits, so that entries sort as text.
const layout = "2006-01-02T15:04:05.000000000Z07:00"

// Writer appends to the log of one container. A nil Writer drops what it is given.
type Writer struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	file    *os.File
	out     bytes.Buffer
	pending [len(names)][]byte // the begun line of each stream, at most MaxLine
	lost    error              // the last failure to write, until one succeeds
}

// Open creates the file, or goes on at its end. The folder is made if it is missing.
func Open(path string, now func() time.Time) (*Writer, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("crilog: %w", err)
	}
	w := &Writer{path: path, now: now}
	return w, w.Reopen()
}

// Reopen goes on in a new file at the path: what was there has been renamed.
func (w *Writer) Reopen() error {
	if w == nil {
		return nil
	}
	file, err := os.OpenFile(w.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("crilog: %w", err)
	}
	w.mu.Lock()
	old := w.file
	w.file = file
	w.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	return nil
}

// Write adds the output of a stream. A line that is not complete yet is kept until it is, or is too long, or End is called.
// If the disk is full the entries are dropped, so that the container goes on, and the error tells it.
func (w *Writer) Write(s Stream, p []byte) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now().UTC().AppendFormat(make([]byte, 0, len(layout)), layout)
	for len(p) > 0 {
		line, rest, full := bytes.Cut(p, []byte{'\n'})
		pending := w.pending[s]
		for len(pending)+len(line) > MaxLine {
			room := MaxLine - len(pending)
			w.entry(now, s, 'P', pending, line[:room])
			pending, line = pending[:0], line[room:]
		}
		if full {
			w.entry(now, s, 'F', pending, line)
			pending = nil
		} else {
			pending = append(pending, line...)
		}
		w.pending[s], p = pending, rest
	}
	return w.flush()
}

// End says that a stream has ended: a line without its newline is written as a partial one.
func (w *Writer) End(s Stream) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending[s]) > 0 {
		w.entry(w.now().UTC().AppendFormat(nil, layout), s, 'P', w.pending[s], nil)
		w.pending[s] = nil
	}
	return w.flush()
}

// Close ends the log.
func (w *Writer) Close() error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.file.Close()
}

func (w *Writer) entry(now []byte, s Stream, tag byte, begun, line []byte) {
	w.out.Write(now)
	w.out.WriteByte(' ')
	w.out.WriteString(names[s])
	w.out.Write([]byte{' ', tag, ' '})
	w.out.Write(begun)
	w.out.Write(line)
	w.out.WriteByte('\n')
}

// flush writes the entries at once. What was written of them in part is taken back: the log never holds half an entry.
func (w *Writer) flush() error {
	if w.out.Len() == 0 {
		return nil
	}
	n, err := w.file.Write(w.out.Bytes())
	if err != nil && n > 0 {
		if info, serr := w.file.Stat(); serr == nil {
			_ = w.file.Truncate(info.Size() - int64(n))
		}
	}
	if w.out.Cap() > 4*MaxLine {
		w.out = bytes.Buffer{}
	}
	w.out.Reset()
	first := err != nil && w.lost == nil
	w.lost = err
	if first {
		return fmt.Errorf("crilog: %w", err)
	}
	return nil
}
