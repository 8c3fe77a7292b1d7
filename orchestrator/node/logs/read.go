package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Options say which part of a log is read, and how.
type Options struct {
	// Tail is how many lines are read, from the end; nil: all.
	Tail *int64
	// Since leaves out what was written before.
	Since time.Time
	// Limit is how many bytes are written at most; nil: any number.
	Limit *int64
	// Stream is the only one that is read, "" for both.
	Stream string
	// Timestamps puts the time before every line.
	Timestamps bool
	// Follow goes on while the container runs.
	Follow bool
	// Running says whether somebody writes to the log. It is asked about once a second; without it nobody does.
	Running func(ctx context.Context) bool
}

// Read writes a log to out. It ends with the log, or, if it follows, once the container has ended, or with the context. A log that
// is not there is an error that is fs.ErrNotExist.
func Read(ctx context.Context, path string, o Options, out io.Writer) error {
	r := &reader{path: path, options: o, printer: newPrinter(out, o)}
	defer r.close()
	err := r.read(ctx)
	if errors.Is(err, errEnough) || err != nil && ctx.Err() != nil {
		err = nil
	}
	if err = errors.Join(err, r.printer.out.Flush()); err != nil && ctx.Err() == nil {
		return fmt.Errorf("logs: %w", err)
	}
	return nil
}

// reader is one that reads a log.
type reader struct {
	path    string
	options Options
	printer *printer
	// file is what is written to, or was when it was opened; nil: there was none. What was read of its last line is pending.
	file    *os.File
	buffer  *bufio.Reader
	pending []byte
	// known is the stamp of the newest rotated file that is older than file.
	known string
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // it was only read
	}
}

func (r *reader) read(ctx context.Context) error {
	var w *watcher
	if r.options.Follow {
		w = watch(r.path)
		defer w.close()
	}
	older, err := r.open()
	if err != nil {
		return err
	}
	if err := r.begin(ctx, older); err != nil {
		return err
	}
	if !r.options.Follow {
		return r.drain(true)
	}
	return r.follow(ctx, w)
}

// looks is how often a file may have been rotated while the others were listed.
const looks = 3

// open opens the file that is written to, and returns those that are older. Without any it is an error.
func (r *reader) open() (older []rotated, err error) {
	r.close()
	r.file, r.pending = nil, nil
	f, err := os.Open(r.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		r.file, r.buffer = f, bufio.NewReader(f)
	}
	older, herr := history(r.path)
	switch {
	case herr != nil:
		return nil, herr
	case len(older) == 0 && r.file == nil:
		return nil, err
	}
	for n := len(older) - 1; n >= 0 && r.file != nil && n >= len(older)-looks; n-- {
		if older[n].is(r.file) {
			older = older[:n] // it was rotated between the two looks
			break
		}
	}
	if n := len(older) - 1; n >= 0 {
		r.known = older[n].stamp
		if r.options.Follow && r.unused() { // the newest of the others is still written to
			if f, err := os.Open(older[n].path); err == nil {
				r.close()
				r.file, r.buffer, older = f, bufio.NewReader(f), older[:n]
			}
		}
	}
	return older, nil
}

// unused says whether nothing was written yet to the file that is written to.
func (r *reader) unused() bool {
	if r.file == nil {
		return true
	}
	info, err := r.file.Stat()
	return err == nil && info.Size() == 0
}

// begin reads the older files as far as they are asked for, and goes to where reading the newest begins.
func (r *reader) begin(ctx context.Context, older []rotated) error {
	if r.options.Tail == nil {
		return r.whole(ctx, older, 0)
	}
	want := max(0, *r.options.Tail)
	if r.file != nil {
		offset, found, err := tailOf(r.file, want)
		if err != nil {
			return err
		}
		if _, err := r.file.Seek(offset, io.SeekStart); err != nil {
			return err
		}
		r.buffer.Reset(r.file)
		want -= found
	}
	from, skip := len(older), int64(0)
	for want > 0 && from > 0 && ctx.Err() == nil {
		from--
		f, err := older[from].open()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		n, err := linesOf(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		skip = max(0, n-want)
		want -= n
	}
	return r.whole(ctx, older[from:], skip)
}

// whole prints rotated files, but for some lines of the first. Those that are gone meanwhile are left out.
func (r *reader) whole(ctx context.Context, files []rotated, skip int64) error {
	for _, one := range files {
		f, err := one.open()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = eachLine(bufio.NewReader(f), func(line []byte) error {
			if skip > 0 {
				if ends(line) {
					skip--
				}
				return ctx.Err()
			}
			if err := r.printer.line(line); err != nil {
				return err
			}
			return ctx.Err()
		})
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		skip = 0
	}
	return nil
}

// drain prints what the open file has. A last line without an end is only printed if nothing comes behind it.
func (r *reader) drain(last bool) error {
	if r.file == nil {
		return nil
	}
	return eachLine(r.buffer, func(line []byte) error {
		if len(r.pending) > 0 {
			r.pending = append(r.pending, line...)
			line = r.pending
		}
		if !last && !bytes.HasSuffix(line, []byte{'\n'}) {
			r.pending = append([]byte(nil), line...)
			return nil
		}
		r.pending = r.pending[:0]
		return r.printer.line(line)
	})
}
