//go:build linux && cgo

package keeper

import (
	"context"
	"errors"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"

	"github.com/keelson-io/keelson/orchestrator/node/shim/ledger"
)

// await waits for a process of libcontainer and returns its exit code: 128 and the signal if one ended it.
func await(p *libcontainer.Process) int {
	if pid, err := p.Pid(); err == nil {
		_ = ledger.Wait(context.Background(), pid) // so that the next call does not hold a thread; if it fails, that waits
	}
	state, err := p.Wait()
	if state == nil {
		_ = err
		return 255
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return 255
	case status.Signaled():
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// peek returns a child that has ended, and leaves it to be waited for.
func peek() (pid int, ok bool) {
	var info struct {
		signo, errno, code int32
		_                  int32
		pid                int32
		_                  [128 - 20]byte
	}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0, uintptr(unsafe.Pointer(&info)),
			unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, 0, 0)
		if errors.Is(errno, unix.EINTR) {
			continue
		}
		return int(info.pid), errno == 0 && info.pid > 0
	}
}
