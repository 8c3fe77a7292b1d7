package logs

import (
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
	if err := r.drain(false); err != nil || !next { // after the look: what was written to the old file before is in it
		return false, err
	}
	if err := r.rest(); err != nil {
		return false, err
	}
	return r.advance(ctx)
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

// replaced says whether there is a new file that is written to. One that is empty is not: its writer may not use it yet.
func (r *reader) replaced(ended bool) bool {
	info, err := os.Stat(r.path)
	if err != nil {
		return false
	}
	if r.file == nil {
		return true
	}
	mine, err := r.file.Stat()
	return err == nil && !os.SameFile(info, mine) && (ended || info.Size() > 0)
}

// advance goes on to the file after the one that has been read.
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
	for len(older) > 0 && older[0].stamp <= known {
		older = older[1:]
	}
	if old != nil {
		for i := range older {
			if older[i].is(old) {
				older = older[i+1:]
				break
			}
		}
	}
	return true, r.whole(ctx, older, 0)
}
