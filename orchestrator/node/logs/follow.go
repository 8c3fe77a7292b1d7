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
	next, err := r.next(ended)
	if err != nil {
		return false, err
	}
	if err := r.drain(false); err != nil || next == nil { // after the look: what was written to the old file before is in it
		return false, errors.Join(err, next.close())
	}
	if err := r.rest(); err != nil {
		return false, errors.Join(err, next.close())
	}
	r.close()
	r.file, r.known = next.file, next.known
	if r.file == nil { // it is compressed, and nobody writes to it
		return true, r.whole(ctx, next.whole, 0)
	}
	r.buffer = bufio.NewReader(r.file)
	return true, nil
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

// successor is the file after the one that is being read: an open one, or one to be read as a whole.
type successor struct {
	file  *os.File
	whole []rotated
	known string // what the reader then knows
}

func (s *successor) close() error {
	if s == nil || s.file == nil {
		return nil
	}
	return s.file.Close()
}

// next finds the file after the one that is being read; nil: there is none that is written to. One that is empty is not: the
// writer may still use the one before. A file is left only for the very next one, so that nothing is missed however often the
// log is rotated meanwhile.
func (r *reader) next(ended bool) (*successor, error) {
	for range looks {
		info, err := os.Stat(r.path)
		if err == nil && r.is(info) {
			return nil, nil
		}
		newer, err := r.newer()
		if err != nil {
			return nil, err
		}
		if len(newer) > 0 {
			return r.nextRotated(newer, ended)
		}
		f, err := os.Open(r.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		// It is the next one only if there is still none between.
		if newer, err = r.newer(); err != nil || len(newer) > 0 && !newer[0].is(f) {
			if err = errors.Join(err, f.Close()); err != nil {
				return nil, err
			}
			continue
		}
		return inUse(f, ended, r.known)
	}
	return nil, nil // it changes too fast: later
}

// is says whether a file is the one that is being read.
func (r *reader) is(info fs.FileInfo) bool {
	if r.file == nil {
		return false
	}
	mine, err := r.file.Stat()
	return err == nil && os.SameFile(info, mine)
}

// nextRotated is the first of the rotated files that are newer than the one that is being read.
func (r *reader) nextRotated(newer []rotated, ended bool) (*successor, error) {
	f, err := os.Open(newer[0].path)
	if errors.Is(err, fs.ErrNotExist) {
		return &successor{whole: newer[:1], known: newer[0].stamp}, nil
	}
	if err != nil {
		return nil, err
	}
	return inUse(f, ended || len(newer) > 1, newer[0].stamp)
}

// inUse is a file as a successor, if it is written to.
func inUse(f *os.File, ended bool, known string) (*successor, error) {
	info, err := f.Stat()
	if err == nil && (ended || info.Size() > 0) {
		return &successor{file: f, known: known}, nil
	}
	return nil, errors.Join(err, f.Close())
}

// newer are the rotated files that are newer than the one that is being read.
func (r *reader) newer() ([]rotated, error) {
	all, err := history(r.path)
	if err != nil {
		return nil, err
	}
	for len(all) > 0 && all[0].stamp <= r.known {
		all = all[1:]
	}
	for i := range all {
		if r.file != nil && all[i].is(r.file) {
			return all[i+1:], nil
		}
	}
	return all, nil
}
