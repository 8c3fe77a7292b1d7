package logs

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"time"
)

// runningEvery is how often it is looked whether the container still runs.
const runningEvery = time.Second

// follow prints what is written until the container has ended.
func (r *reader) follow(ctx context.Context, w *watcher) error {
	t := time.NewTicker(runningEvery)
	defer t.Stop()
	running := func() bool { return r.options.Running != nil && r.options.Running(ctx) }
	for ended := !running(); ; {
		moved, err := r.step(ctx, ended)
		if err != nil {
			return err
		}
		if moved {
			continue
		}
		if err := r.printer.out.Flush(); err != nil {
			return err
		}
		if ended {
			return r.rest()
		}
		select {
		case <-w.changed:
		case <-t.C:
			ended = !running() // what was written before is still to be read
		case <-ctx.Done():
			return nil
		}
	}
}

// step reads what there is, and goes on to the next file if there is one. It is true if it did.
func (r *reader) step(ctx context.Context, ended bool) (moved bool, err error) {
	next := r.replaced(ended)
	var behind []rotated
	if next == unused {
		if behind, err = history(r.path); err != nil {
			return false, err
		}
	}
	if err := r.drain(false); err != nil { // after the look: what was written to the old file before is in it
		return false, err
	}
	switch {
	case next == used:
		if err := r.rest(); err != nil {
			return false, err
		}
		return r.advance(ctx)
	case next == unused:
		return r.overtaken(ctx, behind)
	}
	return false, nil
}

// rest prints a last line that has no end.
func (r *reader) rest() error {
	if len(r.pending) == 0 {
		return nil
	}
	line := r.pending
	r.pending = nil
	return r.printer.line(line)
}

// successor says what is where the file was that is being read.
type successor int

const (
	none   successor = iota // the same file, or nothing
	unused                  // a new one that is empty: its writer may still use the one before
	used                    // a new one that is written to
)

// replaced says whether there is a new file.
func (r *reader) replaced(ended bool) successor {
	info, err := os.Stat(r.path)
	if err != nil {
		return none
	}
	if r.file == nil {
		return used
	}
	mine, err := r.file.Stat()
	switch {
	case err != nil || os.SameFile(info, mine):
		return none
	case ended || info.Size() > 0:
		return used
	}
	return unused
}

// overtaken goes on to the newest of the rotated files, if that is not the one that is being read: the log was rotated more than
// once since.
func (r *reader) overtaken(ctx context.Context, all []rotated) (bool, error) {
	n := len(all) - 1
	if n < 0 || all[n].is(r.file) {
		return false, nil
	}
	f, err := os.Open(all[n].path)
	if errors.Is(err, fs.ErrNotExist) { // it was rotated again
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := r.rest(); err != nil {
		return false, errors.Join(err, f.Close())
	}
	between := after(all[:n], r.file, r.known)
	r.close()
	r.file, r.buffer, r.known = f, bufio.NewReader(f), all[n].stamp
	return true, r.whole(ctx, between, 0)
}

// advance goes on to the file that is written to.
func (r *reader) advance(ctx context.Context) (bool, error) {
	old, known := r.file, r.known
	r.file = nil // open must not close it yet
	older, err := r.open()
	if old != nil {
		defer func() { _ = old.Close() }() // it was only read
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, r.whole(ctx, after(older, old, known), 0)
}

// after are the rotated files that are newer than a file which is open, or nil, and than what was known when it was opened.
func after(all []rotated, open *os.File, known string) []rotated {
	for len(all) > 0 && all[0].stamp <= known {
		all = all[1:]
	}
	if open == nil {
		return all
	}
	for i := range all {
		if all[i].is(open) {
			return all[i+1:]
		}
	}
	return all
}
