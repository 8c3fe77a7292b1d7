package logs

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// watch begins to watch.
func watch(path string) *watcher {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return polled()
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM); err != nil {
		_ = f.Close() // nothing was read from it
		return polled()
	}
	changed, done := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(done)
		events := make([]byte, 4<<10)
		for {
			if _, err := f.Read(events); err != nil {
				return
			}
			select {
			case changed <- struct{}{}:
			default: // it is known already
			}
		}
	}()
	return &watcher{changed: changed, stop: func() {
		_ = f.Close() // which ends the goroutine
		<-done
	}}
}
