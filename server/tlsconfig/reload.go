package tlsconfig

import (
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/keelson-io/keelson/internal/clock"
)

const (
	// checkInterval is how often files are looked at, at most.
	checkInterval = time.Second
	// settleTime is how old the last change of a file must be for its time stamp to tell of the next one.
	settleTime = 2 * time.Second
)

// reloaded is what was made of some files, and is made anew when they change.
type reloaded[T any] struct {
	what  string // for the log
	files []string
	load  func() (T, error)
	clk   clock.Clock
	lg    *zap.Logger

	value atomic.Pointer[T]
	due   atomic.Int64 // when to look next, in nanoseconds

	mu      sync.Mutex // held while looking
	stamps  []stamp    // of the files that value was made of; nil if they are to be read in any case
	failure string     // what was logged last
}

// stamp changes with a file.
type stamp struct {
	mod   time.Time
	size  int64
	inode uint64
}

// newReloaded reads the files for the first time.
func newReloaded[T any](what string, clk clock.Clock, lg *zap.Logger, load func() (T, error), files ...string) (*reloaded[T], error) {
	r := &reloaded[T]{what: what, files: files, load: load, clk: clk, lg: lg}
	return r, r.read()
}

// get returns the value, made anew first if it is time to look and a file has changed. Only one caller looks; the others
// are not kept waiting.
func (r *reloaded[T]) get() T {
	if now := r.clk.Now().UnixNano(); now >= r.due.Load() && r.mu.TryLock() {
		if now >= r.due.Load() {
			r.look()
		}
		r.mu.Unlock()
	}
	return *r.value.Load()
}

// look is called under mu.
func (r *reloaded[T]) look() {
	stamps, err := r.stat()
	if err == nil && equal(stamps, r.stamps) {
		r.due.Store(r.clk.Now().Add(checkInterval).UnixNano())
		return
	}
	first := r.stamps != nil
	if err = r.read(); err != nil {
		if err.Error() != r.failure {
			r.lg.Error("cannot use the changed files; what was read before stays in use", zap.String("what", r.what),
				zap.Strings("files", r.files), zap.Error(err))
		}
		r.failure = err.Error()
		return
	}
	if first || r.failure != "" {
		r.lg.Info("files were read again", zap.String("what", r.what), zap.Strings("files", r.files))
	}
	r.failure = ""
}

// read makes the value of the files as they are now.
func (r *reloaded[T]) read() error {
	r.due.Store(r.clk.Now().Add(checkInterval).UnixNano())
	stamps, err := r.stat()
	if err != nil {
		return err
	}
	v, err := r.load()
	if err != nil {
		r.stamps = nil
		return err
	}
	r.value.Store(&v)
	r.stamps = stamps
	for _, s := range stamps {
		if r.clk.Now().Sub(s.mod) < settleTime {
			r.stamps = nil // it may change again within the resolution of its time stamp
		}
	}
	return nil
}

func (r *reloaded[T]) stat() ([]stamp, error) {
	out := make([]stamp, len(r.files))
	for i, f := range r.files {
		info, err := os.Stat(f)
		if err != nil {
			return nil, err
		}
		out[i] = stamp{mod: info.ModTime(), size: info.Size()}
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			out[i].inode = s.Ino
		}
	}
	return out, nil
}

func equal(a, b []stamp) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].mod.Equal(b[i].mod) || a[i].size != b[i].size || a[i].inode != b[i].inode {
			return false
		}
	}
	return true
}
