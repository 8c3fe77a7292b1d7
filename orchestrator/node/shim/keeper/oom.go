//go:build linux && cgo

package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// oomWatch notes that the kernel kills processes of a cgroup for want of memory. The counter of the cgroup tells that too, but
// systemd removes a cgroup with its last process.
type oomWatch struct {
	event *os.File
	seen  atomic.Bool
}

// watchOOM begins to watch. It returns nil without an error where there is no memory controller.
func watchOOM(m cgroups.Manager) (*oomWatch, error) {
	w := &oomWatch{}
	path, register := m.Path("memory"), registerV1
	if cgroups.IsCgroup2UnifiedMode() {
		path, register = m.Path(""), registerV2
	}
	if path == "" {
		return nil, nil
	}
	var err error
	if w.event, err = register(path); err != nil {
		return nil, fmt.Errorf("watch for OOM: %w", err)
	}
	go func() {
		buf := make([]byte, 4096)
		for {
			if _, err := w.event.Read(buf); err != nil {
				return
			}
			// The end of the cgroup is an event too, and one of version 1 comes before the kill.
			if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err == nil {
				n, err := m.OOMKillCount()
				if err == nil && n > 0 || !cgroups.IsCgroup2UnifiedMode() {
					w.seen.Store(true)
				}
			}
		}
	}()
	return w, nil
}

// registerV1 returns a descriptor that can be read after every want of memory.
func registerV1(dir string) (*os.File, error) {
	control, err := os.Open(filepath.Join(dir, "memory.oom_control"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	event := os.NewFile(uintptr(fd), "oom")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.event_control"), fmt.Appendf(nil, "%d %d", fd, control.Fd()), 0); err != nil {
		return nil, errors.Join(err, event.Close())
	}
	return event, nil
}

// registerV2 returns a descriptor that can be read after every change of the memory's counters.
func registerV2(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	event := os.NewFile(uintptr(fd), "oom")
	if _, err := unix.InotifyAddWatch(fd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY); err != nil {
		return nil, errors.Join(err, event.Close())
	}
	return event, nil
}

// happened ends the watch and tells whether a process was killed, by the counter if it is still there.
func (w *oomWatch) happened(m cgroups.Manager) bool {
	n, err := m.OOMKillCount()
	if w == nil {
		return err == nil && n > 0
	}
	_ = w.event.Close()
	if err == nil {
		return n > 0
	}
	return w.seen.Load()
}
