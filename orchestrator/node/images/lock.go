package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// errLocked tells that somebody else holds a lock.
var errLocked = errors.New("images: locked")

// lockWait is how often a lock that another process, or another goroutine, holds for long is looked at.
const lockWait = 20 * time.Millisecond

// flock takes an exclusive lock on a file, which is made if it is not there. Closing the file gives it back, and so does the
// end of the process. The lock is held by the open file: two goroutines exclude each other like two processes.
func flock(path string, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("images: %w", err)
		}
		for {
			err = unix.Flock(int(f.Fd()), how)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if err != nil {
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, errLocked
			}
			return nil, fmt.Errorf("images: lock %s: %w", path, err)
		}
		if same(f, path) {
			return f, nil
		}
		_ = f.Close() // its last holder has removed it meanwhile
	}
}

// same tells whether an open file is still the one at a path.
func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// flockWait waits for a lock. waiting, if there is one, is called each time that somebody else has it.
func flockWait(ctx context.Context, path string, waiting func()) (*os.File, error) {
	tick := time.NewTicker(lockWait)
	defer tick.Stop()
	for {
		f, err := flock(path, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		if waiting != nil {
			waiting()
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("images: wait for %s: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}
